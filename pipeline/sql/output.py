"""Rows on their way out: a table for people, or CSV, JSON lines or parquet as an export writes them."""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from pipeline.errors import ConfigError, OutputError
from pipeline.exports.flat import Writer, write_csv, write_json_lines, write_parquet
from pipeline.exports.output import whole_file
from pipeline.plain import plain
from pipeline.sql.answers import Batches
from pipeline.terminal import console

_SHOWN = 1000  # rows that a person is shown
_CELL = 160  # characters
_LINE = 1000  # of a text with several


def check_format(format_: str, output: str | None) -> None:
    """Refuse what cannot be written before anything is asked.

    Raises:
        ConfigError: an unknown format, or parquet on a terminal.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"--format {format_!r} is not valid: allowed is {', '.join(FORMATS)}")
    if format_ == "parquet" and output is None:
        raise ConfigError("--format parquet is not text: name a file with --output")


def write_rows(batches: Batches, format_: str, output: str | None) -> int:
    """Write rows to a file, or on standard output; returns how many.

    Args:
        batches: the rows.
        format_: one of FORMATS.
        output: a new file, a path or fsspec URL; it appears once it is whole.

    Raises:
        ConfigError: there is such a file.
        OutputError: it cannot be written.
    """
    if output is not None:
        with whole_file(output) as file:
            return FORMATS[format_](file, batches.schema, batches)
    try:
        if format_ == "table":
            return show(batches, batches.schema, sys.stdout)
        return FORMATS[format_](sys.stdout.buffer, batches.schema, batches)
    except OSError as error:
        if error.errno is None:  # Lance's, of what is read
            raise
        with Path(os.devnull).open("wb") as nothing:  # for what is in buffers
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def show(batches: Iterable[pa.RecordBatch], schema: pa.Schema, stream: TextIO) -> int:
    """Print rows as a table for people; nothing in them is taken for markup or control codes."""
    here = console(stream)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in schema:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(plain(field.name, 60)), justify="right" if numeric else "left", overflow="fold")
    count = 0
    for row in _rows(batches):
        count += 1
        if count > _SHOWN:
            break
        table.add_row(*(Text(_cell(value)) for value in row))
    if count:
        here.print(table)
    more = f"more than {_SHOWN} rows: --format csv, jsonl or parquet gives all" if count > _SHOWN else ""
    here.print(Text(more or ("1 row" if count == 1 else f"{count} rows" if count else "no rows"), "dim"))
    return min(count, _SHOWN)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        yield from zip(*(_values(column) for column in batch.columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    """Python's values; times as text, for Arrow knows years that Python does not."""
    values: list[Any] = (column.cast(pa.string()) if pa.types.is_temporal(column.type) else column).to_pylist()
    return values


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else repr(value)
    if isinstance(value, list | dict):
        return plain(json.dumps(value, ensure_ascii=False, default=str), _CELL)
    if isinstance(value, bytes):
        return plain(value.hex(), _CELL)
    return _lines(value) if isinstance(value, str) else plain(str(value), _CELL)


def _lines(text: str) -> str:
    """Several lines stay several lines: those of an EXPLAIN are a tree."""
    return "\n".join(_indented(line) for line in text.split("\n")) if text.count("\n") < 200 else plain(text, _CELL)


def _indented(line: str) -> str:
    bare = line.lstrip(" ")
    return " " * (len(line) - len(bare)) + plain(bare, _LINE)


def _table(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    text = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
    count = show(batches, schema, text)
    text.detach()  # flushes; the file is closed by whoever opened it
    return count


FORMATS: dict[str, Writer] = {
    "table": _table,
    "csv": write_csv,
    "jsonl": write_json_lines,
    "parquet": write_parquet,
}
