"""A run's report: what it is gathered from, that it costs little, and that nothing in it does anything."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.fetch import fetch_images
from pipeline.reports import pictures, plots
from pipeline.reports.curve import MOST, Curve
from pipeline.reports.examples import examples
from pipeline.reports.page import facts
from pipeline.reports.pictures import Album
from pipeline.reports.report import reported
from pipeline.reports.scores import last_fragment, scores
from pipeline.reports.shards import shards
from pipeline.stores.exclusive import Folder
from pipeline.table import latest
from pipeline.upkeep.delete import Extent, delete
from pipeline.upkeep.orders import Order
from pipeline.watch.progress import Counts
from tests.ingest import Lake, two_runs
from tests.reports import RUN, hostile_lake, ran, summary, watched
from tests.tables.test_sheet import Elements


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return hostile_lake(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(lake: Lake) -> str:
    done = reported(ran(lake), summary(), print)
    return Path(done.report).read_text(encoding="utf-8")


def test_curve_stays_short_however_long_the_run() -> None:
    curve = Curve()
    for second in range(20_000):
        curve.hear(Counts(0, 1, second * 7, 0, 0, float(second)))
    assert MOST / 2 < len(curve.points) <= 2 * MOST
    assert curve.points[-1] == (19_999.0, 19_999 * 7)
    assert all(pairs == seconds * 7 for seconds, pairs in curve.points)


def test_throughput_is_what_the_series_says_and_needs_a_series() -> None:
    plot = plots.throughput([(float(s), 50 * s) for s in range(61)])
    assert plot is not None
    assert plot.alt == "3,000 pairs in 1m00s: 50.0 pairs/s on average, 50.0 at most"
    assert "time since the stages were started (s)" in plot.svg
    assert plots.throughput([(0.0, 0), (1.0, 5)]) is None
    hours = plots.throughput([(3600.0 * h, 100 * h) for h in range(5)])
    assert hours is not None
    assert "(hours)" in hours.svg


def test_plots_take_the_pages_colours_and_share_no_id() -> None:
    counts = np.array([0, 3, 1, 0])
    made = [plots.histogram(f"score {i}", "x", counts, np.linspace(0, 1, 5)) for i in range(2)]
    ids = [set(re.findall(r'\bid="([^"]+)"', plot.svg)) for plot in made if plot]
    assert ids[0]
    assert not ids[0] & ids[1]
    for plot in made:
        assert plot is not None
        assert not re.search(r"#[0-9a-f]{6}\b", plot.svg), "a colour that does not change with the page's"
        referred = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", plot.svg))
        assert referred <= ids[0] | ids[1]
        assert plot.alt == "4 pairs from 0.25 to 0.75, most of them near 0.38"


def test_plots_of_nothing_are_left_out() -> None:
    nothing = np.zeros(4, np.int64)
    assert plots.histogram("x", "x", nothing, np.linspace(0, 1, 5)) is None
    assert plots.rejects({}) is None
    assert plots.shards([1.0]) is None


def test_histogram_shows_few_bars_and_every_pair() -> None:
    counts = np.arange(1, 402)
    coarse, edges = plots._coarser(counts, np.linspace(0, 1, 402))
    assert coarse.sum() == counts.sum()
    assert len(coarse) <= 50
    assert np.allclose(np.diff(edges), np.diff(edges)[0])


def test_scores_are_of_the_runs_own_rows(tmp_path: Path) -> None:
    lake = two_runs(tmp_path)
    runs = lake.companion("runs").to_table(columns=["run_id"])["run_id"].to_pylist()
    first, second = (scores(lake.database, run, after=-1) for run in runs)
    assert (first.rows, second.rows) == (10, 5)
    rows = lake.rows().to_table(columns=["run_id", "itm_score", "itc_score"], filter=f"run_id = '{runs[0]}'")
    assert first.itm[37] == sum(rows["itm_score"].to_numpy() == 0.75)
    assert first.itc.sum() == first.itm.sum() == 10
    assert scores(lake.database, runs[1], after=last_fragment(latest(lake.database))).rows == 0


def test_best_and_worst_are_of_different_pictures_and_in_order(lake: Lake) -> None:
    found = scores(lake.database, RUN, after=-1)
    assert [len(found.best), len(found.worst)] == [8, 8]
    for rows, sign in ((found.best, -1), (found.worst, 1)):
        order = [(sign * row["itm_score"], sign * row["itc_score"]) for row in rows]
        assert order == sorted(order)
        assert len({row["sha256"] for row in rows}) == len(rows)
    all_ = lake.rows().to_table(columns=["itm_score"], filter=f"run_id = '{RUN}'")["itm_score"].to_numpy()
    assert (found.best[0]["itm_score"], found.worst[0]["itm_score"]) == (all_.max(), all_.min())


def test_scores_look_at_some_fragments_where_there_are_too_many_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    names = [f"{i}.tar" for i in range(6)]
    for i, name in enumerate(names):
        lake.write(name, 10 * i, 4)
    run = lake.run(*names)
    some = scores(lake.database, run, after=-1, most=8)
    assert some.rows == 8
    assert {row["shard"] for row in some.best + some.worst} == {"0.tar", "5.tar"}


def test_examples_are_two_of_each_reason_and_of_this_run(lake: Lake) -> None:
    met = examples(lake.database, RUN, summary().rejects)
    assert {reason: len(rows) for reason, rows in met.items()} == {
        "undecodable": 2,
        "extreme_aspect": 1,
        "no_caption": 1,
    }
    assert {row["shard"] for rows in met.values() for row in rows} == {"bad.tar", "mute.tar"}
    assert examples(lake.database, RUN, summary().rejects, most=0) == {}
    assert examples(lake.database, "another", summary().rejects) == {}


def test_shards_show_the_failing_first_then_the_slowest_and_how_many_are_left_out(lake: Lake) -> None:
    found = shards(lake.database, RUN, summary().failures, summary().quarantined)
    assert [line.outcome for line in found.lines] == ["quarantined", "failed", *["committed"] * 4]
    assert "signature=***" in found.lines[0].error
    assert {(line.shard, line.read, line.rejected) for line in found.lines[2:]} == {
        ("00000.tar", 20, 0),
        ("00001<b>.tar", 20, 0),
        ("bad.tar", 4, 4),
        ("mute.tar", 1, 1),
    }
    seconds = [line.seconds for line in found.lines[2:]]
    assert min(seconds) > 0.5, "half a second of reading, as the end records say, is not counted"
    assert seconds == sorted(seconds, reverse=True)
    short = shards(lake.database, RUN, summary().failures, summary().quarantined, most=3)
    assert ([line.outcome for line in short.lines], short.more) == (["quarantined", "failed", "committed"], 3)


def test_pictures_are_fetched_only_while_there_is_time_and_never_out_of_a_gzip(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        pictures, "fetch_images", lambda rows, root: asked.append(len(rows)) or fetch_images(rows, root)
    )
    rows = scores(lake.database, RUN, after=-1).best
    assert all(tile.uri for tile in Album(str(lake.root), 10**6).pairs(rows))
    assert asked == [8]
    packed = Album(str(lake.root), 10**6).pairs([{**row, "shard": "00000.tar.gz"} for row in rows])
    assert all("gzipped" in tile.why for tile in packed)
    late = Album(str(lake.root), 10**6, _ends=0.0).pairs(rows)
    assert all("that a report has for them" in tile.why for tile in late)
    assert sum(asked) == 8


def test_a_rejects_picture_is_shown_where_it_is_one(lake: Lake) -> None:
    met = examples(lake.database, RUN, summary().rejects)
    album = Album(str(lake.root), 10**6)
    assert album.rejects(met["extreme_aspect"])[0].picture is not None
    assert album.rejects(met["no_caption"])[0].uri.startswith("data:image/jpeg")
    assert [tile.why[:26] for tile in album.rejects(met["undecodable"])] == ["the picture is undecodable"] * 2
    small = Album(str(lake.root), 100).rejects(met["extreme_aspect"])[0]
    assert (small.picture, small.why[:24]) == (None, "the picture is too_large")


def test_page_shows_what_the_tables_hold_as_text_and_loads_nothing(page: str) -> None:
    elements = Elements(page)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    assert len([1 for tag, _ in elements.found if tag == "svg"]) == 6
    assert len([1 for tag, _ in elements.found if tag == "img"]) == 8 + 8 + 2
    names = {name for _, attributes in elements.found for name in attributes}
    assert not any(name.startswith("on") for name in names)
    assert not [
        a for _, a in elements.found if str(a.get("src", "data:"))[:5] != "data:" or str(a.get("href", "#"))[0] != "#"
    ]
    for shown in (
        "a <i>reject</i>",
        "00001<b>.tar",
        "torn.tar: it ends <early>",
        "[bold red]markup[/] :smile: {{ 7 * 7 }}",
    ):
        assert shown in elements.text
    assert "x" * 400 not in elements.text
    assert not re.search("[\0\u202e\x1b]", page)
    assert "abcdef" not in page
    assert "Content-Security-Policy" in page


def test_facts_tell_how_busy_the_model_was(lake: Lake) -> None:
    told = {fact.name: fact for fact in facts(summary(), ran(lake).placement)}
    assert (told["model busy"].value, told["model busy"].note) == ("37%", "of the time of 2 actors on cpu")
    assert (told["rows"].value, told["rejects"].note) == ("40", "11.11% of 45 pairs")
    assert told["slices failed"].bad
    assert "slices failed" not in {fact.name for fact in facts(summary(failures={}, quarantined={}), None)}


def test_report_lies_beside_the_table_and_plain_lancedb_sees_no_more_tables(lake: Lake, page: str) -> None:
    import lancedb

    [file] = (Path(lake.database.uri) / "laion_reports").iterdir()
    assert file.name == f"{RUN}.html"
    assert page.rstrip().endswith("</html>")
    names = lancedb.connect(lake.database.uri).table_names()
    assert sorted(names) == ["laion", "laion_rejects", "laion_runs", "laion_shards"]


def _full_disk(self: Folder, name: str, data: bytes) -> bool:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda patch: patch.setattr(Folder, "create", _full_disk), "OSError: [Errno 28] No space left on device"),
        (lambda patch: patch.setitem(sys.modules, "pipeline.reports.page", None), "ModuleNotFoundError"),
    ],
    ids=["the disk is full", "matplotlib is not there"],
)
def test_a_report_that_cannot_be_made_is_one_line_and_changes_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Any], None], said: str
) -> None:
    breaks(monkeypatch)
    lines: list[str] = []
    assert reported(ran(lake), summary(), lines.append) == summary()
    assert len(lines) == 1
    assert lines[0].startswith("no report was written: ")
    assert said in lines[0]


def test_no_report_is_made_where_nothing_was_to_be_done(lake: Lake) -> None:
    idle = summary(rows=0, rejects={}, failures={}, run_id="idle")
    assert reported(ran(lake), idle, print) == idle
    assert not (Path(lake.database.uri) / "laion_reports" / "idle.html").exists()


def test_report_of_a_run_without_rows_or_curve_says_what_failed(lake: Lake) -> None:
    told = summary(run_id="0badc0de", rows=0, rejects={}, calls=0, commits=0)
    without = replace(ran(lake), curve=Curve(), placement=None)
    done = reported(without, told, print)
    elements = Elements(Path(done.report).read_text(encoding="utf-8"))
    assert "torn.tar: it ends <early>" in elements.text
    assert not [1 for tag, _ in elements.found if tag == "img"]
    assert watched().points


def test_purge_removes_reports_since_they_show_what_was_taken_down(tmp_path: Path) -> None:
    lake = two_runs(tmp_path)
    one = reported(ran(lake), summary(run_id="1"), print)
    reported(ran(lake), summary(run_id="2"), print)
    order = Order(ids=(lake.ids()[0],))
    assert delete(lake.database, order).gone
    assert Path(one.report).exists()
    done = delete(lake.database, order, Extent(purge=True))
    assert "2 reports of runs removed" in done.lines()
    assert not list((Path(lake.database.uri) / "laion_reports").iterdir())
