"""The one committer of a run: groups whole slices by time and rows, commits them, keeps the ledger."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.barred import Takedowns
from pipeline.contract import Layout
from pipeline.errors import CommitConflictError, LedgerError, TableError
from pipeline.gather import End, Positions
from pipeline.ledger import Ledger
from pipeline.pending import Pending
from pipeline.proof import Proof, Whole
from pipeline.records import Outcome, SliceRecord, properties
from pipeline.stores.retry import patiently
from pipeline.table import Change, Rows, commit, latest
from pipeline.watch.events import COMMIT, Committed, Retried, Worked
from pipeline.watch.interrupts import uninterrupted
from pipeline.watch.journal import ELSEWHERE, TOUCHED, Journal
from pipeline.write import Report, Target


@dataclass(slots=True)
class Tally:
    """What has been committed, and what it took."""

    slices: int = 0
    embedded: int = 0
    taken_down: int = 0  # pairs
    truncated: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0  # slices that another job committed first
    pruned: set[str] = field(default_factory=set)  # shards
    commits: int = 0
    conflicts: int = 0
    seconds: float = 0.0


class Committer:
    """Commits whole slices on top of `base`; compare-and-swap, so any number may run at once."""

    def __init__(
        self,
        base: Rows,
        layout: Layout,
        target: Target,
        ledger: Ledger,
        only: Mapping[str, Positions] | None = None,
        journal: Journal | None = None,
    ) -> None:
        """`only`: of attempts that try rejected pairs again, the positions of those."""
        self.base = base
        self.tally = Tally()
        self.journal = journal or Journal()
        self.overtaken: dict[str, str] = {}  # slice -> why another job's commit is not as good as ours
        self._layout = layout
        self._target = target
        self._ledger = ledger
        self._proof = Proof(only)
        self._pending = Pending(target.database)
        self._whole: list[Whole] = []
        self._failed: list[SliceRecord] = []
        self._last_commit = -math.inf
        # Shard -> slice. What landed between the plan and `base` gives no conflict, so it is asked for here.
        self._landed: dict[str, dict[str, SliceRecord]] = {}
        self._read_as: str | None = None  # as another job declared since
        self._amended: dict[tuple[str, str], SliceRecord] = {}  # shard and slice -> its counts after a takedown since
        self._catch_up()

    @property
    def table(self) -> str:
        """Where the table is, for people."""
        return self._target.database.shown

    @property
    def version(self) -> int:
        """The table's version as this run knows it."""
        return self.base.version

    @property
    def takedowns(self) -> Takedowns:
        """What the readers have to know."""
        return self._pending.told

    @property
    def waiting(self) -> int:
        """Rows that wait for a commit."""
        return sum(whole.rows for whole in self._whole)

    def add(self, report: Report, record: SliceRecord, end: End | None) -> bool:
        """Take a writer's report; whether its slice is whole now and waits for a commit. As `Proof.add`."""
        whole = self._proof.add(report, record, end)
        self._whole += whole or ()
        return whole is not None

    def touch(self, records: Iterable[SliceRecord]) -> None:
        """Shards that are the same under another ETag: their rows stay."""
        self._whole += [Whole(record, keeps=True) for record in records]

    def prune(self, records: Iterable[SliceRecord]) -> None:
        """Shards that vanished: their rows go."""
        self._whole += [Whole(record) for record in records]

    def fail(self, records: Mapping[str, SliceRecord]) -> None:
        """Slices that failed, attempt -> record with its error; the next commit names them in the ledger."""
        self._proof.close(records.values())
        self._failed += records.values()
        for record in records.values():
            self.journal.settled(record, record.outcome)

    def due(self, every: float) -> bool:
        """Whether something waits and the last commit is `every` seconds ago; the first is due at once."""
        return bool(self._whole or self._failed) and time.monotonic() - self._last_commit >= every

    def commit(self) -> None:
        """Commit all that waits: rejects first, then the rows, then the ledger."""
        if self._whole or self._failed:
            with uninterrupted():
                began, before = time.monotonic(), replace(self.tally)
                self._commit()
                self._last_commit = time.monotonic()
                self._tell(before, self._last_commit - began)

    def _tell(self, before: Tally, seconds: float) -> None:
        tally = self.tally
        tally.seconds += seconds
        self.journal.tell(Worked(COMMIT, seconds))
        if tally.commits > before.commits:
            rows, slices = tally.embedded - before.embedded, tally.slices - before.slices
            self.journal.tell(Committed(self.version, seconds, slices, rows))

    def _commit(self) -> None:
        whole, self._whole = self._pending.look(self._settle(self._whole)), []
        if rejects := [t for w in whole for t in w.rejects if len(t)]:
            self._target.database.append("rejects", pa.concat_tables(rejects))
        conflicts = self.tally.conflicts
        for attempt in patiently(TableError):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    self.journal.tell(Retried(COMMIT, "conflict" if self.tally.conflicts > conflicts else "error"))
                    conflicts = self.tally.conflicts
                    # A conflict, or a reply that was lost: the transactions tell what landed.
                    self.base = latest(self._target.database)
                    self.base.check(self._layout)
                    self._catch_up()
                    whole = self._pending.look(self._settle(whole), written=True)
                if whole:
                    self._swap(whole)
        if self._failed:
            self._catch_up()

    def _swap(self, whole: list[Whole]) -> None:
        """Commit on the version that we know."""
        change = Change(
            fragments=[f for w in whole for f in w.fragments],
            properties=properties(self._counted(w) for w in whole),
            dataset=self._target.dataset,
            replaced=sorted({w.record.shard for w in whole if w.record.replaces and not w.keeps}),
        )
        try:
            self.base = commit(self._target.database, self.base, self._layout, change)
        except CommitConflictError:
            self.tally.conflicts += 1
            raise
        self.tally.commits += 1
        self._catch_up()
        if left := self._settle(whole):  # never commit again what may be there already
            raise LedgerError(
                f"{self.table}: version {self.version} does not tell that it holds {left[0].record.slice}, so nothing "
                "more is committed: look with jobs/verify.py, then run the same command again"
            )

    def _counted(self, whole: Whole) -> SliceRecord:
        """Its record, added to what a takedown left of the slice since it was planned, if anything is added."""
        record, amended = whole.record, self._amended.get((whole.record.shard, whole.record.slice))
        if amended is None or (record.replaces and not whole.keeps):
            return record
        embedded = amended.embedded + whole.rows
        rejected = amended.rejected if whole.keeps else record.rejected
        taken = record.read - embedded - rejected
        return replace(record, embedded=embedded, rejected=rejected, taken_down=taken)

    def _catch_up(self) -> None:
        """Bring the ledger up to `base`, and learn what landed: ours, or another job's."""
        for record in self._ledger.absorb(self.base, self._failed):
            if record.outcome == Outcome.TAKEN_DOWN:
                self._amended[record.shard, record.slice] = record
                continue
            of_shard = self._landed.setdefault(record.shard, {})
            if record.outcome == Outcome.PRUNED:
                of_shard.clear()
            if record.outcome == Outcome.DECLARED:
                self._read_as = record.read_as
            of_shard[record.slice] = record
        self._failed = []

    def _settle(self, whole: list[Whole]) -> list[Whole]:
        """Count what landed, and return what is left to commit.

        The transactions say what landed, not the reply to our commit: that one may have been lost.
        """
        left = []
        for w in whole:
            landed = self._landed.get(w.record.shard, {})
            mine = landed.get(w.record.slice)
            others = [r for r in landed.values() if r.run_id != w.record.run_id]
            if mine is not None and mine.run_id == w.record.run_id:
                self._count(w)
            elif self._read_as not in (None, w.record.read_as):
                self._overtake(w.record)
            elif not others:
                left.append(w)
            elif not all(w.record.is_of_one_content_with(r) for r in others):
                self._overtake(w.record)
            elif mine is not None and (mine.replaces or not w.record.replaces):
                self.tally.elsewhere += 1
                self.journal.settled(w.record, ELSEWHERE)
            elif w.record.replaces:  # a replaced shard is committed as a whole, or not
                self._overtake(w.record)
            else:
                left.append(w)
        return left

    def _overtake(self, record: SliceRecord) -> None:
        why = "another job changed what is committed of this shard meanwhile; the same command looks again"
        self.overtaken[record.slice] = why
        lost = replace(record, outcome=Outcome.LOST, error=why)
        self._failed.append(lost)
        self.journal.settled(lost, lost.outcome)

    def _count(self, whole: Whole) -> None:
        self.tally.slices += whole.record.outcome == Outcome.COMMITTED and not whole.keeps
        if whole.record.outcome == Outcome.PRUNED:
            self.tally.pruned.add(whole.record.shard)
        self.tally.embedded += whole.rows
        self.tally.taken_down += whole.taken_down
        self.tally.truncated += whole.truncated
        rejects = Counter(reason for table in whole.rejects for reason in table["reason"].to_pylist())
        self.tally.rejects += rejects
        outcome = TOUCHED if whole.keeps else whole.record.outcome
        self.journal.settled(whole.record, outcome, whole.rows, rejects, whole.taken_down)
