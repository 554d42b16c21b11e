"""The next blocks of a file that is read through, under way while its reader works on an earlier one."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

from pipeline.stores.retry import Tries, may_pass

AHEAD = 2  # blocks, each by a connection of its own


class Source(Protocol):
    """A file for one thread at a time."""

    def fetch(self, start: int, count: int) -> bytes:
        """One try at some bytes."""

    def close(self) -> None:
        """Ask for nothing more."""


@dataclass(frozen=True, slots=True)
class _Block:
    start: int
    end: int
    data: Future[bytes]


class Ahead:
    """At most AHEAD blocks in a row that are under way, or there and not yet taken.

    Each is tried once. What failed and may go well at another try is not there, so the reader asks for it himself, with
    all his patience. Neighbours come by different connections, each a thread and a file of its own; a connection holds
    one block at a time, so what was asked for in vain takes no further memory.
    """

    def __init__(self, connect: Callable[[], Source], size: int, stop: int, tries: Tries) -> None:
        """Ask for nothing yet.

        Args:
            connect: a new source.
            size: of a block, in bytes.
            stop: no byte is asked for from here on.
            tries: counts how often the reader has to ask again.
        """
        self._size = size
        self._stop = stop
        self._tries = tries
        self._connections = [(connect(), ThreadPoolExecutor(1, "ahead")) for _ in range(AHEAD)]
        self._turns = cycle(self._connections)
        self._blocks: deque[_Block] = deque()

    def take(self, at: int, count: int) -> memoryview | bytes:
        """Up to `count` bytes from a place on; none if they were not asked for, or are worth another try.

        Raises:
            Exception: what the source raised, where another try is not worth it.
        """
        if not any(block.start <= at < block.end for block in self._blocks):
            return b""
        while self._blocks[0].end <= at:
            self._blocks.popleft().data.cancel()
        block = self._blocks[0]
        try:
            data = block.data.result()
        except Exception as error:  # each store has errors of its own; raised again unless another try may help
            self._blocks.popleft()
            if may_pass(error):
                self._tries.again += 1
                return b""
            raise
        found = memoryview(data)[at - block.start :][:count]
        if at + len(found) >= block.start + len(data):
            self._blocks.popleft()
        return found

    def ask(self, at: int) -> None:
        """Have the blocks from a place on under way; those from another place on are dropped."""
        if not (self._blocks and self._blocks[0].start <= at < self._blocks[0].end):
            self._drop()
        start = self._blocks[-1].end if self._blocks else at
        while len(self._blocks) < AHEAD and start < self._stop:
            end = min(start + self._size, self._stop)
            source, thread = next(self._turns)
            self._blocks.append(_Block(start, end, thread.submit(source.fetch, start, end - start)))
            start = end

    def close(self) -> None:
        """End the threads, each once the request is over that it is at: nobody waits for that."""
        self._drop()
        for source, thread in self._connections:
            with suppress(RuntimeError):  # Python itself is ending
                thread.submit(source.close)
            thread.shutdown(wait=False)

    def _drop(self) -> None:
        while self._blocks:
            self._blocks.popleft().data.cancel()
