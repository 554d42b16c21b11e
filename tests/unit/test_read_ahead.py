"""A file on a store that is read through: its next blocks are under way before they are asked for."""

import gc
import io
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.parquet as pq
import pytest

from pipeline import read
from pipeline.config import ReadConfig
from pipeline.errors import ShardError
from pipeline.shards import Slice, cut
from pipeline.stores import ranged, retry
from pipeline.stores.ahead import AHEAD
from pipeline.stores.ranged import Opened, buffered, read_ahead
from pipeline.stores.retry import GaveUpError
from tests.shards import members, picture, shard, whole, write_parquet, write_tar

DATA = random.Random(0).randbytes(9500)
BLOCK = 1000
CONFIG = ReadConfig(("x",))


class Store:
    """Keeps one file, and notes who asked it for what; `before` is called at each request, and may wait or fail."""

    def __init__(self, data: bytes = DATA, by_threads: bool = True) -> None:
        self.data = data
        self.version = "v1"
        self.by_threads = by_threads
        self.before: Callable[[int], None] = lambda start: None
        self.asked: list[tuple[int, int]] = []
        self.early: list[tuple[int, int]] = []  # those of them that no reader waited for
        self.threads: set[threading.Thread] = set()
        self.files: list[_File] = []

    def open(self) -> Opened:
        self.files.append(_File(self))
        return Opened(cast(BinaryIO, self.files[-1]), len(self.data), self.version, self.by_threads)

    def read_through(self, stop: int | None = None) -> BinaryIO:
        file, _ = buffered("s3://b/x", self.open)
        read_ahead(file, stop)
        return file

    def ended(self) -> bool:
        """Whether all that was begun comes to its end."""
        for thread in self.threads:
            thread.join(5)
        return all(file.closed for file in self.files) and not any(thread.is_alive() for thread in self.threads)


class _File(io.BytesIO):
    def __init__(self, store: Store) -> None:
        super().__init__(store.data)
        self._store = store

    def read(self, size: int | None = -1) -> bytes:
        one = (self.tell(), self.tell() + (size or 0))
        self._store.asked.append(one)
        if threading.current_thread().name.startswith("ahead"):  # Arrow reads in threads too
            self._store.early.append(one)
            self._store.threads.add(threading.current_thread())
        self._store.before(self.tell())
        return super().read(size)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "BLOCK", BLOCK)
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)


def blocks(*starts: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, len(DATA))) for start in starts]


@pytest.mark.parametrize("size", [1, 300, 777, 1000, 2500, -1])
def test_each_byte_is_asked_for_once(size: int) -> None:
    store = Store()
    with store.read_through() as file:
        found = b"".join(iter(lambda: file.read(size), b""))
    assert found == DATA
    assert sorted((a, min(b, len(DATA))) for a, b in store.asked) == blocks(*range(0, len(DATA), BLOCK))
    assert sorted(store.early) == blocks(*range(2000, len(DATA), BLOCK))


def test_next_blocks_are_under_way_at_once_while_the_reader_has_the_second() -> None:
    store, meeting = Store(), threading.Barrier(AHEAD + 1)
    store.before = lambda start: start >= 2000 and meeting.wait(5)
    with store.read_through() as file:
        assert file.read(1001) == DATA[:1001]  # the second block has come, and has hardly been begun
        meeting.wait(5)  # all requests for the next ones are open together
        store.before = lambda start: None
        assert file.read() == DATA[1001:]


def test_what_is_held_is_the_reader_s_block_and_those_ahead() -> None:
    store, taken, most = Store(), 0, 0

    def look(start: int) -> None:
        nonlocal most
        most = max(most, sum(end - start for start, end in store.asked) - taken)

    store.before = look
    with store.read_through() as file:
        while data := file.read(500):
            taken += len(data)
            time.sleep(0.01)  # so that a request too many has its turn
    assert most <= BLOCK * (AHEAD + 1)
    assert len(store.early) == 8


@pytest.mark.parametrize("by_threads", [True, False])
def test_nothing_is_asked_for_early_unless_the_file_is_read_through_and_threads_can(by_threads: bool) -> None:
    store = Store(by_threads=by_threads)
    file = buffered("s3://b/x", store.open)[0] if by_threads else store.read_through()
    assert file.read(4500) == DATA[:4500]
    assert (store.early, len(store.files)) == ([], 1)


def test_nothing_is_asked_for_early_by_reads_here_and_there() -> None:
    store = Store()
    with store.read_through() as file:
        for place in (9400, 0, 5000, 2000, 7000, 0):
            file.seek(place)
            assert file.read(10) == DATA[place : place + 10]
    assert (store.early, len(store.files)) == ([], 1)


def test_nothing_is_asked_for_early_from_the_stop_on() -> None:
    store = Store()
    with store.read_through(stop=4200) as file:
        assert file.read(4200) == DATA[:4200]
        assert sorted(store.early) == [(2000, 3000), (3000, 4000), (4000, 4200)]
        assert file.read() == DATA[4200:]  # and what lies behind is there all the same
    assert max(end for _, end in store.early) == 4200


