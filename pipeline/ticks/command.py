"""A command as a process of this machine: followed line by line, stopped in order, never left behind."""

import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import ConfigError

KEPT = 20  # of the last lines
# Becomes the command once it is told to get SIGTERM when its parent dies (Linux's PR_SET_PDEATHSIG is 1).
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, and its last words."""

    code: int
    last: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Its last line that says why, in one line."""
        lines = [line.strip() for line in self.last if line.strip()]
        telling = [line for line in lines if line.startswith(("error:", "failed:"))]
        return f"exit code {self.code}" + (f": {(telling or lines)[-1]}" if lines else "")


class Running(Protocol):
    """A command that runs, here or on a cluster."""

    def follow(self, say: Callable[[str], None]) -> Ended:
        """Wait for its end; what it says is handed on, line by line. If the wait is interrupted, so is the command."""
        ...

    def stop(self) -> None:
        """Ask it to end in order; from any thread."""
        ...


class Process:
    """A command of this machine. If whoever started it is killed, it is asked to end."""

    def __init__(self, command: Sequence[str]) -> None:
        if shutil.which(command[0]) is None:
            raise ConfigError(f"cannot run {command[0]!r}: there is no such program: name one after --")
        tied = [sys.executable, "-c", _TIED] if sys.platform == "linux" else []
        self._process = subprocess.Popen(
            [*tied, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C comes to us, and from us to it, once
        )

    def follow(self, say: Callable[[str], None]) -> Ended:
        """Wait for its end."""
        last: deque[str] = deque(maxlen=KEPT)
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        try:
            for line in self._process.stdout:
                last.append(line.rstrip("\n"))
                say(last[-1])
        except BaseException:
            self.stop()
            self._process.communicate()
            raise
        return Ended(self._process.wait(), tuple(last))

    def stop(self) -> None:
        """SIGTERM, if it still runs."""
        self._process.terminate()
