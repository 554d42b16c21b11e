"""The first batches find the micro-batch: it doubles while that makes them faster and the memory holds it."""

from dataclasses import dataclass, field

SMALLEST = 8
LARGEST = 256
_GAIN = 1.03  # by which twice as large a call must be faster, or the smaller one stays
_FULL = 0.9  # of a call, at least; less tells nothing
_COUNTED = 2  # batches of each size that count, after one that does not: it fills the allocator


@dataclass
class Search:
    """Told what each batch took, says in calls of which size to compute the next."""

    largest: int = LARGEST
    size: int = SMALLEST
    settled: bool = False
    rates: dict[int, float] = field(default_factory=dict)  # the best pairs per second of each size
    _batches: int = 0  # of the present size

    def after(self, size: int, pictures: int, pairs: int, seconds: float) -> int:
        """The size of the next batch's calls.

        Args:
            size: of the last batch's; smaller than was asked for where the memory did not suffice.
            pictures: in the last batch; one that does not about fill a call tells nothing.
            pairs: in the last batch.
            seconds: that it took.
        """
        if size < self.size:
            self.settled, self.size = True, size
        if self.settled or pictures < _FULL * size:
            return self.size
        self._batches += 1
        if self._batches > 1:
            self.rates[size] = max(self.rates.get(size, 0.0), pairs / seconds)
        if self._batches > _COUNTED:
            self._move_on()
        return self.size

    def _move_on(self) -> None:
        if self.rates[self.size] < self.rates.get(self.size // 2, 0.0) * _GAIN:
            self.settled, self.size = True, self.size // 2
        elif self.size * 2 > self.largest:
            self.settled = True
        else:
            self.size, self._batches = self.size * 2, 0
