"""How far a run was, and when: a bounded series."""

from dataclasses import dataclass, field

from pipeline.watch.events import Event
from pipeline.watch.progress import Counts

MOST = 512  # points; as many again, and every second one goes
_EVERY = 0.25  # seconds between two points, at first


@dataclass(slots=True)
class Curve:
    """A listener that remembers (seconds since the stages were started, pairs done)."""

    _every: float = _EVERY
    _points: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])
    _last: tuple[float, int] = (0.0, 0)

    @property
    def points(self) -> list[tuple[float, int]]:
        """The series, with the latest counts at its end."""
        return self._points if self._last[0] <= self._points[-1][0] else [*self._points, self._last]

    def hear(self, event: Event) -> None:
        """Remember counts, if the last point is long enough ago."""
        if not isinstance(event, Counts):
            return
        self._last = (event.seconds, event.pairs)
        if event.seconds - self._points[-1][0] >= self._every:
            self._points.append(self._last)
            if len(self._points) >= 2 * MOST:
                self._points, self._every = self._points[::2], self._every * 2
