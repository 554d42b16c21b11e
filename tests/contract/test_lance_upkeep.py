"""What `verify` and `compact` rest on, asked of the pinned library; see `test_lance.py`."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.optimize import Compaction, RewriteResult

from tests.contract.test_lance import SCHEMA, Table

DAY = 86_400


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Six fragments of three rows each, at version 7: ids 1 to 3, 11 to 13, ... 51 to 53."""
    table = Table(tmp_path)
    table.overwrite(0)
    table.overwrite(1, 1, 2, 3)
    for tens in range(10, 60, 10):
        table.update(tens + 1, tens + 2, tens + 3, slices="[]")
    assert table.version == 7
    return table


def plan(dataset: lance.LanceDataset) -> list[RewriteResult]:
    """A compaction of all but the lowest fragment, done but not committed."""
    lowest = min(f.fragment_id for f in dataset.get_fragments())
    tasks = Compaction.plan(dataset, {"excluded_fragment_ids": [lowest]}).tasks
    return [task.execute(dataset) for task in tasks]


def compact(table: Table) -> None:
    dataset = table.open()
    Compaction.commit(dataset, plan(dataset))


def fragments(table: Table) -> list[tuple[int, int]]:
    return [(f.fragment_id, f.count_rows()) for f in table.open().get_fragments()]


def versions(table: Table) -> list[int]:
    return [ref["version"] for ref in table.open().version_refs()]


def paths(table: Table) -> set[str]:
    return {str(p.relative_to(table.path)) for p in Path(table.path).rglob("*") if p.is_file()}


def test_update_passes_over_a_compaction_that_leaves_out_the_lowest_fragment(table: Table) -> None:
    touched, version, ids = table.lowest(), table.version, table.ids
    compact(table)
    table.update(99, touched=touched, version=version)
    assert table.ids == [*ids, 99]
    assert fragments(table) == [(0, 3), (6, 15), (7, 1)]


def test_compaction_that_leaves_out_the_lowest_fragment_passes_over_updates_since(table: Table) -> None:
    dataset, ids = table.open(), table.ids
    done = plan(dataset)
    table.update(98)
    table.update(99)
    Compaction.commit(dataset, done)
    assert table.ids == [*ids, 98, 99]
    assert table.lowest().id == 0


def test_compaction_with_the_lowest_fragment_would_never_end_beside_a_writer(table: Table) -> None:
    dataset = table.open()
    done = [task.execute(dataset) for task in Compaction.plan(dataset, {}).tasks]
    table.update(99)
    with pytest.raises(OSError, match="Retryable commit conflict"):
        Compaction.commit(dataset, done)


def replace(table: Table, version: int | None = None, base: lance.LanceDataset | None = None) -> None:
    """As a shard is replaced: rows go from one fragment, from another all, and new ones come."""
    base = base or table.open()
    half, gone = base.get_fragment(2).delete("id = 21"), base.get_fragment(3)
    lowest = min(base.get_fragments(), key=lambda f: f.fragment_id).metadata
    operation = LanceOperation.Update(
        removed_fragment_ids=[gone.fragment_id], updated_fragments=[lowest, half], new_fragments=table.written(77)
    )
    table.commit(operation, version or base.version)


def test_compaction_conflicts_with_a_replaced_shard_since(table: Table) -> None:
    dataset = table.open()
    done = plan(dataset)
    replace(table)
    with pytest.raises(OSError, match="Retryable commit conflict"):
        Compaction.commit(dataset, done)
    compact(table)
    assert table.ids == [1, 2, 3, 11, 12, 13, 22, 23, 41, 42, 43, 51, 52, 53, 77]


def test_compaction_done_for_an_older_version_conflicts_although_committed_on_the_newest(table: Table) -> None:
    """Else it would bring back what was deleted since."""
    tasks = Compaction.plan(table.open(), {"excluded_fragment_ids": [0]}).tasks
    table.open().delete("id = 11")
    newest = table.open()
    with pytest.raises(OSError, match="Retryable commit conflict"):
        Compaction.commit(newest, [task.execute(newest) for task in tasks])


def test_compaction_conflicts_with_an_index_built_since(table: Table) -> None:
    dataset = table.open()
    done = plan(dataset)
    table.open().create_scalar_index("id", "BTREE")
    with pytest.raises(OSError, match="Retryable commit conflict"):
        Compaction.commit(dataset, done)


