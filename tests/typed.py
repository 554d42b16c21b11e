"""Jobs as a person types them, run by the interpreter of the tests: what they import is there already.

The script itself runs, from its first line to its exit code. Tests of signals, of several jobs at once and of what a
fresh process imports start real processes.
"""

import io
import runpy
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from jobs import outcome
from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Done:
    """A job that has ended."""

    returncode: int
    stdout: str
    stderr: str


def typed(script: str, *arguments: str) -> Done:
    """`python jobs/<script>.py <arguments>` from the repository's root."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    path = str(REPOSITORY / "jobs" / f"{script}.py")
    with pytest.MonkeyPatch.context() as here, redirect_stdout(out), redirect_stderr(err):
        here.setattr(sys, "argv", [path, *arguments])
        here.setattr(outcome, "end", sys.exit)  # this process goes on
        here.chdir(REPOSITORY)
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    code = ended.value.code
    said = [file.buffer.getvalue().decode() for file in (out, err)]  # type: ignore[attr-defined]
    return Done(code if isinstance(code, int) else int(code is not None), *said)
