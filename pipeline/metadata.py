"""Values of a shard's metadata: as typed columns (`--keep`), and the rest as JSON text."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa

from pipeline.config import Keep

_BYTES_SHOWN = 64
_FLOAT32_MAX = 3.4028234663852886e38
_INT64_MAX = 2**63 - 1


class BadValueError(Exception):
    """A value does not fit its column's type."""


def utf8(text: str) -> str:
    """The text with everything that UTF-8 cannot hold (lone surrogates) written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_json(fields: Mapping[str, object], without: Collection[str]) -> str | None:
    """The fields as JSON text, less nulls and those in `without` (lower case); None if nothing is left."""
    rest = {k: _plain(v) for k, v in fields.items() if k.lower() not in without}
    rest = {k: v for k, v in rest.items() if v is not None}
    return utf8(json.dumps(rest, ensure_ascii=False)) if rest else None


def _plain(value: Any) -> Any:
    """A value that JSON can hold: no NaN, no bytes, no times."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _BYTES_SHOWN else f"{len(value)} bytes"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def as_type(keep: Keep, value: Any) -> object:
    """The value as the column's type, null for null; raises BadValueError if it does not fit."""
    kind = keep.type or "string"
    if value is None or (kind != "string" and value == ""):
        return None
    try:
        return _CASTS[kind](value)
    except (ValueError, TypeError, OverflowError):
        text = repr(_plain(value))[:100]
        raise BadValueError(f"{keep.name} is {text}, which is no {kind}: keep it as {keep.name}:string") from None


def _string(value: Any) -> str | None:
    if isinstance(value, str):
        return utf8(value)
    plain = _plain(value)
    return None if plain is None else plain if isinstance(plain, str) else utf8(json.dumps(plain, ensure_ascii=False))


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and math.isnan(value):  # what pandas makes of a missing integer
        return None
    if isinstance(value, bool):
        raise ValueError
    number = int(value)
    if (isinstance(value, float) and number != value) or not -_INT64_MAX - 1 <= number <= _INT64_MAX:
        raise ValueError
    return number


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _float32(value: Any) -> float:
    number = _float(value)
    if math.isfinite(number) and abs(number) > _FLOAT32_MAX:
        raise ValueError
    return number


def _bool(value: Any) -> bool | None:
    if isinstance(value, float) and math.isnan(value):
        return None
    words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


_CASTS = {"string": _string, "int64": _integer, "float32": _float32, "float64": _float, "bool": _bool}


def type_of_column(column: pa.DataType) -> str:
    """The KEEP_TYPES name for an Arrow type; lists, structs and times are kept as text."""
    if pa.types.is_dictionary(column):
        column = column.value_type
    if pa.types.is_boolean(column):
        return "bool"
    if pa.types.is_integer(column):
        return "int64"
    if pa.types.is_float16(column) or pa.types.is_float32(column):
        return "float32"
    return "float64" if pa.types.is_floating(column) or pa.types.is_decimal(column) else "string"


def type_of_values(values: Iterable[object]) -> str:
    """The KEEP_TYPES name that fits some values; null fits everything, and nothing but null is text."""
    kinds = {type(v) for v in values if v is not None}
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int64"
    return "float64" if kinds and kinds <= {int, float} else "string"
