"""Follows a run from the stream of embedded blocks to the last commit. Runs in the driver.

    block -> inspect_block (task): which pairs of which slice -> Gather -> write_jobs (task) -> Committer

The driver holds references and counts, never rows.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import ray
from ray.data import Dataset
from ray.exceptions import RayError

from pipeline.barred import Barred
from pipeline.cluster import cause
from pipeline.committer import Committer
from pipeline.config import FaultConfig
from pipeline.errors import CoverageError, DoubtError
from pipeline.gather import Calls, End, Gather, Part, Ready, Ref, inspect_block
from pipeline.pump import Pump
from pipeline.records import Outcome, SliceRecord
from pipeline.shards import Slice, shard_of
from pipeline.watch.busy import Busy
from pipeline.watch.events import INFER, READ, WRITE, Retried, Worked
from pipeline.watch.losses import Losses
from pipeline.watch.progress import Counts, Observer
from pipeline.watch.watchdog import WRITING, Watchdog
from pipeline.write import Job, Report, Target, write_jobs

_MOST_WRITERS = 16  # in flight; more would pile up blocks faster than the store takes them
_SHARED_TASKS = 64  # slices that wait for the writers in flight, to share a task
_NAMED = 3  # slices of a writer

# No CPU is reserved: readers would keep them from starting until a whole slice is read.
_inspect = ray.remote(num_cpus=0, max_retries=3)(inspect_block)
_write = ray.remote(num_cpus=0, max_retries=3)(write_jobs)


class Follow:
    """Follows one run from the stream of blocks to the last commit."""

    def __init__(
        self,
        records: Mapping[str, tuple[Slice, SliceRecord]],
        target: Target,
        committer: Committer,
        fragment_rows: int,
        faults: FaultConfig,
    ) -> None:
        self.busy = Busy()
        self.failures: dict[str, str] = {}  # slice name -> error
        self.barred = Barred(target.dataset, committer.takedowns)
        self.slices = {attempt: slice_ for attempt, (slice_, _) in records.items()}
        self._records = {attempt: record for attempt, (_, record) in records.items()}
        self._target = target
        self._committer = committer
        self._journal = committer.journal
        self._journal.expect(slice_.shard.path for slice_ in self.slices.values())
        self._left = set(records)
        self._open = Counter(slice_.shard.path for slice_ in self.slices.values())  # shards with slices that are left
        self._shards = len(self._open)
        self._gather = Gather(fragment_rows)
        self._fragment_rows = fragment_rows
        self._ends: dict[str, End] = {}
        self._ready: list[Ready] = []
        self._inspecting: dict[Ref, Ref] = {}  # task -> block
        self._writing: dict[Ref, list[str]] = {}  # task -> attempts
        # Rejects that are tried again say nothing of the data, nor of the GPU.
        self._again = any(slice_.only is not None for slice_ in self.slices.values())
        self._losses = Losses(faults.max_reject_rate, target.database.table)
        self._began = time.monotonic()

    def run(self, stream: Dataset, observer: Observer, commit_after: Callable[[float], float], watch: Watchdog) -> None:
        """Until every slice is committed or failed; `commit_after` as WriteConfig's.

        Raises:
            BridgelakeError: a stage as a whole cannot go on; what was whole has been committed.
        """
        pump = Pump(stream)
        try:
            while pump.running or self._inspecting or self._writing or self._ready:
                watch.check()
                for line in watch.news():
                    observer.say(line)
                    self._journal.tell(Retried(INFER, "gpu_lost"))
                self._take(pump)
                self._handle(watch)
                self._write_ready(everything=not pump.running and not self._inspecting)
                watch.doing = self._doing()
                if self._committer.due(commit_after(self._committer.waiting)):
                    self._commit(watch)
                self._show(observer)
        finally:
            pump.stop()
            try:
                self._commit(watch)
            finally:
                pump.close()
        lost = {a: f"lost on the way: {why}" for a, why in self._gather.unfinished().items()}
        lost |= dict.fromkeys(self._left - lost.keys(), "lost on the way: nothing of it came")
        self._fail(lost, Outcome.LOST)
        self._commit(watch)
        self._show(observer)

    def _show(self, observer: Observer) -> None:
        counts = self._counts()
        observer.update(counts)
        self._journal.tell(counts)

    def _commit(self, watch: Watchdog) -> None:
        with watch.committing():
            self._committer.commit()

    def _take(self, pump: Pump) -> None:
        """Start the inspection of the blocks that came."""
        while len(self._writing) < _MOST_WRITERS:  # the rest waits in the queue, and so do the actors
            block = pump.take(wait=0.0 if self._inspecting or self._writing else 0.2)
            if block is None:
                return
            self._inspecting[_inspect.remote(block)] = block

    def _handle(self, watch: Watchdog) -> None:
        """Take the results of the tasks that are done."""
        tasks = [*self._inspecting, *self._writing]
        if not tasks:
            return
        done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0.1, fetch_local=True)
        for task in done:
            watch.moved()
            try:
                result = ray.get(task)
            except RayError as error:
                raise cause(error) from error
            if task in self._writing:
                del self._writing[task]
                self._written(result)
            else:
                self._inspected(self._inspecting.pop(task), *result)

    def _doing(self) -> str:
        """What the driver waits for besides the stream of blocks."""
        if self._writing:
            attempts = next(iter(self._writing.values()))
            names = ", ".join(self.slices[a].name for a in attempts[:_NAMED])
            more = f" and {len(attempts) - _NAMED} more" if len(attempts) > _NAMED else ""
            return f"{WRITING}: slice {names}{more} to {self._committer.table}"
        return "inspecting blocks: no worker has time for it" if self._inspecting else ""

    def _inspected(self, block: Ref, parts: list[Part], calls: Calls) -> None:
        self.busy.computed(calls.seconds, calls.sizes, calls.dtypes, calls.works)
        self._journal.tell(Worked(INFER, calls.seconds, calls.sizes))
        for part in parts:
            self._losses.add(part)
            if part.end and part.attempt not in self._ends:
                self._ends[part.attempt] = part.end
                self.busy.was_read(part.end.seconds, part.end.work)
                self._journal.read(part.attempt, part.end.seconds)
                self._asked_again(READ, part.attempt, part.end.asked_again)
        if not self._again:
            self._losses.check()
        self._ready += self._gather.add(block, parts)
        failed = self._gather.failed()
        for outcome in (Outcome.FAILED, Outcome.LOST):
            self._fail({a: end.error or "failed" for a, end in failed.items() if end.outcome == outcome}, outcome)

    def _write_ready(self, *, everything: bool) -> None:
        """Start writers: small slices together, so that a task is worth its start."""
        if not self._ready or (len(self._ready) < _SHARED_TASKS and self._writing and not everything):
            return
        batch: list[Ready] = []
        for ready in self._ready:
            batch.append(ready)
            if sum(len(r.positions) for r in batch) >= self._fragment_rows:
                self._start_writer(batch)
                batch = []
        if batch:
            self._start_writer(batch)
        self._ready = []

    def _start_writer(self, batch: list[Ready]) -> None:
        blocks = list(dict.fromkeys(ref for ready in batch for ref in ready.refs))
        index = {ref: i for i, ref in enumerate(blocks)}
        jobs = [Job(r.attempt, tuple(index[ref] for ref in r.refs), r.positions, r.parts) for r in batch]
        self._writing[_write.remote(self._target, jobs, *blocks)] = [job.attempt for job in jobs]

    def _written(self, reports: list[Report]) -> None:
        for report in reports:
            self.busy.write += report.seconds
            self._journal.tell(Worked(WRITE, report.seconds))
            self._asked_again(WRITE, report.attempt, report.asked_again)
            if report.attempt not in self._left:
                continue  # its slice has failed by an earlier part
            end = self._ends.get(report.attempt)
            try:
                whole = self._committer.add(report, self._records[report.attempt], end)
            except (CoverageError, DoubtError) as error:
                self._fail({report.attempt: str(error)}, Outcome.LOST)
            else:
                if whole:
                    self._close(report.attempt)

    def _asked_again(self, stage: str, attempt: str, times: int) -> None:
        """A reader or writer that came to its end had to ask its store again so often."""
        if times:
            self.busy.asked_again += times
            self._journal.tell(Retried(stage, "error", times, self.slices[attempt].shard.path))

    def _fail(self, errors: Mapping[str, str], outcome: Outcome) -> None:
        """Slices that were not finished: because of the shard (`failed`), or of something else (`lost`)."""
        if not errors:
            return
        self._committer.fail({a: replace(self._records[a], outcome=outcome, error=e) for a, e in errors.items()})
        for attempt, why in errors.items():
            self.failures[self.slices[attempt].name] = why
            self._close(attempt)

    def _close(self, attempt: str) -> None:
        if attempt in self._left:
            self._left.remove(attempt)
            path = self.slices[attempt].shard.path
            self._open[path] -= 1
            if not self._open[path]:
                del self._open[path]

    def _counts(self) -> Counts:
        done, rejects = self._shards - len(self._open), self._losses.rejects.total()
        seconds = time.monotonic() - self._began
        failed = len({shard_of(name) for name in self.failures})
        return Counts(done, self._shards, self.busy.pairs + rejects, rejects, failed, seconds)
