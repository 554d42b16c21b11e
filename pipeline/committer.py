"""The one committer of a run: proves each slice whole, groups slices by time, commits, keeps the ledger."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.contract import Layout
from pipeline.errors import CommitConflictError, CoverageError, TableError
from pipeline.gather import check_coverage
from pipeline.ledger import Ledger, SliceRecord, properties
from pipeline.table import Rows, commit
from pipeline.write import Report, Target


@dataclass(frozen=True, slots=True)
class Whole:
    """A slice that was proven whole and waits for the next commit."""

    record: SliceRecord
    fragments: list[str]
    rejects: list[pa.Table]


@dataclass(slots=True)
class Tally:
    """What has been committed, and what it took."""

    slices: int = 0
    embedded: int = 0
    truncated: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0  # slices that another job committed first
    commits: int = 0
    conflicts: int = 0
    seconds: float = 0.0


class Committer:
    """Commits whole slices on top of `base`; compare-and-swap, so any number may run at once."""

    def __init__(self, base: Rows, layout: Layout, target: Target, ledger: Ledger) -> None:
        self.base = base
        self.tally = Tally()
        self._layout = layout
        self._target = target
        self._ledger = ledger
        self._reports: dict[str, list[Report]] = {}
        self._closed: set[str] = set()  # attempts that are whole or failed
        self._whole: list[Whole] = []
        self._failed: list[SliceRecord] = []
        self._last_commit = -math.inf
        # Slice -> attempt. What landed between the plan and `base` gives no conflict, so it is asked for here.
        self._landed: dict[str, str] = {}
        self._catch_up()

    @property
    def table(self) -> str:
        """Where the table is."""
        return self._target.database.path()

    @property
    def version(self) -> int:
        """The table's version as this run knows it."""
        return self.base.version

    def add(self, report: Report, record: SliceRecord, pairs: int | None) -> bool:
        """Take a writer's report; with all of a slice, prove that it is whole.

        Args:
            report: of one attempt; there may be several, and they come in any order.
            record: the slice's ledger row, without its counts.
            pairs: of the reader's end record; None while it has not come.

        Returns:
            Whether the slice is whole now and waits for the next commit.

        Raises:
            CoverageError: the positions do not cover 0..pairs-1 exactly once.
        """
        if report.attempt in self._closed:
            return False
        reports = self._reports.setdefault(report.attempt, [])
        reports.append(report)
        parts = next((r.parts for r in reports if r.parts), None)
        if parts is None or pairs is None or len(reports) < parts:
            return False
        self._close(report.attempt)
        check_coverage(record.slice, pairs, [r.positions for r in reports])
        embedded, rejected = sum(r.embedded for r in reports), sum(len(r.rejects) for r in reports)
        if embedded + rejected != pairs:
            raise CoverageError(
                f"{record.slice}: {embedded} embedded and {rejected} rejected of {pairs} pairs; not committed"
            )
        counted = replace(
            record, read=pairs, embedded=embedded, rejected=rejected, truncated=sum(r.truncated for r in reports)
        )
        fragments = [f for r in reports for f in r.fragments]
        self._whole.append(Whole(counted, fragments, [r.rejects for r in reports]))
        return True

    def fail(self, records: Mapping[str, SliceRecord]) -> None:
        """Slices that failed, attempt -> record with its error; the next commit names them in the ledger."""
        for attempt, record in records.items():
            self._close(attempt)
            self._failed.append(record)

    def _close(self, attempt: str) -> None:
        self._reports.pop(attempt, None)
        self._closed.add(attempt)

    def due(self, every: float) -> bool:
        """Whether something waits and the last commit is `every` seconds ago; the first is due at once."""
        return bool(self._whole or self._failed) and time.monotonic() - self._last_commit >= every

    def commit(self) -> None:
        """Commit all that waits: rejects first, then the rows, then the ledger."""
        if not self._whole and not self._failed:
            return
        began = time.monotonic()
        whole, self._whole = self._settle(self._whole), []
        if rejects := [t for w in whole for t in w.rejects if len(t)]:
            self._target.database.append("rejects", pa.concat_tables(rejects))
        while whole:
            whole = self._swap(whole)
        if self._failed:
            self._catch_up()
        self._last_commit = time.monotonic()
        self.tally.seconds += self._last_commit - began

    def _swap(self, whole: list[Whole]) -> list[Whole]:
        """Try to commit on the version that we know; returns what is left to commit."""
        fragments = [f for w in whole for f in w.fragments]
        carried = properties(w.record for w in whole)
        try:
            self.base = commit(self._target.database, self.base, self._layout, fragments, carried)
        except CommitConflictError:
            self.tally.conflicts += 1
            self.base = self._latest()
            self._catch_up()
            return self._settle(whole)
        self.tally.commits += 1
        self._catch_up()
        if left := self._settle(whole):  # never commit again what may be there already
            raise TableError(f"{self.table}: version {self.version} does not tell that it holds {left[0].record.slice}")
        return []

    def _catch_up(self) -> None:
        """Bring the ledger up to `base`, and learn what landed: ours, or another job's."""
        self._landed |= {r.slice: r.attempt for r in self._ledger.absorb(self.base, self._failed)}
        self._failed = []

    def _settle(self, whole: list[Whole]) -> list[Whole]:
        """Count what landed, and return what is left to commit.

        The transactions say what landed, not the reply to our commit: that one may have been lost.
        """
        left = []
        for w in whole:
            landed = self._landed.get(w.record.slice)
            if landed is None:
                left.append(w)
            elif landed == w.record.attempt:
                self._count(w)
            else:
                self.tally.elsewhere += 1
        return left

    def _latest(self) -> Rows:
        latest = Rows.open(self._target.database)
        if latest is None:
            raise TableError(f"{self.table} was removed while this run wrote to it")
        latest.check(self._layout)
        if latest.version == self.version:
            raise TableError(f"{self.table} refuses a commit as a conflict, and nobody else has committed")
        return latest

    def _count(self, whole: Whole) -> None:
        self.tally.slices += 1
        self.tally.embedded += whole.record.embedded
        self.tally.truncated += whole.record.truncated
        for table in whole.rejects:
            self.tally.rejects.update(table["reason"].to_pylist())
