"""Which slices are done: one row a try at a slice, absorbed from the table's own transactions.

The ledger stands at a version of the table: it holds what every commit up to there brought. Whoever absorbs
the next ones does it in one compare-and-swap, so that several jobs write each of them once.
"""

from collections.abc import Iterable

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.database import Database
from pipeline.errors import CommitConflictError, LedgerError, TableError, VersionGoneError
from pipeline.plan import Failures, Identity
from pipeline.records import COLUMNS, Outcome, SliceRecord, current_of
from pipeline.roots import source_roots
from pipeline.schema import SHARDS
from pipeline.stores.retry import patiently
from pipeline.table import Rows

Versioned = tuple[int, SliceRecord]
FAILING = ("dataset", "shard", "size", "etag", "run_id", "outcome", "error", "at")


class Ledger:
    """`<table>_shards`, as one dataset's run knows it."""

    def __init__(self, database: Database, dataset: str) -> None:
        self._database = database
        self._dataset = dataset
        self._known: tuple[int, dict[str, list[Versioned]]] = (0, {})  # of which version of the ledger
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
            raise LedgerError(
                f"{self._database.shown} was removed or made anew, and its ledger {self._database.table}_shards "
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
        news = [(version, record) for version, records in self._news(table) for record in records]
        failures = [r.row(None) for r in failed]
        for attempt in patiently(TableError):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    self._open()  # another job absorbed some of them, or our own write landed and its reply was lost
                rows = [r.row(version) for version, r in news if version > self._stands_at] + failures
                if rows:
                    self._write(pa.Table.from_pylist(rows, schema=SHARDS))
        self._stands_at = max([self._stands_at, *(version for version, _ in news)])
        self._seen = table.version
        return [r for _, r in news if r.dataset == self._dataset]

    def _news(self, table: Rows) -> list[tuple[int, list[SliceRecord]]]:
        try:
            return list(table.commits_since(self._seen))
        except VersionGoneError:
            self._open()  # versions were cleaned up; whoever did it absorbed them first
        found: dict[int, list[SliceRecord]] = {}
        for version, record in (each for records in self._history().values() for each in records):
            if version > self._seen:
                found.setdefault(version, []).append(record)
        absorbed = sorted(found.items())
        try:
            return absorbed + list(table.commits_since(max(self._seen, self._stands_at)))
        except VersionGoneError as error:
            # Or somebody who knows nothing of a ledger: of an index, say. No harm if all rows are accounted for.
            known, there = sum(self.rows().values()), table.dataset.count_rows()
            if known == there:
                return absorbed
            raise LedgerError(
                f"{error}; the ledger stands at version {self._seen} and counts {known} rows, the table has {there}: "
                "versions were cleaned up before the ledger had absorbed them; verify.py --repair mends it"
            ) from error

    def _write(self, rows: pa.Table) -> None:
        if self._rows is None:
            self._rows = self._database.create("shards", SHARDS)
            if self._rows.version > 1:  # another job made it, and may have written
                raise CommitConflictError(f"{self._database.path('shards')} was made by another job")
        fragments = self._database.write("shards", rows)
        self._rows = self._database.swap("shards", self._rows, SHARDS, fragments)

    def _history(self) -> dict[str, list[Versioned]]:
        """Dataset -> everything that commits brought, with their versions."""
        version = self._rows.version if self._rows is not None else 0
        if self._known[0] != version:
            rows = self._read([*COLUMNS, "version"])
            found: dict[str, list[Versioned]] = {}
            for row in rows.filter(pc.is_valid(rows["version"])).to_pylist():
                found.setdefault(row["dataset"], []).append((row.pop("version"), SliceRecord(**row)))
            self._known = version, found
        return self._known[1]

    def rows(self) -> dict[str, int]:
        """Dataset -> how many rows of the table are accounted for."""
        return {dataset: sum(r.embedded for r in of.values()) for dataset, of in self.everything().items()}

    def everything(self) -> dict[str, dict[str, SliceRecord]]:
        """Dataset -> its records that count, by slice."""
        return {dataset: current_of(records) for dataset, records in self._history().items()}

    def current(self) -> dict[str, SliceRecord]:
        """The dataset's records that count, by slice."""
        return current_of(self._history().get(self._dataset, ()))

    @property
    def root(self) -> str | None:
        """Where the dataset's shards lie, as the latest run had it."""
        return source_roots(self._database).get(self._dataset)

    @property
    def read_as(self) -> str | None:
        """Which caption and image keys the dataset was declared with, the last time; None before its first run."""
        declared = [(v, r) for v, r in self._history().get(self._dataset, ()) if r.outcome == Outcome.DECLARED]
        return max(declared, key=lambda each: each[0])[1].read_as if declared else None

    def failures(self) -> dict[tuple[str, Identity], Failures]:
        """Shard, and its size and ETag then -> in how many runs it failed, and the last error."""
        found = failures_in(self._read(list(FAILING)))
        return {
            (shard, identity): failed
            for (dataset, shard, identity), failed in found.items()
            if dataset == self._dataset
        }


def failures_in(rows: pa.Table) -> dict[tuple[str, str, Identity], Failures]:
    """Dataset, shard, and its size and ETag then -> in how many runs it failed, and the last error; the latest last.

    Args:
        rows: of the ledger, with the columns `FAILING`.
    """
    runs: dict[tuple[str, str, Identity], set[str]] = {}
    found: dict[tuple[str, str, Identity], Failures] = {}
    # A compaction may have put later rows first.
    for row in rows.filter(pc.equal(rows["outcome"], Outcome.FAILED)).sort_by("at").to_pylist():
        what = row["dataset"], row["shard"], (row["size"], row["etag"])
        runs.setdefault(what, set()).add(row["run_id"])
        found.pop(what, None)
        found[what] = Failures(len(runs[what]), row["error"])
    return found


class LookedAt(Ledger):
    """The same for somebody who writes nothing: what it lacks of the table's commits is known here alone."""

    def __init__(self, database: Database, dataset: str) -> None:
        self._aside = SHARDS.empty_table()
        super().__init__(database, dataset)

    def _read(self, columns: list[str]) -> pa.Table:
        return pa.concat_tables([super()._read(columns), self._aside.select(columns)])

    def _write(self, rows: pa.Table) -> None:
        self._aside = pa.concat_tables([self._aside, rows])
        self._known = -1, {}
