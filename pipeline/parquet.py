"""Parquet shards -> raw samples, by row group and in small batches; and a row's picture again.

Columns are found by name without regard to case: the picture by `--image-key`, else the first of IMAGE_NAMES
that holds bytes; captions by `--caption-key`, else the first of CAPTION_NAMES; the key in `key` or `__key__`,
else the row's number in the file. Other columns of bytes (masks, second pictures) are not metadata.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import ReadConfig
from pipeline.errors import RejectReason, ShardError
from pipeline.metadata import utf8
from pipeline.samples import CAPTION_NAMES, IMAGE_NAMES, Fault, Place, RawSample, captions_in

KEY_NAMES = ("key", "__key__")
URL_NAMES = ("url", "image_url", "__url__")
_BATCH_BYTES = 16 * 2**20
_BATCH_ROWS = 256
_WHOLE_GROUP = 64 * 2**20  # a row group up to this size is fetched in few large reads, a larger one page by page
_BUFFER = 2**20


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; `rest` is metadata."""

    image: str
    captions: tuple[str, ...]
    key: str | None
    url: str | None
    status: str | None
    error: str | None
    rest: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        """All columns to read."""
        named = (self.image, *self.captions, self.key, self.url, self.status, self.error, *self.rest)
        return list(dict.fromkeys(n for n in named if n is not None))


def _named(schema: pa.Schema, name: str) -> str | None:
    exact = [n for n in schema.names if n == name]
    return next(iter(exact or [n for n in schema.names if n.lower() == name.lower()]), None)


def _first(schema: pa.Schema, names: Sequence[str]) -> str | None:
    return next((found for n in names if (found := _named(schema, n)) is not None), None)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def image_columns(schema: pa.Schema, image_key: str | None) -> list[str]:
    """The columns that may hold the picture, the likeliest first; reading takes the first of them."""
    names = [image_key] if image_key else IMAGE_NAMES
    found = [c for n in names if (c := _named(schema, n)) is not None and _holds_bytes(schema.field(c).type)]
    return list(dict.fromkeys(found))


def byte_columns(schema: pa.Schema) -> list[str]:
    """Every column that holds bytes."""
    return [f.name for f in schema if _holds_bytes(f.type)]


def columns_of(schema: pa.Schema, uri: str, config: ReadConfig) -> Columns:
    """Tell what each column is; raises ShardError if there is no picture or no caption among them."""
    images = image_columns(schema, config.image_key)
    url = _first(schema, URL_NAMES)
    if not images:
        raise ShardError(uri, _no_image(schema, uri, url, config))
    names = config.caption_keys or CAPTION_NAMES
    captions = tuple(dict.fromkeys(c for n in names if (c := _named(schema, n)) is not None and c not in images[:1]))
    if not captions:
        raise ShardError(
            uri,
            f"no caption column: looked for {', '.join(names)} among {', '.join(schema.names)}; "
            "name it with --caption-key",
        )
    captions = captions if config.caption_keys else captions[:1]
    error = _named(schema, "error_message")
    status = _named(schema, "status") if error else None  # img2dataset's status, not someone else's
    taken = {images[0], *captions, _first(schema, KEY_NAMES), url}
    rest = tuple(f.name for f in schema if f.name not in taken and not _holds_bytes(f.type))
    return Columns(images[0], captions, _first(schema, KEY_NAMES), url, status, error, rest)


def _no_image(schema: pa.Schema, uri: str, url: str | None, config: ReadConfig) -> str:
    if url is None or config.image_key:
        looked = config.image_key or ", ".join(IMAGE_NAMES)
        return (
            f"no picture column: looked for {looked} holding bytes among {', '.join(schema.names)}; "
            "name it with --image-key"
        )
    caption = _first(schema, config.caption_keys or CAPTION_NAMES)
    said = f" --caption_col {caption}" if caption else ""
    return (
        "it holds URLs and no pictures. Download them with img2dataset, and give its output as --input: "
        f"img2dataset --url_list '{uri}' --input_format parquet --url_col {url}{said} "
        "--output_format webdataset --output_folder shards"
    )


