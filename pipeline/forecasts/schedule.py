"""When slices will be done, and so the time left and the commits, from two rates; plain arithmetic."""

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

_MOST_BLOCKS = 100_000  # that are followed one by one


@dataclass(frozen=True, slots=True)
class Speed:
    """What the cluster does once it is at work, and what goes before that."""

    readers: int
    read: float  # pairs a second of one reader
    embed: float  # pairs a second of all actors
    reading_after: float  # seconds until the readers begin
    embedding_after: float  # seconds until the actors do
    actors: int = 1
    block: float = 1.0  # pairs that an actor is given at once, and gives back at once

    @property
    def rate(self) -> float:
        """Pairs a second: what the slower half does."""
        return min(self.readers * self.read, self.embed)


def finishes(pairs: Sequence[float], speed: Speed) -> list[float]:
    """When each slice is embedded, in seconds from the start.

    Readers take the slices in turn, and make blocks of them; actors take the blocks as they come, one at a time.

    Args:
        pairs: of each slice, in the order in which they are read.
        speed: of both halves.
    """
    readers = [speed.reading_after] * max(1, min(speed.readers, len(pairs)))
    block = max(speed.block, sum(pairs) / _MOST_BLOCKS)
    blocks = []
    for number, count in enumerate(pairs):
        at = heapq.heappop(readers)
        for _ in range(parts := max(1, math.ceil(count / block))):
            at += count / parts / speed.read
            blocks.append((at, number, count / parts))
        heapq.heappush(readers, at)
    actors = [max(speed.reading_after, speed.embedding_after)] * speed.actors
    done = [0.0] * len(pairs)
    for at, number, count in sorted(blocks):
        free = max(at, heapq.heappop(actors)) + count * speed.actors / speed.embed
        done[number] = max(done[number], free)
        heapq.heappush(actors, free)
    return done


def commits(finished: Iterable[tuple[float, float]], after: Callable[[float], float]) -> int:
    """How many commits a run makes: where `Committer.due`, and one at the end.

    Args:
        finished: of each slice, when it is whole, and its rows.
        after: as `WriteConfig.commit_after`.
    """
    made, last, waiting = 0, -math.inf, None
    for at, together in groupby(sorted(finished), key=itemgetter(0)):
        if waiting is not None and (due := last + after(waiting)) < at:
            made, last, waiting = made + 1, due, None
        waiting = (waiting or 0.0) + sum(rows for _, rows in together)
        if at - last >= after(waiting):
            made, last, waiting = made + 1, at, None
    return made + (waiting is not None)
