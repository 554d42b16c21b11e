"""The beginnings of some slices, read and prepared as a run does it, and counted sample by sample. No Ray."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.barred import Barred
from pipeline.config import ReadConfig
from pipeline.embed import Preparer
from pipeline.errors import ShardError
from pipeline.forecasts.choice import Extent, Stratum, bytes_of, extent
from pipeline.prepare import prepare_slice
from pipeline.schema import Kind
from pipeline.shards import Slice

_COLUMNS = ("kind", "key", "image_offset", "image_length", "row_group", "row_in_group", "reason", "width", "height")
_LEAST = 64  # samples of a slice, however short the time is
_KEPT_ROWS = 32_768  # to be laid out as rows

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a forecast reads."""

    slices: int = 32
    samples: int = 20_000
    seconds: float = 20.0


@dataclass(slots=True)
class Look:
    """What was seen of one slice; one entry of `pairs`, `rejected` and `weights` a sample."""

    stratum: Stratum
    pairs: Numbers = field(default_factory=lambda: np.empty(0))
    rejected: Numbers = field(default_factory=lambda: np.empty(0))
    weights: Numbers = field(default_factory=lambda: np.empty(0))  # bytes of a tar, or rows of a parquet
    share: float = 0.0  # of the slice that was read
    reasons: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    pixels: float = 0.0  # of all pictures
    seconds: float = 0.0
    error: str = ""  # why it cannot be read

    @property
    def times(self) -> float:
        """What is counted here stands for so many times as much."""
        return self.stratum.times / self.share if self.share else 0.0


@dataclass(slots=True)
class Sampled:
    """All looks, and prepared tables without their pictures."""

    looks: list[Look]
    rows: list[pa.Table]  # of one slice each


@dataclass(slots=True)
class _Seen:
    """One sample: its pairs, and where its picture begins."""

    pairs: int = 0
    rejected: int = 0
    offset: int | None = None


def sample(
    strata: Sequence[Stratum], config: ReadConfig, preparer: Preparer, barred: Barred, budget: Budget
) -> Sampled:
    """Read the beginning of each chosen slice; what a short one leaves of the budget goes to those after it."""
    sampled = Sampled([], [])
    ends, left = time.monotonic() + budget.seconds, budget.samples
    # The smallest first: they leave something over.
    todo = deque(sorted(strata, key=lambda s: bytes_of(s.chosen)))
    while todo:
        until = time.monotonic() + max(0.0, ends - time.monotonic()) / len(todo)
        most = max(_LEAST, left // len(todo))
        look = Look(todo.popleft())
        sampled.looks.append(look)
        began = time.monotonic()
        try:
            whole = extent(look.stratum.chosen)
            tables = _until(look.stratum.chosen, config, preparer, barred, (most, until))
            _count(look, _taken(tables, look, sampled, _KEPT_ROWS // len(strata)), whole)
        except ShardError as error:
            look.error = str(error)
            others = look.stratum.without_chosen()
            if others and len(sampled.looks) < 2 * len(strata):
                todo.append(others)  # which another one stands for
        look.seconds = time.monotonic() - began
        left -= len(look.pairs)
    return sampled


def _until(
    slice_: Slice, config: ReadConfig, preparer: Preparer, barred: Barred, limit: tuple[int, float]
) -> Iterator[pa.Table]:
    """Prepared tables, to the slice's end or to a number of samples or a moment."""
    most, until = limit
    rows = 0
    for table in prepare_slice(slice_, "sample", config, preparer, barred):
        yield table
        rows += len(table)
        if rows >= most or (rows >= _LEAST and time.monotonic() >= until):
            return


def _taken(tables: Iterator[pa.Table], look: Look, sampled: Sampled, most_rows: int) -> Iterator[pa.Table]:
    """The same tables, some kept on the way; raises ShardError if the slice cannot be read to its end."""
    kept: list[pa.Table] = []
    for table in tables:
        ends = table.filter(pc.equal(table["kind"], Kind.END))
        if len(ends):
            if ends["pairs"][0].as_py() is None:
                raise ShardError(look.stratum.chosen.shard.uri, _why(ends["detail"][0].as_py(), look))
            look.share = 1.0
        if sum(map(len, kept)) < most_rows:
            kept.append(_without_pixels(table))
        yield table
    if kept:
        sampled.rows.append(pa.concat_tables(kept))


def _without_pixels(table: pa.Table) -> pa.Table:
    """The same with a picture of one pixel in each place."""
    at = table.schema.get_field_index("pixels")
    return table.set_column(at, table.schema.field(at), pa.array([b"\0\0\0"] * len(table), pa.large_binary()))


def _why(detail: str, look: Look) -> str:
    return detail.removeprefix(f"{look.stratum.chosen.shard.uri}: ")


def _count(look: Look, tables: Iterator[pa.Table], whole: Extent) -> None:
    samples: dict[object, _Seen] = {}
    for table in tables:
        captions = pc.list_value_length(table["captions"]).to_pylist()
        for row, count in zip(table.select(_COLUMNS).to_pylist(), captions, strict=True):
            if row["kind"] in (Kind.SAMPLE, Kind.REJECT):
                _add(look, samples, row, count or 1)
            elif row["kind"] == Kind.TAKEN_DOWN:
                samples.setdefault(len(samples), _Seen()).pairs += 1
    look.pairs = np.array([s.pairs for s in samples.values()], float)
    look.rejected = np.array([s.rejected for s in samples.values()], float)
    look.weights = np.ones(len(samples))
    if look.share == 1.0 or not samples:
        return
    if whole.rows is not None:
        look.share = len(samples) / whole.rows
        return
    offsets = [s.offset for s in samples.values()]
    placed = [i for i, offset in enumerate(offsets) if offset is not None]
    if len(placed) < 2:
        raise ShardError(look.stratum.chosen.shard.uri, f"no picture in its first {len(samples)} samples")
    starts = np.interp(np.arange(len(offsets)), placed, [offsets[i] or 0 for i in placed])
    each = (starts[placed[-1]] - starts[placed[0]]) / (placed[-1] - placed[0])
    look.weights = np.append(np.diff(starts), each)
    look.share = min(1.0, len(samples) * each / whole.bytes)


def _add(look: Look, samples: dict[object, _Seen], row: dict[str, object], pairs: int) -> None:
    place = row["image_offset"], row["row_group"], row["row_in_group"]
    seen = samples.setdefault(row["key"] if place == (None, None, None) else place, _Seen())
    offset = row["image_offset"]
    seen.offset = offset if isinstance(offset, int) else None
    seen.pairs += pairs
    if row["kind"] == Kind.REJECT:
        seen.rejected += 1
        look.reasons[str(row["reason"])] += 1
    else:
        look.pictures += 1
        look.pixels += float(str(row["width"])) * float(str(row["height"]))