def test_replaced_shard_conflicts_with_a_compaction_since(table: Table) -> None:
    base = table.open()
    compact(table)
    with pytest.raises(CommitConflictError):
        replace(table, base=base)


def test_compaction_leaves_out_deleted_rows_for_good(table: Table) -> None:
    table.open().delete("id IN (12, 13, 21, 22, 23)")
    compact(table)
    assert table.ids == [1, 2, 3, 11, 31, 32, 33, 41, 42, 43, 51, 52, 53]
    assert [f.metadata.num_deletions for f in table.open().get_fragments()] == [0, 0]


def test_compaction_moves_older_rows_behind_newer_ones(table: Table) -> None:
    """Why "the latest row" is never told by the order of rows."""
    dataset = table.open()
    done = plan(dataset)
    table.update(99)
    Compaction.commit(dataset, done)
    assert table.open().to_table()["id"].to_pylist()[:4] == [1, 2, 3, 99]


def test_row_ids_change_with_a_compaction_and_hold_within_a_version(table: Table) -> None:
    """Why rows are removed by row id only in a commit on the very version that the ids are of."""

    def of(dataset: lance.LanceDataset) -> int:
        return dataset.to_table(columns=[], filter="id = 33", with_row_id=True)["_rowid"][0].as_py()

    before = table.open()
    row_id = of(before)
    assert before.to_table(filter=f"_rowid IN ({row_id})")["id"].to_pylist() == [33]
    assert before.get_fragment(row_id >> 32).delete(f"_rowid IN ({row_id})").num_deletions == 1
    compact(table)
    assert of(table.open()) != row_id
    assert of(before) == row_id


def test_delete_takes_an_expression(table: Table) -> None:
    table.open().delete((pc.field("id") > 20) & pc.field("id").isin([1, 21, 51]))
    assert table.ids == [1, 2, 3, 11, 12, 13, 22, 23, 31, 32, 33, 41, 42, 43, 52, 53]


def large(path: Path) -> Table:
    """Four fragments of 300 rows, one of them with deletions, with both kinds of index."""
    rng, table = np.random.default_rng(3), Table(path)
    for i in range(4):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=1200).astype(np.float16)), 4)
        rows = pa.table([pa.array(range(300 * i, 300 * i + 300)), vectors], schema=SCHEMA)
        lance.write_dataset(rows, table.path, mode="append", data_storage_version="2.1")
    table.open().delete("id >= 300 AND id < 350")
    table.open().create_scalar_index("id", "BTREE")
    table.open().create_index("v", "IVF_FLAT", num_partitions=4, metric="l2")
    return table


@pytest.mark.parametrize("when", ["before", "after"])
def test_indexed_table_answers_as_before_its_compaction(tmp_path: Path, when: str) -> None:
    table = large(tmp_path)
    if when == "before":
        table.update(5000)
    compact(table)
    if when == "after":
        table.update(5000)
    dataset = table.open()
    assert dataset.count_rows() == 1151
    vectors = {row["id"]: np.array(row["v"], np.float32) for row in dataset.to_table().to_pylist()}
    for number in (0, 299, 350, 600, 1199, 5000):
        assert dataset.to_table(filter=f"id = {number}")["id"].to_pylist() == [number]
        search = {"column": "v", "q": vectors[number], "k": 5, "nprobes": 4}
        found = dataset.to_table(nearest=search, columns=["id", "_distance"])["id"].to_pylist()
        assert set(found) == set(sorted(vectors, key=lambda n: np.linalg.norm(vectors[n] - vectors[number]))[:5])


def test_clean_up_removes_the_versions_that_it_is_given_if_they_are_old_enough(table: Table) -> None:
    dataset = table.open()
    assert dataset.cleanup_old_versions(timedelta(days=7), versions=[2, 3, 4]).old_versions == 0
    stats = dataset.cleanup_old_versions(timedelta(0), versions=[2, 3, 4])
    assert (stats.old_versions, versions(table)) == (3, [1, 5, 6, 7])


def test_clean_up_never_removes_the_latest_version_or_one_with_a_tag(table: Table) -> None:
    table.open().tags.create("mine", 3)
    stats = table.open().cleanup_old_versions(
        timedelta(0), versions=[2, 3, 7, 4711], error_if_tagged_old_versions=False
    )
    assert (stats.old_versions, versions(table)) == (1, [1, 3, 4, 5, 6, 7])


