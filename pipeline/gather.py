"""Which pairs of which slice have arrived, and what is ready to be written. Pure bookkeeping, no Ray.

Batches mix slices as Ray likes, so the driver looks at each block's `Part`s (a few numbers a slice) and
holds references to the blocks until a slice is whole, or enough of its rows wait for one fragment.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CoverageError
from pipeline.schema import Kind
from pipeline.watch.busy import Work

Positions = npt.NDArray[np.int64]
Ref = Any  # a reference to a block; Ray's ObjectRef in a run


@dataclass(frozen=True, slots=True)
class Part:
    """What one block holds of one attempt at a slice."""

    attempt: str
    positions: Positions  # of pairs and rejects
    embedded: int
    rejects: Mapping[str, int]  # by reason
    end: "End | None"


@dataclass(frozen=True, slots=True)
class End:
    """The reader's last word on a slice: pairs read, or why it could not be read to its end."""

    pairs: int | None
    error: str | None
    seconds: float
    fingerprint: str | None = None
    outcome: str | None = None  # if it could not be read to its end: whose fault that is
    work: Work | None = None
    asked_again: int = 0  # how often the store was, after an error


@dataclass(frozen=True, slots=True)
class Calls:
    """Model calls in a block."""

    sizes: tuple[int, ...]  # pairs of each
    seconds: float
    dtypes: frozenset[str]  # that they computed in
    works: tuple[Work, ...] = ()


def inspect_block(block: pa.Table) -> tuple[list[Part], Calls]:
    """What a block holds, slice by slice; small enough to be sent to the driver."""
    kinds = block["kind"]
    calls = block.filter(pc.equal(kinds, Kind.CALL))
    told = ["reason", "pairs", "detail", "seconds", "fingerprint", "at_work", "asked_again"]
    rows = block.select(["kind", "attempt", "position", *told]).filter(pc.not_equal(kinds, Kind.CALL))
    parts = [_part(attempt.as_py(), rows) for attempt in pc.unique(rows["attempt"])]
    seconds = pc.sum(calls["seconds"]).as_py() or 0.0
    works = tuple(Work(**each) for each in calls["at_work"].to_pylist() if each)
    return parts, Calls(tuple(calls["pairs"].to_pylist()), seconds, frozenset(calls["detail"].to_pylist()), works)


def _part(attempt: str, rows: pa.Table) -> Part:
    mine = rows.filter(pc.equal(rows["attempt"], attempt))
    ends = mine.filter(pc.equal(mine["kind"], Kind.END)).to_pylist()
    placed = mine.filter(pc.not_equal(mine["kind"], Kind.END))
    reasons = pc.value_counts(placed["reason"].drop_null())
    return Part(
        attempt=attempt,
        positions=positions_of(placed),
        embedded=pc.sum(pc.equal(placed["kind"], Kind.PAIR)).as_py() or 0,
        rejects={c["values"]: c["counts"] for c in reasons.to_pylist()},
        end=_end(ends[0]) if ends else None,
    )


def _end(row: dict[str, Any]) -> End:
    at = Work(**row["at_work"]) if row["at_work"] else None
    seconds, asked_again = row["seconds"] or 0.0, row["asked_again"] or 0
    return End(row["pairs"], row["detail"], seconds, row["fingerprint"], row["reason"], at, asked_again)


def positions_of(rows: pa.Table) -> Positions:
    """Their positions; -1 where a row has none."""
    positions: Positions = pc.fill_null(rows["position"], -1).to_numpy().astype(np.int64, copy=False)
    return positions