class ParquetShard:
    """An open parquet file, read in batches that fit in memory whatever the row groups' sizes."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)
        self.footer = self._stream.metadata
        self.schema: pa.Schema = self._stream.schema_arrow
        self._whole = pq.ParquetFile(file, metadata=self.footer, pre_buffer=True, page_checksum_verification=True)

    def rows_before(self, group: int) -> int:
        """How many rows the file has before a row group."""
        return sum(self.footer.row_group(g).num_rows for g in range(group))

    def end_of(self, group: int) -> int:
        """The place in the file where a row group ends."""
        chunks = _chunks(self.footer.row_group(group))
        return int(max(c.total_compressed_size + (c.dictionary_page_offset or c.data_page_offset) for c in chunks))

    def batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """One row group's rows, some 16 MB at a time."""
        meta = self.footer.row_group(group)
        if meta.num_rows == 0:
            return
        wanted = set(columns)
        chunks = [c for c in _chunks(meta) if c.path_in_schema.split(".")[0] in wanted]
        packed = sum(c.total_compressed_size for c in chunks)
        plain = max(packed, sum(c.total_uncompressed_size for c in chunks))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * meta.num_rows // max(1, plain)))
        file = self._whole if packed <= _WHOLE_GROUP else self._stream
        yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)

    def keys_before(self, group: int, column: str) -> set[str]:
        """The keys in all row groups before one."""
        keys: set[str] = set()
        for g in range(group):
            for batch in self.batches(g, [column]):
                keys.update(_text(k) for k in batch.column(0).to_pylist() if k is not None)
        return keys


def _chunks(meta: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [meta.column(c) for c in range(meta.num_columns)]


def image_bytes(value: Any) -> bytes | None:
    """A picture's bytes from a value of an image column, plain or `struct<bytes, path>`."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def parquet_samples(
    shard: ParquetShard, uri: str, groups: tuple[int, int] | None, config: ReadConfig
) -> Iterator[RawSample]:
    """The samples of some row groups, all by default."""
    start, stop = groups or (0, shard.footer.num_row_groups)
    columns = columns_of(shard.schema, uri, config)
    number = shard.rows_before(start)
    for group in range(start, stop):
        row = 0
        for batch in shard.batches(group, columns.wanted):
            values = {name: batch.column(name).to_pylist() for name in columns.wanted}
            for i in range(batch.num_rows):
                fields = {name: column[i] for name, column in values.items()}
                yield _sample(fields, columns, Place(row_group=group, row_in_group=row), number)
                row += 1
                number += 1
        if row != shard.footer.row_group(group).num_rows:
            raise ShardError(uri, f"row group {group} ends after {row} rows, its footer says otherwise: damaged")


def _sample(fields: dict[str, Any], columns: Columns, place: Place, number: int) -> RawSample:
    key = fields.get(columns.key) if columns.key else None
    url = fields.get(columns.url) if columns.url else None
    picture = fields.pop(columns.image)
    image = image_bytes(picture)
    return RawSample(
        key=f"{number:09d}" if key is None else _text(key),
        place=place,
        image=image,
        captions=captions_in([fields[c] for c in columns.captions]),
        fields=fields,
        used=frozenset(c.lower() for c in (*columns.captions, columns.key, columns.url) if c),
        url=None if url is None else _text(url),
        fault=_fault(fields, columns, picture, image),
    )


def _fault(fields: dict[str, Any], columns: Columns, picture: Any, image: bytes | None) -> Fault | None:
    status = fields.get(columns.status) if columns.status else None
    if status is not None and status != "success":
        error = fields.get(columns.error) if columns.error else None
        return Fault(RejectReason.NOT_DOWNLOADED, f"{status}: {error}" if error else str(status))
    if image is not None:
        return None
    path = picture.get("path") if isinstance(picture, Mapping) else None
    detail = f"{columns.image} is null" if not path else f"{columns.image} has only a path, no bytes: {path}"
    return Fault(RejectReason.NO_IMAGE, detail)


def _text(value: Any) -> str:
    return utf8(value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value))
