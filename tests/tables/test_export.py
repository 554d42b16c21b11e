"""Exports, read back with the tools they are for; and what is never left half-written."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from pipeline.config import Keep
from pipeline.errors import BridgelakeError, ConfigError, FetchError, InputError, TableError
from pipeline.export import export
from pipeline.exports import choice, flat, tars
from pipeline.exports.asked import FLAT, Export, Exported
from pipeline.read import Reject
from tests.lakes import DIMENSION, HOSTILE, FakeLake, captioned, jpeg
from tests.moulds import Moulds
from tests.shards import picture, read, samples

READERS = {
    "parquet": pd.read_parquet,
    "csv": lambda path: pd.read_csv(path, dtype={"key": str, "id": str}),
    "jsonl": lambda path: pd.read_json(path, lines=True, dtype={"key": str, "id": str}),
}


def fifty(folder: Path) -> FakeLake:
    """40 pictures with one caption each, 10 with three; picture 3 stands in both tars."""
    lake = FakeLake(folder)
    lake.add("00000.tar", captioned(20))
    lake.add("00001.tar", [*captioned(20, start=20), (jpeg(3), ["caption 3 again"])])
    lake.add("00000.tar", captioned(10, start=40, captions=3), dataset="second")
    return lake.write()


@pytest.fixture
def lake(moulds: Moulds) -> FakeLake:
    return moulds.cast(fifty)


def exported(lake: FakeLake, name: str, **asked: Any) -> Exported:
    return export(lake.database, Export(output=f"{lake.folder}/{name}", **asked), lambda: lake.model)


def by_key(folder: Path) -> dict[str, dict[str, bytes]]:
    """All samples of all tars, by key, as `tarfile` reads them."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


# --- one file


@pytest.mark.parametrize("kind", FLAT)
def test_file_holds_the_rows_as_pandas_reads_them(lake: FakeLake, kind: str) -> None:
    done = exported(lake, f"rows.{kind}", where="width >= 64 -- wide")
    rows = READERS[kind](f"{lake.folder}/rows.{kind}")
    wanted = [row for row in lake.rows if row["width"] >= 64]
    assert done.rows == len(rows) == len(wanted)
    for name in ("id", "caption", "key", "sha256", "width", "image_offset"):
        assert rows[name].tolist() == [row[name] for row in wanted], name
    np.testing.assert_allclose(rows["itm_score"], [row["itm_score"] for row in wanted], rtol=1e-6)
    assert [*rows.columns] == [n for n in stored(lake).names if not n.endswith("_embedding")]
    assert rows["url"].isna().all()


@pytest.mark.parametrize("kind", FLAT)
def test_file_can_hold_the_vectors(lake: FakeLake, kind: str) -> None:
    exported(lake, f"rows.{kind}", select=("id",), vectors=True)
    rows = READERS[kind](f"{lake.folder}/rows.{kind}")
    assert [*rows.columns] == ["id", "image_embedding", "text_embedding"]
    vectors = rows["image_embedding"].map(json.loads) if kind == "csv" else rows["image_embedding"]
    wanted = np.array([np.asarray(row["image_embedding"], np.float16) for row in lake.rows])
    np.testing.assert_array_equal(np.stack(vectors.tolist()).astype(np.float16), wanted)


@pytest.mark.parametrize("kind", FLAT)
def test_file_keeps_hostile_captions_nulls_and_numbers(tmp_path: Path, kind: str) -> None:
    lake = FakeLake(tmp_path)
    texts = [text.replace("\0", "") for text in HOSTILE[:-1]] + ['a "quoted", one', "\r\n"]  # pandas ends at a NUL
    lake.add("00000.tar", [(picture(i), [text]) for i, text in enumerate(texts)])
    for i, row in enumerate(lake.rows):
        row |= {"similarity": [0.1, None, float("inf"), 1e-30][i % 4], "count": 2**60 + i}
    lake.write(keep=(Keep("similarity", "float64"), Keep("count", "int64")))
    exported(lake, f"rows.{kind}", select=("caption", "similarity", "count", "itm_score"))
    rows = READERS[kind](f"{tmp_path}/rows.{kind}")
    assert rows["caption"].tolist() == texts
    assert rows["count"].tolist() == [2**60 + i for i in range(len(texts))]
    assert rows["similarity"][0] == 0.1
    assert rows["similarity"][3] == 1e-30
    assert pd.isna(rows["similarity"][1])
    assert kind == "parquet" or pd.isna(rows["similarity"][2])


