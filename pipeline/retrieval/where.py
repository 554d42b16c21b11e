"""A user's filter, looked at before anything is computed: columns that exist, SQL that is whole."""

import re
from typing import Any

from pipeline.errors import ConfigError
from pipeline.plain import plain

# Lance reads a filter up to where it makes sense and drops the rest: `width > 3 heigth > 4` would filter by width
# alone, and so would `width > 3; DROP TABLE x`. Between brackets the rest is an error.
_BRACKETS = ("{}", "({}\n)", "array_has([{}\n], true)")
# What makes a condition deep, outside of texts: Lance goes down it by recursion, and some 700 in a row end the process.
_DEEP = re.compile(r"""'(?:[^']|'')*'|(\b(?:and|or)\b|(?<=[\w)\]'"`])\s*[-+*/%|&^])""", re.IGNORECASE)
_DEEPEST = 400
_NOISE = re.compile(r"^(?:Invalid user input|Invalid input|lance error|Schema error|Error parsing statement|[,: ])+")


def check_where(dataset: Any, where: str) -> None:
    """Refuse a filter that Lance cannot take as a whole.

    Args:
        dataset: a `lance.LanceDataset`.
        where: an SQL condition over its columns.

    Raises:
        ConfigError: saying what is wrong; for an unknown column, which ones exist.
    """
    if (deep := sum(bool(found[1]) for found in _DEEP.finditer(where))) > _DEEPEST:
        raise ConfigError(
            f"--where {plain(where, 200)!r} is not valid: it joins {deep + 1} parts by AND, OR and the like, "
            f"allowed are {_DEEPEST + 1}; for a long list of values use IN (...)"
        )
    for brackets in _BRACKETS:
        try:
            dataset.scanner(filter=brackets.format(where), columns=[], with_row_id=True).explain_plan()
        except (ValueError, OSError, RuntimeError) as error:
            said = str(error)
            # In an array some conditions have no type of their own; there, only the parser is asked.
            if brackets is _BRACKETS[2] and "sql parser error" not in said:
                continue
            raise bad_where(dataset, where, said, whole=brackets is _BRACKETS[0]) from error


def bad_where(dataset: Any, where: str, said: str, *, whole: bool = True) -> ConfigError:
    """The error for a filter of which Lance `said` something; `whole` if it said so of the filter as it stands."""
    if unknown := re.search(r"No field named (.+?)\. Valid fields", said):
        why = f"there is no column {plain(unknown[1], 80)}; the columns are {', '.join(dataset.schema.names)}"
    elif not whole:
        why = "it is a condition with something left over; join conditions with AND or OR"
    else:
        first = re.split(r", /(?:home|root)/", said)[0]  # Lance appends the place in its own source
        parser = re.search(r"sql parser error: (.*)\)", first)
        why = plain(parser[1] if parser else _NOISE.sub("", first), 250)
    return ConfigError(f"--where {plain(where, 200)!r} is not valid: {why}")