@dataclass(slots=True)
class Open:
    """A slice on its way: its blocks, the positions that wait and those already handed to a writer."""

    refs: list[Ref] = field(default_factory=list)
    waiting: list[Positions] = field(default_factory=list)
    handed: list[Positions] = field(default_factory=list)
    end: End | None = None

    def at_most(self) -> int:
        """Positions that wait, the doubled ones counted twice."""
        return sum(map(len, self.waiting))

    def new(self) -> Positions:
        """Positions that wait, each once, less those handed over (Ray's retries send rows twice)."""
        if not self.waiting:
            return np.empty(0, dtype=np.int64)
        new = np.unique(np.concatenate(self.waiting))
        if self.handed:
            new = np.setdiff1d(new, np.concatenate(self.handed), assume_unique=True)
        self.waiting = [new]
        return new


@dataclass(frozen=True, slots=True)
class Ready:
    """Rows of one attempt to be written: the blocks that hold them and which positions to take."""

    attempt: str
    refs: tuple[Ref, ...]
    positions: Positions
    parts: int  # of the slice, with this the last; 0 while more may come


class Gather:
    """All open slices of a run, by attempt."""

    def __init__(self, fragment_rows: int) -> None:
        self._fragment_rows = fragment_rows
        self._open: dict[str, Open] = {}
        self._closed: set[str] = set()

    def add(self, ref: Ref, parts: list[Part]) -> Iterator[Ready]:
        """Take in one block; yields what became ready to write."""
        for part in parts:
            if part.attempt in self._closed:
                continue  # a retry's second copy
            slice_ = self._open.setdefault(part.attempt, Open())
            slice_.end = slice_.end or part.end
            if len(part.positions):
                slice_.refs.append(ref)
                slice_.waiting.append(part.positions)
            if ready := self._ready(part.attempt, slice_):
                yield ready

    def _ready(self, attempt: str, slice_: Open) -> Ready | None:
        if slice_.end is not None and slice_.end.pairs is None:
            return None  # failed: the run takes it with failed()
        handed = sum(map(len, slice_.handed))
        missing = sys.maxsize if slice_.end is None else (slice_.end.pairs or 0) - handed
        enough = min(missing, self._fragment_rows)
        if slice_.at_most() < enough or len(new := slice_.new()) < enough:
            return None
        whole = len(new) >= missing
        slice_.handed.append(new)
        ready = Ready(attempt, tuple(slice_.refs), new, parts=len(slice_.handed) if whole else 0)
        slice_.refs, slice_.waiting = [], []
        if whole:
            del self._open[attempt]
            self._closed.add(attempt)
        return ready

    def failed(self) -> Mapping[str, End]:
        """Attempts whose reader said that it could not reach the end; they are forgotten."""
        ends = {a: o.end for a, o in self._open.items() if o.end and o.end.pairs is None}
        for attempt in ends:
            del self._open[attempt]
            self._closed.add(attempt)
        return ends

    def unfinished(self) -> Mapping[str, str]:
        """After the last block: attempts that began and were never whole, with what is missing."""
        return {attempt: _missing(slice_) for attempt, slice_ in self._open.items()}


def _missing(slice_: Open) -> str:
    have = len(slice_.new()) + sum(map(len, slice_.handed))
    if slice_.end is None:
        return f"its end record never came ({have} pairs did)"
    return f"{have} of its {slice_.end.pairs} pairs came"


def check_coverage(name: str, pairs: int, positions: list[Positions]) -> None:
    """Prove that a slice's reports cover 0..pairs-1 exactly once.

    Raises:
        CoverageError: naming the slice and the first position that is missing, doubled or foreign.
    """
    all_positions = np.sort(np.concatenate(positions)) if positions else np.empty(0, dtype=np.int64)
    if len(all_positions) == pairs and np.array_equal(all_positions, np.arange(pairs)):
        return
    counts = np.bincount(all_positions[(all_positions >= 0) & (all_positions < pairs)], minlength=pairs)
    if wrong := np.flatnonzero(counts != 1).tolist():
        raise CoverageError(
            f"{name}: position {wrong[0]} was reported {counts[wrong[0]]} times, not once; not committed"
        )
    raise CoverageError(f"{name}: {len(all_positions)} positions reported for {pairs} pairs; not committed")
