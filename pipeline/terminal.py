"""What people read on a terminal, or in a file in its place."""

import os
import sys
from typing import TextIO

from rich.console import Console
from rich.filesize import decimal

_PIPED_WIDTH = 140  # where there is no terminal to ask


def console(stream: TextIO | None = None) -> Console:
    """Standard output, or `stream`; what is printed is no markup unless it is made to be."""
    stream = stream or sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII still gets an answer
    known = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, width=None if known else _PIPED_WIDTH, highlight=False, markup=False)


def size(count: float) -> str:
    """Bytes as a person says them: 1.2 MB, where M is a million."""
    return decimal(round(count))
