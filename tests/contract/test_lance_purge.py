"""What takedowns and their purge rest on, asked of the pinned library; see `test_lance.py`."""

import datetime
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from lance.file import LanceFileReader
from lance.optimize import Compaction

from tests.contract.test_lance import Table

ROWS, SIZE, GONE = 1000, 16, "text 00000"  # the smallest, so that bounds hold it too
CARRIED = {"BTREE": "ids", "INVERTED": "_rowid", "IVF_FLAT": "_rowid", "IVF_SQ": "_rowid", "IVF_RQ": "_rowid"}
CARRIED |= {"IVF_PQ": "_rowid", "IVF_HNSW_SQ": "_rowid"}
KEEPING = {"BITMAP": "bitmap_page_lookup.lance", "ZONEMAP": "zonemap.lance"}


def made(path: Path, kind: str) -> str:
    """A table whose first row is hidden, with one index, after what a purge does to it."""
    where = str(path / "t.lance")
    vectors = np.random.default_rng(0).normal(size=ROWS * SIZE).astype(np.float16)
    texts = [f"text {i:05d}" for i in range(ROWS)]
    table = pa.table([texts, pa.FixedSizeListArray.from_arrays(pa.array(vectors), SIZE)], names=["text", "v"])
    dataset = lance.write_dataset(table, where, data_storage_version="2.1")
    if kind.startswith("IVF"):
        more = {"num_sub_vectors": 4} if kind == "IVF_PQ" else {}
        dataset.create_index("v", kind, num_partitions=2, metric="cosine", **more)
    else:
        dataset.create_scalar_index("text", kind)
    lance.dataset(where).delete(f"text = '{GONE}'")
    dataset = lance.dataset(where)
    for task in Compaction.plan(dataset, {"materialize_deletions_threshold": 0.0}).tasks:
        Compaction.commit(dataset, [task.execute(dataset)])
    lance.dataset(where).cleanup_old_versions(datetime.timedelta(0))
    return where


def indexed(where: str) -> list[pa.Table]:
    return [LanceFileReader(str(p)).read_all().to_table() for p in Path(where, "_indices").rglob("*") if p.is_file()]


@pytest.mark.parametrize("kind", CARRIED)
def test_compaction_takes_removed_rows_out_of_these_indexes(kind: str, tmp_path: Path) -> None:
    where = made(tmp_path, kind)
    tables = indexed(where)
    rows = [len(table) for table in tables if CARRIED[kind] in table.schema.names]
    assert rows == [ROWS - 1]
    texts = [set(t[f.name].to_pylist()) for t in tables for f in t.schema if pa.types.is_string(f.type)]
    assert all(GONE not in some for some in texts)


@pytest.mark.parametrize("kind", KEEPING)
def test_compaction_leaves_a_removed_value_in_these_indexes_and_a_new_build_does_not(kind: str, tmp_path: Path) -> None:
    def texts() -> list[str]:
        latest = {index["uuid"] for index in lance.dataset(where).list_indices()}
        (path,) = (p for p in Path(where, "_indices").rglob(KEEPING[kind]) if p.parent.name in latest)
        table = LanceFileReader(str(path)).read_all().to_table()
        names = [f.name for f in table.schema if pa.types.is_string(f.type)]
        return [value for name in names for value in table[name].to_pylist()]

    where = made(tmp_path, kind)
    assert GONE in texts()
    lance.dataset(where).create_scalar_index("text", kind, replace=True)
    assert GONE not in texts()


def test_strings_are_compressed_so_that_their_bytes_are_not_found_in_a_file_that_holds_them(tmp_path: Path) -> None:
    """Why a purge reads files through Lance to prove what they hold."""
    texts = [f"{i * 7919:064x}" for i in range(ROWS)]
    lance.write_dataset(pa.table({"sha256": texts}), tmp_path / "t.lance", data_storage_version="2.1")
    (path,) = (tmp_path / "t.lance" / "data").iterdir()
    assert texts[500].encode() not in path.read_bytes()
    assert texts[500] in LanceFileReader(str(path)).read_all().to_table()["sha256"].to_pylist()


def test_a_data_file_is_read_whole_with_the_rows_that_are_hidden(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.overwrite(0)
    table.overwrite(1, 1, 2, 3)
    table.open().delete("id = 2")
    (file,) = table.lowest().files
    read = LanceFileReader(f"{table.path}/data/{file.path}", None, ["id"]).read_all().to_table()
    assert read["id"].to_pylist() == [1, 2, 3]


def test_a_fragment_that_no_version_holds_is_read_again(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.overwrite(0)
    (fragment,) = table.written(7, 8)
    (file,) = fragment.files
    reader = LanceFileReader(f"{table.path}/data/{file.path}")
    assert reader.read_all().to_table().schema == table.rows(7, 8).schema
    assert [b.num_rows for b in reader.read_all(batch_size=1).to_batches()] == [1, 1]


def test_files_are_told_with_the_versions_that_refer_to_them(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.overwrite(0)
    table.overwrite(1, 1, 2, 3)
    table.update(4)
    files = table.open().tracked_files().read_all()
    data = files.filter(pc.starts_with(files["path"], "data/"))
    assert sorted(data["version"].to_pylist()) == [2, 3, 3]


def test_a_tag_moves(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.overwrite(0)
    table.overwrite(1, 1)
    table.open().tags.create("live", 1)
    table.open().tags.update("live", 2)
    assert table.open().tags.list()["live"]["version"] == 2


def test_many_values_are_bound_and_an_index_is_asked(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.overwrite(0)
    table.overwrite(1, *range(50))
    table.open().create_scalar_index("id", "BTREE")
    scanner = table.open().scanner(columns=["id"], filter=pc.field("id").isin([3, 99]))
    assert "ScalarIndexQuery" in scanner.explain_plan()
    assert scanner.to_table()["id"].to_pylist() == [3]


def test_very_many_rows_of_a_fragment_are_removed_by_row_id(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.overwrite(0)
    table.overwrite(1, *range(20_000))
    left = table.open().get_fragments()[0].delete(f"_rowid IN ({', '.join(map(str, range(19_999)))})")
    assert left.num_deletions == 19_999
