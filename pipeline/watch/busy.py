"""How long the stages of a run were at work, and which share of their workers' time that was: who waited for whom."""

import uuid
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

READERS, ACTORS = "read", "infer"  # as in the seconds of a summary
_WORKER = uuid.uuid4().hex[:12]  # this process


class Work(NamedTuple):
    """A worker at a piece of work: a slice, with its waits, or model calls."""

    worker: str
    began: float  # by the worker's clock, since 1970
    seconds: float


def work(began: float, seconds: float) -> dict[str, Any]:
    """This process at a piece of work, as its record tells it."""
    return Work(_WORKER, began, seconds)._asdict()


@dataclass(frozen=True, slots=True)
class Share:
    """Of a stage: its workers, and the share of their time that they were busy."""

    workers: int
    share: float


@dataclass(slots=True)
class Busy:
    """Seconds that the stages were busy, added up over all workers, the model's calls and requests made again."""

    read: float = 0.0
    infer: float = 0.0
    write: float = 0.0
    calls: int = 0
    pairs: int = 0
    asked_again: int = 0
    dtypes: set[str] = field(default_factory=set)
    _slices: tuple["array[float]", "array[float]"] = field(default_factory=lambda: (array("d"), array("d")))
    _actors: dict[str, float] = field(default_factory=dict)  # worker -> when it first computed
    _last: float = 0.0  # when one last did

    def was_read(self, seconds: float, at_work: Work | None) -> None:
        """A slice was read, to its end or not."""
        self.read += seconds
        if at_work:
            self._slices[0].append(at_work.began)
            self._slices[1].append(at_work.began + at_work.seconds)

    def computed(self, seconds: float, sizes: Sequence[int], dtypes: Iterable[str], works: Iterable[Work]) -> None:
        """The model was called, with so many pairs each time."""
        self.infer += seconds
        self.calls += len(sizes)
        self.pairs += sum(sizes)
        self.dtypes.update(dtypes)
        for one in works:
            self._actors[one.worker] = min(one.began, self._actors.get(one.worker, one.began))
            self._last = max(self._last, one.began + one.seconds)

    def shares(self) -> dict[str, Share]:
        """By stage, of those that worked.

        Readers are as many as ever were at a slice at once. Actors count each from its first call on: some join late.
        """
        told = {}
        if len(self._slices[0]):
            began, ended = (np.sort(np.array(times)) for times in self._slices)
            at_once = np.arange(1, len(began) + 1) - np.searchsorted(ended, began, side="right")
            readers = max(1, int(at_once.max()))
            told[READERS] = Share(readers, _share(self.read, readers * float(ended[-1] - began[0])))
        if self._actors:
            told[ACTORS] = Share(
                len(self._actors), _share(self.infer, sum(self._last - began for began in self._actors.values()))
            )
        return told


def _share(busy: float, time: float) -> float:
    """Between 0 and 1, also where the nodes' clocks differ."""
    return round(min(1.0, busy / time), 4) if time > 0 else 0.0
