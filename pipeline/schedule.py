"""The schedule: a tick at each time of a cron line, one at a time, late rather than never, and again if it fails.

APScheduler has the clock: of the times that pass while a tick runs, or while nobody is there, one is made up for. What
was missed is told by the table's book of ticks, so it is known to whoever starts next, on any machine.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_result,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_exponential,
)

from pipeline.database import Database
from pipeline.errors import BridgelakeError, ConfigError
from pipeline.ticks.book import read_book
from pipeline.ticks.command import Ended, Process, Running
from pipeline.ticks.cron import Cron
from pipeline.ticks.report import Reporter, say

_LONGEST = 3600.0  # seconds between two runs
_LOOKS = 5.0  # seconds between two looks at a tick that somebody else runs


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a tick that failed is run again, and after how many seconds first; then after twice as many."""

    count: int = 3
    first_wait: float = 60.0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"--retries {self.count} is not valid: allowed is 0 or more")
        if not self.first_wait >= 0:
            raise ConfigError(f"--backoff {self.first_wait:g} is not valid: allowed is a number of seconds, 0 or more")


def launch(here: Sequence[str], there: Sequence[str], address: str) -> Running:
    """Start a command: of this machine, or, if a cluster's address is given, the same as a Ray job there."""
    if not address:
        return Process(here)
    from pipeline.ticks.on_ray import RayJob  # Ray, which a schedule of one machine does without

    return RayJob(address, there)


class _Times(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """A cron line, as APScheduler asks for it."""

    def __init__(self, cron: Cron) -> None:
        self._cron = cron

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """The first time after the previous one."""
        return self._cron.after(previous or now)


@dataclass(slots=True)
class Schedule:
    """Runs ticks at the times of a cron line until it is stopped; `launch` starts each as a command of its own."""

    database: Database
    cron: Cron
    retries: Retries
    launch: Callable[[], Running]
    reporter: Reporter
    _stopping: threading.Event = field(default_factory=threading.Event)
    _running: Running | None = None
    _runs: int = 0

    def run(self) -> NoReturn:
        """Go on until a signal is raised as an exception; a tick that runs is then stopped in order.

        Raises:
            TableError: the book cannot be written.
        """
        first = self.cron.after(read_book(self.database).served() or datetime.now(UTC))
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it warns of each time that a tick outlasts
        # One worker and one place to wait for it: what comes while a tick runs is done after it, once.
        scheduler = BlockingScheduler(executors={"default": ThreadPoolExecutor(1)}, timezone=UTC)
        options = {"coalesce": True, "max_instances": 2, "misfire_grace_time": None, "next_run_time": first}
        scheduler.add_job(self._fire, _Times(self.cron), **options)
        late = ", which was missed" if first <= datetime.now(UTC) else ""
        say(f"the first tick is that of {first:%Y-%m-%d %H:%M:%S} UTC{late}")
        try:
            scheduler.start()
        finally:
            self._stopping.set()
            if (running := self._running) is not None:
                running.stop()
            scheduler.shutdown(wait=True)
        raise RuntimeError("the scheduler has ended by itself")

    def _fire(self) -> None:
        """A run, and more until one goes well."""
        self._runs = 0
        Retrying(
            retry=retry_if_result(bool),
            stop=stop_any(stop_after_attempt(self.retries.count + 1), stop_when_event_set(self._stopping)),
            wait=wait_exponential(multiplier=self.retries.first_wait, max=_LONGEST),
            sleep=sleep_using_event(self._stopping),
            before_sleep=_say_wait,
            retry_error_callback=self._give_up,
        )(self._run)

    def _run(self) -> int:
        """One run, if a time was missed; returns its exit code."""
        try:
            if not self._to_do():
                return 0
            self._runs += 1
            self.reporter.mark()
            self._running = running = self.launch()
            if self._stopping.is_set():  # it was set while there was nothing to stop yet
                running.stop()
            ended = running.follow(say)
        except BridgelakeError as error:
            ended = Ended(error.exit_code, (f"error: {error}",))
            say(ended.last[-1])
        finally:
            self._running = None
        if self._stopping.is_set():
            return ended.code
        runs = self.retries.count + 1
        say(f"run {self._runs} of {runs} at most ended with exit code {ended.code}")
        self.reporter.tell(ended, self._runs, runs)
        if not ended.code:
            self._say_next()
        return ended.code

    def _to_do(self) -> bool:
        """Whether a time was missed, once nobody runs a tick any more."""
        told = ""
        while not self._stopping.is_set():
            book, now = read_book(self.database), datetime.now(UTC)
            other = book.running(now)
            if other is None:
                served = book.served()
                return served is None or self.cron.after(served) <= now
            if told != other.name:
                told = other.name
                say(f"waiting for the tick that runs since {other.started:%Y-%m-%d %H:%M:%S} UTC on {other.machine}")
            self._stopping.wait(_LOOKS)
        return False

    def _give_up(self, state: RetryCallState) -> None:
        if not self._stopping.is_set():
            say(f"given up after {state.attempt_number} runs")
            self._say_next()

    def _say_next(self) -> None:
        say(f"the next tick is that of {self.cron.after(datetime.now(UTC)):%Y-%m-%d %H:%M:%S} UTC")


def _say_wait(state: RetryCallState) -> None:
    assert state.next_action is not None  # noqa: S101  # tenacity has decided to sleep
    say(f"the next run begins in {state.next_action.sleep:.0f} s")
