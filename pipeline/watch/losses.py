"""What a run may lose: too many rejects end it."""

from collections import Counter
from collections.abc import Mapping

from pipeline.errors import RejectRateError, RejectReason
from pipeline.gather import Part

LOOK_AFTER = 1000  # pairs
_REASONS = 5  # to name


class Losses:
    """Counts rejects as they come, those that Ray's retries send twice included."""

    def __init__(self, most: float, table: str) -> None:
        """`most`: of all pairs, as a share."""
        self.rejects: Counter[str] = Counter()
        self._embedded = 0
        self._most = most
        self._table = table

    def add(self, part: Part) -> None:
        """Count a block's pairs."""
        self.rejects.update(part.rejects)
        self._embedded += part.embedded

    def check(self) -> None:
        """End the run if too much is lost; what was never downloaded counts on neither side of the rate.

        Raises:
            RejectRateError: too many were rejected.
        """
        counted = {r: n for r, n in self.rejects.most_common() if r != RejectReason.NOT_DOWNLOADED}
        lost = sum(counted.values())
        pairs = self._embedded + lost
        if pairs >= LOOK_AFTER and lost > self._most * pairs:
            raise RejectRateError(
                f"{lost / pairs:.1%} of the first {pairs} pairs were rejected, more than --max-reject-rate "
                f"{self._most:g} allows: {_top(counted)}; what was whole is committed, and {self._table}_rejects has "
                "its rejects one by one"
            )


def _top(counted: Mapping[str, int]) -> str:
    named = [f"{reason} {count}" for reason, count in list(counted.items())[:_REASONS]]
    return ", ".join(named) + (", ..." if len(counted) > _REASONS else "")