def test_clean_up_removes_what_only_the_removed_versions_had(table: Table) -> None:
    compact(table)
    before = paths(table)
    stats = table.open().cleanup_old_versions(timedelta(0), versions=list(range(1, 9)))
    gone = {path for path in before - paths(table) if path.startswith("data/")}
    assert (stats.data_files_removed, len(gone), len(table.ids)) == (5, 5, 18)


def test_commit_for_a_version_that_was_cleaned_up_is_refused(table: Table) -> None:
    """Also where nothing has come since that it would conflict with."""
    touched, version = table.lowest(), table.version
    table.open().update_config({"a": "b"})
    table.open().cleanup_old_versions(timedelta(0), versions=[version])
    with pytest.raises(OSError, match="was not found"):
        table.update(99, touched=touched, version=version)


def test_commit_conflicts_with_the_newest_commit_also_where_those_between_were_cleaned_up(table: Table) -> None:
    """As for somebody who works on a version with a tag: why the newest commit that brought slices always stays."""
    touched, version = table.lowest(), table.version
    for row in (97, 98, 99):
        table.update(row)
    table.open().cleanup_old_versions(timedelta(0), versions=[8, 9])
    assert versions(table) == [1, 2, 3, 4, 5, 6, 7, 10]
    with pytest.raises(CommitConflictError):
        table.update(100, touched=touched, version=version)


def test_clean_up_keeps_files_of_no_version_for_a_week(table: Table) -> None:
    young, old = (f"data/{table.written(n)[0].files[0].path}" for n in (98, 99))
    past = time.time() - 8 * DAY
    os.utime(Path(table.path) / old, (past, past))
    table.open().cleanup_old_versions(timedelta(0), versions=[2])
    assert (young in paths(table), old in paths(table)) == (True, False)


def test_clean_up_of_unverified_files_removes_data_files_at_once_and_no_version(table: Table) -> None:
    """Deletion files stay until the version that they were made for is removed; they are small."""
    orphan = f"data/{table.written(99)[0].files[0].path}"
    table.open().get_fragment(0).delete("id = 2")
    table.open().delete("id = 1")
    before = paths(table)
    dataset = table.open()
    dataset.cleanup_old_versions(timedelta(0), versions=[dataset.version], delete_unverified=True)
    assert before - paths(table) == {orphan}
    assert versions(table) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [table.open(v).count_rows() for v in versions(table)] == [0, 3, 6, 9, 12, 15, 18, 17]


def test_files_of_no_version_are_those_listed_less_those_tracked(table: Table) -> None:
    table.open().create_scalar_index("id", "BTREE")
    table.open().delete("id = 12")
    compact(table)
    orphan = f"data/{table.written(99)[0].files[0].path}"
    dataset = table.open()
    listed = set(dataset.all_files().read_all()["path"].to_pylist())
    tracked = set(dataset.tracked_files().read_all()["path"].to_pylist())
    assert listed == paths(table)
    assert listed - tracked == {orphan, "_versions/latest_version_hint.json"}
    latest = set(dataset.tracked_files(min_version=dataset.version).read_all()["path"].to_pylist())
    assert len([p for p in latest if p.startswith("data/")]) == 2


def test_file_times_are_told_in_utc(table: Table) -> None:
    latest = max(table.open().all_files().read_all()["last_modified"].to_pylist())
    assert abs(latest.timestamp() - time.time()) < 60


def by_lance(path: Path) -> None:
    lance.write_dataset(pa.table({"id": [1]}), path)


def by_commit(path: Path) -> None:
    operation = LanceOperation.Overwrite(SCHEMA, [])
    lance.LanceDataset.commit(path, lance.Transaction(0, operation), enable_v2_manifest_paths=True)


def by_lancedb(path: Path) -> None:
    lancedb.connect(path.parent).create_table(path.stem, schema=SCHEMA)


@pytest.mark.parametrize("create", [by_lance, by_commit, by_lancedb])
def test_no_clean_up_happens_by_itself(tmp_path: Path, create: Callable[[Path], None]) -> None:
    """Else versions would vanish that the ledger has not absorbed; it is a setting of the table."""
    create(tmp_path / "t.lance")
    assert lance.dataset(tmp_path / "t.lance").config() == {}


def test_properties_of_an_empty_list_are_kept(table: Table) -> None:
    assert json.loads(table.open().read_transaction(7).transaction_properties["slices"]) == []
