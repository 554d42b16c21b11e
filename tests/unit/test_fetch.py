"""A row -> its picture again, read in place and checked."""

import gzip
import hashlib
import os
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from pipeline.config import ReadConfig
from pipeline.errors import FetchError
from pipeline.fetch import fetch_image, fetch_images
from pipeline.prepare import prepare_slice
from pipeline.shards import cut, list_shards
from tests.shards import Squares, members, picture, whole, write_parquet, write_tar


def rows_of(path: Path, **options: Any) -> list[dict[str, Any]]:
    tables = prepare_slice(whole(path), "a", ReadConfig(("x",), **options), Squares())
    return [r for t in tables for r in t.to_pylist() if r["kind"] == "sample"]


def struct_parquet(folder: Path) -> Path:
    values = [{"bytes": picture(i), "path": None} for i in range(9)]
    return write_parquet(folder / "x.parquet", {"image": values, "text": ["c"] * 9}, group_rows=4)


def renamed_column(folder: Path) -> Path:
    columns = {"png": [b"thumb"] * 9, "full": [picture(i) for i in range(9)], "text": ["c"] * 9}
    return write_parquet(folder / "x.parquet", columns, group_rows=4)


MAKERS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "tar": (lambda folder: write_tar(folder / "x.tar", members(9)), {}),
    "gzipped tar": (lambda folder: write_tar(folder / "x.tar.gz", members(9)), {}),
    "gzipped tar by another name": (
        lambda folder: write_tar(folder / "y.tgz", members(9)).rename(folder / "x.tar"),
        {},
    ),
    "parquet": (struct_parquet, {}),
    "parquet with a column named by --image-key": (renamed_column, {"image_key": "full"}),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_fetch_gives_back_the_bytes_that_were_embedded(tmp_path: Path, kind: str) -> None:
    make, options = MAKERS[kind]
    rows = rows_of(make(tmp_path), **options)
    assert len(rows) == 9
    mixed = [rows[i] for i in (8, 0, 3, 3, 7)]
    assert fetch_images(mixed, str(tmp_path)) == [picture(i) for i in (8, 0, 3, 3, 7)]
    assert fetch_image(rows[5], f"{tmp_path}/") == picture(5)


def test_fetch_of_a_tar_asks_for_the_picture_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = rows_of(write_tar(tmp_path / "x.tar", members(1)))
    store = fsspec.filesystem("memory")
    store.pipe("/lake/x.tar", (tmp_path / "x.tar").read_bytes())
    asked: list[tuple[int, int]] = []
    real = type(store).cat_file
    monkeypatch.setattr(
        type(store), "cat_file", lambda self, p, start, end: asked.append((start, end)) or real(self, p, start, end)
    )
    assert fetch_image(row, "memory://lake") == picture(0)
    assert asked == [(row["image_offset"], row["image_offset"] + row["image_length"])]


@pytest.mark.parametrize("kind", ["tar", "gzipped tar"])
def test_fetch_reads_a_picture_once_for_all_its_captions(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import fetch

    rows = rows_of(MAKERS[kind][0](tmp_path))
    asked: list[str] = []
    monkeypatch.setattr(fetch, "call", lambda do, path, **where: asked.append(path) or do(path, **where))
    monkeypatch.setattr(gzip.GzipFile, "rewind", lambda file: pytest.fail("the shard was read from its start again"))
    twice = [row for row in reversed(rows) for _ in range(2)]
    assert fetch_images(twice, str(tmp_path)) == [picture(i) for i in reversed(range(9)) for _ in range(2)]
    assert len(asked) == (9 if kind == "tar" else 0)


def test_fetch_reads_a_row_group_once_for_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import fetch

    rows = rows_of(struct_parquet(tmp_path))
    opened: list[str] = []
    monkeypatch.setattr(fetch, "open_file", lambda uri, real=fetch.open_file: opened.append(uri) or real(uri))
    assert all(isinstance(a, bytes) for a in fetch_images(rows, str(tmp_path)))
    assert len(opened) == 3


@pytest.mark.parametrize("kind", ["tar", "gzipped tar", "parquet"])
@pytest.mark.parametrize("fault", ["changed", "cut", "gone"])
def test_fetch_error_names_shard_and_key_and_what_to_do(tmp_path: Path, kind: str, fault: str) -> None:
    path = MAKERS[kind][0](tmp_path)
    rows = rows_of(path)
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "parquet":
        write_parquet(path, {"image": [{"bytes": os.urandom(9)}], "text": pa.array(["c"])})
    else:
        write_tar(path, [(n, d) for n, d in members(18)[27:]])
    for answer in fetch_images(rows[:3], str(tmp_path)):
        assert isinstance(answer, FetchError)
        assert path.name in str(answer)
        assert "--source-root" in str(answer)
    with pytest.raises(FetchError, match=f"the picture 00000.* of shard {path.name} cannot be fetched: "):
        fetch_image(rows[0], str(tmp_path))


def test_fetch_keeps_the_good_pictures_when_some_are_lost(tmp_path: Path) -> None:
    rows = rows_of(write_tar(tmp_path / "x.tar", members(3)))
    rows[1] = rows[1] | {"sha256": hashlib.sha256(b"other").hexdigest()}
    first, second, third = fetch_images(rows, str(tmp_path))
    assert (first, third) == (picture(0), picture(2))
    assert "another sha256" in str(second)


def test_fetch_of_a_row_that_does_not_tell_where_says_so(tmp_path: Path) -> None:
    (row,) = rows_of(write_tar(tmp_path / "x.tar", members(1)))
    lost = [row | {"shard": None}, row | {"image_offset": None}]
    first, second, third = fetch_images([*lost, row], str(tmp_path))
    assert "does not tell where" in str(first)
    assert "does not tell where" in str(second)
    assert third == picture(0)


def test_fetch_of_nothing_is_nothing() -> None:
    assert fetch_images([], "/nowhere") == []


def test_fetch_and_listing_work_over_http_without_ranges(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", members(3))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        listing = list_shards([f"http://127.0.0.1:{server.server_port}/"], None)
        assert [s.path for s in listing.shards] == ["x.tar"]
        (slice,) = cut(listing.shards[0], 2**29)
        tables = list(prepare_slice(slice, "a", ReadConfig(("x",)), Squares()))
        rows = [r for t in tables for r in t.to_pylist() if r["kind"] == "sample"]
        assert fetch_images(rows, listing.root) == [picture(i) for i in range(3)]
        server.shutdown()
