"""The contact sheet and the terminal's table: what a caption holds is shown, and does nothing."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from pipeline.errors import InputError
from pipeline.plain import plain
from pipeline.retrieval.contact import contact_sheet, font, wrapped
from pipeline.retrieval.display import show_hits
from pipeline.retrieval.hits import Hits
from pipeline.retrieval.panels import panel
from pipeline.retrieval.sheet import page, write_sheet
from tests.lakes import HOSTILE, FakeLake, captioned
from tests.moulds import Moulds
from tests.shards import encoded, picture


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_captions(folder: Path) -> FakeLake:
    lake = FakeLake(folder)
    large = encoded(Image.effect_noise((900, 600), 80).convert("RGB"), "PNG")
    lake.add("00000.tar", [(large if i == 0 else picture(i), [text]) for i, text in enumerate(HOSTILE)])
    lake.rows[1] |= {"key": "<b>key</b>", "shard": "00000.tar"}
    return lake.write()


@pytest.fixture
def hostile(moulds: Moulds) -> Hits:
    return moulds.cast(hostile_captions).search("two <i>cats</i> & \x1b[31mdogs", where="width > 3 -- <u>")


def test_page_holds_small_pictures_and_nothing_from_anywhere_else(hostile: Hits) -> None:
    elements = Elements(page([panel(hostile), panel(hostile)]))
    images = [a["src"] or "" for tag, a in elements.found if tag == "img"]
    assert len(images) == 2 * len(HOSTILE)
    for source in images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
            opened.load()
            assert max(opened.size) <= 320
    assert {tag for tag, _ in elements.found} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "p", "ol", "li"),
        *("div", "img", "span", "dl", "dt", "dd", "i", "br"),
    }
    names = {name for _, attributes in elements.found for name in attributes}
    assert not any(name.startswith("on") for name in names)
    assert not [a for _, a in elements.found if a.get("href") or str(a.get("src", "data:"))[:5] != "data:"]
    assert "http" not in re.sub(r"data:[^\"]*", "", page([panel(hostile)])).replace("http-equiv", "")


def test_page_shows_captions_titles_and_keys_as_text(hostile: Hits) -> None:
    text = Elements(page([panel(hostile, note="a <note>")], title="<title>")).text
    for shown in (
        "<script>alert(1)</script>",
        "{{ 7 * 7 }} {% raw %} %s",
        "<b>key</b>",
        "a <note>",
        "-- <u>",
        "<title>",
    ):
        assert shown in text
    assert r"two <i>cats</i> & \x1b[31mdogs" in text
    assert r"nul \x00 bell \x07 escape \x1b[31mred\x1b]0;title\x07" in text
    assert r"\u202egnp.exe \u200f\u2066isolate" in text
    assert "👩\u200d👩\u200d👧 naïve café שלום" in text
    assert "x" * 400 not in text


def test_page_of_a_picture_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(3))
    lake.add("00001.tar", captioned(2, start=3))
    (tmp_path / "laion" / "00001.tar").unlink()
    hits = lake.write().search("two cats", rerank="itm")
    elements = Elements(page([panel(hits)]))
    assert len([1 for tag, _ in elements.found if tag == "img"]) == 3
    assert elements.text.count("no such file") == 2
    assert elements.text.count("itm") == 1 + 3
    contact_sheet([panel(hits)], "x")


def test_page_without_hits_or_of_a_picture_query(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(3))
    lake.write()
    assert "no hits" in Elements(page([panel(lake.search("x", where="false"))])).text
    asked = [a for _, a in Elements(page([panel(lake.search(image=picture(1)))])).found if a.get("class") == "asked"]
    assert len(asked) == 1
    for shown in (lake.search("x", where="false"), lake.search(image=picture(1))):
        assert contact_sheet([panel(shown)], "x").width > 1000


def test_contact_sheet_has_a_row_for_every_five_hits_and_shows_the_pictures(hostile: Hits) -> None:
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    one = panel(hostile)
    one = replace(one, tiles=tuple(replace(t, picture=red) for t in one.tiles))
    heights = [contact_sheet([replace(one, tiles=one.tiles[:n])], "x").height for n in (1, 5, 6, 9)]
    assert heights[0] == heights[1] < heights[2] == heights[3]
    sheet = np.asarray(contact_sheet([one], "bridgelake"))
    assert abs((sheet == (255, 0, 0)).all(-1).sum() - 9 * 224 * 224) < 100


def test_sheet_files_are_written_or_named(hostile: Hits, tmp_path: Path) -> None:
    write_sheet([panel(hostile)], tmp_path / "a.html", tmp_path / "a.anything")
    assert (tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    with Image.open(tmp_path / "a.anything") as opened:
        assert opened.format == "PNG"
    with pytest.raises(InputError, match=r"cannot write .*/none/a\.html: No such file"):
        write_sheet([], tmp_path / "none" / "a.html", None)
    with pytest.raises(InputError, match=r"cannot write .*/none/a\.png: No such file"):
        write_sheet([], None, tmp_path / "none" / "a.png")


@pytest.mark.parametrize("text", [*HOSTILE, "a very long caption that goes on and on " * 5])
@pytest.mark.parametrize("most", [1, 2])
def test_wrapped_lines_fit_and_lose_nothing_unmarked(text: str, most: int) -> None:
    shown = plain(text)
    lines = wrapped(shown, 15, 224, most)
    assert 1 <= len(lines) <= most
    assert all(font(15).getlength(line) <= 224 for line in lines)
    assert lines[-1].endswith("…") or "".join(lines).replace(" ", "") == shown.replace(" ", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_is_one_short_line_and_keeps_what_can_be_read(text: str) -> None:
    shown = plain(text, 120)
    assert len(shown) <= 120
    assert all(c.isprintable() or c in "\u200c\u200d" for c in shown)
    assert plain(shown, 120) == shown
    assert plain("naïve 猫 😀 שלום") == "naïve 猫 😀 שלום"


def test_table_on_a_terminal_takes_no_markup_and_no_control_codes(
    hostile: Hits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")  # else it is as wide as the terminal of whoever tests
    out = io.StringIO()
    show_hits(hostile, out)
    text = out.getvalue()
    assert all(c.isprintable() or c in "\n\u200d" for c in text)
    flat = " ".join(text.split())
    assert "[bold red]markup[/] :smile: {{ 7 * 7 }}" in flat
    assert "\\x1b[31mdogs" in text
    assert max(map(cell_len, text.splitlines())) <= 140


def test_table_on_a_terminal_that_knows_only_ascii_still_comes(hostile: Hits) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    show_hits(hostile, stream)
    stream.seek(0)
    assert r"na\xefve caf\xe9" in " ".join(stream.read().split())


def test_table_shows_why_a_candidate_was_not_looked_at(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(2))
    (tmp_path / "laion" / "00000.tar").unlink()
    out = io.StringIO()
    show_hits(lake.write().search("two cats", rerank="itm"), out)
    assert "no such file" in " ".join(out.getvalue().split())
