"""Which slices a forecast looks into: some of each size, each standing for others like it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.errors import ShardError
from pipeline.shards import Format, Slice, sniff
from pipeline.stores.storage import FIRST_BYTES, open_shard, reading

_END = 1024  # bytes of a tar's end blocks, at least


def bytes_of(slice_: Slice) -> int:
    """Of its share of the shard; 0 where the store does not tell."""
    return max(0, slice_.shard.size) // slice_.count


@dataclass(frozen=True, slots=True)
class Stratum:
    """Slices of one kind and of like size, and the one of them that is looked into."""

    slices: tuple[Slice, ...]

    @property
    def chosen(self) -> Slice:
        """The middle one."""
        return self.slices[len(self.slices) // 2]

    @property
    def times(self) -> float:
        """How many of the chosen slice all of them are."""
        size = bytes_of(self.chosen)
        return sum(map(bytes_of, self.slices)) / size if size else float(len(self.slices))

    def without_chosen(self) -> "Stratum | None":
        """The others, if there are any."""
        others = tuple(s for s in self.slices if s is not self.chosen)
        return Stratum(others) if others else None


def choose(slices: Sequence[Slice], most: int) -> list[Stratum]:
    """Cut the slices, in the order of kind and size, into strata of about equal bytes; the same at every call."""
    ordered = sorted(slices, key=lambda s: (_kind(s), bytes_of(s), s.name))
    total = sum(map(bytes_of, ordered))
    groups: dict[tuple[str, int], list[Slice]] = {}
    before = 0
    for number, slice_ in enumerate(ordered):
        size = bytes_of(slice_)
        share = (before + size / 2) / total if total else number / len(ordered)
        at = number if len(ordered) <= most else int(share * most)
        groups.setdefault((_kind(slice_), at), []).append(slice_)
        before += size
    return [Stratum(tuple(group)) for group in groups.values()]


def _kind(slice_: Slice) -> str:
    name = slice_.shard.path.lower()
    return next((end for end in (".parquet", ".tar.gz", ".tgz", ".tar") if name.endswith(end)), "")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is to read: rows of a parquet, else bytes of the (unpacked) tar."""

    rows: int | None
    bytes: int


def extent(slice_: Slice) -> Extent:
    """Of a slice, told by its footer or its size alone.

    Raises:
        ShardError: the shard cannot be opened.
    """
    shard = slice_.shard
    with reading(shard.uri), open_shard(shard.uri, shard.size, shard.etag) as file:
        format, size = sniff(file.read(FIRST_BYTES)), file.seek(0, 2)
        if format == Format.PARQUET:
            footer = pq.read_metadata(file)
            start, stop = slice_.row_groups or (0, footer.num_row_groups)
            return Extent(sum(footer.row_group(g).num_rows for g in range(start, stop)), size)
        if format == Format.TAR_GZ:
            file.seek(max(0, size - 4))
            told = int.from_bytes(file.read(4), "little")  # the unpacked size, less whole multiples of 4 GiB
            size = told + max(0, -(-(size - told) // 2**32)) * 2**32
        if format == Format.OTHER:
            raise ShardError(shard.uri, "neither a tar, a gzipped tar nor a parquet")
        return Extent(None, max(0, size - _END))