def test_numbers_are_told_in_as_few_digits_as_they_need() -> None:
    columns = {"half": pa.array(np.array([0.1], np.float16)), "single": pa.array([0.9], pa.float32())}
    columns |= {"double": pa.array([0.1 + 0.2]), "words": pa.array([[{"word": "cat", "p": 0.9}]])}
    columns |= {"at": pa.array([0], pa.timestamp("s", "UTC")), "bytes": pa.array([b"\x01\xff"]), "no": pa.array([None])}
    (row,) = flat.plain_rows(pa.table(columns))
    told = {"half": 0.1, "single": 0.9, "double": 0.1 + 0.2, "words": [{"word": "cat", "p": 0.9}]}
    assert row == told | {"at": "1970-01-01 00:00:00+00:00", "bytes": "01ff", "no": None}


def test_rows_are_read_and_written_in_small_batches(lake: FakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_ROWS", 7)
    sizes: list[int] = []

    def remembered(file: Any, schema: pa.Schema, batches: flat.Batches) -> int:
        sizes.extend(batch.num_rows for batch in batches)
        return sum(sizes)

    monkeypatch.setitem(FLAT, "csv", remembered)
    assert exported(lake, "rows.csv").rows == len(lake.rows)
    assert max(sizes) <= 7


def test_file_of_an_older_version(lake: FakeLake) -> None:
    done = exported(lake, "rows.csv", version=1)
    assert done.rows == lance.dataset(lake.database.path(), version=1).count_rows() < len(lake.rows)
    assert done.version == 1


# --- a WebDataset


def test_webdataset_has_each_picture_once_with_all_its_captions(lake: FakeLake) -> None:
    done = exported(lake, "out", format="webdataset", shard_size=20)
    assert (done.rows, done.pictures, done.shards, done.missing) == (71, 50, 3, 0)
    folder = lake.folder / "out"
    assert sorted(p.name for p in folder.iterdir()) == ["00000.tar", "00001.tar", "00002.tar", "_export.json"]
    found = by_key(folder)
    assert list(found)[:2] == ["0000000", "0000001"]
    assert list(found)[20] == "0000100"
    wanted: dict[bytes, list[str]] = {}
    for row in lake.rows:
        wanted.setdefault(jpeg(int(row["caption"].split()[1])), []).append(row["caption"])
    assert {sample["jpg"]: json.loads(sample["json"])["captions"] for sample in found.values()} == wanted
    for sample in found.values():
        assert sample["txt"].decode() == json.loads(sample["json"])["captions"][0]


def test_webdataset_is_read_by_webdataset(lake: FakeLake) -> None:
    exported(lake, "out", format="webdataset", shard_size=20)
    urls = sorted(map(str, (lake.folder / "out").glob("*.tar")))
    pipeline = wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json")
    found = list(pipeline)
    assert len(found) == 50
    image, text, told = found[3]
    assert (image.size, text) == ((80, 32), "caption 3 a")
    assert told["captions"] == ["caption 3 a", "caption 3 again"]
    rows = {row["id"]: row for row in lake.rows}
    assert [rows[i]["caption"] for i in told["ids"]] == told["captions"]
    assert (told["width"], told["height"]) == (80, 32)
    assert told["itm_scores"] == pytest.approx([rows[i]["itm_score"] for i in told["ids"]])
    assert told["source"] == {"dataset": "laion", "shard": "00000.tar", "key": "00003"}


def test_webdataset_is_read_by_our_own_reader(lake: FakeLake) -> None:
    exported(lake, "out", format="webdataset", shard_size=20)
    paths = sorted((lake.folder / "out").glob("*.tar"))
    found = [one for path in paths for one in read(path)]
    assert not [one for one in found if isinstance(one, Reject)]
    assert {s.sha256 for s in samples(found)} == {row["sha256"] for row in lake.rows}
    assert [len(s.captions) for s in samples(found)] == [1] * 50
    every = [one for path in paths for one in samples(read(path, caption_keys=("captions",)))]
    assert sorted(c.text for s in every for c in s.captions) == sorted(row["caption"] for row in lake.rows)


def test_webdataset_keeps_the_bytes_the_metadata_and_what_was_kept(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    pictures = [picture(0, kind="PNG"), picture(1, kind="WEBP"), picture(2, kind="GIF"), picture(3)]
    lake.add("00000.tar", [(image, [f"caption {i}"]) for i, image in enumerate(pictures)])
    for i, row in enumerate(lake.rows):
        row |= {"metadata": json.dumps({"LICENSE": "cc", "key": "old", "pwatermark": 0.25}), "similarity": i / 4}
        row |= {"url": f"http://x/{i}"}
    lake.rows[3] |= {"metadata": None, "similarity": float("nan"), "url": None}
    exported(lake.write(keep=(Keep("similarity", "float32"),)), "out", format="webdataset")
    found = list(by_key(tmp_path / "out").values())
    suffixes = [next(s for s in one if s not in ("txt", "json")) for one in found]
    assert suffixes == ["png", "webp", "jpg", "jpg"]  # a GIF under a name that readers look for
    assert [one[s] for one, s in zip(found, suffixes, strict=True)] == pictures
    told = json.loads(found[1]["json"])
    assert (told["LICENSE"], told["pwatermark"], told["similarity"], told["url"]) == ("cc", 0.25, 0.25, "http://x/1")
    assert told["key"] == "000000001"
    last = json.loads(found[3]["json"])
    assert "url" not in last
    assert "similarity" not in last


def test_webdataset_shards_end_at_their_bytes(lake: FakeLake) -> None:
    done = exported(lake, "out", format="webdataset", shard_bytes=20_000)
    paths = sorted((lake.folder / "out").glob("*.tar"))
    assert done.shards == len(paths) > 3
    assert all(path.stat().st_size <= 20_000 + tarfile.RECORDSIZE for path in paths)
    assert len(by_key(lake.folder / "out")) == 50
    tiny = exported(lake, "tiny", format="webdataset", shard_bytes=1)
    assert (tiny.pictures, tiny.shards) == (50, 50)


def test_webdataset_is_the_same_bytes_again(lake: FakeLake) -> None:
    for name in ("one", "two"):
        exported(lake, name, format="webdataset", where="width >= 64")
    assert (lake.folder / "one/00000.tar").read_bytes() == (lake.folder / "two/00000.tar").read_bytes()


def test_webdataset_does_not_hold_many_pictures_at_once(lake: FakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = by_key(lake.folder / exported(lake, "whole", format="webdataset").output)
    held: list[int] = []
    fetch = tars.fetch_by_dataset
    monkeypatch.setattr(tars, "fetch_by_dataset", lambda rows, roots: held.append(len(rows)) or fetch(rows, roots))
    monkeypatch.setattr(tars, "_ROWS", 5)
    monkeypatch.setattr(tars, "_PICTURES", 3)
    exported(lake, "counted", format="webdataset")
    monkeypatch.setattr(tars, "_PICTURES", 512)
    monkeypatch.setattr(tars, "_BYTES", 2 * max(len(jpeg(i)) for i in range(50)))
    exported(lake, "weighed", format="webdataset")
    assert max(held) == 3
    assert held[len(held) // 2 :].count(1) < len(held)
    assert by_key(lake.folder / "counted") == by_key(lake.folder / "weighed") == wanted


def test_pictures_with_like_beginnings_of_their_hashes_are_kept_apart(
    lake: FakeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {s["jpg"] for s in by_key(lake.folder / exported(lake, "apart", format="webdataset").output).values()}
    grouped = tars._grouped(choice.Choice(lake.database, lance.dataset(lake.database.path())))
    monkeypatch.setattr(tars, "_grouped", lambda choice: (grouped[0], grouped[1][::7]))  # seven taken for one
    monkeypatch.setattr(tars, "_ROWS", 1)
    exported(lake, "alike", format="webdataset")
    found = by_key(lake.folder / "alike")
    assert len(found) == 50
    assert {sample["jpg"] for sample in found.values()} == wanted


def test_pictures_that_cannot_be_fetched_are_listed_and_the_rest_is_there(lake: FakeLake) -> None:
    shard = lake.folder / "laion" / "00000.tar"
    data = bytearray(shard.read_bytes())
    place = lake.rows[7]["image_offset"]
    data[place + 100] ^= 255
    shard.write_bytes(data)
    (lake.folder / "second" / "00000.tar").unlink()
    done = exported(lake, "out", format="webdataset")
    assert (done.pictures, done.missing) == (39, 11)
    listed = [json.loads(line) for line in (lake.folder / "out" / "_missing.jsonl").read_text().splitlines()]
    assert [one["key"] for one in listed] == ["00007", *(f"{i:05d}" for i in range(10))]
    assert "another sha256" in listed[0]["error"]
    assert "no such file" in listed[1]["error"]
    assert "11 pictures could not be fetched" in done.lines()[-1]
    assert json.loads((lake.folder / "out" / "_export.json").read_text())["missing"] == 11
    wanted = {row["sha256"] for row in lake.rows if row["dataset"] == "laion"} - {lake.rows[7]["sha256"]}
    assert {s.sha256 for s in samples(read(lake.folder / "out" / "00000.tar"))} == wanted


def test_nothing_is_left_when_no_picture_can_be_fetched(lake: FakeLake) -> None:
    for path in lake.folder.glob("*/*.tar"):
        path.unlink()
    with pytest.raises(FetchError, match=r"none of the 50 pictures can be fetched: .*no such file"):
        exported(lake, "out", format="webdataset")
    assert not [p for p in lake.folder.iterdir() if p.name.startswith("out")]


# --- clip-retrieval's layout


def test_clip_retrieval_layout_is_alike_row_by_row(lake: FakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_ROWS", 7)
    done = exported(lake, "out", format="clip-retrieval", shard_size=20)
    folder = lake.folder / "out"
    assert done.rows == 71
    names = ["img_emb/img_emb_0.npy", "metadata/metadata_3.parquet", "text_emb/text_emb_2.npy"]
    assert all((folder / name).is_file() for name in names)
    parts = {n: [np.load(folder / n / f"{n}_{i}.npy") for i in range(4)] for n in ("img_emb", "text_emb")}
    assert [part.shape for part in parts["img_emb"]] == [(20, DIMENSION)] * 3 + [(11, DIMENSION)]
    for name, column in (("img_emb", "image_embedding"), ("text_emb", "text_embedding")):
        wanted = np.stack([np.asarray(row[column], np.float16) for row in lake.rows])
        np.testing.assert_array_equal(np.concatenate(parts[name]), wanted)
    table = pd.concat([pd.read_parquet(folder / f"metadata/metadata_{i}.parquet") for i in range(4)])
    assert table["caption"].tolist() == [row["caption"] for row in lake.rows]
    assert table["id"].tolist() == [row["id"] for row in lake.rows]
    assert table["image_path"].iloc[0] == f"{lake.folder}/laion/00000.tar/00000"
    assert {"image_path", "caption", "url", "width", "height"} <= {*table.columns}


def test_clip_retrieval_layout_numbers_its_parts_so_that_names_sort(lake: FakeLake) -> None:
    exported(lake, "out", format="clip-retrieval", shard_size=5)
    names = sorted(path.name for path in (lake.folder / "out" / "img_emb").iterdir())
    assert names == [f"img_emb_{i:02d}.npy" for i in range(15)]
    wanted = np.stack([np.asarray(row["image_embedding"], np.float16) for row in lake.rows])
    np.testing.assert_array_equal(np.concatenate([np.load(lake.folder / "out/img_emb" / n) for n in names]), wanted)


def test_clip_retrieval_layout_leaves_out_the_vectors_that_are_not_there(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(3))
    exported(lake.write(vectors=("text",)), "out", format="clip-retrieval")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["_export.json", "metadata", "text_emb"]


def test_clip_retrieval_layout_needs_vectors(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(3))
    with pytest.raises(TableError, match="holds neither image_embedding nor text_embedding"):
        exported(lake.write(vectors=()), "out", format="clip-retrieval")


# --- by a query


@pytest.mark.parametrize("kind", FLAT)
def test_file_gets_what_the_query_gives_in_its_order(lake: FakeLake, kind: str) -> None:
    query = "SELECT caption, width * 2 AS twice FROM samples WHERE width >= 64 ORDER BY id DESC LIMIT 5"
    done = exported(lake, f"rows.{kind}", sql=query)
    rows = READERS[kind](f"{lake.folder}/rows.{kind}")
    wanted = [row for row in reversed(lake.rows) if row["width"] >= 64][:5]
    assert rows["caption"].tolist() == [row["caption"] for row in wanted]
    assert rows["twice"].tolist() == [2 * row["width"] for row in wanted]
    assert (done.rows, done.sql) == (5, query)


def test_folder_gets_the_rows_whose_ids_the_query_gives(lake: FakeLake) -> None:
    query = "SELECT min(id) AS id, sha256 FROM samples GROUP BY sha256 HAVING count(*) > 1"
    done = exported(lake, "out", format="webdataset", sql=query)
    wanted = ["caption 3 a", *(f"caption {i} a" for i in range(40, 50))]
    assert [sample["txt"].decode() for sample in by_key(lake.folder / "out").values()] == wanted
    assert (done.pictures, done.rows) == (11, 11)
    exported(lake, "clip", format="clip-retrieval", sql=query)
    table = pd.read_parquet(lake.folder / "clip" / "metadata" / "metadata_0.parquet")
    assert table["caption"].tolist() == wanted
    assert len(np.load(lake.folder / "clip" / "img_emb" / "img_emb_0.npy")) == 11


def test_query_may_search(lake: FakeLake) -> None:
    exported(lake, "out", format="webdataset", sql="SELECT id FROM search('two cats', 7)")
    found = {json.loads(sample["json"])["sha256"] for sample in by_key(lake.folder / "out").values()}
    assert found == {row["sha256"] for row in lake.search("two cats", limit=7).to_list()}


def test_query_is_of_the_version_that_is_exported(lake: FakeLake) -> None:
    done = exported(lake, "rows.csv", sql="SELECT count(*) AS n FROM samples", version=1)
    there = lance.dataset(lake.database.path(), version=1).count_rows()
    assert pd.read_csv(lake.folder / "rows.csv")["n"].tolist() == [there]
    assert done.version == 1


@pytest.mark.parametrize(
    ("sql", "error", "said"),
    [
        ("SELECT caption, key FROM samples", ConfigError, "--sql gives caption, key: for --format webdataset it must"),
        ("SELECT sha256 AS id FROM samples LIMIT 3", InputError, "gave 3 ids, 3 of them are not in"),
        ("SELECT id FROM samples WHERE width < 0", InputError, "--sql gave no row"),
        ("SELECT id FROM elsewhere", ConfigError, "elsewhere"),
        ("DROP TABLE samples", ConfigError, "DROP|only read|not allowed"),
    ],
)
def test_query_that_names_no_rows_is_refused_and_nothing_is_left(
    lake: FakeLake, sql: str, error: type[BridgelakeError], said: str
) -> None:
    with pytest.raises(error, match=said):
        exported(lake, "out", format="webdataset", sql=sql)
    assert not [p for p in lake.folder.iterdir() if p.name.startswith("out")]


def test_file_of_a_query_without_a_row_is_not_left(lake: FakeLake) -> None:
    with pytest.raises(InputError, match="--sql gave no row"):
        exported(lake, "rows.csv", sql="SELECT id FROM samples WHERE width < 0")
    assert not list(lake.folder.glob("rows*"))


# --- what is refused, and what is left


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"where": "width > 10000"}, InputError, "no row meets --where 'width > 10000'"),
        ({"where": "nope > 3"}, ConfigError, "there is no column nope; the columns are id"),
        ({"where": "width > 3; DROP TABLE laion"}, ConfigError, "something left over"),
        ({"version": "gold"}, TableError, "no version 'gold'"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "webdataset", "clip-retrieval"])
def test_refused_in_one_line_and_nothing_is_left(
    lake: FakeLake, kind: str, asked: dict[str, Any], error: type[BridgelakeError], said: str
) -> None:
    with pytest.raises(error, match=said):
        exported(lake, "out", format=kind, **asked)
    assert not [p for p in lake.folder.iterdir() if p.name.startswith("out")]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"output": "out"}, "--format '' for --output out is not valid: allowed is parquet, csv, jsonl, webdataset"),
        ({"output": "out.xlsx"}, "a file name that ends in .parquet, .csv, .jsonl"),
        ({"output": "out.csv", "format": "excel"}, "--format 'excel'"),
        ({"output": "out", "format": "webdataset", "vectors": True}, "not with --format webdataset"),
        ({"output": "out.csv", "shard_size": 3}, "--shard-size is of the formats that write a folder"),
        ({"output": "out", "format": "clip-retrieval", "shard_bytes": 3}, "--shard-bytes is of --format webdataset"),
        ({"output": "out", "format": "webdataset", "shard_size": 0}, "--shard-size 0"),
        ({"output": "out.csv", "sql": "SELECT 1", "where": "width > 3"}, "do not go with --sql"),
    ],
)
def test_options_without_a_meaning_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Export(**asked)
    assert said in str(error.value)


