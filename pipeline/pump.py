"""The stream's blocks, as references, pulled into a bounded queue: a slow driver slows the actors."""

import queue
import threading
from typing import Any

from ray.data import Dataset

from pipeline.cluster import cause

_QUEUED_BLOCKS = 64  # embedded blocks that wait for the driver
_END = object()


class Pump:
    """Pulls from a thread of its own until it is closed, which ends the stream's tasks and actors."""

    def __init__(self, stream: Dataset) -> None:
        self._executor = stream._create_executor()  # Ray's own iterator can be ended only by the thread that waits
        self._blocks: queue.Queue[Any] = queue.Queue(_QUEUED_BLOCKS)
        self._over = threading.Event()
        self.running = True  # False once the last block was taken
        threading.Thread(target=self._pull, args=(stream,), daemon=True).start()

    def take(self, wait: float) -> Any | None:
        """The next block's reference, if one comes within `wait` seconds.

        Raises:
            BridgelakeError: the stream has failed.
        """
        if not self.running:
            return None
        try:
            block = self._blocks.get(timeout=wait) if wait else self._blocks.get_nowait()
        except queue.Empty:
            return None
        if isinstance(block, BaseException):
            raise cause(block)
        if block is _END:
            self.running = False
            return None
        return block

    def stop(self) -> None:
        """Pull no more."""
        self._over.set()
        self.running = False

    def close(self) -> None:
        """End what still runs."""
        self.stop()
        self._executor.shutdown(force=True)

    def _pull(self, stream: Dataset) -> None:
        try:
            for bundle in stream._build_bundle_iterator(self._executor):
                for entry in bundle.blocks:
                    if not self._put(entry.ref):
                        return
            self._put(_END)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the driver raises it
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._over.is_set():
            try:
                self._blocks.put(item, timeout=1)
            except queue.Full:
                continue
            return True
        return False
