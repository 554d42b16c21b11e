"""Writers' reports -> slices that are proven whole. Of a shard that is replaced, all its slices come together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from pipeline.errors import CoverageError, DoubtError, RejectReason
from pipeline.gather import End, Positions, check_coverage
from pipeline.records import SliceRecord
from pipeline.write import Report

_BROKEN = 0.01  # of a slice's pairs


@dataclass(frozen=True, slots=True)
class Whole:
    """A slice that was proven whole and waits for the next commit; `rows` and `taken_down` are the new ones."""

    record: SliceRecord
    keeps: bool = False  # its old rows, though the record replaces theirs
    rows: int = 0
    taken_down: int = 0
    truncated: int = 0
    fragments: list[str] = field(default_factory=list)
    rejects: list[pa.Table] = field(default_factory=list)


class Proof:
    """Collects reports, by attempt, until they prove a slice whole."""

    def __init__(self, only: Mapping[str, Positions] | None = None) -> None:
        """`only`: of attempts that try rejected pairs again, the positions of those."""
        self._only = only or {}
        self._reports: dict[str, list[Report]] = {}
        self._closed: set[str] = set()  # attempts that are whole or failed
        self._held: dict[str, list[Whole]] = {}  # shard -> slices that replace it, until they are all there

    def add(self, report: Report, record: SliceRecord, end: End | None) -> list[Whole] | None:
        """Take a writer's report; with all of a slice, prove that it is whole.

        Args:
            report: of one attempt; there may be several, and they come in any order.
            record: the slice's ledger row; its counts are those of before, 0 unless rejected pairs are tried again.
            end: the reader's end record; None while it has not come.

        Returns:
            None while the slice is not whole; else what can be committed with it: nothing yet, where other slices
            of a shard that is replaced are missing.

        Raises:
            CoverageError: the positions are not exactly those that were read.
            DoubtError: more than 1% of its vectors are broken.
        """
        if report.attempt in self._closed:
            return None
        reports = self._reports.setdefault(report.attempt, [])
        reports.append(report)
        parts = next((r.parts for r in reports if r.parts), None)
        if parts is None or end is None or end.pairs is None or len(reports) < parts:
            return None
        self.close([record])
        whole = self._proven(record, end, reports)
        if not whole.record.replaces:
            return [whole]
        held = self._held.setdefault(record.shard, [])
        held.append(whole)
        return self._held.pop(record.shard) if len(held) == record.slices else []

    def close(self, records: Iterable[SliceRecord]) -> None:
        """Expect no more of these attempts."""
        for record in records:
            self._reports.pop(record.attempt, None)
            self._closed.add(record.attempt)

    def _proven(self, record: SliceRecord, end: End, reports: list[Report]) -> Whole:
        pairs, fingerprint = end.pairs or 0, end.fingerprint or ""
        positions = [r.positions for r in reports]
        if (only := self._only.get(record.attempt)) is not None:
            if fingerprint != record.fingerprint:
                raise CoverageError(f"{record.slice}: other content than was embedded; embed it again first")
            positions = [_ranks(p, only) for p in positions]
            pairs = len(only)
        check_coverage(record.slice, pairs, positions)
        if only is None:
            _check_vectors(record.slice, pairs, reports)
        embedded, rejected = sum(r.embedded for r in reports), sum(len(r.rejects) for r in reports)
        taken = sum(r.taken_down for r in reports)
        if embedded + rejected + taken != pairs:
            more = f" ({taken} taken down)" if taken else ""
            raise CoverageError(
                f"{record.slice}: {embedded} embedded and {rejected} rejected{more} of {pairs} pairs; not committed"
            )
        truncated = sum(r.truncated for r in reports)
        counted = replace(
            record,
            fingerprint=fingerprint,
            read=pairs if only is None else record.read,
            embedded=record.embedded + embedded,
            rejected=rejected,
            taken_down=record.taken_down + taken,
            truncated=record.truncated + truncated,
            seconds=record.seconds + end.seconds + sum(r.seconds for r in reports),
        )
        fragments = [f for r in reports for f in r.fragments]
        return Whole(counted, False, embedded, taken, truncated, fragments, [r.rejects for r in reports])


def _check_vectors(name: str, pairs: int, reports: list[Report]) -> None:
    """One broken vector alone is never too many, however small the slice."""
    broken = sum(r.rejects["reason"].to_pylist().count(RejectReason.NOT_FINITE) for r in reports)
    if broken > max(1, _BROKEN * pairs):
        raise DoubtError(
            f"{name}: {broken} of its {pairs} pairs have vectors or scores that cannot be stored: more than "
            f"{_BROKEN:.0%}, so the GPU or the model is to be doubted, not the pictures; not committed"
        )


def _ranks(positions: Positions, only: Positions) -> Positions:
    """Each position's place among those asked for; -1 if it was not."""
    ranks = np.searchsorted(only, positions)
    found = only[np.minimum(ranks, len(only) - 1)] == positions
    return np.where(found, ranks, -1)
