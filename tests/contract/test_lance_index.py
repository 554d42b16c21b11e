"""What `pipeline.indexes` rests on, asked of the pinned library: not one of these behaviours is promised.

If one of these tests fails after an upgrade, look at the room that it names; some would then be simpler.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

ROWS, WIDTH, PARTITIONS = 1000, 16, 8
SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("v", pa.list_(pa.float16(), WIDTH))])


class Table:
    """A Lance table of several fragments."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "t.lance")
        for start in range(0, ROWS, 250):
            lance.write_dataset(self.rows(start, 250), self.path, mode="append")

    def open(self) -> lance.LanceDataset:
        return lance.dataset(self.path)

    def rows(self, start: int, count: int) -> pa.Table:
        values = np.random.default_rng(start).normal(size=count * WIDTH).astype(np.float16)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)
        return pa.table([pa.array(range(start, start + count)), vectors], schema=SCHEMA)

    def commit_slice(self, start: int, count: int) -> None:
        """As `pipeline.database` commits: it names the lowest fragment as touched."""
        dataset = self.open()
        lowest = min(dataset.get_fragments(), key=lambda f: f.fragment_id).metadata
        new = write_fragments(self.rows(start, count), self.path, mode="append")
        operation = LanceOperation.Update(updated_fragments=[lowest], new_fragments=new)
        lance.LanceDataset.commit(self.path, lance.Transaction(dataset.version, operation), max_retries=0)

    def part(self, dataset: lance.LanceDataset, kind: str = "IVF_SQ", **settings: Any) -> Any:
        numbers = settings.pop("fragment_ids", [f.fragment_id for f in dataset.get_fragments()])
        given = {"metric": "cosine", "num_partitions": PARTITIONS, "replace": True, **settings}
        return dataset.create_index_uncommitted("v", kind, "v_idx", fragment_ids=numbers, **given)

    def statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = self.open().stats.index_stats("v_idx")
        return found

    def found(self, row: int, **options: Any) -> list[int]:
        dataset = self.open()
        vector = dataset.to_table(filter=f"id = {row}")["v"][0].as_py()
        nearest = {"column": "v", "q": np.array(vector, np.float32), "k": 3, "metric": "cosine", **options}
        ids: list[int] = dataset.to_table(nearest=nearest, columns=["id", "_distance"])["id"].to_pylist()
        return ids


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


@pytest.fixture
def indexed(table: Table) -> Table:
    dataset = table.open()
    dataset.commit_existing_index_segments("v_idx", "v", [table.part(dataset)])
    return table


def test_index_commit_passes_over_our_commits_and_they_over_it(indexed: Table) -> None:
    """`build`: no lock is needed beside a job that commits."""
    dataset = indexed.open()
    part = indexed.part(dataset)
    indexed.commit_slice(5000, 5)
    dataset.commit_existing_index_segments("v_idx", "v", [part])
    statistics = indexed.statistics()
    assert (statistics["num_indexed_rows"], statistics["num_unindexed_rows"]) == (ROWS, 5)
    assert indexed.found(5003)[0] == 5003
    assert indexed.found(3)[0] == 3


@pytest.mark.parametrize(
    "commit",
    [
        lambda dataset, part: dataset.commit_existing_index_segments("v_idx", "v", [part]),
        lambda dataset, part: dataset.optimize.optimize_indices(),
        lambda dataset, part: dataset.create_scalar_index("id", "BTREE"),
    ],
    ids=["build", "fold", "scalar"],
)
def test_index_commit_conflicts_with_a_compaction_of_what_it_was_built_on(
    indexed: Table, commit: Callable[[lance.LanceDataset, Any], None]
) -> None:
    """`build`, `again`: they are done once more; the text is all there is to tell it by."""
    indexed.commit_slice(5000, 5)
    dataset = indexed.open()
    part = indexed.part(dataset)
    indexed.open().optimize.compact_files(target_rows_per_fragment=10_000)
    with pytest.raises((OSError, CommitConflictError), match="Retryable commit conflict"):
        commit(dataset, part)


