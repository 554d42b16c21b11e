"""Rows as one parquet, CSV or JSON-lines file, batch by batch."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_BYTES, _GROUP_ROWS = 32 * 2**20, 100_000

Batches = Iterable[pa.RecordBatch]
Writer = Callable[[BinaryIO, pa.Schema, Batches], int]  # returns how many rows there were


def write_parquet(file: BinaryIO, schema: pa.Schema, batches: Batches) -> int:
    """As parquet; float16, which few readers know, as float32."""
    rows = 0
    with RowGroups(file, pa.schema([pa.field(f.name, _wide(f.type)) for f in schema])) as groups:
        for batch in batches:
            groups.add(batch)
            rows += batch.num_rows
    return rows


class RowGroups:
    """A parquet file whose row groups are of a size that readers like, whatever comes at once."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._size = self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows of the schema, or of one that can be cast to it."""
        self._waiting.append(batch)
        self._size += batch.nbytes
        self._rows += batch.num_rows
        if self._size >= _GROUP_BYTES or self._rows >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting).cast(self._schema))
        self._waiting, self._size, self._rows = [], 0, 0

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()
        self._writer.close()


def _wide(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_wide(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_wide(kind.value_type))
    return pa.float32() if pa.types.is_float16(kind) else kind


def write_csv(file: BinaryIO, schema: pa.Schema, batches: Batches) -> int:
    """As CSV (RFC 4180) in UTF-8 with a header line; lists as JSON, null as nothing."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(schema.names)
    rows = 0
    for batch in batches:
        writer.writerows(zip(*(map(_cell, column) for column in _columns(batch)), strict=True))
        rows += batch.num_rows
    text.detach()  # flushes; the file is closed by whoever opened it
    return rows


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def write_json_lines(file: BinaryIO, schema: pa.Schema, batches: Batches) -> int:
    """As one JSON object a line; numbers that JSON does not know are null."""
    rows = 0
    for batch in batches:
        lines = (json.dumps(row, ensure_ascii=False) for row in plain_rows(batch))
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        rows += batch.num_rows
    return rows


def plain_rows(rows: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON can hold them."""
    return [dict(zip(rows.schema.names, row, strict=True)) for row in zip(*_columns(rows), strict=True)]


def _columns(batch: pa.RecordBatch | pa.Table) -> list[list[object]]:
    """The values of each column, as JSON can hold them."""
    return [list(map(_plainly(column.type), column.to_pylist())) for column in batch.columns]


def _plainly(kind: pa.DataType) -> Callable[[Any], object]:
    """How a value of a type is told: numbers in as few digits as they need."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        each = _plainly(kind.value_type)
        return lambda values: None if values is None else [each(value) for value in values]
    if pa.types.is_struct(kind):
        fields = {field.name: _plainly(field.type) for field in kind}
        return lambda value: None if value is None else {name: told(value[name]) for name, told in fields.items()}
    if pa.types.is_floating(kind):
        narrow = {pa.float16(): np.float16, pa.float32(): np.float32}.get(kind)
        shortest = (lambda value: float(str(narrow(value)))) if narrow else float
        return lambda value: None if value is None or not math.isfinite(value) else shortest(value)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return lambda value: value
    return lambda value: None if value is None else value.hex() if isinstance(value, bytes) else str(value)
