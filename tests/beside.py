"""Something done over and over in a thread, while a test does something else."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def over_and_over(act: Callable[[], object]) -> Iterator[None]:
    """Once at least, and ten times a second at most; what it raises ends it, and is raised when the block is over."""
    over = threading.Event()

    def run() -> None:
        act()
        while not over.wait(0.1):
            act()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        try:
            yield
        finally:
            over.set()
        done.result()
