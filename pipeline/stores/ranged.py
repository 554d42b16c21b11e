"""A file on a store as a stream of bytes that outlives the store's bad moments, and never mixes two files."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.errors import ShardError
from pipeline.stores.retry import call, causes, status_of

BLOCK = 8 * 2**20  # bytes of one request: a shard is read once, from front to back
_CHANGED = 412  # HTTP: the file is no longer the one that the request named by its ETag


@dataclass(frozen=True, slots=True)
class Opened:
    """A file as a store opened it, and what it told of it; `version` is empty where it tells none."""

    file: BinaryIO
    size: int
    version: str


def buffered(uri: str, opening: Callable[[], Opened]) -> tuple[BinaryIO, Opened]:
    """Open a file for reading in blocks, each asked for until it comes; memory stays at a block or two.

    Args:
        uri: to name in errors.
        opening: opens the file, and may be called again.

    Raises:
        ShardError: from a later read: the file was changed meanwhile.
    """
    raw = _Ranged(uri, opening)
    return cast(BinaryIO, io.BufferedReader(raw, min(BLOCK, max(1, raw.opened.size)))), raw.opened


class _Ranged(io.RawIOBase):
    def __init__(self, uri: str, opening: Callable[[], Opened]) -> None:
        self._uri = uri
        self._opening = opening
        self.opened = call(opening)
        self._file: BinaryIO | None = self.opened.file
        self._at = 0

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
        data = call(self._fetch, count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(BLOCK) or b"", b""))  # io's own asks for 8 KB at a time

    def close(self) -> None:
        self._drop()
        super().close()

    def _fetch(self, count: int) -> bytes:
        """One try at some bytes from here on; after an error the next one opens the file anew."""
        try:
            file = self._file or self._reopen()
            file.seek(self._at)
            data = file.read(count)
            if not data:
                raise ConnectionError(f"the store sent nothing of bytes {self._at} to {self._at + count}")
        except Exception as error:
            self._drop()
            known = [*causes(error), *causes(error.__context__)]  # s3fs stumbles over the empty message of some servers
            if _CHANGED in map(status_of, known):
                raise ShardError(self._uri, "changed while it was read") from error
            raise
        return data

    def _reopen(self) -> BinaryIO:
        again = self._opening()
        self._file = again.file
        if (again.size, again.version) != (self.opened.size, self.opened.version):
            raise ShardError(self._uri, "changed while it was read")
        return again.file

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
