"""Inputs -> shards -> slices."""

import re
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow.parquet as pq

from pipeline.errors import InputError, ShardError
from pipeline.stores.inputs import Entry, Input, check_inside, expand, shared_root
from pipeline.stores.retry import call
from pipeline.stores.storage import FIRST_BYTES, connect, open_shard, reading, uri_of, version_of

_INDEXED = re.compile(r"#\d+$")
SHARD_NAMES = (".tar", ".tgz", ".tar.gz", ".parquet")


class Format(StrEnum):
    """What a file is, told by its first bytes."""

    TAR = "tar"
    TAR_GZ = "tar_gz"
    PARQUET = "parquet"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file. `path` is relative to the dataset's root, `size` is -1 where the store does not tell it."""

    uri: str
    path: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Slice:
    """The unit of reading, committing and resuming; `row_groups` is half-open, None for the whole shard."""

    shard: Shard
    index: int
    count: int
    row_groups: tuple[int, int] | None
    only: frozenset[int] | None = None  # positions that are asked for again; None for all

    @property
    def name(self) -> str:
        """The shard's path, with `#index` where the shard is cut into several, or could be taken for a slice."""
        path = self.shard.path
        return path if self.count == 1 and not _INDEXED.search(path) else f"{path}#{self.index}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What the inputs hold. `ignored` counts the files that are no shards by their first bytes."""

    shards: tuple[Shard, ...]
    root: str
    ignored: int
    prefix: str = ""  # the root as a path in its store
    patterns: tuple[str, ...] = ()  # regular expressions over paths in the store

    def matches(self, path: str) -> bool:
        """Whether a path relative to the root would be listed if it were there."""
        return any(re.fullmatch(p, self.prefix + path) for p in self.patterns)

    def nothing(self, inputs: Sequence[str]) -> str:
        """What to say of inputs whose shards hold no sample at all."""
        return (
            f"no sample in {len(self.shards)} shards of {', '.join(inputs)}: looked for pictures "
            "(.jpg .jpeg .png .webp, or an image column) with captions (.txt, .json, or a caption column)"
        )


def gzipped(path: str) -> bool:
    """Whether a shard is a gzipped tar by its name; a picture in it is found only by reading from the tar's start."""
    return path.lower().endswith((".tgz", ".gz"))


def sniff(first: bytes) -> Format:
    """Tell a file's format by its first bytes; FIRST_BYTES of them are enough."""
    if first[:4] == b"PAR1":
        return Format.PARQUET
    if first[:2] == b"\x1f\x8b":
        try:
            inner = zlib.decompressobj(wbits=31).decompress(first, tarfile.BLOCKSIZE)
        except zlib.error:
            return Format.OTHER
        return Format.TAR_GZ if _starts_tar(inner) else Format.OTHER
    return Format.TAR if _starts_tar(first[: tarfile.BLOCKSIZE]) else Format.OTHER


def _starts_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return block == bytes(tarfile.BLOCKSIZE)  # an archive without members
    return True


def list_shards(inputs: Sequence[str], root: str | None) -> Listing:
    """List the shards of all inputs, each once, sorted by path.

    Raises:
        InputError: an input holds no shard.
        ConfigError: an input cannot be understood, or lies outside `root`.
    """
    found: dict[str, tuple[Input, Entry]] = {}
    opened = [i for text in inputs for i in expand(text)]
    ignored: set[str] = set()
    for one in opened:
        entries = one.entries()
        named = [e for e in entries if e.explicit or e.path.lower().endswith(SHARD_NAMES)]
        named += _sniffed([e for e in entries if not e.explicit and not e.path.lower().endswith(SHARD_NAMES)], one)
        if not named:
            raise InputError(_nothing(one, entries))
        found.update({uri_of(one.store, e.path): (one, e) for e in named})
        ignored |= {uri_of(one.store, e.path) for e in entries} - found.keys()
    root = root or shared_root(opened)
    _, base = connect(root)
    prefix = base if base.endswith("/") or not base else base + "/"
    shards = [_shard(uri, i, e, check_inside(prefix, root, i, e.path)) for uri, (i, e) in sorted(found.items())]
    patterns = tuple(dict.fromkeys(i.pattern() for i in opened))
    return Listing(tuple(sorted(shards, key=lambda s: s.path)), root, len(ignored), prefix, patterns)


def _shard(uri: str, one: Input, entry: Entry, path: str) -> Shard:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{path!r} has a name that is not UTF-8, which a table cannot hold: rename the file") from None
    info = entry.info
    if info.get("size") is None:  # listings over HTTP tell names only
        with reading(uri):
            info = call(one.store.info, entry.path)
    size = info.get("size")
    return Shard(uri, path, -1 if size is None else int(size), version_of(info))


def _sniffed(entries: list[Entry], one: Input) -> list[Entry]:
    """Those entries that are shards by their first bytes."""
    return [e for e, first in zip(entries, one.first_bytes(entries), strict=True) if sniff(first) != Format.OTHER]


def _nothing(one: Input, entries: list[Entry]) -> str:
    names = ", ".join(e.path.rsplit("/", 1)[-1] for e in entries[:3])
    seen = f"{len(entries)} files that are none of these: {names}" if entries else "no file"
    return f"no shard in {one.text}: looked for tar, gzipped tar and parquet files, found {seen}"


def cut(shard: Shard, slice_bytes: int) -> list[Slice]:
    """Cut a shard into slices: a large parquet by its row groups, anything else is one slice.

    A shard that cannot be opened is one slice too; reading it will say why.
    """
    whole = [Slice(shard, 0, 1, None)]
    if 0 <= shard.size <= slice_bytes or shard.path.lower().endswith((".tar", ".tgz", ".tar.gz")):
        return whole
    try:
        with reading(shard.uri), open_shard(shard.uri, shard.size, shard.etag) as file:
            if sniff(file.read(FIRST_BYTES)) != Format.PARQUET:
                return whole
            footer = pq.read_metadata(file)
    except ShardError:
        return whole
    sizes = []
    for g in range(footer.num_row_groups):
        group = footer.row_group(g)
        sizes.append(sum(group.column(c).total_compressed_size for c in range(group.num_columns)))
    ranges = _ranges(sizes, slice_bytes)
    if len(ranges) < 2:
        return whole
    return [Slice(shard, i, len(ranges), r) for i, r in enumerate(ranges)]


def _ranges(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Consecutive runs whose sizes add up to at most `limit`, or that are a single one above it."""
    ranges: list[tuple[int, int]] = []
    start = total = 0
    for i, size in enumerate(sizes):
        if i > start and total + size > limit:
            ranges.append((start, i))
            start, total = i, 0
        total += size
    return [*ranges, (start, len(sizes))]


def shard_of(name: str) -> str:
    """The path of the shard that a slice of this name is of."""
    return _INDEXED.sub("", name)
