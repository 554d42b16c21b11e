"""The words and signs of SQL, and where they stand in it."""

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \w+ | \S""", re.DOTALL | re.VERBOSE
)


class Token(NamedTuple):
    """A word or sign of a statement."""

    text: str
    start: int

    @property
    def name(self) -> str:
        """What it names: in lower case unless it is quoted."""
        quoted = self.text[0] in "\"'`"
        return self.text[1:-1].replace(self.text[0] * 2, self.text[0]) if quoted else self.text.lower()


def tokens(statement: str) -> list[Token]:
    """The words and signs of a statement, comments left out."""
    found = (Token(m[0], m.start()) for m in _TOKEN.finditer(statement))
    return [t for t in found if not t.text.startswith(("--", "/*"))]


def heaviness(statement: str) -> int:
    """How many words and signs there are beside literals, dots, commas and brackets.

    Chains of operators are planned by recursion; literals of a long IN are not.
    """
    return sum(1 for token in tokens(statement) if not token.text[0].isdigit() and token.text[0] not in "'.,()")