def test_unknown_column_is_refused_with_those_that_exist(lake: FakeLake) -> None:
    with pytest.raises(ConfigError, match="there is no column captoin; the columns are id, dataset"):
        exported(lake, "rows.csv", select=("captoin",))


def test_output_that_is_there_is_never_written_over(lake: FakeLake) -> None:
    exported(lake, "rows.csv")
    exported(lake, "out", format="webdataset")
    before = {p: p.stat().st_mtime_ns for p in lake.folder.rglob("*")}
    for name, kind in (
        ("rows.csv", "csv"),
        ("out", "webdataset"),
        ("out", "clip-retrieval"),
        ("rows.csv", "webdataset"),
    ):
        with pytest.raises(ConfigError, match=r"is there already|is not an empty folder"):
            exported(lake, name, format=kind)
    assert {p: p.stat().st_mtime_ns for p in lake.folder.rglob("*")} == before
    (lake.folder / "empty").mkdir()
    assert exported(lake, "empty", format="webdataset").pictures == 50


def test_what_an_export_that_was_killed_left_is_named(lake: FakeLake) -> None:
    (lake.folder / "out.partial").mkdir()
    (lake.folder / "rows.csv.partial").touch()
    for name, kind in (("out", "webdataset"), ("rows.csv", "csv")):
        with pytest.raises(ConfigError, match=rf"{name}.partial is there: an export that was broken off"):
            exported(lake, name, format=kind)
    assert (lake.folder / "rows.csv.partial").exists()


