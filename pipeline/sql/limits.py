"""How much time and memory a statement may take; what passes them is ended.

DataFusion works in a thread of its own, so that whoever waits for it can stop waiting: what runs is cancelled then.
Memory is what its joins, sorts and groups hold, and the answer; it writes nothing to disk.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedError
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.errors import ConfigError, LimitError

GIB = 1 << 30
_STACK = 64 << 20  # bytes: DataFusion plans long chains of operators by recursion
_ENDING = 1.0  # seconds that a cancelled statement gets to end

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one statement may take."""

    seconds: float = 60.0
    memory: float = GIB  # bytes

    def __post_init__(self) -> None:
        if not 0 < self.seconds < threading.TIMEOUT_MAX:
            raise ConfigError(f"--timeout {self.seconds:g} is not valid: allowed is a number of seconds above 0")
        if not GIB / 1024 <= self.memory < float("inf"):
            raise ConfigError(f"--memory {self.memory / GIB:g} is not valid: allowed is a number of GiB from 0.001")

    @property
    def too_large(self) -> LimitError:
        """What is raised where the memory does not suffice."""
        return LimitError(
            f"the statement needs more than {self.memory / GIB:.3g} GiB of memory: select less, add a LIMIT, or "
            "allow more with --memory"
        )


class Timed:
    """Runs what belongs to one statement until its time is over."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._end = time.monotonic() + limits.seconds
        self._loop = asyncio.new_event_loop()
        before = threading.stack_size(_STACK)
        try:
            # A statement that cannot be cancelled must not keep the process alive.
            self._thread = threading.Thread(target=self._loop.run_forever, name="sql", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def __enter__(self) -> "Timed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop)
        self._thread.join(_ENDING)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end_all(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        self._loop.stop()

    def check(self) -> None:
        """End the statement here if its time is over."""
        if time.monotonic() > self._end:
            raise self._too_long

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, if it does so in time."""

        async def called() -> T:
            return work()

        return self._wait(called())

    def batches(self, frame: Any) -> Iterator[pa.RecordBatch]:
        """What a DataFusion frame gives, batch by batch."""
        stream = self.run(frame.execute_stream)
        while True:
            try:
                yield self._wait(stream.__anext__()).to_pyarrow()
            except StopAsyncIteration:
                return

    def _wait(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        future: Future[T] = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        try:
            return future.result(max(0.0, self._end - time.monotonic()))
        except WaitedError:
            if future.done():
                raise  # of the work's own
            raise self._too_long from None
        finally:
            future.cancel()

    @property
    def _too_long(self) -> LimitError:
        return LimitError(
            f"the statement took longer than {self._limits.seconds:g} s: select less, or allow more with --timeout"
        )
