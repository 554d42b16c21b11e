"""How much time and memory a statement may take; what passes them is ended.

DataFusion works in a thread of its own, so that whoever waits for it can stop waiting: what runs is cancelled then.
Memory is what its joins, sorts and groups hold, and the answer; it writes nothing to disk.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedError
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pyarrow as pa

from pipeline.errors import ConfigError, LimitError

if TYPE_CHECKING:
    from datafusion import DataFrame, RecordBatch

GIB = 1 << 30
_STACK = 64 << 20  # bytes: DataFusion plans long chains of operators by recursion
_ENDING = 3.0  # seconds that a cancelled statement gets to end

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


@dataclass(frozen=True, slots=True)
class _Asked:
    """Work for the statement's thread, and what comes of it."""

    work: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)

    def answer(self) -> None:
        try:
            self.future.set_result(self.work())
        except SystemExit:  # told to end; kept, its traceback would keep DataFusion at work
            self.future.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in DataFusion too; raised where it was asked for
            self.future.set_exception(error)


class Timed:
    """Runs what belongs to one statement until its time is over."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._end = time.monotonic() + limits.seconds
        self._asked = SimpleQueue[_Asked | None]()
        self._last = Future[Any]()
        self._last.set_result(None)
        self._stream: Iterator[RecordBatch] = iter(())
        before = threading.stack_size(_STACK)
        try:
            # A statement that cannot be cancelled must not keep the process alive.
            self._thread = threading.Thread(target=self._work, name="sql", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def __enter__(self) -> "Timed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._last.done():
            # DataFusion looks every second whether something was raised in the thread that waits for it.
            thread, ending = ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ending)
        self._asked.put(None)
        self._stream = iter(())  # it works until it is let go, and whoever keeps the error keeps this
        self._thread.join(_ENDING)

    def _work(self) -> None:
        with suppress(SystemExit):
            while asked := self._asked.get():
                asked.answer()

    def check(self) -> None:
        """End the statement here if its time is over."""
        if time.monotonic() > self._end:
            raise self._too_long

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, if it does so in time."""
        asked = _Asked(work)
        self._last = asked.future
        self._asked.put(asked)
        try:
            return cast(T, asked.future.result(max(0.0, self._end - time.monotonic())))
        except WaitedError:
            if not asked.future.done():
                raise self._too_long from None
            return cast(T, asked.future.result())  # it came at the last moment, or the error is of the work's own

    def batches(self, frame: "DataFrame") -> Iterator[pa.RecordBatch]:
        """What a DataFusion frame gives, batch by batch."""
        # Not as an async iterator: each batch would be handed over by a thread of DataFusion's own, which calls Python
        # for it, and one that does while the process ends aborts it.
        self._stream = self.run(frame.execute_stream)
        while batch := self.run(self._next):
            yield batch.to_pyarrow()

    def _next(self) -> "RecordBatch | None":
        return next(self._stream, None)

    @property
    def _too_long(self) -> LimitError:
        return LimitError(
            f"the statement took longer than {self._limits.seconds:g} s: select less, or allow more with --timeout"
        )
