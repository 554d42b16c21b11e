"""A file on a store as a stream of bytes that outlives the store's bad moments, and never mixes two files."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.errors import ShardError
from pipeline.stores.ahead import Ahead
from pipeline.stores.retry import Tries, causes, status_of

BLOCK = 8 * 2**20  # bytes of one request: a shard is read once, from front to back
_CHANGED = 412  # HTTP: the file is no longer the one that the request named by its ETag


@dataclass(frozen=True, slots=True)
class Opened:
    """A file as a store opened it, and what it told of it; `version` is empty where it tells none."""

    file: BinaryIO
    size: int
    version: str
    by_threads: bool = False  # opened several times, it can be read by as many threads at once


Opening = Callable[[], Opened]


def buffered(uri: str, opening: Opening, tries: Tries | None = None) -> tuple[BinaryIO, Opened]:
    """Open a file for reading in blocks, each asked for until it comes.

    Memory stays at a block or two, and AHEAD more of a file that is read ahead.

    Args:
        uri: to name in errors.
        opening: opens the file, and may be called again.
        tries: counts how often the store was asked again.

    Raises:
        ShardError: from a later read: the file was changed meanwhile.
    """
    raw = _Ranged(uri, opening, tries or Tries())
    return cast(BinaryIO, io.BufferedReader(raw, min(BLOCK, max(1, raw.opened.size)))), raw.opened


def read_ahead(file: BinaryIO, stop: int | None = None) -> None:
    """Say that a file will be read through: from the second block in a row on, the next are asked for early.

    Files that `buffered` did not open, or that cannot be read by several threads at once, stay as they are.

    Args:
        file: the file.
        stop: nothing from this place on is asked for early; its end by default.
    """
    raw = getattr(file, "raw", None)
    if isinstance(raw, _Ranged):
        raw.read_ahead(stop)


class _Ranged(io.RawIOBase):
    def __init__(self, uri: str, opening: Opening, tries: Tries) -> None:
        self._uri = uri
        self._opening = opening
        self._tries = tries
        self.opened = tries.call(opening)
        self._source = _Source(uri, opening, self.opened, self.opened.file)
        self._ahead: Ahead | None = None
        self._at = 0
        self._end = -1  # of what was read last

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.opened.size}[whence]
        if start + offset < 0:
            raise ValueError(f"no place before the start of a file: {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        count = min(len(buffer), BLOCK, self.opened.size - self._at)
        if count <= 0:
            return 0
        early = self._ahead.take(self._at, count) if self._ahead else b""
        goes_on = bool(early) or self._at == self._end
        data = early or self._tries.call(self._source.fetch, self._at, count)
        buffer[: len(data)] = data
        count = len(data)
        self._at = self._end = self._at + count
        if self._ahead and goes_on:
            del early, data  # before there is another block
            self._ahead.ask(self._at)
        return count

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(BLOCK) or b"", b""))  # io's own asks for 8 KB at a time

    def read_ahead(self, stop: int | None) -> None:
        if self.opened.by_threads and self._ahead is None:
            stop = self.opened.size if stop is None else min(stop, self.opened.size)
            self._ahead = Ahead(lambda: _Source(self._uri, self._opening, self.opened), BLOCK, stop, self._tries)

    def close(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()
        self._source.close()
        super().close()


class _Source:
    """The file as one connection has it: opened when it is needed, and after an error anew by the next try."""

    def __init__(self, uri: str, opening: Opening, known: Opened, file: BinaryIO | None = None) -> None:
        self._uri = uri
        self._opening = opening
        self._known = known
        self._file = file

    def fetch(self, start: int, count: int) -> bytes:
        """One try at some bytes."""
        try:
            file = self._file or self._reopen()
            file.seek(start)
            data = file.read(count)
            if not data:
                raise ConnectionError(f"the store sent nothing of bytes {start} to {start + count}")
        except Exception as error:
            self.close()
            known = [*causes(error), *causes(error.__context__)]  # s3fs stumbles over the empty message of some servers
            if _CHANGED in map(status_of, known):
                raise ShardError(self._uri, "changed while it was read") from error
            raise
        return data

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _reopen(self) -> BinaryIO:
        again = self._opening()
        self._file = again.file
        if (again.size, again.version) != (self._known.size, self._known.version):
            raise ShardError(self._uri, "changed while it was read")
        return again.file
