"""Whether a machine's CPUs keep its GPU busy: decode and model together, beside the model alone on ready squares.

Processes, in place of Ray's readers, decode JPEGs of 640 pixels as a run does it, into memory that they share with the
process that embeds. A part of `bench.gpu`.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer, models

from model.geometry import Geometry
from model.prepare import Pixels, Preparer

SIDE = 640  # pixels of a JPEG's longer side
LEAST_CORES = 4
WANTED = 0.95  # of the model alone, where there are 16 cores
_DRAWN = 32  # JPEGs, over and over
_PART = 8  # pictures that a process decodes at once
_SHARED = Path("/dev/shm")  # noqa: S108  # where files are memory
_MAX_PIXELS = 100_000_000
_SPARE = 2**24  # bytes, for the JPEGs and more

Embed = Callable[[Iterable[Pixels]], Iterator[object]]  # batches, each done when it is given back


@dataclass(frozen=True, slots=True)
class Memory:
    """A folder of JPEGs and of the squares that they become, (slots, pictures, side, side, 3) uint8."""

    folder: str
    geometry: Geometry
    pictures: int  # in a slot, which is a batch
    slots: int

    @property
    def bytes(self) -> int:
        """Of all squares."""
        return self.slots * self.pictures * self.geometry.crop**2 * 3

    def squares(self, mode: Any) -> Pixels:
        """As this process sees them."""
        side = self.geometry.crop
        shape = (self.slots, self.pictures, side, side, 3)
        return np.memmap(Path(self.folder) / "squares", np.uint8, mode, shape=shape)

    def photo(self, number: int) -> Path:
        """One of the JPEGs."""
        return Path(self.folder) / f"{number % min(_DRAWN, self.pictures)}.jpg"

    def draw(self) -> None:
        """Make the JPEGs, and room for the squares."""
        from bench.photo import photo  # here, as in all that follows: Pillow may not be installed

        for number in range(min(_DRAWN, self.pictures)):
            self.photo(number).write_bytes(photo(SIDE, number))
        self.squares("w+")


def preparer_of(geometry: Geometry) -> Preparer:
    """A checkpoint's preprocessing of pictures; captions are token ids already."""
    return Preparer(geometry, Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")).to_str(), 512)


@lru_cache(maxsize=1)
def _opened(memory: Memory) -> tuple[Pixels, Preparer]:
    return memory.squares("r+"), preparer_of(memory.geometry)


def fill(memory: Memory, slot: int, first: int) -> None:
    """In a process of its own: some pictures of a slot, decoded and resized as a run's reader does it."""
    from pipeline.decode import decode

    squares, preparer = _opened(memory)
    for number in range(first, min(first + _PART, memory.pictures)):
        decoded = decode(memory.photo(number).read_bytes(), _MAX_PIXELS)
        squares[slot, number] = preparer.picture(decoded.picture, decoded.extent)


class Decoding:
    """Batches without end, decoded ahead. Each is overwritten after the next one is asked for."""

    def __init__(self, pool: Executor, memory: Memory) -> None:
        self._pool, self._memory = pool, memory
        self._squares = memory.squares("r+")
        self._parts = [self._begin(slot) for slot in range(memory.slots)]

    def _begin(self, slot: int) -> list[Future[None]]:
        return [self._pool.submit(fill, self._memory, slot, at) for at in range(0, self._memory.pictures, _PART)]

    def __iter__(self) -> Iterator[Pixels]:
        for slot in cycle(range(len(self._parts))):
            for part in self._parts[slot]:
                part.result()
            yield self._squares[slot]
            self._parts[slot] = self._begin(slot)

    def ready(self) -> int:
        """Batches that are decoded."""
        return sum(all(part.done() for part in parts) for parts in self._parts)

    def settled(self) -> list[Pixels]:
        """Copies of all batches, when nothing is decoded any more."""
        for parts in self._parts:
            for part in parts:
                part.result()
        return [np.array(squares) for squares in self._squares]


class Timing(NamedTuple):
    """For how long it is measured, and how often."""

    seconds: float  # a stretch, at least
    repeats: int


class Stretch(NamedTuple):
    """Some seconds of embedding."""

    calls: int
    seconds: float
    waited: float  # for pictures, of the seconds


def stretch(batches: Iterator[Pixels], embed: Embed, seconds: float, least: int = 1) -> Stretch:
    """Embed for so many seconds, and so many batches at least."""
    waits: list[float] = []
    began = time.perf_counter()

    def given() -> Iterator[Pixels]:
        while len(waits) < least or time.perf_counter() < began + seconds:
            asked = time.perf_counter()
            squares = next(batches)
            waits.append(time.perf_counter() - asked)
            yield squares

    calls = sum(1 for _ in embed(given()))
    return Stretch(calls, time.perf_counter() - began, sum(waits))


def beside(embed: Embed, decoding: Decoding, timing: Timing) -> dict[str, float]:
    """Batches a second of the model alone and of both together, in turn, medians."""
    rounds = list[tuple[float, float, float, float]]()
    batches = iter(decoding)
    for _ in range(timing.repeats):
        ready = decoding.settled()
        least = 2 * len(ready)
        one = stretch(cycle(ready), embed, timing.seconds, least)
        for _ in embed(islice(batches, least)):  # what was decoded while the model was alone is used up
            pass
        before = decoding.ready()
        two = stretch(batches, embed, timing.seconds, least)
        used = max(0, before - decoding.ready())  # of what was decoded before
        alone, together = one.calls / one.seconds, (two.calls - used) / two.seconds
        rounds.append((alone, together, together / alone, two.waited / two.seconds))
    return dict(zip(("alone", "together", "ratio", "waited"), map(median, zip(*rounds, strict=True)), strict=True))


def lacking(memory: Memory, workers: int | None) -> str:
    """Why it cannot be measured here; empty if it can."""
    if workers is None and cores() < LEAST_CORES:
        return f"{cores()} cores, fewer than {LEAST_CORES}: --workers says how many processes shall decode all the same"
    try:
        import pipeline.decode  # noqa: F401
    except ImportError as error:
        return f"{error.name} cannot be imported"
    if (free := shutil.disk_usage(memory.folder).free) < memory.bytes + _SPARE:
        return f"the squares take {memory.bytes >> 20} MiB of {_SHARED}, which has {free >> 20} (Docker: --shm-size)"
    return ""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def measure(embed: Embed, geometry: Geometry, pictures: int, timing: Timing, workers: int | None) -> dict[str, Any]:
    """What came of it, rates in pairs a second, as one caption a picture; or why it was not measured."""
    processes = workers or cores() - 1  # that decode
    slots = 3 + -(-2 * processes * _PART // pictures)  # embedded, next, spare; and two parts for each process
    with tempfile.TemporaryDirectory(dir=_SHARED if _SHARED.is_dir() else None) as folder:
        memory = Memory(folder, geometry, pictures, slots)
        if reason := lacking(memory, workers):
            return {"not_measured": reason}
        memory.draw()
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # not forked: CUDA runs here
            found = beside(embed, Decoding(pool, memory), timing)
            pool.shutdown(cancel_futures=True)
    found |= {"alone": found["alone"] * pictures, "together": found["together"] * pictures}
    return {"processes": processes, "cores": cores(), "pixels": SIDE, **found}


def line(found: dict[str, Any]) -> str:
    """As a person reads it."""
    if reason := found.get("not_measured"):
        return f"decode + model together: not measured: {reason}"
    return (
        f"decode + model together: {found['together']:,.1f} pairs/s, {found['processes']} processes decode JPEGs of "
        f"{found['pixels']} px on {found['cores']} cores; the model alone {found['alone']:,.1f}: {found['ratio']:.1%}; "
        f"{found['waited']:.1%} of the time it waited for pictures (asked for on 16 cores: {WANTED:.0%})"
    )
