"""The ledger is what has been absorbed from the table's transactions, each once, whoever does it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import lance
import pyarrow as pa
import pytest

from pipeline.database import Database
from pipeline.errors import LedgerError, TableError, VersionGoneError
from pipeline.ledger import Ledger
from pipeline.records import SLICES_PROPERTY, Outcome, SliceRecord, carried, properties
from pipeline.roots import source_roots
from pipeline.schema import SHARDS
from pipeline.table import Change, Rows, commit, open_or_create
from pipeline.write import write_jobs
from tests.blocks import LAYOUT, block, job, pair, record, target


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(str(tmp_path), "laion")
    open_or_create(database, LAYOUT)
    return database


def committed(database: Database, *records: SliceRecord, rows: int = 0) -> Rows:
    """A commit of these slices, and nothing in the ledger: as by a job that died just then."""
    base = Rows.open(database)
    assert base is not None
    where = target(Path(database.uri))
    made = write_jobs(where, [job("x", *range(rows))], block(*(pair("x", p) for p in range(rows))))
    return commit(database, base, LAYOUT, Change(made[0].fragments, properties(records), "laion"))


def identities(ledger: Ledger) -> dict[str, tuple[int, str]]:
    return {name: record.identity for name, record in ledger.current().items()}


def rows_of(database: Database) -> list[dict[str, Any]]:
    dataset = database.open("shards")
    return [] if dataset is None else database.scan("shards", dataset, SHARDS.names).to_pylist()


def test_ledger_of_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    ledger = Ledger(Database(str(tmp_path), "laion"), "laion")
    assert (ledger.root, ledger.current(), list(tmp_path.iterdir())) == (None, {}, [])


def test_ledger_absorbs_what_a_dead_job_committed(database: Database) -> None:
    committed(database, record("a", read=3, embedded=2, rejected=1, truncated=1, seconds=0.5))
    committed(database, record("b", size=20, etag="f"), record("c"))
    ledger = Ledger(database, "laion")
    assert identities(ledger) == {"a": (10, "e"), "b": (20, "f"), "c": (10, "e")}
    assert ledger.root == "/root"
    rows = rows_of(database)
    assert [(r["slice"], r["version"], r["outcome"]) for r in rows] == [
        ("a", 2, "committed"),
        ("b", 3, "committed"),
        ("c", 3, "committed"),
    ]
    counts = ("read", "embedded", "rejected", "taken_down", "truncated", "seconds")
    assert [rows[0][c] for c in counts] == [3, 2, 1, 0, 1, 0.5]


def test_ledger_absorbs_an_earlier_commit_although_a_later_one_was_written_down(database: Database) -> None:
    """A job dies between its commit and the ledger while another goes on: its slices are not to be embedded again."""
    other = Ledger(database, "laion")
    committed(database, record("dead"))
    other.absorb(committed(database, record("alive")))
    assert set(Ledger(database, "laion").current()) == {"dead", "alive"}
    assert len(rows_of(database)) == 2


def test_ledger_absorbs_each_commit_once_however_often_it_is_opened(database: Database) -> None:
    committed(database, record("a"))
    for _ in range(3):
        Ledger(database, "laion")
    assert len(rows_of(database)) == 1
    assert database.open("shards").version == 2


def test_ledger_opened_by_several_at_once_absorbs_each_commit_once(database: Database) -> None:
    for name in "abc":
        committed(database, record(name))
    gate = Barrier(4)

    def open_ledger(_: int) -> set[str]:
        gate.wait()
        return set(Ledger(database, "laion").current())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_ledger, range(4))) == [{"a", "b", "c"}] * 4
    assert sorted(r["slice"] for r in rows_of(database)) == ["a", "b", "c"]


def test_absorb_tells_news_also_when_another_job_wrote_it_down(database: Database) -> None:
    mine, theirs = Ledger(database, "laion"), Ledger(database, "laion")
    table = committed(database, record("a", attempt="r-1"))
    assert [r.slice for r in theirs.absorb(table)] == ["a"]
    assert [(r.slice, r.attempt) for r in mine.absorb(table)] == [("a", "r-1")]
    assert mine.absorb(table) == []
    assert len(rows_of(database)) == 1


def test_absorb_of_two_jobs_in_turns_writes_each_slice_once(database: Database) -> None:
    jobs = [Ledger(database, "laion"), Ledger(database, "laion")]
    for i in range(6):
        jobs[i % 2].absorb(committed(database, record(f"s{i}")))
    jobs[0].absorb(committed(database))
    assert [r["slice"] for r in rows_of(database)] == [f"s{i}" for i in range(6)]
    assert [r["version"] for r in rows_of(database)] == [2, 3, 4, 5, 6, 7]


def test_absorb_writes_failures_that_do_not_count_as_committed(database: Database) -> None:
    ledger, table = Ledger(database, "laion"), Rows.open(database)
    assert table is not None
    ledger.absorb(table, [record("bad", outcome=Outcome.FAILED, error="bad.tar: cut")])
    (row,) = rows_of(database)
    assert (row["outcome"], row["error"], row["version"]) == ("failed", "bad.tar: cut", None)
    assert Ledger(database, "laion").current() == {}


def test_absorb_writes_failures_beside_another_jobs(database: Database) -> None:
    one, two, table = Ledger(database, "laion"), Ledger(database, "laion"), Rows.open(database)
    assert table is not None
    one.absorb(table, [record("a", outcome=Outcome.FAILED, error="x")])
    two.absorb(table, [record("b", outcome=Outcome.FAILED, error="y")])
    one.absorb(table, [record("c", outcome=Outcome.FAILED, error="z")])
    assert sorted(r["slice"] for r in rows_of(database)) == ["a", "b", "c"]


def test_ledger_keeps_datasets_apart(database: Database) -> None:
    other = replace(record("a"), dataset="cats")
    news = Ledger(database, "laion").absorb(committed(database, record("b"), other))
    assert [r.slice for r in news] == ["b"]
    assert set(Ledger(database, "laion").current()) == {"b"}
    assert set(Ledger(database, "cats").current()) == {"a"}


def test_ledger_tells_a_slices_latest_identity(database: Database) -> None:
    committed(database, record("a", etag="old", size=1))
    committed(database, record("a", etag="new", size=2))
    assert identities(Ledger(database, "laion")) == {"a": (2, "new")}


@pytest.mark.parametrize("anew", [False, True])
def test_ledger_refuses_a_table_that_was_removed_or_made_anew(database: Database, anew: bool) -> None:
    committed(database, record("a"), rows=1)
    Ledger(database, "laion")
    database.connect().drop_table("laion")
    if anew:
        open_or_create(database, LAYOUT)
    with pytest.raises(LedgerError, match=r"removed or made anew, and its ledger laion_shards still holds"):
        Ledger(database, "laion")


def test_ledger_goes_on_after_a_clean_up_that_took_nothing_of_ours(database: Database) -> None:
    committed(database, record("a", read=2, embedded=2), rows=2)
    Ledger(database, "laion")
    for _ in range(2):
        database.open().update_config({"somebody": "else"})
    database.open().cleanup_old_versions(older_than=timedelta(0))
    ledger = Ledger(database, "laion")
    ledger.absorb(committed(database, record("b")))
    assert set(Ledger(database, "laion").current()) == {"a", "b"}


def test_ledger_refuses_when_a_clean_up_took_what_it_had_not_absorbed(database: Database) -> None:
    committed(database, record("a", read=2, embedded=2), rows=2)
    database.open().update_config({"somebody": "else"})
    database.open().cleanup_old_versions(older_than=timedelta(0))
    with pytest.raises(LedgerError, match="counts 0 rows, the table has 2: versions were cleaned up before"):
        Ledger(database, "laion")


def test_ledger_does_not_take_a_store_that_fails_for_a_clean_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one that is tried again, and the next look finds all."""
    ledger = Ledger(database, "laion")
    later = committed(database, record("a", read=2, embedded=2), rows=2)
    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "read_transaction", failing)
        with pytest.raises(TableError, match="503 Slow Down") as told:
            ledger.absorb(later)
        assert not isinstance(told.value, VersionGoneError)
        with pytest.raises(TableError, match="503 Slow Down"):
            source_roots(database)
    assert [r.slice for r in ledger.absorb(later)] == ["a"]
    assert source_roots(database) == {"laion": "/root"}


def failing(dataset: lance.LanceDataset, version: int) -> None:
    raise OSError("Generic S3 error: 503 Slow Down")


def test_ledger_of_a_hundred_thousand_slices_opens_quickly(tmp_path: Path) -> None:
    database = Database(str(tmp_path), "laion")
    open_or_create(database, LAYOUT).dataset.update_config({"a": "b"})
    count = 100_000
    same = {k: pa.repeat(v, count) for k, v in record("x").row(2).items()}
    names = pa.array([f"{i:06d}.tar" for i in range(count)])
    table = pa.table({**same, "slice": names, "shard": names})
    database.append("shards", pa.table([table[n].cast(SHARDS.field(n).type) for n in SHARDS.names], schema=SHARDS))
    began = time.process_time()
    assert len(Ledger(database, "laion").current()) == count
    assert time.process_time() - began < 3  # about 0.5 s


def test_a_commits_records_are_read_back_as_they_were() -> None:
    records = [record("a", read=3, error=None), record("b", seconds=0.25)]
    assert list(carried(properties(records)[SLICES_PROPERTY])) == records
