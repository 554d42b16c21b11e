"""Text from anywhere -> text that is safe where it goes: on one line of a terminal or a page, or in SQL."""

import unicodedata

_JOINERS = "\u200c\u200d"  # needed to write Persian, and in many emoji
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (what turns the reading direction among them), separators


def plain(text: str, longest: int = 300) -> str:
    """One line of at most `longest` characters; what cannot be seen is written as Python escapes it."""
    line = shortened(" ".join(text.split()), longest)
    shown = (c if c in _JOINERS or unicodedata.category(c) not in _UNSAFE else _escaped(c) for c in line)
    return shortened("".join(shown), longest)


def shortened(text: str, longest: int) -> str:
    """The text, cut to `longest` characters with an ellipsis at the end if it is longer."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def quoted(text: str) -> str:
    """An SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
