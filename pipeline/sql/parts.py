"""Columns, literals and how they compare, in the words of Lance's filter language.

DataFusion compares in the wider of two types and says so by casts; Lance reads a literal as a value of the column's
type. So `itm_score > 0.8` is told here in the column's own terms, and an index on it can be used.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.plain import quoted

COMPARED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}  # and read from the right
INT32, INT64, FLOAT32, FLOAT64 = "int32", "int64", "float", "double"  # as Arrow calls them
NUMBERS = (INT32, INT64, FLOAT32, FLOAT64)
TEXT, TRUTH, NULL = "string", "bool", "null"
TEXTS, FLOATS = "list<item: string>", "list<item: float>"
# Casts that cannot fail: what DataFusion calls the type, what Arrow does, what Lance does, and from what.
CASTS = {
    "Int64": (INT64, "BIGINT", (INT32,)),
    "Float32": (FLOAT32, "FLOAT", (INT32, INT64)),
    "Float64": (FLOAT64, "DOUBLE", (INT32, INT64, FLOAT32)),
}


class UntranslatableError(Exception):
    """Lance has no words for it, or may mean something else by them."""


class Part(NamedTuple):
    """A piece of a condition in Lance's words."""

    text: str
    type: str
    value: Any = None  # of a literal
    column: "Part | None" = None  # a bare column: itself; a cast of one: the column


def said_of(part: Part, *types: str) -> str:
    """What a part says, if it is of one of these types or NULL."""
    if part.type not in (*types, NULL):
        raise UntranslatableError
    return part.text


def column_part(field: pa.Field) -> Part:
    """A stored column."""
    if "`" in field.name or "." in field.name:  # Lance reads a dot as the way into a struct
        raise UntranslatableError
    kind = f"list<item: {field.type.value_type}>" if pa.types.is_list(field.type) else str(field.type)
    if kind not in (*NUMBERS, TEXT, TRUTH, TEXTS, FLOATS):
        raise UntranslatableError
    bare = Part(f"`{field.name}`", kind)
    return bare._replace(column=bare)


def literal_part(scalar: pa.Scalar) -> Part:
    """A value as it stands in the statement."""
    value, kind = scalar.as_py(), str(scalar.type)
    if value is None:
        return Part("NULL", NULL)
    if kind == TEXT:
        return Part(quoted(value), TEXT, value)
    if kind == TRUTH:
        return Part(str(value).lower(), TRUTH, value)
    if kind not in NUMBERS or not math.isfinite(value):
        raise UntranslatableError
    return Part(repr(value), kind, value)


def compared(operator: str, left: Part, right: Part) -> Part:
    """Two parts of one type beside a sign."""
    if left.value is not None and right.column is not None:
        operator, left, right = COMPARED[operator], right, left
    if NULL not in (left.type, right.type) and left.type != right.type:
        raise UntranslatableError
    column, value = left.column, right.value
    if column is None or value is None or column.type not in NUMBERS:
        return Part(f"({left.text} {operator} {right.text})", TRUTH)
    if holds(column, [value]):
        return Part(f"({column.text} {operator} {right.text})", TRUTH)
    below = _below(value)
    if column.type == FLOAT32 and operator not in ("=", "!=") and math.isfinite(below):
        # The bound lies between two of the column's values: what is over it is over the lower one.
        return Part(f"({column.text} {'>' if operator in ('>', '>=') else '<='} {below!r})", TRUTH)
    return Part(f"({left.text} {operator} {typed(right)})", TRUTH)


def _below(bound: float) -> float:
    """The largest number of 32 bits that is not above a bound."""
    with np.errstate(over="ignore"):
        near = np.float32(bound)
    return float(near if float(near) <= bound else np.nextafter(near, np.float32(-np.inf)))


def holds(column: Part, values: Sequence[Any]) -> bool:
    """Whether a column's own type holds these numbers as they are, so that Lance reads them so."""
    if column.type in (INT32, INT64):
        largest = 2 ** (31 if column.type == INT32 else 63)
        return all(isinstance(v, int) and -largest <= v < largest for v in values)
    with np.errstate(over="ignore"):
        return column.type == FLOAT64 or all(float(np.float32(v)) == v for v in values)


def typed(part: Part) -> str:
    """A literal with its type, which Lance would else take from the column."""
    names = {kind: name for kind, name, _ in CASTS.values()}
    return part.text if part.value is None or part.type not in names else f"CAST({part.text} AS {names[part.type]})"
