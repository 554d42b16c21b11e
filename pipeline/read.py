"""A slice -> its samples and rejects, with exact positions."""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import BinaryIO, cast

from pipeline.config import Keep, ReadConfig
from pipeline.errors import ConfigError, ShardError
from pipeline.metadata import type_of_column, type_of_values
from pipeline.parquet import ParquetShard, columns_of, parquet_samples
from pipeline.samples import Caption, Fingerprint, Judge, Place, Reject, Sample, folded
from pipeline.schema import embedded_schema, prepared_schema
from pipeline.shards import Format, Shard, Slice, sniff
from pipeline.stores.ranged import read_ahead
from pipeline.stores.retry import Tries
from pipeline.stores.storage import FIRST_BYTES, open_shard, reading
from pipeline.tar import tar_samples

_LOOKED_AT = 100  # samples of a tar, to tell the types of --keep columns
_OTHER_COLUMNS = ("id", "run_id")

__all__ = ["Caption", "Fingerprint", "Place", "Reject", "Sample", "read_slice", "resolve_keep"]


def read_slice(
    slice: Slice, config: ReadConfig, fingerprint: Fingerprint | None = None, tries: Tries | None = None
) -> Iterator[Sample | Reject]:
    """Stream a slice's pairs, each at one of the positions 0..n-1, in the same order at every reading.

    Args:
        slice: which one.
        config: how to read it.
        fingerprint: takes in all that was read.
        tries: counts how often the store was asked again.

    Raises:
        ShardError: the shard cannot be read to its end.
    """
    shard = slice.shard
    with reading(shard.uri), _opened(shard, tries) as (file, format):
        if format != Format.PARQUET:
            judge = Judge(config, fingerprint=fingerprint)
            read_ahead(file)
            for raw in tar_samples(_unpacked(file, format), shard.uri, config):
                yield from judge(raw)
            return
        parquet = ParquetShard(file)
        judge = Judge(config, _keys_before(parquet, slice, config), fingerprint)
        if stop := _read_through(parquet, slice, config):
            read_ahead(file, stop)
        for raw in parquet_samples(parquet, shard.uri, slice.row_groups, config):
            yield from judge(raw)


@contextmanager
def _opened(shard: Shard, tries: Tries | None = None) -> Iterator[tuple[BinaryIO, Format]]:
    """The shard's file, and what it is by its first bytes."""
    with open_shard(shard.uri, shard.size, shard.etag, tries) as file:
        first = file.read(FIRST_BYTES)
        file.seek(0)
        format = sniff(first)
        if format == Format.OTHER:
            begins = f"it begins with {first[:16]!r}" if first else "it is empty (0 bytes)"
            raise ShardError(shard.uri, f"neither a tar, a gzipped tar nor a parquet: {begins}")
        yield file, format


def _unpacked(file: BinaryIO, format: Format) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if format == Format.TAR_GZ else file


def _keys_before(parquet: ParquetShard, slice: Slice, config: ReadConfig) -> set[str]:
    """The keys that stand earlier in the shard than this slice does."""
    if slice.row_groups is None or slice.row_groups[0] == 0:
        return set()
    key = columns_of(parquet.schema, slice.shard.uri, config).key
    return parquet.keys_before(slice.row_groups[0], key) if key else set()


def _read_through(parquet: ParquetShard, slice: Slice, config: ReadConfig) -> int:
    """The place where a slice ends of which every byte is wanted; 0 if there are columns to pass over."""
    stop = slice.row_groups[1] if slice.row_groups else parquet.footer.num_row_groups
    wanted = columns_of(parquet.schema, slice.shard.uri, config).wanted
    return parquet.end_of(stop - 1) if stop and len(wanted) == len(parquet.schema.names) else 0


def resolve_keep(keep: Sequence[Keep], shard: Shard, config: ReadConfig) -> tuple[Keep, ...]:
    """Tell the types of the columns to bring along, from a parquet's schema or a tar's first samples.

    Raises:
        ConfigError: a column does not exist, or its name is taken by a column of the table.
        ShardError: the shard cannot be read.
    """
    if not keep:
        return ()
    taken = {*prepared_schema(()).names, *embedded_schema((), ("image", "text", "cross"), 1, "float16").names}
    for one in keep:
        if one.name.lower() in {*taken, *_OTHER_COLUMNS}:
            raise ConfigError(f"--keep {one.name}: the table has a column of this name already")
    with reading(shard.uri), _opened(shard) as (file, format):
        if format == Format.PARQUET:
            types = _parquet_types(ParquetShard(file), shard, config)
        else:
            types = _tar_types(_unpacked(file, format), shard, config)
    known = folded(types)
    for one in keep:
        if one.name.lower() not in known:
            raise ConfigError(
                f"--keep {one.name}: no such metadata in {shard.uri}; there are {', '.join(sorted(types)) or 'none'}"
            )
    return tuple(replace(k, type=k.type or types[known[k.name.lower()]]) for k in keep)


def _parquet_types(parquet: ParquetShard, shard: Shard, config: ReadConfig) -> dict[str, str]:
    return {n: type_of_column(parquet.schema.field(n).type) for n in columns_of(parquet.schema, shard.uri, config).rest}


def _tar_types(stream: BinaryIO, shard: Shard, config: ReadConfig) -> dict[str, str]:
    values: dict[str, list[object]] = {}
    for raw in islice(tar_samples(stream, shard.uri, config), _LOOKED_AT):
        for name, value in raw.fields.items():
            if name.lower() not in raw.used:
                values.setdefault(name, []).append(value)
    return {name: type_of_values(v) for name, v in values.items()}
