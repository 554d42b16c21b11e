"""When slices will be done, and so the time left and the commits, from two rates; plain arithmetic."""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """What the cluster does once it is at work, and what goes before that."""

    readers: int
    read: float  # pairs a second of one reader
    embed: float  # pairs a second of all actors
    reading_after: float  # seconds until the readers begin
    embedding_after: float  # seconds until the actors do

    @property
    def rate(self) -> float:
        """Pairs a second: what the slower half does."""
        return min(self.readers * self.read, self.embed)


def finishes(pairs: Sequence[float], speed: Speed) -> list[float]:
    """When each slice is embedded, in seconds from the start: readers take them in turn, the actors all as they come.

    Args:
        pairs: of each slice, in the order in which they are read.
        speed: of both halves.
    """
    readers = [speed.reading_after] * max(1, min(speed.readers, len(pairs)))
    rate = min(speed.read, speed.embed / len(readers))  # readers wait for actors that are slower
    read = []
    for count in pairs:
        free = heapq.heappop(readers)
        read.append((free + count / rate, count))
        heapq.heappush(readers, free + count / rate)
    done, busy = [], max(speed.reading_after, speed.embedding_after)
    for at, count in sorted(read):
        busy += count / speed.embed  # also of slices that are not whole yet
        done.append(max(busy, at))
    return done


def commits(finished: Iterable[float], every: float) -> int:
    """How many commits a run makes of slices that are whole at these moments: `Committer.due`, and one at the end."""
    made, last, waiting = 0, -math.inf, False
    for at in sorted(set(finished)):
        if waiting and last + every < at:
            made, last, waiting = made + 1, last + every, False
        if at - last >= every:
            made, last, waiting = made + 1, at, False
        else:
            waiting = True
    return made + waiting
