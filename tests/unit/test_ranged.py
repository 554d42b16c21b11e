"""A file on a store, read in blocks that are asked for until they come."""

import io
import random
from collections.abc import Callable
from typing import BinaryIO, cast

import pytest

from pipeline.errors import ShardError
from pipeline.stores import ranged, retry
from pipeline.stores.ranged import Opened, buffered
from pipeline.stores.retry import GaveUpError, Tries

DATA = random.Random(0).randbytes(5000)


class Store:
    """Keeps one file, fails as it is told to, and notes what it was asked for."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.version = "v1"
        self.faults: list[Exception | int] = []  # an error, or how many bytes to send instead of all
        self.asked: list[tuple[int, int]] = []
        self.opened = 0
        self.closed = 0

    def open(self) -> Opened:
        self.opened += 1
        return Opened(cast(BinaryIO, _File(self)), len(self.data), self.version)


class _File(io.BytesIO):
    def __init__(self, store: Store) -> None:
        super().__init__(store.data)
        self._store = store

    def read(self, size: int | None = -1) -> bytes:
        self._store.asked.append((self.tell(), size or 0))
        fault = self._store.faults.pop(0) if self._store.faults else None
        if isinstance(fault, Exception):
            raise fault
        return super().read(size)[:fault]

    def close(self) -> None:
        self._store.closed += 1
        super().close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "BLOCK", 1000)
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)


def test_file_is_read_block_by_block_from_front_to_back() -> None:
    store = Store()
    file, opened = buffered("s3://b/x", store.open)
    assert b"".join(iter(lambda: file.read(300), b"")) == DATA
    assert store.asked == [(start, 1000) for start in range(0, 5000, 1000)]
    assert (opened.size, opened.version, store.opened) == (5000, "v1", 1)


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(),
        lambda file: file.read(5000),
        lambda file: file.read(9000),
        lambda file: b"".join(iter(lambda: file.read(777), b"")),
        lambda file: file.read(10) + file.read(),
    ],
)
def test_read_goes_on_from_where_it_was_cut(read: Callable[[BinaryIO], bytes]) -> None:
    store = Store()
    store.faults = [ConnectionResetError("cut"), 137, OSError("503 Slow Down"), 1, TimeoutError(), 0, 999]
    tries = Tries()
    file, _ = buffered("s3://b/x", store.open, tries)
    assert read(file) == DATA
    assert max(size for _, size in store.asked) <= 1000
    assert store.faults == []
    assert tries.again == 4  # of seven faults: what came of a cut body was taken


def test_seek_moves_as_in_any_file() -> None:
    file, _ = buffered("s3://b/x", Store().open)
    assert (file.seek(-10, io.SEEK_END), file.read()) == (4990, DATA[-10:])
    assert (file.seek(4000), file.read(7), file.tell()) == (4000, DATA[4000:4007], 4007)
    assert (file.seek(-7, io.SEEK_CUR), file.read(7)) == (4000, DATA[4000:4007])
    assert (file.seek(9000), file.read(7)) == (9000, b"")
    with pytest.raises(ValueError, match=r"before the start|negative seek"):
        file.seek(-1)


def test_empty_file_is_empty() -> None:
    file, opened = buffered("s3://b/x", Store(b"").open)
    assert (file.read(), file.read(1), opened.size) == (b"", b"", 0)


@pytest.mark.parametrize("changed", [{"version": "v2"}, {"data": DATA[:-1]}])
def test_file_that_changed_when_it_is_opened_anew_is_an_error(changed: dict[str, object]) -> None:
    store = Store()
    file, _ = buffered("s3://b/x", store.open)
    assert file.read(500) == DATA[:500]
    vars(store).update(changed)
    store.faults = [ConnectionResetError("cut")]
    with pytest.raises(ShardError, match=r"^s3://b/x: changed while it was read$"):
        file.read()


def test_read_after_the_deadline_raises_the_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "DEADLINE", 0.05)
    store = Store()
    file, _ = buffered("s3://b/x", store.open)
    store.faults = [ConnectionResetError(f"cut {i}") for i in range(1000)]
    with pytest.raises(GaveUpError, match=r"ConnectionResetError: cut \d+ \(\d+ tries in 0 s\)"):
        file.read(10)


def test_every_file_that_was_opened_is_closed() -> None:
    store = Store()
    store.faults = [ConnectionResetError("cut")] * 3
    file, _ = buffered("s3://b/x", store.open)
    with file:
        assert file.read() == DATA
    assert (store.opened, store.closed) == (4, 4)
    assert file.closed
