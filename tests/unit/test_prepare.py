"""A slice -> tables of prepared samples, rejects and one end record."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Keep, ReadConfig
from pipeline.prepare import prepare_slice
from pipeline.schema import prepared_schema
from tests.shards import Squares, encoded, members, picture, tar_bytes, whole, write_tar


def prepared(path: Path, **options: Any) -> list[dict[str, Any]]:
    config = ReadConfig((str(path),), **options)
    tables = list(prepare_slice(whole(path), "try1", config, Squares()))
    assert all(t.schema == prepared_schema(config.keep) for t in tables)
    return [row for t in tables for row in t.to_pylist()]


def test_prepare_names_the_sample_at_which_something_unforeseen_went_wrong(tmp_path: Path) -> None:
    class Failing(Squares):
        def captions(self, texts: list[str]) -> list[tuple[list[int], bool]]:
            if texts == ["caption 1"]:
                raise KeyError("no such token")
            return super().captions(texts)

    path = write_tar(tmp_path / "x.tar", members(3))
    (end,) = [
        row for t in prepare_slice(whole(path), "try1", ReadConfig((str(path),)), Failing()) for row in t.to_pylist()
    ]
    assert (end["pairs"], end["reason"]) == (None, "failed")
    assert end["detail"] == f"{path}: at or after sample 00001: KeyError: 'no such token'"


def test_prepare_gives_a_row_a_sample_and_an_end(tmp_path: Path) -> None:
    rows = prepared(write_tar(tmp_path / "x.tar", members(3)), keep=(Keep("similarity", "float64"),))
    assert [r["kind"] for r in rows] == ["sample"] * 3 + ["end"]
    row = rows[1]
    assert (row["slice"], row["attempt"], row["shard"], row["key"]) == ("x.tar", "try1", "x.tar", "00001")
    assert (row["position"], row["width"], row["height"], row["similarity"]) == (1, 48, 32, 0.125)
    assert row["sha256"] == hashlib.sha256(picture(1)).hexdigest()
    assert row["url"] == "http://x/1"
    assert len(row["pixels"]) == 4 * 4 * 3
    assert row["captions"] == [
        {"position": 1, "caption_index": 0, "caption": "caption 1", "token_ids": [7, 1], "truncated": False}
    ]
    end = rows[-1]
    assert (end["pairs"], end["detail"], end["slice"], end["attempt"]) == (3, None, "x.tar", "try1")
    assert end["seconds"] > 0


def test_prepare_covers_every_position_exactly_once(tmp_path: Path) -> None:
    two = b'{"caption": ["a good one", "", "one of more than five words"]}'
    items = [
        *members(2),
        ("a.jpg", b"broken"), ("a.json", two),
        ("b.jpg", picture()), ("b.json", two),
        ("c.png", encoded(Image.new("RGB", (1, 20)), "PNG")), ("c.txt", b"thin"),
        ("d.txt", b"alone"),
    ]  # fmt: skip
    rows = prepared(write_tar(tmp_path / "x.tar", items))
    covered = [c["position"] for r in rows for c in r["captions"] or []]
    covered += [r["position"] for r in rows if r["kind"] == "reject"]
    assert sorted(covered) == list(range(rows[-1]["pairs"])) == list(range(10))
    told = [
        (r["position"], r["key"], r["caption_index"], r["stage"], r["reason"]) for r in rows if r["kind"] == "reject"
    ]
    assert sorted(told) == [
        (2, "a", 0, "decode", "undecodable"),
        (3, "a", 1, "read", "no_caption"),
        (4, "a", 2, "decode", "undecodable"),
        (6, "b", 1, "read", "no_caption"),
        (8, "c", 0, "decode", "extreme_aspect"),
        (9, "d", 0, "read", "no_image"),
    ]
    assert [c["truncated"] for r in rows if r["key"] == "b" for c in r["captions"] or []] == [False, True]
    assert all(r["detail"] for r in rows if r["kind"] == "reject")


def test_prepare_decodes_a_picture_once_for_all_its_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import prepare

    calls: list[bytes] = []
    monkeypatch.setattr(prepare, "decode", lambda b, *how, real=prepare.decode: calls.append(b) or real(b, *how))
    rows = prepared(write_tar(tmp_path / "x.tar", [("a.jpg", picture()), ("a.json", b'{"caption": ["a", "b", "c"]}')]))
    assert len(rows[0]["captions"]) == 3
    assert len(calls) == 1


def test_prepare_tells_size_and_pixels_of_the_picture_as_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif)
    row = prepared(write_tar(tmp_path / "x.tar", [("a.jpg", data), ("a.txt", b"x")]))[0]
    assert (row["width"], row["height"]) == (20, 40)
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(4, 4, 3)
    assert (pixels[..., 0] > 240).all()


def test_prepare_with_draft_differs_in_the_pixels_of_large_jpegs_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.open(io.BytesIO(picture(2))), "JPEG", exif=exif)
    items = [("a.jpg", picture(1)), ("a.txt", b"x"), ("b.jpg", turned), ("b.txt", b"x")]
    items += [("c.jpg", picture(3, (7, 5))), ("c.txt", b"x"), ("d.png", picture(4, kind="PNG")), ("d.txt", b"x")]
    path = write_tar(tmp_path / "x.tar", [*items, ("e.jpg", picture(5, (600, 16))), ("e.txt", b"x")])
    whole, draft = prepared(path)[:-1], prepared(path, jpeg_draft=True)[:-1]
    assert [(r["key"], r["width"], r["height"]) for r in draft[:4]] == [
        ("a", 48, 32), ("b", 32, 48), ("c", 7, 5), ("d", 48, 32)
    ]  # fmt: skip
    assert draft[4]["reason"] == "extreme_aspect"
    both = [[np.frombuffer(r.pop("pixels") or b"", np.uint8).astype(int) for r in rows] for rows in (whole, draft)]
    assert whole == draft
    apart = [np.abs(a - b).mean() if len(a) else 0 for a, b in zip(*both, strict=True)]
    assert [bool(a) for a in apart] == [True, True, False, False, False]
    assert max(apart) < 16


def test_prepare_ends_a_broken_shard_with_its_error_and_without_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    data = tar_bytes(members(4))
    path.write_bytes(data[: len(data) // 2])
    rows = prepared(path)
    assert [r["kind"] for r in rows] == ["sample", "sample", "end"]
    assert rows[-1]["pairs"] is None
    assert rows[-1]["detail"].startswith(f"{path}: cut short")
    (tmp_path / "y.tar").write_bytes(data)
    gone = whole(tmp_path / "y.tar")
    (tmp_path / "y.tar").unlink()
    (table,) = prepare_slice(gone, "try1", ReadConfig(("x",)), Squares())
    assert "gone" in table["detail"][0].as_py()


def test_prepare_yields_tables_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", members(100))
    sizes = [t.num_rows for t in prepare_slice(whole(path), "a", ReadConfig(("x",)), Squares())]
    assert sizes == [64, 37]
    monkeypatch.setattr("pipeline.prepare._TABLE_BYTES", 4 * 4 * 3 * 10)
    sizes = [t.num_rows for t in prepare_slice(whole(path), "a", ReadConfig(("x",)), Squares())]
    assert sizes == [10] * 10 + [1]


def test_prepare_imports_no_model_library() -> None:
    heavy = "{'torch', 'ray', 'lance', 'lancedb', 'transformers'}"
    code = f"import sys, pipeline.prepare, pipeline.fetch; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
