"""What the commit rests on, asked of the pinned library: not one of these behaviours is promised by its documentation.

If one of these tests fails after an upgrade, `pipeline/table.py` and `pipeline/ledger.py` are to be thought through
again before anything else.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments

SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("v", pa.list_(pa.float16(), 4))])


class Table:
    """A Lance table of few rows, and the commits that `pipeline.table` makes on it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "t.lance")

    def open(self, version: int | None = None) -> lance.LanceDataset:
        return lance.dataset(self.path, version=version)

    @property
    def version(self) -> int:
        return int(self.open().version)

    @property
    def ids(self) -> list[int]:
        return sorted(self.open().to_table()["id"].to_pylist())

    def rows(self, *ids: int) -> pa.Table:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4 * len(ids), np.float16)), 4)
        return pa.table([pa.array(ids, pa.int64()), vectors], schema=SCHEMA)

    def written(self, *ids: int) -> list[FragmentMetadata]:
        return write_fragments(self.rows(*ids), self.path, mode="append", data_storage_version="2.1") if ids else []

    def lowest(self) -> FragmentMetadata:
        return min(self.open().get_fragments(), key=lambda f: f.fragment_id).metadata

    def commit(self, operation: LanceOperation.BaseOperation, version: int, **properties: str) -> lance.LanceDataset:
        transaction = lance.Transaction(version, operation, transaction_properties=properties)
        return lance.LanceDataset.commit(self.path, transaction, max_retries=0, enable_v2_manifest_paths=True)

    def overwrite(self, version: int, *ids: int, **properties: str) -> lance.LanceDataset:
        return self.commit(LanceOperation.Overwrite(SCHEMA, self.written(*ids)), version, **properties)

    def update(
        self, *ids: int, touched: FragmentMetadata | None = None, version: int | None = None, **properties: str
    ) -> lance.LanceDataset:
        operation = LanceOperation.Update(
            updated_fragments=[touched or self.lowest()], new_fragments=self.written(*ids)
        )
        return self.commit(operation, self.version if version is None else version, **properties)


@pytest.fixture
def empty(tmp_path: Path) -> Table:
    table = Table(tmp_path)
    table.overwrite(0)
    return table


@pytest.fixture
def table(empty: Table) -> Table:
    empty.overwrite(1, 1, 2, 3)
    return empty


def test_versions_tested_are_those_pinned() -> None:
    assert (lance.__version__, lancedb.__version__) == ("13.0.0", "0.40.0")


def test_update_of_the_lowest_fragment_conflicts_with_another_one_since(table: Table) -> None:
    touched, version = table.lowest(), table.version
    table.update(4, touched=touched, version=version)
    with pytest.raises(CommitConflictError):
        table.update(5, touched=touched, version=version)
    assert table.ids == [1, 2, 3, 4]


def test_update_conflicts_with_one_several_versions_ago(table: Table) -> None:
    touched, version = table.lowest(), table.version
    table.update(4)
    table.open().update_config({"a": "b"})
    table.open().update_config({"a": "c"})
    with pytest.raises(CommitConflictError):
        table.update(5, touched=touched, version=version)


def test_update_without_new_fragments_keeps_its_properties_and_conflicts(table: Table) -> None:
    touched, version = table.lowest(), table.version
    done = table.update(touched=touched, version=version, slices="[]")
    assert done.read_transaction(done.version).transaction_properties == {"slices": "[]"}
    with pytest.raises(CommitConflictError):
        table.update(5, touched=touched, version=version)
    assert table.ids == [1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [
        lambda t: t.open().delete("id = 2"),
        lambda t: t.open().merge_insert("id").when_matched_update_all().execute(t.rows(3)),
        lambda t: (t.update(4), t.open().optimize.compact_files()),
        lambda t: t.open(version=1).restore(),
        lambda t: lance.write_dataset(t.rows(9), t.path, mode="overwrite"),
        lambda t: t.open().add_columns({"n": "id + 1"}),
    ],
    ids=["delete", "merge_insert", "compaction", "restore", "overwrite", "add_columns"],
)
def test_update_conflicts_with_whatever_changes_its_fragment(table: Table, other: Callable[[Table], object]) -> None:
    touched, version = table.lowest(), table.version
    other(table)
    with pytest.raises(CommitConflictError):
        table.update(5, touched=touched, version=version)


@pytest.mark.parametrize(
    "other",
    [
        lambda t: t.open().create_scalar_index("id", "BTREE"),
        lambda t: t.open().update_config({"a": "b"}),
        lambda t: t.open().replace_schema_metadata({"a": "b"}),
        lambda t: lance.write_dataset(t.rows(), t.path, mode="append"),
    ],
    ids=["index", "config", "schema metadata", "append"],
)
def test_update_passes_over_what_brings_no_slice(table: Table, other: Callable[[Table], object]) -> None:
    touched, version = table.lowest(), table.version
    other(table)
    assert table.update(5, touched=touched, version=version).version == version + 2
    assert table.ids == [1, 2, 3, 5]


