"""What shall be taken down: an SQL condition, or ids, URLs and SHA-256 from the command line and from files."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import ConfigError, InputError
from pipeline.plain import plain
from pipeline.stores.retry import call
from pipeline.stores.storage import connect, explain, redact

_NAMED = 5  # bad lines
_WHAT = {
    "id": (re.compile(r"[0-9a-f]{32}"), "an id: allowed are 32 digits 0-9 and a-f"),
    "url": (re.compile(r"[^\s:]+://\S+"), "a URL: allowed is one such as http://host/picture.jpg, without spaces"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "a SHA-256: allowed are 64 digits 0-9 and a-f"),
}


@dataclass(frozen=True, slots=True)
class Order:
    """What to take down, and why.

    Attributes:
        where: an SQL condition over the table: the pairs that meet it now, by their ids.
        ids: of pairs.
        urls: of every pair with exactly that URL.
        sha256: of pictures: every pair of them, in any dataset.
        why: kept beside each.
    """

    where: str = ""
    ids: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        _ = self.values  # raises ConfigError for what is none

    def __bool__(self) -> bool:
        return bool(self.where.strip() or any(self.values.values()))

    @property
    def values(self) -> Mapping[str, tuple[str, ...]]:
        """What is named, by the column that holds it."""
        named = {"id": self.ids, "url": self.urls, "sha256": self.sha256}
        return {column: valid(column, f"--{column}", enumerate(some, 1), "number") for column, some in named.items()}


def read_values(column: str, path: str) -> tuple[str, ...]:
    """The values in a file, one a line; empty lines and those that begin with # are passed over.

    Args:
        column: id, url or sha256.
        path: of the file, or its fsspec URL.

    Raises:
        InputError: it cannot be read.
        ConfigError: naming the lines that hold something else.
    """
    store, where = connect(path)
    try:
        data: bytes = call(store.cat_file, where)
    except Exception as error:  # each store has errors of its own
        raise InputError(f"{redact(path)} cannot be read: {explain(error)}") from error
    return valid(column, redact(path), _lines(data), "line")


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    for number, line in enumerate(text.split("\n"), 1):
        if (value := line.strip()) and not value.startswith("#"):
            yield number, value


def valid(column: str, source: str, values: Iterable[tuple[int, str]], unit: str) -> tuple[str, ...]:
    """The values, each once, hexadecimal ones in small letters.

    Raises:
        ConfigError: naming those that are none.
    """
    pattern, allowed = _WHAT[column]
    found: dict[str, None] = {}
    wrong: list[str] = []
    for number, given in values:
        value = given if column == "url" else given.lower()
        if pattern.fullmatch(value) and "\ufffd" not in value:
            found[value] = None
        else:
            wrong.append(f"{unit} {number}: {plain(given, 80)!r}")
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ConfigError(f"{source}: not {allowed}; {', '.join(wrong[:_NAMED])}{more}")
    return tuple(found)
