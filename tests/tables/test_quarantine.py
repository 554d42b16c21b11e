"""What is quarantined by the ledger alone is what a plan would leave alone, were the shard listed as it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.database import Database
from pipeline.ledger import Ledger
from pipeline.plan import QUARANTINE
from pipeline.quarantine import quarantined
from pipeline.records import Outcome, SliceRecord, properties
from pipeline.table import Change, Rows, commit, open_or_create
from tests.blocks import LAYOUT, record


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(str(tmp_path), "laion")
    open_or_create(database, LAYOUT)
    return database


def run(database: Database, number: int, *records: SliceRecord) -> None:
    """What a run writes down: of each slice, what was committed and then what failed."""
    table = Rows.open(database)
    assert table is not None
    of_it = [replace(r, run_id=f"run{number}", attempt=f"{r.slice}-{number}") for r in records]
    landed = [r for r in of_it if r.outcome == Outcome.COMMITTED]
    ledger = Ledger(database, "laion")
    if landed:
        table = commit(database, table, LAYOUT, Change((), properties(landed), "laion"))
    ledger.absorb(table, [r for r in of_it if r.outcome == Outcome.FAILED])


def part(number: int, outcome: Outcome, etag: str = "e") -> SliceRecord:
    error = "a.parquet: row group 1 is broken" if outcome == Outcome.FAILED else None
    return record(f"a.parquet#{number}", shard="a.parquet", slices=2, etag=etag, outcome=outcome, error=error)


def test_a_shard_of_which_one_slice_is_broken_is_quarantined_after_three_runs(database: Database) -> None:
    run(database, 0, part(1, Outcome.FAILED), part(0, Outcome.COMMITTED))
    for number in range(1, QUARANTINE):
        assert quarantined(database) == {}
        run(database, number, part(1, Outcome.FAILED))
    assert quarantined(database) == {"laion a.parquet": "a.parquet: row group 1 is broken"}
    run(database, QUARANTINE, part(1, Outcome.COMMITTED))  # tried again, as told
    assert quarantined(database) == {}


def test_a_shard_that_changed_since_it_failed_is_none_any_more_whatever_becomes_of_it(database: Database) -> None:
    for number in range(QUARANTINE):
        run(database, number, part(0, Outcome.FAILED))
    assert quarantined(database).keys() == {"laion a.parquet"}
    run(database, 9, part(0, Outcome.FAILED, etag="f"))
    assert quarantined(database) == {}