def test_update_that_touches_nothing_is_not_compare_and_swap(table: Table) -> None:
    version = table.version
    for i in (4, 5):
        table.commit(LanceOperation.Update(updated_fragments=[], new_fragments=table.written(i)), version)
    assert table.ids == [1, 2, 3, 4, 5]  # if this conflicts one day, no fragment need be named


def test_append_does_not_conflict_and_lands_twice(table: Table) -> None:
    version, fragments = table.version, table.written(4)
    for _ in range(2):
        table.commit(LanceOperation.Append(fragments), version)
    assert table.ids == [1, 2, 3, 4, 4]  # if this conflicts one day, commits can be appends


@pytest.mark.parametrize("other", ["config", "slices"])
def test_overwrite_without_retries_conflicts_with_any_commit(empty: Table, other: str) -> None:
    version = empty.version
    if other == "config":
        empty.open().update_config({"a": "b"})
    else:
        empty.overwrite(version, 1)
    with pytest.raises(CommitConflictError):
        empty.overwrite(version, 2)


def test_overwrite_of_a_table_whose_rows_were_all_deleted_conflicts_too(table: Table) -> None:
    table.open().delete("true")
    assert table.open().get_fragments() == []
    version = table.version
    lance.write_dataset(table.rows(7), table.path, mode="append")
    with pytest.raises(CommitConflictError):
        table.overwrite(version, 8)
    assert table.ids == [7]


def test_first_creation_raced_by_several_is_made_once(tmp_path: Path) -> None:
    for attempt in range(5):
        table, gate = Table(tmp_path / str(attempt)), Barrier(4)

        def create(table: Table = table, gate: Barrier = gate) -> bool:
            gate.wait()
            try:
                table.overwrite(0)
            except OSError:  # a conflict, "already exists", or version 0 "was not found"
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            created = [f.result() for f in [pool.submit(create) for _ in range(4)]]
        assert (created.count(True), table.version) == (1, 1)


def test_write_dataset_replaces_what_was_created_meanwhile(tmp_path: Path) -> None:
    """Why `Database.append` creates first: an append to where nothing is becomes an overwrite, and rows are lost."""
    lost = 0
    for attempt in range(20):
        table, gate = Table(tmp_path / str(attempt)), Barrier(4)

        def append(row: int, table: Table = table, gate: Barrier = gate) -> int:
            gate.wait()
            try:
                lance.write_dataset(table.rows(row), table.path, mode="append")
            except OSError:
                return 0
            return 1

        with ThreadPoolExecutor(4) as pool:
            acknowledged = sum(f.result() for f in [pool.submit(append, i) for i in range(4)])
        lost += acknowledged - len(table.ids)
        if lost:
            return
    pytest.fail("acknowledged rows were never lost: if that holds, Database.append can be simpler")


def test_open_of_a_table_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Dataset at path .*t.lance was not found"):
        Table(tmp_path).open()


def test_properties_are_readable_per_version_also_from_a_later_one(table: Table) -> None:
    table.update(4, slices="four")
    table.open().update_config({"a": "b"})
    table.update(5, slices="five")
    later = table.open()
    found = [later.read_transaction(v).transaction_properties for v in range(3, later.version + 1)]
    assert found == [{"slices": "four"}, {}, {"slices": "five"}]


def test_properties_survive_another_key_and_a_large_value(table: Table) -> None:
    large = json.dumps(["x" * 1000] * 1000)
    done = table.update(4, slices=large)
    assert done.read_transaction(done.version).transaction_properties["slices"] == large


def test_properties_vanish_with_cleaned_up_versions(table: Table) -> None:
    table.update(4, slices="four")
    version = table.version
    table.update(5)
    table.open().cleanup_old_versions(older_than=timedelta(0))
    with pytest.raises(OSError, match="was not found"):
        table.open().read_transaction(version)


def test_transaction_of_a_compaction_of_an_indexed_table_cannot_be_shown(table: Table) -> None:
    """A defect of pylance 13, for which `Rows.commits_since` passes over such a version: it is never ours."""
    table.open().create_scalar_index("id", "BTREE")
    table.open().delete("id = 1")
    table.open().optimize.compact_files(materialize_deletions_threshold=0.0)
    dataset = table.open()
    versions = range(1, dataset.version + 1)
    with pytest.raises(TypeError, match="RewrittenIndex"):
        list(map(dataset.read_transaction, versions))