def test_reader_that_passes_over_a_part_takes_what_is_there() -> None:
    store = Store()
    with store.read_through() as file:
        file.read(1500)
        file.seek(3300)
        assert file.read(400) == DATA[3300:3700]
        assert file.read() == DATA[3700:]
    needless = [one for one in store.asked if one == (2000, 3000)]  # or dropped before it began
    assert len(needless) <= 1
    assert sorted(set(store.asked) - {*needless}) == blocks(0, 1000, *range(3000, len(DATA), BLOCK))
    assert len(store.asked) == len(set(store.asked))


def test_any_reads_give_what_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    store, chance, plain = Store(), random.Random(1), io.BytesIO(DATA)

    def fail(start: int) -> None:
        if chance.random() < 0.3:
            raise ConnectionResetError("cut")

    store.before = fail
    with store.read_through() as file:
        for _ in range(500):
            place = chance.choice([plain.tell(), plain.tell(), plain.tell() + 900, chance.randrange(len(DATA))])
            size = chance.choice([1, 100, 999, 1500, 3000])
            plain.seek(place)
            file.seek(place)
            assert file.read(size) == plain.read(size)
    assert len(store.early) > 100


def test_block_that_failed_early_is_tried_again_when_it_is_asked_for() -> None:
    store, failed = Store(), []

    def fail(start: int) -> None:
        if start in (3000, 4000) and failed.count(start) < 3:
            failed.append(start)
            raise OSError("503 Slow Down")

    store.before = fail
    with store.read_through() as file:
        assert file.read() == DATA
    assert sorted(failed) == [3000] * 3 + [4000] * 3


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (PermissionError("no"), PermissionError, "^no$"),
        (ConnectionResetError("cut"), GaveUpError, r"^ConnectionResetError: cut \(\d+ tries in 0 s\)$"),
    ],
)
def test_error_of_an_early_block_comes_where_that_block_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], words: str
) -> None:
    monkeypatch.setattr(retry, "DEADLINE", 0.05)
    store = Store()

    def fail(start: int) -> None:
        if start == 3000:
            raise error

    store.before = fail
    with store.read_through() as file:
        assert file.read(3000) == DATA[:3000]
        with pytest.raises(kind, match=words):
            file.read(1)
    assert store.ended()


def test_file_that_changed_is_an_error_of_the_first_block_of_the_new_one() -> None:
    store = Store()
    with store.read_through() as file:
        assert file.read(1000) == DATA[:1000]
        store.version = "v2"
        assert file.read(1000) == DATA[1000:2000]
        with pytest.raises(ShardError, match=r"^s3://b/x: changed while it was read$"):
            file.read(1)
    assert store.ended()


def test_close_waits_for_nothing_and_ends_threads_and_files() -> None:
    store, goes_on, waits = Store(), threading.Event(), []
    meeting = threading.Barrier(AHEAD + 1)

    def hang(start: int) -> None:
        if start >= 2000:
            meeting.wait(5)
            waits.append(goes_on.wait(5))

    store.before = hang
    file = store.read_through()
    file.read(1001)
    meeting.wait(5)
    file.close()
    goes_on.set()
    assert store.ended()
    assert waits == [True] * AHEAD  # none had to end before the file was closed
    assert sorted(store.early) == blocks(2000, 3000)


def test_file_that_nobody_closes_ends_its_threads() -> None:
    store = Store()
    file = store.read_through()
    file.read(1001)
    del file
    gc.collect()
    assert store.ended()


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_tar_is_read_ahead_until_its_reader_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    local = write_tar(tmp_path / name, members(9))
    expected = list(read.read_slice(whole(local), CONFIG))
    store = Store(local.read_bytes())
    monkeypatch.setattr(read, "open_shard", lambda uri, size, etag, tries: buffered(uri, store.open, tries)[0])
    assert list(read.read_slice(whole(local), CONFIG)) == expected
    assert store.early
    assert store.ended()
    reading = read.read_slice(whole(local), CONFIG)
    next(reading)
    next(reading)
    reading.close()
    assert store.ended()


def test_parquet_is_read_ahead_to_the_end_of_its_slice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    columns = {"jpg": [picture(i) for i in range(80)], "caption": [f"c{i}" for i in range(80)]}
    local = write_parquet(tmp_path / "x.parquet", columns, group_rows=10)
    first, *_ = cut(shard(local), local.stat().st_size // 2)
    expected = list(read.read_slice(first, CONFIG))
    stop, size = _end_of(first), local.stat().st_size
    assert size // 3 < stop < size * 2 // 3
    store = Store(local.read_bytes())
    monkeypatch.setattr(read, "open_shard", lambda uri, size, etag, tries: buffered(uri, store.open, tries)[0])
    assert list(read.read_slice(first, CONFIG)) == expected
    assert max(end for _, end in store.early) == stop
    assert store.ended()


def _end_of(slice_: Slice) -> int:
    """Where a slice ends, as what was written tells: the next row group begins there."""
    assert slice_.row_groups is not None
    column = pq.read_metadata(slice_.shard.uri).row_group(slice_.row_groups[1]).column(0)
    return int(column.dictionary_page_offset or column.data_page_offset)
