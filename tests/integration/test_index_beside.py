"""Indexes built, folded and remapped beside jobs that commit, replace and compact."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

import pipeline.upkeep.accounts
from pipeline.database import Database
from pipeline.errors import TableError
from pipeline.indexes.build import build, described, fold
from pipeline.indexes.kinds import choose
from pipeline.indexes.report import Request
from pipeline.indexes.work import index
from pipeline.retrieval.nearest import nearest
from pipeline.retrieval.question import Query
from pipeline.upkeep.compact import Limits, compact, merge_fragments
from pipeline.upkeep.verify import verify
from tests.beside import over_and_over
from tests.ingest import Lake
from tests.vectors import VectorLake, drawn

SHARDS, PAIRS = 6, 60
AT_ONCE = Limits(timedelta(0), nobody_writes=True)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """More than 256 rows in several shards."""
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    lake = Lake(tmp_path)
    for i in range(SHARDS):
        lake.write(f"{i}.tar", PAIRS * i, PAIRS)
    lake.run(*(f"{i}.tar" for i in range(SHARDS)))
    return lake


def request(**options: Any) -> Request:
    return Request(kind="ivf_sq", partitions=4, queries=10, **options)


def every_row_finds_itself(database: Database) -> bool:
    """By its own vector through the index, and by its id through the scalar one."""
    dataset = database.open()
    assert dataset is not None
    query = Query("-", nprobes=4, refine=5, one_per_image=False)
    for row in dataset.to_table(columns=["id", "image_embedding"]).to_pylist():
        vector = np.asarray(row["image_embedding"], np.float32)
        hits = nearest(dataset, vector, query, 3)
        if abs(hits["_distance"][0].as_py()) > 1e-3 or dataset.count_rows(filter=f"id = '{row['id']}'") != 1:
            return False
    return True


def test_index_job_beside_a_job_that_commits_and_replaces_breaks_neither(lake: Lake) -> None:
    def keep_up() -> None:
        index(lake.database, request())
        index(lake.database, Request(optimize=True, queries=2))

    with over_and_over(keep_up):
        for i in range(SHARDS, SHARDS + 4):
            lake.write(f"{i}.tar", PAIRS * i, 8)
            lake.run(f"{i}.tar")
        lake.write("1.tar", 5000, 20)
        lake.run("1.tar", replaces=True)
    assert lake.rows().count_rows() == PAIRS * (SHARDS - 1) + 4 * 8 + 20
    assert verify(lake.database, lake.model, 10).ok
    assert every_row_finds_itself(lake.database)


def test_index_answers_right_after_a_compaction_and_covers_what_it_covered(lake: Lake) -> None:
    index(lake.database, request())
    compact(lake.database, AT_ONCE)
    assert len(lake.rows().get_fragments()) == 2
    indexed = {one.field_names[0]: one.num_rows_indexed for one in lake.rows().describe_indices()}
    assert set(indexed.values()) == {SHARDS * PAIRS}
    assert every_row_finds_itself(lake.database)
    lake.write("9.tar", 9000, 5)
    lake.run("9.tar")
    index(lake.database, Request(optimize=True, queries=5))
    compact(lake.database, AT_ONCE)
    assert every_row_finds_itself(lake.database)
    assert verify(lake.database, lake.model, 10).ok


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_pq", "ivf_hnsw_sq"])
def test_every_kind_answers_the_same_after_a_compaction_of_rows_in_it(tmp_path: Path, kind: str) -> None:
    lake = VectorLake(tmp_path).add(200, 1).add(200, 2).add(200, 3)
    build(lake.database, "image_embedding", choose(kind, 8, 1200, 32))
    lake.dataset().delete("caption_index = 1 AND shard = '2.tar'")
    query, vectors = Query("-", nprobes=8, refine=20), drawn(30, 5).astype(np.float32)
    before = [nearest(lake.dataset(), v, query, 10)["id"].to_pylist() for v in vectors]
    assert merge_fragments(lake.database) == 2
    assert [nearest(lake.dataset(), v, query, 10)["id"].to_pylist() for v in vectors] == before
    assert described(lake.dataset(), "image_embedding").num_rows_indexed == 1000


def compacting(monkeypatch: pytest.MonkeyPatch, database: Database, times: range) -> list[int]:
    """Let a compaction come between at these times that the table is opened; returns the rows each time had."""
    opened: list[int] = []
    real = Database.require

    def require(asked: Database) -> lance.LanceDataset:
        dataset = real(asked)
        opened.append(dataset.count_rows())
        if len(opened) in times:
            lance.dataset(database.path()).delete(f"caption = 'a thing number {len(opened)}'")
            lance.dataset(database.path()).optimize.compact_files(materialize_deletions_threshold=0.0)
        return dataset

    monkeypatch.setattr(Database, "require", require)
    return opened


def test_build_that_a_compaction_came_between_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = VectorLake(tmp_path).add(200, 1).add(200, 2)
    opened = compacting(monkeypatch, lake.database, range(2, 3))
    build(lake.database, "image_embedding", choose("ivf_sq", 4, 800, 32))
    assert opened == [800, 800, 798]  # to learn from, to index, to index again
    assert described(lake.dataset(), "image_embedding").num_rows_indexed == lake.dataset().count_rows() == 798


def test_fold_that_a_compaction_came_between_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = VectorLake(tmp_path).add(200, 1).add(200, 2)
    build(lake.database, "image_embedding", choose("ivf_sq", 4, 800, 32))
    lake.add(50, 3)
    opened = compacting(monkeypatch, lake.database, range(1, 2))
    fold(lake.database, "image_embedding")
    assert opened == [900, 897]
    assert described(lake.dataset(), "image_embedding").num_rows_indexed == lake.dataset().count_rows()


def test_build_that_compactions_always_come_between_gives_up_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = VectorLake(tmp_path).add(200, 1).add(200, 2)
    opened = compacting(monkeypatch, lake.database, range(1, 9))
    with pytest.raises(TableError, match=r"cannot index .*: somebody else committed first"):
        build(lake.database, "image_embedding", choose("ivf_sq", 4, 800, 32))
    assert len(opened) == 1 + 3