def test_commit_of_parts_replaces_the_index_of_the_same_name(indexed: Table) -> None:
    dataset = indexed.open()
    dataset.commit_existing_index_segments("v_idx", "v", [indexed.part(dataset, "IVF_FLAT", num_partitions=4)])
    (there,) = indexed.open().describe_indices()
    assert (there.index_type, len(there.segments)) == ("IVF_FLAT", 1)


def test_parts_built_apart_with_the_same_centres_are_made_one(table: Table) -> None:
    """`build_on_ray`."""
    dataset, centres = table.open(), np.eye(PARTITIONS, WIDTH, dtype=np.float32)
    parts = [table.part(dataset, fragment_ids=some, ivf_centroids=centres) for some in ([0, 1], [2, 3])]
    dataset.commit_existing_index_segments("v_idx", "v", [dataset.merge_existing_index_segments(parts)])
    (there,) = table.open().describe_indices()
    assert (there.num_rows_indexed, len(there.segments)) == (ROWS, 1)
    assert [table.found(row, nprobes=2)[0] for row in (1, 300, 600, 900)] == [1, 300, 600, 900]


def test_partitions_that_were_found_elsewhere_are_taken(table: Table, tmp_path: Path) -> None:
    """`assigned`: each row goes where it is told, not where it is nearest."""
    dataset, centres = table.open(), np.eye(2, WIDTH, dtype=np.float32)
    told = pa.table({"row_id": dataset.to_table(with_row_id=True)["_rowid"], "partition": pa.array([1] * ROWS)})
    told = told.cast(pa.schema({"row_id": pa.uint64(), "partition": pa.uint32()}))
    lance.write_dataset(told, str(tmp_path / "told.lance"))
    settings = {"ivf_centroids": centres, "precomputed_partition_dataset": str(tmp_path / "told.lance")}
    part = table.part(dataset, num_partitions=2, **settings)
    dataset.commit_existing_index_segments("v_idx", "v", [part])
    assert [p["size"] for p in table.statistics()["indices"][0]["partitions"]] == [0, ROWS]


@pytest.mark.parametrize(("options", "partitions"), [({}, {1, 2, 3}), ({"num_indices_to_merge": 0}, {PARTITIONS})])
def test_fold_that_is_not_told_how_joins_small_partitions(
    indexed: Table, options: dict[str, int], partitions: set[int]
) -> None:
    """`fold`: why it tells how many parts to merge."""
    lance.write_dataset(indexed.rows(7000, 100), indexed.path, mode="append")
    indexed.open().optimize.optimize_indices(index_names=["v_idx"], **options)
    assert {part["num_partitions"] for part in indexed.statistics()["indices"]} <= partitions


def test_number_of_partitions_may_be_more_than_there_are(indexed: Table) -> None:
    """`Tuned.probes`."""
    assert indexed.found(3, nprobes=10_000, refine_factor=2)[0] == 3


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"pq_codebook": np.float16}, None), ({"pq_codebook": np.float32}, "primitive array")],
    ids=["of the column", "another"],
)
def test_codebook_is_of_the_columns_own_type(
    table: Table, settings: dict[str, Callable[..., Any]], error: str | None
) -> None:
    """`learn`; another type is a panic."""
    values = np.random.default_rng(0).normal(size=2 * 256 * 8).astype(settings["pq_codebook"])
    book = pa.FixedSizeListArray.from_arrays(pa.array(values), 8)
    told = {"ivf_centroids": np.eye(PARTITIONS, WIDTH, dtype=np.float32), "num_sub_vectors": 2, "pq_codebook": book}
    if error is None:
        assert table.part(table.open(), "IVF_PQ", **told).name == "v_idx"
    else:
        with pytest.raises(BaseException, match=error):
            table.part(table.open(), "IVF_PQ", **told)
