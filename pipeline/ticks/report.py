"""Who is told how a run of a tick ended: whoever reads standard error, and a webhook."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.database import Database
from pipeline.errors import BridgelakeError
from pipeline.stores.storage import redact
from pipeline.ticks.book import Outcome, Tick, read_book
from pipeline.ticks.command import Ended, Running
from pipeline.ticks.webhook import post, require_url


def say(line: str) -> None:
    """One line on standard error, now."""
    print(line, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Reporter:
    """A webhook is told of the runs that failed, and of the first that went well after one that did not."""

    database: Database
    webhook: str = ""
    _before: Tick | None = None

    def __post_init__(self) -> None:
        require_url(self.webhook)

    def mark(self) -> None:
        """A run begins."""
        self._before = self._latest()

    def tell(self, ended: Ended, run: int = 1, runs: int = 1) -> None:
        """A run ended: number `run` of as many as are tried at most."""
        if not self.webhook:
            return
        before, latest = self._before, self._latest()
        mine = latest if latest and (before is None or latest.name != before.name) else None
        recovered = before is not None and before.outcome != Outcome.DONE
        if not (ended.code or recovered):
            return
        message: dict[str, Any] = {
            "table": self.database.shown,
            "outcome": "failed" if ended.code else "done",
            "exit_code": ended.code,
            "why": redact((mine.why if mine else "") or ended.why) if ended.code else "",
            "run": run,
            "of": runs,
        }
        if mine is not None:
            message |= {"tick": mine.name, "started": mine.started}
            message |= {name: mine.summary.get(name) for name in ("live", "quarantined")}
        post(self.webhook, message, say)

    def once(self, tick: Callable[[], Tick]) -> int:
        """A tick in this process; returns its exit code."""
        self.mark()
        try:
            done = tick()
        except BridgelakeError as error:
            self.tell(Ended(error.exit_code, (str(error),)))
            raise
        code = 0 if done.outcome == Outcome.DONE else 1
        if code:
            say(f"error: {done.why}; live stays at {done.summary.get('live') or 'no version'}")
        self.tell(Ended(code, (done.why,)))
        return code

    def follow(self, launch: Callable[[], Running]) -> int:
        """A tick as a command of its own; returns its exit code."""
        self.mark()
        ended = launch().follow(say)
        self.tell(ended)
        return ended.code if ended.code in (0, 1, 2) else 1

    def _latest(self) -> Tick | None:
        try:
            ticks = read_book(self.database).ticks
        except BridgelakeError:
            return None  # the run has told what is wrong with the store, or will
        return ticks[-1] if ticks else None
