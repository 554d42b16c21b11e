"""Which slices are done: one row a slice, absorbed from the table's own transactions; and run records.

The ledger stands at a version of the table: it holds what every commit up to there brought. Whoever absorbs
the next ones does it in one compare-and-swap, so that several jobs write each of them once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CommitConflictError, TableError
from pipeline.roots import source_roots
from pipeline.schema import RUNS, SHARDS
from pipeline.table import SLICES_PROPERTY, Database, Rows

COMMITTED = "committed"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One finished (or failed) attempt at a slice. read = embedded + rejected + taken_down."""

    dataset: str
    root: str
    shard: str
    slice: str
    slices: int
    size: int
    etag: str
    attempt: str
    run_id: str
    read: int = 0
    embedded: int = 0
    rejected: int = 0
    taken_down: int = 0
    truncated: int = 0
    seconds: float = 0.0
    error: str | None = None

    def row(self, version: int | None) -> dict[str, Any]:
        """As a row of `<table>_shards`; `version` is the table's version with its rows, None if it failed."""
        outcome = FAILED if version is None else COMMITTED
        return {**asdict(self), "outcome": outcome, "version": version, "at": datetime.now(UTC)}


def properties(records: Iterable[SliceRecord]) -> dict[str, str]:
    """The transaction properties that make a commit its own log entry."""
    return {SLICES_PROPERTY: json.dumps([asdict(r) for r in records])}


class Ledger:
    """`<table>_shards`, as one dataset's run knows it."""

    def __init__(self, database: Database, dataset: str) -> None:
        self._database = database
        self._dataset = dataset
        self._open()
        self._seen = self._stands_at  # of the table: what absorb() has looked at
        table = Rows.open(database)
        if table is None or table.version < self._stands_at:
            self._require_new()
        if table is not None:
            self.absorb(table)

    def _open(self) -> None:
        self._rows: lance.LanceDataset | None = self._database.open("shards")
        versions = self._read(["version"])["version"]
        self._stands_at: int = pc.max(versions).as_py() or 0

    def _require_new(self) -> None:
        if self._stands_at:
            raise TableError(
                f"{self._database.path()} was removed or made anew, and its ledger {self._database.path('shards')} "
                f"still holds the slices committed up to version {self._stands_at}: bring the table back, or remove "
                "its companions (_shards, _rejects, _runs) too and embed again"
            )

    def _read(self, columns: list[str]) -> pa.Table:
        if self._rows is None:
            return SHARDS.empty_table().select(columns)
        return self._database.scan("shards", self._rows, columns)

    def absorb(self, table: Rows, failed: Iterable[SliceRecord] = ()) -> list[SliceRecord]:
        """Take in what the table's commits brought since the last time, and slices that failed.

        Returns:
            This dataset's records in those commits, whoever made them and whoever wrote them down.
        """
        news = [(version, SliceRecord(**r)) for version, records in self._news(table) for r in records]
        failures = [r.row(None) for r in failed]
        while rows := [r.row(version) for version, r in news if version > self._stands_at] + failures:
            try:
                self._write(pa.Table.from_pylist(rows, schema=SHARDS))
            except CommitConflictError:
                self._open()  # another job absorbed some of them, or noted its failures
            else:
                break
        self._stands_at = max([self._stands_at, *(version for version, _ in news)])
        self._seen = table.version
        return [r for _, r in news if r.dataset == self._dataset]

    def _news(self, table: Rows) -> list[tuple[int, list[dict[str, Any]]]]:
        try:
            return list(table.commits_since(self._seen))
        except TableError as error:
            # Somebody cleaned up versions, of an index say; no harm if all rows are accounted for.
            latest = {(r["dataset"], r["slice"]): r for r in self._committed(["dataset", "slice", "embedded"])}
            known, there = sum(r["embedded"] for r in latest.values()), table.dataset.count_rows()
            if known == there:
                return []
            raise TableError(
                f"{error}; the ledger stands at version {self._seen} and counts {known} rows, the table has {there}: "
                "versions were cleaned up before the ledger had absorbed them"
            ) from error

    def _write(self, rows: pa.Table) -> None:
        if self._rows is None:
            self._rows = self._database.create("shards", SHARDS)
            if self._rows.version > 1:  # another job made it, and may have written
                raise CommitConflictError(f"{self._database.path('shards')} was made by another job")
        fragments = self._database.write("shards", rows)
        self._rows = self._database.swap("shards", self._rows, SHARDS, fragments)

    def _committed(self, columns: list[str]) -> list[dict[str, Any]]:
        """Rows of committed slices, the oldest first."""
        rows = self._read([*columns, "outcome", "version"])
        done: list[dict[str, Any]] = rows.filter(pc.equal(rows["outcome"], COMMITTED)).sort_by("version").to_pylist()
        return done

    @property
    def root(self) -> str | None:
        """Where the dataset's shards lie, as the latest run had it."""
        return source_roots(self._database).get(self._dataset)

    def pairs(self) -> int:
        """Pairs in all committed slices of the dataset, rejects among them."""
        return sum(r["read"] for r in self._committed(["dataset", "read"]) if r["dataset"] == self._dataset)

    def committed(self) -> Mapping[str, tuple[int, str]]:
        """Slice -> (size, etag) of the shard that its rows were read from."""
        rows = self._committed(["dataset", "slice", "size", "etag"])
        return {r["slice"]: (r["size"], r["etag"]) for r in rows if r["dataset"] == self._dataset}


def record_run(database: Database, row: dict[str, Any]) -> None:
    """Append one run record."""
    database.append("runs", pa.Table.from_pylist([row], schema=RUNS))
