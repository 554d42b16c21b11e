"""How every job ends: exit codes, errors in one line, signals."""

import json
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import tyro

from bridgelake import BridgelakeError, ModelError

Options = TypeVar("Options")


def finish(options: type[Options], main: Callable[[Options], int], description: str) -> None:
    """Parse the command line, run the job, and exit with its code.

    0 all done; 1 something is left undone; 2 the command line or a value in it is not valid;
    130 and 143 after SIGINT and SIGTERM.
    """
    signal.signal(signal.SIGTERM, _terminated)
    parsed = tyro.cli(options, description=description, config=(tyro.conf.OmitArgPrefixes,))
    try:
        code = main(parsed)
    except (BridgelakeError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was committed stays, the same command goes on from there", file=sys.stderr)
        code = 130
    except SystemExit as ended:
        # While Ray starts, SIGTERM is answered by Ray's own handler, with the bare number of the signal.
        if ended.code != signal.SIGTERM:
            raise
        code = 143
    sys.exit(code)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(143)


def show_json(value: Any) -> None:
    """One machine-readable object on standard output."""
    print(json.dumps(value, default=str))
