"""A condition of a user's statement -> the same in Lance's filter language, where Lance means the same by it.

Only what is known to mean the same, and what cannot fail on a row, is written: the statement applies its whole WHERE
in any case.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from datafusion.expr import Expr

from pipeline.sql.parts import (
    CASTS,
    COMPARED,
    FLOAT32,
    FLOATS,
    INT32,
    INT64,
    NULL,
    NUMBERS,
    TEXT,
    TEXTS,
    TRUTH,
    Part,
    UntranslatableError,
    column_part,
    compared,
    holds,
    literal_part,
    said_of,
    typed,
)

Field = Callable[[str | None, str], pa.Field]  # (table's alias, name) -> the stored column
_DEEPEST = 40  # Lance's parser gives up at 50
_LIKE = {"like": "LIKE", "not like": "NOT LIKE", "ilike": "ILIKE", "not ilike": "NOT ILIKE"}
_POSTFIX = {
    "IsNull": "IS NULL",
    "IsNotNull": "IS NOT NULL",
    "IsTrue": "IS TRUE",
    "IsNotTrue": "IS NOT TRUE",
    "IsFalse": "IS FALSE",
    "IsNotFalse": "IS NOT FALSE",
}
# What they take and give. None of them can fail on a row, or give another answer when asked again.
_FUNCTIONS = {
    "lower": ((TEXT,), TEXT),
    "upper": ((TEXT,), TEXT),
    "character_length": ((TEXT,), INT32),
    "strpos": ((TEXT, TEXT), INT32),
    "starts_with": ((TEXT, TEXT), TRUTH),
    "ends_with": ((TEXT, TEXT), TRUTH),
    "contains": ((TEXT, TEXT), TRUTH),
    "regexp_like": ((TEXT, TEXT), TRUTH),
    "array_has": ((TEXTS, TEXT), TRUTH),
}


_ELEMENTS = {TEXTS: TEXT, FLOATS: FLOAT32}  # NULL beyond the end


def translated(condition: Expr, field: Field) -> str:
    """The condition for Lance.

    Args:
        condition: as DataFusion has analysed it, before it is optimised.
        field: the stored column that a name stands for; it raises UntranslatableError where it stands for none.

    Raises:
        UntranslatableError: it cannot be said there, or it touches no column.
    """
    touched: list[str] = []

    def noting(alias: str | None, name: str) -> pa.Field:
        found = field(alias, name)
        touched.append(found.name)
        return found

    part = _part(condition, noting, 0)
    if part.type != TRUTH or not touched:
        raise UntranslatableError
    return part.text


def joined(word: str, texts: Sequence[str]) -> str:
    """Conditions joined by AND or OR, as a tree of little depth: Lance ends the process at some 1,000 in a row."""
    if len(texts) == 1:
        return texts[0]
    half = len(texts) // 2
    return f"({joined(word, texts[:half])} {word} {joined(word, texts[half:])})"


def spread(condition: Expr, operator: str) -> list[Expr]:
    """What a chain of ANDs or ORs holds, in its order."""
    rest, found = [condition], list[Expr]()
    while rest:
        one = rest.pop()
        if one.variant_name() == "BinaryExpr" and one.rex_call_operator() == operator:
            rest += one.rex_call_operands()
        else:
            found.append(one)
    return found[::-1]


def _part(expr: Expr, field: Field, depth: int) -> Part:
    kind = expr.variant_name()
    if kind == "Column":
        column = expr.to_variant()
        return column_part(field(column.relation(), column.name()))
    if kind == "Literal":
        return literal_part(expr.python_value())
    write = _WRITERS.get(kind)
    if write is None or depth > _DEEPEST:
        raise UntranslatableError
    chain = kind == "BinaryExpr" and expr.rex_call_operator() in ("AND", "OR")
    operands = spread(expr, expr.rex_call_operator()) if chain else expr.rex_call_operands()
    return write(expr, [_part(operand, field, depth + 1) for operand in operands])


def _binary(expr: Expr, parts: Sequence[Part]) -> Part:
    operator = expr.rex_call_operator()
    if operator in ("AND", "OR"):
        return Part(joined(operator, [said_of(part, TRUTH) for part in parts]), TRUTH)
    left, right = parts
    if operator in COMPARED:
        return compared(operator, left, right)
    if operator == "||":
        return Part(f"({said_of(left, TEXT)} || {said_of(right, TEXT)})", TEXT)
    whole = left.type in (INT32, INT64)
    divides = operator in ("/", "%") and (not whole or right.value not in (None, 0, -1))  # and cannot fail
    if left.type != right.type or left.type not in NUMBERS or not (divides or operator in ("+", "-", "*")):
        raise UntranslatableError
    return Part(f"({typed(left)} {operator} {typed(right)})", left.type)


def _widened(expr: Expr, parts: Sequence[Part]) -> Part:
    kind, name, takes = CASTS.get(re.findall(r" AS (\w+)\)$", expr.canonical_name())[-1], ("", "", ()))
    (part,) = parts
    if part.type in (kind, NULL):
        return part
    said_of(part, *takes)
    if part.value is not None:
        value = int(part.value) if kind == INT64 else float(np.float32(part.value) if kind == FLOAT32 else part.value)
        return Part(repr(value), kind, value)
    return Part(f"CAST({part.text} AS {name})", kind, column=part.column)


def _like(expr: Expr, parts: Sequence[Part]) -> Part:
    if expr.to_variant().escape_char() is not None:  # Lance knows only the backslash
        raise UntranslatableError
    text, pattern = (said_of(part, TEXT) for part in parts)
    return Part(f"({text} {_LIKE[expr.rex_call_operator()]} {pattern})", TRUTH)


def _between(expr: Expr, parts: Sequence[Part]) -> Part:
    subject, low, high = parts
    both = f"({compared('>=', subject, low).text} AND {compared('<=', subject, high).text})"
    return Part(f"(NOT {both})" if expr.to_variant().negated() else both, TRUTH)


def _in(expr: Expr, parts: Sequence[Part]) -> Part:
    subject, *others = parts
    if any(other.value is None and other.type != NULL for other in others):
        raise UntranslatableError
    texts = [said_of(other, subject.type) for other in others]
    values, column = [other.value for other in others if other.value is not None], subject.column
    if column is not None and column.type in NUMBERS:
        own = holds(column, values)
        subject, texts = (column, texts) if own else (subject, [typed(other) for other in others])
    word = "NOT IN" if expr.to_variant().negated() else "IN"
    return Part(f"({subject.text} {word} ({', '.join(texts)}))", TRUTH)


def _call(expr: Expr, parts: Sequence[Part]) -> Part:
    name = expr.rex_call_operator()
    if name == "array_element" and parts[0].type in _ELEMENTS and parts[1].value is not None:
        return Part(f"array_element({parts[0].text}, {said_of(parts[1], INT64)})", _ELEMENTS[parts[0].type])
    takes, gives = _FUNCTIONS.get(name, ((), ""))
    if len(takes) != len(parts) or not takes:
        raise UntranslatableError
    if name == "regexp_like" and parts[1].value is None:
        raise UntranslatableError  # a row's own pattern may be none
    return Part(f"{name}({', '.join(said_of(*pair) for pair in zip(parts, takes, strict=True))})", gives)


def _postfix(expr: Expr, parts: Sequence[Part]) -> Part:
    return Part(f"({parts[0].text} {_POSTFIX[expr.variant_name()]})", TRUTH)


def _not(expr: Expr, parts: Sequence[Part]) -> Part:
    return Part(f"(NOT {said_of(parts[0], TRUTH)})", TRUTH)


_WRITERS: dict[str, Callable[[Expr, Sequence[Part]], Part]] = {
    "BinaryExpr": _binary,
    "Cast": _widened,
    "Like": _like,
    "Between": _between,
    "InList": _in,
    "ScalarFunction": _call,
    "Not": _not,
    **dict.fromkeys(_POSTFIX, _postfix),
}
