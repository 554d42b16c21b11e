"""The ledger beside the table's own log, both as of one version of the table; nothing is absorbed or written.

In memory: the ledger, and what the commits carried whose versions are still there (about 1 KB a slice and try).
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import lance
import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.records import COLUMNS, SLICES_PROPERTY, Outcome, SliceRecord, carried, current_of
from pipeline.table import Rows

Versioned = tuple[int, SliceRecord]
Place = tuple[str, str]  # dataset and shard

COUNTED_ANEW = "counted anew from the table by verify.py --repair; the next run embeds the shard again"
_UNKNOWN_SIZE = -1
A_MOMENT = 2.0  # seconds in which a running job writes down what it has committed


@dataclass(frozen=True)
class Accounts:
    """What is known of the slices of `<table>` at one version."""

    rows: Rows
    ledger: lance.LanceDataset | None
    recorded: list[Versioned]  # in the ledger; carried by commits up to this version
    log: list[Versioned]  # carried by those commits whose versions are still there
    kept: frozenset[int]  # versions still there
    newest: int = 0  # version that any ledger row has, also of commits since
    rebuilt: datetime | None = None  # when the ledger was last counted anew from the table

    @property
    def stands_at(self) -> int:
        """Up to which version the ledger has absorbed the log."""
        return max((version for version, _ in self.recorded), default=0)

    @cached_property
    def missing(self) -> list[Versioned]:
        """What commits carried and the ledger lacks."""
        known = set(self.recorded)
        return [each for each in self.log if each not in known]

    @property
    def behind(self) -> bool:
        """Whether all that the ledger lacks is what it has not absorbed yet."""
        return bool(self.missing) and all(version > self.stands_at for version, _ in self.missing)

    @cached_property
    def records(self) -> dict[str, list[Versioned]]:
        """Dataset -> all that is known of its slices, from the ledger and from the log."""
        found: dict[str, list[Versioned]] = {}
        for version, record in dict.fromkeys([*self.recorded, *self.missing]):
            found.setdefault(record.dataset, []).append((version, record))
        return found

    @cached_property
    def current(self) -> list[SliceRecord]:
        """The records that count, of all datasets."""
        return [record for records in self.records.values() for record in current_of(records).values()]

    @property
    def balanced(self) -> bool:
        """Whether the table has as many rows as the records say."""
        there: int = self.rows.dataset.count_rows()
        return sum(record.embedded for record in self.current) == there

    @property
    def latest(self) -> dict[str, SliceRecord]:
        """Dataset -> its latest record of any kind, which has its root."""
        return {dataset: max(records, key=lambda each: each[0])[1] for dataset, records in self.records.items()}

    @property
    def by_attempt(self) -> dict[tuple[str, str], SliceRecord]:
        """Dataset and attempt -> the record that counts."""
        return {(record.dataset, record.attempt): record for record in self.current}


def read_accounts(database: Database) -> Accounts:
    """As of the table's latest version.

    Raises:
        TableError: there is no such table.
    """
    rows = Rows.open(database)
    if rows is None:
        raise database.missing()
    kept = frozenset(ref["version"] for ref in rows.dataset.version_refs() if ref["version"] <= rows.version)
    log = [(version, record) for version in sorted(kept) for record in _carried(database, rows, version)]
    accounts = _beside(database, rows, log, kept)
    if accounts.behind:
        time.sleep(A_MOMENT)
        accounts = _beside(database, rows, log, kept)
    return accounts


def _carried(database: Database, rows: Rows, version: int) -> Iterable[SliceRecord]:
    value = database.properties("", rows.dataset, version).get(SLICES_PROPERTY)
    return carried(value) if value else ()


def _beside(database: Database, rows: Rows, log: list[Versioned], kept: frozenset[int]) -> Accounts:
    ledger = database.open("shards")
    if ledger is None:
        return Accounts(rows, None, [], log, kept)
    table = database.scan("shards", ledger, [*COLUMNS, "version", "at"])
    newest = pc.max(table["version"]).as_py() or 0
    known = table.filter(pc.fill_null(pc.less_equal(table["version"], rows.version), False)).to_pylist()
    recorded = [(row["version"], record_of(row)) for row in known]
    rebuilt = max((row["at"] for row in known if row["error"] == COUNTED_ANEW), default=None)
    return Accounts(rows, ledger, recorded, log, kept, newest, rebuilt)


def record_of(row: Mapping[str, Any]) -> SliceRecord:
    """A row of `<table>_shards` as a record."""
    return SliceRecord(**{name: row[name] for name in COLUMNS})


def counted_anew(like: SliceRecord, shard: str, rows: int, run_id: str, number: int) -> SliceRecord:
    """A record of a whole shard of which only its rows are known: the next run finds it changed."""
    where = (like.dataset, like.root, like.read_as, shard, shard, 1, _UNKNOWN_SIZE, "")
    attempt = f"{run_id}-{number}"
    return SliceRecord(*where, attempt, run_id, replaces=True, read=rows, embedded=rows, error=COUNTED_ANEW)


def redeclared(latest: Mapping[str, SliceRecord], run_id: str, error: str | None = None) -> list[SliceRecord]:
    """Each dataset's declaration once more: where its shards lie, and how it is read."""
    nowhere = ("", "", 0, 0, "", "")
    return [
        SliceRecord(r.dataset, r.root, r.read_as, *nowhere, run_id, outcome=Outcome.DECLARED, error=error)
        for r in latest.values()
    ]
