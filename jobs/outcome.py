"""How every job ends: exit codes, errors in one line, signals."""

import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import tyro

from bridgelake import BridgelakeError, ModelError
from pipeline.forecasts.outlook import Forecast
from pipeline.forecasts.report import show
from pipeline.stores.storage import redact
from pipeline.summary import Summary
from pipeline.watch.interrupts import end, leave
from pipeline.watch.log import JsonLines

Options = TypeVar("Options")

# Ray prints what its daemons say to standard output, which is the result's; read when Ray is first imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")


def finish(options: type[Options], main: Callable[[Options], int], description: str) -> None:
    """Parse the command line, run the job, and exit with its code.

    0 all done; 1 something is left undone; 2 the command line or a value in it is not valid;
    130 and 143 after SIGINT and SIGTERM.
    """
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    parsed = tyro.cli(options, description=description, config=(tyro.conf.OmitArgPrefixes,))
    log: JsonLines | None = getattr(getattr(parsed, "compute", None), "log", None)
    try:
        code = main(parsed)
    except (BridgelakeError, ModelError) as error:
        say(f"error: {redact(str(error))}", log)
        code = error.exit_code
    except KeyboardInterrupt:
        say("interrupted; what was committed stays, the same command goes on from there", log)
        code = 130
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        # While Ray starts, SIGTERM is answered by Ray's own handler, with the bare number of the signal.
        code = 143 if ended.code == signal.SIGTERM else ended.code
    end(code)


class _Stop:
    """Ends the job in order: the commit in hand is finished. SIGINT after that ends it at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            raise SystemExit(143) if number == signal.SIGTERM else KeyboardInterrupt
        if number == signal.SIGINT:
            leave(130)


def say(line: str, log: JsonLines | None) -> None:
    """A line on standard error: an event, if the job has a log for machines."""
    if log is None:
        print(line, file=sys.stderr)
    else:
        log.say(line)


def report(summary: Summary, as_json: bool, log: JsonLines | None) -> int:
    """Print what a run did, unless its log has told; returns its exit code."""
    if log is None:
        print("\n".join(summary.lines()), file=sys.stderr)
    if as_json:
        show_json(summary.to_dict())
    return 0 if summary.outcome == "done" else 1


def tell(forecast: Forecast, as_json: bool) -> int:
    """Print what a run would do; returns the exit code."""
    if as_json:
        show_json(forecast.to_dict())
    else:
        show(forecast)
    return 0


def show_json(value: Any) -> None:
    """One machine-readable object on standard output."""
    print(json.dumps(value, default=str))
