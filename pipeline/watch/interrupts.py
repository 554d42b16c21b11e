"""Signals that wait until a commit is done, and an end that waits for nothing."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import psutil


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the block; a SIGINT after another signal does not.

    Only the main thread gets signals; in another one nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    def wait(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGINT and len(came) > 1:  # the handler shall see how often it was asked
            restore()
            with suppress(KeyboardInterrupt, SystemExit):
                signal.raise_signal(came[0])
            signal.raise_signal(number)

    for number in kept:
        signal.signal(number, wait)
    try:
        yield
    finally:
        restore()
        if len(came) == 1 or (came and signal.SIGINT not in came[1:]):
            signal.raise_signal(came[0])


def end(code: int) -> NoReturn:
    """End this process with its code as `sys.exit` would, but without taking Python apart.

    Threads of native libraries may be at work still, and one that asks for Python meanwhile aborts the process: a job
    that has done all would end with 134.
    """
    atexit._run_exitfuncs()  # Ray's shutdown, temporary files
    try:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
    except OSError as error:  # a pipe that nobody reads any more, a full disk
        if code == 0:  # else it is said, or something else is
            os.write(2, f"error: standard output cannot be written: {error.strerror}\n".encode())
            code = 1
    os._exit(code)


def leave(code: int) -> NoReturn:
    """End this process now, and with it all that it started, such as a local Ray."""
    with suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
    os._exit(code)
