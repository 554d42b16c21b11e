"""What DataFusion says of a statement it cannot take -> the same in the user's words, at its place in the SQL."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.errors import BridgelakeError, ConfigError, LimitError
from pipeline.sql import wording
from pipeline.sql.functions import FUNCTIONS, CallError
from pipeline.sql.tokens import Token, tokens

_BEFORE, _AFTER = 60, 40  # characters of a long line that are shown about the place


class _Names(NamedTuple):
    """What a statement may name."""

    columns: Mapping[str, Sequence[str]]
    functions: Callable[[], list[str]]


@contextmanager
def at_its_place(
    statement: str, columns: Mapping[str, Sequence[str]], functions: Callable[[], list[str]], too_large: LimitError
) -> Iterator[None]:
    """Turn what goes wrong with a statement into an error that shows where in it.

    Args:
        statement: as the user wrote it.
        columns: table -> its columns.
        functions: tells the names of the functions that there are.
        too_large: the error for a statement that needs too much memory.
    """
    try:
        yield
    except CallError as error:
        where = _call(tokens(statement), error.function, error.subject)
        raise mistake(statement, where, str(error)) from error
    except BridgelakeError:
        raise
    except Exception as error:  # DataFusion raises the bare base class
        said = str(error)
        if "Resources exhausted" in said or "ResourcesExhausted" in said:
            raise too_large from error
        raise _explained(statement, said, _Names(columns, functions)) from error


def mistake(statement: str, start: int | None, why: str) -> ConfigError:
    """The error for a place in a statement: where it is, why, and the line with a caret."""
    if start is None:
        return ConfigError(f"the SQL is not valid: {why}")
    line = statement.count("\n", 0, start) + 1
    begin = statement.rfind("\n", 0, start) + 1
    text = statement[begin:].partition("\n")[0]
    column = start - begin
    cut = max(0, column - _BEFORE)
    shown = "".join(c if c.isprintable() else " " for c in text[cut : column + _AFTER])
    dots = "…" if cut else ""
    more = "…" if len(text) > column + _AFTER else ""
    caret = " " * (len(dots) + column - cut) + "^"
    return ConfigError(
        f"the SQL is not valid at line {line}, column {column + 1}: {why}\n  {dots}{shown}{more}\n  {caret}"
    )


def _explained(statement: str, said: str, names: _Names) -> ConfigError:
    words = tokens(statement)
    for pattern, explain in _KINDS:
        if found := re.search(pattern, said, re.DOTALL):
            start, why = explain(found, statement, words, names)
            return mistake(statement, start, why)
    return mistake(statement, None, wording.reason(said))


_Explained = tuple[int | None, str]


def _unparsed(found: re.Match[str], statement: str, _: list[Token], __: _Names) -> _Explained:
    lines = statement.split("\n")[: int(found[2])]
    start = sum(len(line) + 1 for line in lines[:-1]) + int(found[3]) - 1
    why = re.sub(r"^Expected: (.*), found: (.*)$", r"expected \1, found \2", found[1].rstrip())
    return min(start, len(statement)), why[:1].lower() + why[1:]


def _unfinished(found: re.Match[str], statement: str, _: list[Token], __: _Names) -> _Explained:
    return len(statement.rstrip()), found[1].replace("Expected: ", "expected ", 1) + ", found its end"


def _no_column(found: re.Match[str], _: str, words: list[Token], names: _Names) -> _Explained:
    parts = [part.strip('"') for part in re.findall(r'"(?:[^"]|"")*"|[^.]+', found[1].rstrip("."))]
    listed = re.search(r"Valid fields are (.*)\.", found.string, re.DOTALL)
    known = re.findall(r'((?:"(?:[^"]|"")*"|[^,.\s]+)(?:\.(?:"(?:[^"]|"")*"|[^,.\s]+))*)', listed[1]) if listed else []
    bare = [re.sub(r'^"\w+\(\)"\.', "", name) for name in known]
    where = _named(words, parts)
    function = parts[0] if len(parts) > 1 and parts[0] in FUNCTIONS else None
    if function:
        return where, f"{function} is a function: name its rows to prefix their columns, as in FROM {function}(…) h"
    prefixes = {name.rpartition(".")[0] for name in bare}
    alike = [name.rpartition(".")[2] for name in bare] if len(prefixes) == 1 else bare
    said = ", ".join(dict.fromkeys(alike)) or ", ".join(names.columns["samples"])
    return where, f"there is no column {'.'.join(parts)}; the columns here are {said}"


def _no_table(found: re.Match[str], _: str, words: list[Token], names: _Names) -> _Explained:
    name = re.sub(r"^datafusion\.(?:public\.)?", "", found[1])
    there = f"the tables are {', '.join(names.columns)}; files and other tables cannot be named"
    return _named(words, [name], True) or _named(words, name.split(".")), f"there is no table {name}; {there}"


def _no_table_function(found: re.Match[str], _: str, words: list[Token], __: _Names) -> _Explained:
    usage = ", ".join(f.usage for f in FUNCTIONS.values())
    return _call(words, found[1]), f"there is no function {found[1]} that gives a table; there are {usage}"


def _no_function(found: re.Match[str], _: str, words: list[Token], names: _Names) -> _Explained:
    name = found[1]
    if name.lower() in FUNCTIONS:
        why = f"{name} gives a table: it stands in FROM, as {FUNCTIONS[name.lower()].usage}"
        return _call(words, name), why
    if name.lower() in names.functions():
        return _call(words, name), f"{name} looks at other rows: write which, as in {name}() OVER (ORDER BY id)"
    like = difflib.get_close_matches(name.lower(), names.functions(), 5, 0.5)
    there = f"there are {', '.join(like)}" if like else "DataFusion's page on its functions lists them"
    return _call(words, name), f"there is no function {name}; {there}"


def _wrong_arguments(found: re.Match[str], _: str, words: list[Token], __: _Names) -> _Explained:
    return _call(words, found[1]), wording.reason(found.string)


def _changes(found: re.Match[str], _: str, words: list[Token], __: _Names) -> _Explained:
    return words[0].start if words else None, "SQL here only reads: SELECT, WITH, VALUES, EXPLAIN or DESCRIBE"


def _several(_: re.Match[str], __: str, words: list[Token], ___: _Names) -> _Explained:
    first = next((i for i, t in enumerate(words) if t.text == ";"), None)
    after = words[first + 1].start if first is not None and first + 1 < len(words) else None
    return after, "one statement at a time can be asked"


def _ambiguous(found: re.Match[str], _: str, words: list[Token], __: _Names) -> _Explained:
    name = found[1].strip('"')
    return _named(words, [name]), f"several tables have a column {name}: write which, as in h.{name}"


def _nothing(_: re.Match[str], __: str, ___: list[Token], ____: _Names) -> _Explained:
    return None, "there is no statement in it"


def _too_deep(_: re.Match[str], __: str, ___: list[Token], ____: _Names) -> _Explained:
    return None, "it is nested too deeply: 50 levels are allowed"


_KINDS: tuple[tuple[str, Callable[[re.Match[str], str, list[Token], _Names], _Explained]], ...] = (
    (r"(?:Parser|Tokenizer)Error\(\"(.*) at Line: (\d+), Column: (\d+)\"\)", _unparsed),
    (r"ParserError\(\"(.*), found: EOF\"\)", _unfinished),
    (r"No field named (.+?)\.(?: Valid| Did|\s|$)", _no_column),
    (r"table '(.+?)' not found", _no_table),
    (r"table function '(.+?)' not found", _no_table_function),
    (r"Invalid function '(.+?)'", _no_function),
    (r"(?:Function|function|planning:) '(\w+)' (?:expects|requires|failed|does not|user-defined)", _wrong_arguments),
    (r"Ambiguous reference to unqualified field (.+?)(?:$|\s)", _ambiguous),
    (r"(?:DDL|DML|Statement) not supported|Unsupported SQL statement|SHOW .* is not supported", _changes),
    (r"single SQL statement", _several),
    (r"No SQL statements", _nothing),
    (r"RecursionLimitExceeded", _too_deep),
)


def _named(words: Sequence[Token], parts: Sequence[str], texts: bool = False) -> int | None:
    """Where a name with its prefixes stands first; `texts` between single quotes are names of tables alone."""
    words = [word for word in words if texts or word.text[0] != "'"]
    for i, word in enumerate(words):
        rest = words[i : i + 2 * len(parts) - 1]
        alone = not (i and words[i - 1].text == ".")
        if alone and word.name == parts[0] and [t.name for t in rest[::2]] == list(parts):
            return word.start
    last = next((w for w in words if w.name == parts[-1]), None)
    return last.start if last else None


def _call(words: Sequence[Token], function: str, subject: str | None = None) -> int | None:
    """Where a function is called first; with its first argument, which of its calls that is."""
    calls = [
        (word.start, words[i + 2].name if words[i + 2 :] else None)
        for i, word in enumerate(words[:-1])
        if word.name == function.lower() and words[i + 1].text == "("
    ]
    return next((start for start, first in calls if first == subject), calls[0][0] if calls else None)