@pytest.mark.parametrize("kind", ["csv", "webdataset", "clip-retrieval"])
@pytest.mark.parametrize("root", ["local", "memory"])
def test_nothing_is_left_of_an_export_that_fails_midway(
    lake: FakeLake, monkeypatch: pytest.MonkeyPatch, kind: str, root: str
) -> None:
    monkeypatch.setattr(choice, "_ROWS", 10)
    batches = choice.Choice.batches

    def failing(self: choice.Choice, *arguments: Any, **options: Any) -> Any:
        for i, batch in enumerate(batches(self, *arguments, **options)):
            if i == 3:
                raise OSError("the wire was cut")
            yield batch

    base = str(lake.folder) if root == "local" else "memory://exports"
    if kind == "webdataset":
        monkeypatch.setattr(tars, "fetch_by_dataset", lambda rows, roots: (_ for _ in ()).throw(OSError("was cut")))
    else:
        monkeypatch.setattr(choice.Choice, "batches", failing)
    monkeypatch.setattr(choice.Choice, "count", lambda self: 71)
    with pytest.raises(BridgelakeError, match="was cut"):
        export(
            lake.database,
            Export(output=f"{base}/out", format=kind, shard_size=None if kind == "csv" else 8),
            lambda: lake.model,
        )
    store, path = fsspec.core.url_to_fs(base)
    assert not [name for name in store.find(path) if "/out" in name]


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "clip-retrieval"])
def test_any_store_can_be_written_to(lake: FakeLake, kind: str) -> None:
    store = fsspec.filesystem("memory")
    exported(lake, "local", format=kind)
    export(lake.database, Export(output=f"memory://{kind}/there", format=kind), lambda: lake.model)
    with pytest.raises(ConfigError, match=r"is there already|is not an empty folder"):
        export(lake.database, Export(output=f"memory://{kind}/there", format=kind), lambda: lake.model)
    local = lake.folder / "local"
    files = [p for p in local.rglob("*") if p.is_file()] or [local]
    assert len(store.find(f"/{kind}")) == len(files)
    for path in files:
        if path.name != "_export.json":
            relative = (
                str(path.relative_to(local)).replace(".", "", 1) if path == local else f"/{path.relative_to(local)}"
            )
            assert store.cat_file(f"/{kind}/there{relative}") == path.read_bytes()