def test_fragments_travel_as_json(table: Table) -> None:
    text = [json.dumps(f.to_json()) for f in table.written(4, 5)]
    again = [FragmentMetadata.from_json(t) for t in text]
    table.commit(LanceOperation.Update(updated_fragments=[table.lowest()], new_fragments=again), table.version)
    assert table.ids == [1, 2, 3, 4, 5]


def test_touched_fragment_keeps_its_rows_and_its_index(table: Table) -> None:
    table.open().create_scalar_index("id", "BTREE")
    before = table.open().stats.index_stats("id_idx")["num_indexed_rows"]
    table.update(4)
    stats = table.open().stats.index_stats("id_idx")
    assert (before, stats["num_indexed_rows"], stats["num_unindexed_rows"]) == (3, 3, 1)
    assert table.open().to_table(filter="id = 2")["id"].to_pylist() == [2]


def test_touched_fragment_keeps_its_deletions(table: Table) -> None:
    table.open().delete("id = 2")
    table.update(4)
    assert table.ids == [1, 3, 4]


def test_fragments_written_before_the_table_was_first_overwritten_can_be_committed_to_it(empty: Table) -> None:
    """Two writers start on the empty table; the second commits as an update on top of the first's overwrite."""
    late = empty.written(9)
    empty.overwrite(1, 1)
    empty.commit(LanceOperation.Update(updated_fragments=[empty.lowest()], new_fragments=late), empty.version)
    assert empty.ids == [1, 9]
    assert empty.open().to_table(filter="id = 9")["v"].to_pylist() == [[1, 1, 1, 1]]


def replaced(table: Table, condition: str, *ids: int, version: int | None = None) -> lance.LanceDataset:
    """A commit that removes rows and brings others, as `pipeline.database` makes it."""
    base = table.open(version)
    fragments = [f for f in base.get_fragments() if f.count_rows(filter=condition)]
    left = {f.fragment_id: f.delete(condition) for f in fragments}
    updated = [f for f in left.values() if f is not None]
    lowest = min(base.get_fragments(), key=lambda f: f.fragment_id)
    operation = LanceOperation.Update(
        removed_fragment_ids=[number for number, f in left.items() if f is None],
        updated_fragments=updated + ([lowest.metadata] if lowest.fragment_id not in left else []),
        new_fragments=table.written(*ids),
    )
    return table.commit(operation, base.version)


@pytest.mark.parametrize("condition", ["id = 2", "id < 4", "id = 5", "id >= 4"])
def test_rows_are_removed_and_others_brought_in_one_commit(table: Table, condition: str) -> None:
    table.update(4, 5, 6)
    before = table.version
    kept = [i for i in table.ids if not eval(condition.replace(" = ", " == "), {"id": i})]  # the tests' own words
    replaced(table, condition, 10, 11)
    assert table.ids == [*kept, 10, 11]
    assert table.version == before + 1
    assert sorted(table.open(before).to_table()["id"].to_pylist()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("condition", ["id = 2", "id < 4", "id >= 4"])
def test_a_replacement_and_a_touch_conflict_whichever_is_first(table: Table, condition: str) -> None:
    table.update(4, 5, 6)
    base = table.version
    table.update(7)
    with pytest.raises(CommitConflictError):
        replaced(table, condition, 10, version=base)
    base, lowest = table.version, table.lowest()
    replaced(table, condition, 11)
    with pytest.raises(CommitConflictError):
        table.update(8, touched=lowest, version=base)


def test_a_replacement_keeps_an_index_right(table: Table) -> None:
    table.update(4, 5, 6)
    table.open().create_scalar_index("id", "BTREE")
    replaced(table, "id = 2 OR id >= 5", 2, 9)
    for number, there in [(1, 1), (2, 1), (4, 1), (5, 0), (9, 1)]:
        assert table.open().to_table(filter=f"id = {number}").num_rows == there


def test_row_addresses_tell_the_fragment(table: Table) -> None:
    table.update(4, 5)
    addresses = table.open().to_table(columns=[], filter="id >= 4", with_row_address=True)["_rowaddr"].to_pylist()
    assert {a >> 32 for a in addresses} == {max(f.fragment_id for f in table.open().get_fragments())}


def test_a_column_that_is_added_conflicts_and_is_null_in_fragments_written_before(table: Table) -> None:
    base, lowest, fragments = table.version, table.lowest(), table.written(4)
    table.open().add_columns(pa.field("extra", pa.float32()))
    late = table.written(5)  # by a writer that does not know of the new column
    with pytest.raises(CommitConflictError):
        table.update(6, touched=lowest, version=base)
    operation = LanceOperation.Update(updated_fragments=[table.lowest()], new_fragments=fragments + late)
    table.commit(operation, table.version)
    assert table.ids == [1, 2, 3, 4, 5]
    assert table.open().to_table()["extra"].to_pylist() == [None] * 5
