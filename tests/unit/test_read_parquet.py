"""Parquet shards -> samples and rejects at exact positions, by row group; a broken file is a ShardError."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Keep, ReadConfig
from pipeline.errors import ConfigError, RejectReason, ShardError
from pipeline.read import read_slice, resolve_keep
from pipeline.shards import cut
from tests.shards import picture, positions, read, rejects, samples, shard, whole, write_parquet

JPG = picture()


def found(tmp_path: Path, columns: dict[str, Any], **options: Any) -> list[Any]:
    return read(write_parquet(tmp_path / "x.parquet", columns), **options)


def test_parquet_gives_every_row_with_its_place(tmp_path: Path) -> None:
    columns = {"jpg": [picture(i) for i in range(5)], "caption": [f"c{i}" for i in range(5)], "n": list(range(5))}
    got = samples(read(write_parquet(tmp_path / "x.parquet", columns, group_rows=2)))
    assert [(s.place.row_group, s.place.row_in_group) for s in got] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [s.key for s in got] == [f"{i:09d}" for i in range(5)]
    assert [s.image for s in got] == columns["jpg"]
    assert positions(got) == list(range(5))
    assert got[3].metadata == '{"n": 3}'


@pytest.mark.parametrize("name", ["image", "JPG", "png", "webp", "jpeg", "image_bytes", "bytes"])
@pytest.mark.parametrize("caption", ["caption", "TEXT", "captions", "Text"])
def test_parquet_finds_columns_by_name_without_regard_to_case(tmp_path: Path, name: str, caption: str) -> None:
    (sample,) = found(tmp_path, {"URL": ["u"], name: [JPG], caption: ["c"], "__key__": ["k"]})
    assert (sample.image, sample.captions[0].text, sample.url, sample.key) == (JPG, "c", "u", "k")
    assert sample.metadata is None


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])],
)
def test_parquet_takes_every_type_that_holds_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    value = {"bytes": JPG, "path": "a.jpg"} if pa.types.is_struct(kind) else JPG
    (sample,) = found(tmp_path, {"image": pa.array([value], kind), "text": ["c"]})
    assert sample.image == JPG


def test_parquet_passes_over_a_likely_name_that_holds_no_bytes(tmp_path: Path) -> None:
    (sample,) = found(tmp_path, {"image": ["a.jpg"], "jpg": [JPG], "caption": ["c"]})
    assert sample.image == JPG
    assert json.loads(sample.metadata) == {"image": "a.jpg"}


def test_parquet_options_name_other_columns(tmp_path: Path) -> None:
    columns = {"image": [b"thumb"], "Full": [JPG], "caption": ["no"], "alt": ["a"], "long": [["b", "c"]]}
    (sample,) = found(tmp_path, columns, image_key="full", caption_keys=("ALT", "long"))
    assert sample.image == JPG
    assert [c.text for c in sample.captions] == ["a", "b", "c"]
    assert json.loads(sample.metadata) == {"caption": "no"}


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_parquet_list_of_captions_is_several_pairs(tmp_path: Path, kind: pa.DataType) -> None:
    got = found(tmp_path, {"image": [JPG, JPG], "captions": pa.array([["a", "b"], ["c", None]], kind)})
    assert [(c.position, c.index, c.text) for s in samples(got) for c in s.captions] == [
        (0, 0, "a"),
        (1, 1, "b"),
        (2, 0, "c"),
    ]
    assert [(r.position, r.caption_index, r.reason) for r in rejects(got)] == [(3, 1, RejectReason.NO_CAPTION)]


def test_parquet_of_img2dataset_rejects_what_was_not_downloaded(tmp_path: Path) -> None:
    columns = {
        "jpg": [JPG, None, None],
        "caption": ["a", "b", "c"],
        "key": ["k0", "k1", "k2"],
        "status": ["success", "failed_to_download", "failed_to_resize"],
        "error_message": [None, "HTTP Error 404: Not Found", None],
    }
    got = found(tmp_path, columns)
    assert [s.key for s in samples(got)] == ["k0"]
    assert [(r.position, r.key, r.caption, r.reason, r.detail) for r in rejects(got)] == [
        (1, "k1", "b", RejectReason.NOT_DOWNLOADED, "failed_to_download: HTTP Error 404: Not Found"),
        (2, "k2", "c", RejectReason.NOT_DOWNLOADED, "failed_to_resize"),
    ]


def test_parquet_status_of_others_is_metadata(tmp_path: Path) -> None:
    (sample,) = found(tmp_path, {"jpg": [JPG], "caption": ["a"], "status": ["approved"]})
    assert json.loads(sample.metadata) == {"status": "approved"}


@pytest.mark.parametrize(
    ("columns", "reason", "detail"),
    [
        ({"jpg": [None], "caption": ["a"]}, RejectReason.NO_IMAGE, "jpg is null"),
        (
            {"jpg": [{"bytes": None, "path": "/x.jpg"}], "caption": ["a"]},
            RejectReason.NO_IMAGE,
            "only a path, no bytes: /x.jpg",
        ),
        ({"jpg": [JPG], "caption": [None]}, RejectReason.NO_CAPTION, "no caption"),
        ({"jpg": [JPG], "caption": [" "]}, RejectReason.NO_CAPTION, "empty"),
        ({"jpg": [JPG], "caption": [float("nan")]}, RejectReason.NO_CAPTION, "no caption"),
        ({"jpg": [JPG], "caption": [7]}, RejectReason.NO_CAPTION, "int, not text"),
        ({"jpg": [JPG], "caption": [[]]}, RejectReason.NO_CAPTION, "no caption"),
        ({"jpg": [JPG], "caption": [b"\xff"]}, RejectReason.BAD_TEXT, "not UTF-8"),
    ],
)
def test_parquet_rejects_rows_that_lack_something(
    tmp_path: Path, columns: dict[str, Any], reason: RejectReason, detail: str
) -> None:
    schema = {
        "jpg": pa.binary()
        if not isinstance(columns["jpg"][0], dict)
        else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    }
    arrays = {n: pa.array(v, schema.get(n)) for n, v in columns.items()}
    if columns["caption"] == [[]]:
        arrays["caption"] = pa.array([[]], pa.list_(pa.string()))
    (reject,) = found(tmp_path, arrays)
    assert reject.reason == reason
    assert detail in reject.detail


def test_parquet_rejects_a_key_that_stands_earlier_in_the_file(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "x.parquet",
        {"jpg": [os.urandom(2000) for _ in range(6)], "caption": list("abcdef"), "key": ["0", "1", "2", "0", "4", "4"]},
        group_rows=2,
    )
    alone = [r.position for r in rejects(read(path))]
    assert alone == [3, 5]
    parts = cut(shard(path), 4500)
    assert len(parts) == 3
    by_slice = [[(r.position, r.reason) for r in rejects(read_slice(p, ReadConfig(("x",))))] for p in parts]
    assert by_slice == [[], [(1, RejectReason.DUPLICATE_KEY)], [(1, RejectReason.DUPLICATE_KEY)]]


def test_parquet_slices_give_what_the_whole_gives(tmp_path: Path) -> None:
    count = 40
    path = write_parquet(
        tmp_path / "x.parquet",
        {"jpg": [os.urandom(1000) for _ in range(count)], "caption": ["c"] * count},
        group_rows=7,
    )
    parts = [list(read_slice(s, ReadConfig(("x",)))) for s in cut(shard(path), 15_000)]
    assert len(parts) > 2
    together = [s for p in parts for s in samples(p)]
    for part in parts:
        assert positions(part) == list(range(len(part)))
    every = samples(read(path))
    assert [(s.key, s.image, s.place) for s in together] == [(s.key, s.image, s.place) for s in every]


def test_parquet_metadata_of_every_kind_is_json(tmp_path: Path) -> None:
    columns = {
        "jpg": [JPG],
        "caption": ["c"],
        "score": [float("nan")],
        "when": [datetime.datetime(2024, 5, 6, 7, 8, 9)],
        "day": [datetime.date(2024, 5, 6)],
        "price": [Decimal("1.50")],
        "hash": pa.array([b"\x01\xff"], pa.binary(2)),
        "mask": [b"a second picture"],
        "box": [{"x": 1, "y": [1.5, float("inf")]}],
        "none": pa.array([None], pa.string()),
        "ok": [True],
    }
    (sample,) = found(tmp_path, columns)
    assert json.loads(sample.metadata) == {
        "when": "2024-05-06T07:08:09",
        "day": "2024-05-06",
        "price": "1.50",
        "hash": "01ff",
        "box": {"x": 1, "y": [1.5, None]},
        "ok": True,
    }


def test_resolve_keep_tells_types_from_a_parquets_schema(tmp_path: Path) -> None:
    columns = {
        "jpg": [JPG],
        "caption": ["c"],
        "i": pa.array([1], pa.int16()),
        "f": pa.array([1.0], pa.float32()),
        "d": [1.5],
        "b": [True],
        "s": ["x"],
        "l": [[1]],
        "c": pa.array(["x"]).dictionary_encode(),
    }
    one = shard(write_parquet(tmp_path / "x.parquet", columns))
    config = ReadConfig((one.uri,))
    kinds = {k.name: k.type for k in resolve_keep([Keep(n) for n in "IFDBSLC"], one, config)}
    assert kinds == {
        "I": "int64",
        "F": "float32",
        "D": "float64",
        "B": "bool",
        "S": "string",
        "L": "string",
        "C": "string",
    }
    keep = tuple(resolve_keep([Keep(n) for n in "IL"], one, config))
    (sample,) = read(Path(one.uri), keep=keep)
    assert sample.keep == {"I": 1, "L": "[1]"}
    with pytest.raises(ConfigError, match="there are b, c, d, f, i, l, s"):
        resolve_keep([Keep("jpg")], one, config)


def test_parquet_of_urls_alone_is_an_error_with_the_command_that_downloads_them(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="URLs and no pictures") as caught:
        found(tmp_path, {"URL": ["http://x"], "TEXT": ["c"], "similarity": [0.3]})
    path = tmp_path / "x.parquet"
    assert f"img2dataset --url_list '{path}' --input_format parquet --url_col URL --caption_col TEXT" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"pic": [JPG], "caption": ["c"]}, {}, "no picture column.*among pic, caption; name it with --image-key"),
        ({"jpg": [JPG], "caption": ["c"]}, {"image_key": "caption"}, "no picture column: looked for caption"),
        ({"jpg": [JPG], "alt": ["c"]}, {}, "no caption column.*among jpg, alt; name it with --caption-key"),
    ],
)
def test_parquet_without_the_columns_needed_is_an_error_that_lists_those_there(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShardError, match=message):
        found(tmp_path, columns, **options)


def footer_bytes(data: bytes) -> int:
    return int.from_bytes(data[-8:-4], "little")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: data[: -8 - footer_bytes(data)] + bytes(footer_bytes(data)) + data[-8:],
        lambda data: data[:1000] + bytes(3000) + data[4000:],
    ],
)
def test_parquet_that_is_damaged_is_an_error_that_names_the_shard(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"jpg": [os.urandom(500) for _ in range(20)], "caption": ["c"] * 20})
    pq.write_table(table, path, write_page_checksum=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=r"x\.parquet: \w+") as caught:
        read(path)
    assert caught.value.shard == str(path)


def test_parquet_without_rows_has_no_pairs(tmp_path: Path) -> None:
    assert found(tmp_path, {"jpg": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}) == []


def test_parquet_of_one_large_row_group_is_read_in_small_batches(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    big = [os.urandom(2**20)] * 80
    table = pa.table({"jpg": pa.array(big), "caption": ["c"] * len(big)})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_batch_size=4)
    code = (
        "import pyarrow as pa; from pathlib import Path; from tests.shards import whole; "
        "from pipeline.config import ReadConfig; from pipeline.read import read_slice; "
        f"print(sum(1 for _ in read_slice(whole(Path({str(path)!r})), ReadConfig(('x',)))), "
        "pa.default_memory_pool().max_memory())"
    )
    count, peak = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(count) == len(big)
    assert int(peak) < 60 * 2**20, f"{int(peak) >> 20} MB for a row group of 80 MB"


def test_parquet_that_is_gone_is_an_error_that_names_the_shard(tmp_path: Path) -> None:
    one = whole(write_parquet(tmp_path / "x.parquet", {"jpg": [JPG], "caption": ["c"]}))
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(ShardError, match=r"x\.parquet: gone, or never there"):
        list(read_slice(one, ReadConfig(("x",))))