def test_output_that_cannot_be_written_is_an_error_that_names_it(lake: FakeLake) -> None:
    with pytest.raises(BridgelakeError, match=r"--output https://example\.invalid/rows\.csv cannot be written"):
        export(lake.database, Export(output="https://example.invalid/rows.csv"), lambda: lake.model)


def test_record_tells_what_was_asked_and_which_model_made_the_vectors(lake: FakeLake) -> None:
    exported(lake, "out", format="clip-retrieval", where="width >= 64")
    told = json.loads((lake.folder / "out" / "_export.json").read_text())
    assert (told["where"], told["version"], told["format"]) == ("width >= 64", 2, "clip-retrieval")
    assert (told["contract"]["weights"], told["contract"]["dimension"]) == ("w" * 8, DIMENSION)


def test_parquet_has_row_groups_of_a_size_that_readers_like(lake: FakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_ROWS", 7)
    exported(lake, "one.parquet")
    exported(lake, "clip", format="clip-retrieval")
    monkeypatch.setattr(flat, "_GROUP_ROWS", 20)
    exported(lake, "four.parquet")
    paths = [lake.folder / name for name in ("one.parquet", "clip/metadata/metadata_0.parquet", "four.parquet")]
    assert [pq.ParquetFile(path).num_row_groups for path in paths] == [1, 1, 4]
    assert pd.read_parquet(paths[2])["id"].tolist() == [row["id"] for row in lake.rows]


def test_parquet_is_plain_for_other_readers(lake: FakeLake) -> None:
    exported(lake, "rows.parquet", vectors=True)
    schema = pq.read_schema(lake.folder / "rows.parquet")
    assert schema.field("image_embedding").type.value_type == pa.float32()
    assert b"bridgelake.contract" not in (schema.metadata or {})


def test_pictures_open_again(lake: FakeLake) -> None:
    exported(lake, "out", format="webdataset", where="dataset = 'second'")
    for sample in by_key(lake.folder / "out").values():
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            image.verify()


def stored(lake: FakeLake) -> pa.Schema:
    return lance.dataset(lake.database.path()).schema
