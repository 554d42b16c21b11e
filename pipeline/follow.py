"""Follows a run from the stream of embedded blocks to the last commit. Runs in the driver.

    block -> inspect_block (task): which pairs of which slice -> Gather -> write_jobs (task) -> Committer

The driver holds references and counts, never rows.
"""

import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.data import Dataset
from ray.exceptions import RayError, RayTaskError

from pipeline.committer import Committer
from pipeline.errors import BridgelakeError, ClusterError, CoverageError
from pipeline.gather import Calls, End, Gather, Part, Ready, Ref, inspect_block
from pipeline.ledger import SliceRecord
from pipeline.progress import Counts, Observer
from pipeline.shards import Slice
from pipeline.write import Job, Report, Target, write_jobs

_OURS = re.compile(r"^(?:pipeline|model)\.errors\.\w+: (.*)$", re.MULTILINE)
_QUEUED_BLOCKS = 64  # embedded blocks that wait for the driver
_MOST_WRITERS = 16  # in flight; more would pile up blocks faster than the store takes them
_SHARED_TASKS = 64  # slices that wait for the writers in flight, to share a task

# No CPU is reserved: readers would keep them from starting until a whole slice is read.
_inspect = ray.remote(num_cpus=0, max_retries=3)(inspect_block)
_write = ray.remote(num_cpus=0, max_retries=3)(write_jobs)


@dataclass(slots=True)
class Busy:
    """Seconds that the stages were busy, added up over all workers, and the model's calls."""

    read: float = 0.0
    infer: float = 0.0
    write: float = 0.0
    calls: int = 0
    pairs: int = 0


_END = object()


class Follow:
    """Follows one run from the stream of blocks to the last commit."""

    def __init__(
        self,
        records: Mapping[str, tuple[Slice, SliceRecord]],
        target: Target,
        committer: Committer,
        fragment_rows: int,
    ) -> None:
        self.busy = Busy()
        self.failures: dict[str, str] = {}  # slice name -> error
        self.slices = {attempt: slice_ for attempt, (slice_, _) in records.items()}
        self._records = {attempt: record for attempt, (_, record) in records.items()}
        self._target = target
        self._committer = committer
        self._left = set(records)
        self._gather = Gather(fragment_rows)
        self._fragment_rows = fragment_rows
        self._ends: dict[str, End] = {}
        self._ready: list[Ready] = []
        self._inspecting: dict[Ref, Ref] = {}  # task -> block
        self._writing: set[Ref] = set()
        self._rejects = 0
        self._began = time.monotonic()

    def run(self, stream: Dataset, observer: Observer, commit_seconds: float) -> None:
        """Until every slice is committed or failed.

        Raises:
            BridgelakeError: a stage as a whole cannot go on; what was whole has been committed.
        """
        blocks: queue.Queue[Any] = queue.Queue(_QUEUED_BLOCKS)
        over = threading.Event()
        threading.Thread(target=_pump, args=(stream, blocks, over), daemon=True).start()
        streaming = True
        try:
            while streaming or self._inspecting or self._writing or self._ready:
                streaming = self._take(blocks) if streaming else False
                self._handle(wait=0.1 if self._inspecting or self._writing else 0.0)
                self._write_ready(everything=not streaming and not self._inspecting)
                if self._committer.due(commit_seconds):
                    self._committer.commit()
                observer.update(self._counts())
        finally:
            over.set()
            self._committer.commit()
        lost = {a: f"lost on the way: {why}" for a, why in self._gather.unfinished().items()}
        self._fail(lost | dict.fromkeys(self._left - lost.keys(), "lost on the way: nothing of it came"))
        self._committer.commit()
        observer.update(self._counts())

    def _take(self, blocks: "queue.Queue[Any]") -> bool:
        """Start the inspection of the blocks that came; False after the last one."""
        while len(self._writing) < _MOST_WRITERS:
            try:
                block = blocks.get(timeout=0 if self._inspecting or self._writing else 0.2)
            except queue.Empty:
                return True
            if block is _END:
                return False
            if isinstance(block, BaseException):
                raise _cause(block)
            self._inspecting[_inspect.remote(block)] = block
        return True  # the rest waits in the queue, and so do the actors

    def _handle(self, wait: float) -> None:
        tasks = [*self._inspecting, *self._writing]
        if not tasks:
            return
        done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=wait, fetch_local=True)
        for task in done:
            try:
                result = ray.get(task)
            except RayError as error:
                raise _cause(error) from error
            if task in self._writing:
                self._writing.discard(task)
                self._written(result)
            else:
                self._inspected(self._inspecting.pop(task), *result)

    def _inspected(self, block: Ref, parts: list[Part], calls: Calls) -> None:
        self.busy.infer += calls.seconds
        self.busy.calls += calls.calls
        self.busy.pairs += calls.pairs
        for part in parts:
            self._rejects += len(part.positions) - part.embedded
            if part.end and part.attempt not in self._ends:
                self._ends[part.attempt] = part.end
                self.busy.read += part.end.seconds
        self._ready += self._gather.add(block, parts)
        self._fail(self._gather.failed())

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
        self._writing.add(_write.remote(self._target, jobs, *blocks))

    def _written(self, reports: list[Report]) -> None:
        for report in reports:
            self.busy.write += report.seconds
            record, end = self._records[report.attempt], self._ends.get(report.attempt)
            try:
                whole = self._committer.add(report, record, end.pairs if end else None)
            except CoverageError as error:
                self._fail({report.attempt: str(error)})
            else:
                self._left -= {report.attempt} if whole else set()

    def _fail(self, errors: Mapping[str, str]) -> None:
        if not errors:
            return
        self._committer.fail({a: replace(self._records[a], error=why) for a, why in errors.items()})
        for attempt, why in errors.items():
            self.failures[self.slices[attempt].name] = why
            self._left.discard(attempt)

    def _counts(self) -> Counts:
        done = len(self.slices) - len(self._left)
        seconds = time.monotonic() - self._began
        return Counts(
            done, len(self.slices), self.busy.pairs + self._rejects, self._rejects, len(self.failures), seconds
        )


def _pump(stream: Dataset, blocks: "queue.Queue[Any]", over: threading.Event) -> None:
    """Pull the stream's blocks, as references, into a bounded queue: a slow driver slows the actors.

    Ends when the run is `over`, which lets go of the stream and so of its actors.
    """
    try:
        for bundle in stream.iter_internal_ref_bundles():
            for entry in bundle.blocks:
                if not _put(blocks, entry.ref, over):
                    return
        _put(blocks, _END, over)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the driver raises it
        _put(blocks, error, over)


def _put(blocks: "queue.Queue[Any]", item: object, over: threading.Event) -> bool:
    while not over.is_set():
        try:
            blocks.put(item, timeout=1)
        except queue.Full:
            continue
        return True
    return False


def _cause(error: BaseException) -> BridgelakeError:
    """The error that a worker raised, said in one line."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, BridgelakeError):
        return cause
    if ours := _OURS.findall(str(cause)):  # an actor that cannot start has its error as text only
        return ClusterError(ours[-1].strip())
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return ClusterError(f"the run cannot go on: {lines[-1].strip() if lines else type(cause).__name__}")
