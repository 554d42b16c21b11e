"""The schedule with APScheduler's own clock: one at a time, late but once, again after failures; who is told."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import schedule as schedules
from pipeline.database import Database
from pipeline.errors import ConfigError
from pipeline.schedule import Retries, Schedule
from pipeline.ticks import book
from pipeline.ticks.book import Outcome, begin, end, plan, read_book
from pipeline.ticks.command import Ended, Running
from pipeline.ticks.cron import Cron
from pipeline.ticks.report import Reporter

EACH_SECOND = Cron("* * * * * *")
NEVER = Cron("0 0 1 1 *")
NEVER_IN_A_TEST = timedelta(days=1)


@dataclass
class Ticks:
    """Ticks that take a while and end as they are told to; the last code stands for all after it."""

    database: Database
    codes: list[int] = field(default_factory=lambda: [0])
    seconds: float = 0.0
    began: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def launch(self) -> Running:
        return _Tick(self, begin(self.database))

    def schedule(self, cron: Cron, retries: Retries | None = None, webhook: str = "") -> Schedule:
        plan(self.database, cron)
        return Schedule(self.database, cron, retries or Retries(0), self.launch, Reporter(self.database, webhook))


@dataclass
class _Tick(Running):
    ticks: Ticks
    name: str
    stopped: threading.Event = field(default_factory=threading.Event)

    def follow(self, say: Callable[[str], None]) -> Ended:
        ticks = self.ticks
        ticks.began.append(time.monotonic())
        ticks.at_once += 1
        ticks.most_at_once = max(ticks.most_at_once, ticks.at_once)
        self.stopped.wait(ticks.seconds)
        ticks.at_once -= 1
        code = 143 if self.stopped.is_set() else ticks.codes.pop(0) if len(ticks.codes) > 1 else ticks.codes[0]
        outcome = {0: Outcome.DONE, 143: Outcome.INTERRUPTED}.get(code, Outcome.FAILED)
        end(ticks.database, self.name, outcome, "verify: rows are wrong" if code == 1 else "", {"live": 7})
        return Ended(code, ("error: verify: rows are wrong",) if code else ())

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def ticks(tmp_path: Path) -> Ticks:
    return Ticks(Database(str(tmp_path / "lake"), "laion"))


class _OverError(Exception):
    """The end of a test, as a signal is one of a job."""


def run(schedule: Schedule, until: Callable[[], bool], within: float = 20) -> None:
    """Let a schedule run until something holds, and stop it as a job is stopped: by a signal that raises."""
    over = threading.Event()

    def watch() -> None:
        end = time.monotonic() + within
        while not until() and time.monotonic() < end:
            time.sleep(0.02)
        over.set()
        os.kill(os.getpid(), signal.SIGUSR1)

    def stop(number: int, frame: object) -> None:
        raise _OverError

    before = signal.signal(signal.SIGUSR1, stop)
    threading.Thread(target=watch).start()
    try:
        with pytest.raises(_OverError):
            schedule.run()
    finally:
        assert over.wait(within)
        signal.signal(signal.SIGUSR1, before)


def tenths(ticks: Ticks, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let every cron line come each tenth of a second, until so many ticks have begun."""
    apart = timedelta(seconds=0.1)
    monkeypatch.setattr(
        Cron, "after", lambda _, moment: moment + (apart if len(ticks.began) < most else NEVER_IN_A_TEST)
    )


def times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Let every cron line come so many seconds from now, and not again."""
    now = datetime.now(UTC)
    moments = [now + timedelta(seconds=s) for s in seconds]
    monkeypatch.setattr(
        Cron, "after", lambda _, moment: min((m for m in moments if m > moment), default=moment + NEVER_IN_A_TEST)
    )


def test_schedule_runs_a_tick_at_each_time(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    tenths(ticks, monkeypatch, 3)
    run(ticks.schedule(EACH_SECOND), lambda: len(ticks.began) == 3)
    assert [tick.outcome for tick in read_book(ticks.database).ticks] == ["done"] * 3


def test_times_that_pass_while_a_tick_runs_are_made_up_for_by_one_right_after_it(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks.seconds = 0.8
    schedule = ticks.schedule(EACH_SECOND)
    times(monkeypatch, 0.1, 0.6, 0.7)  # two pass while the first tick runs, and there is none after it
    run(schedule, lambda: len(ticks.began) > 1 and time.monotonic() > ticks.began[1] + 0.8 + 0.6)
    first, second = ticks.began  # not one for each time that passed
    assert second - first < 0.8 + 0.6  # at once
    assert ticks.most_at_once == 1


def test_time_that_was_missed_while_nobody_was_there_runs_once_and_late(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ago = datetime.now(UTC) - timedelta(hours=7)
    hourly = Cron(f"{ago.minute} * * * *")
    with monkeypatch.context() as earlier:
        earlier.setattr(book, "datetime", _At(ago))
        plan(ticks.database, hourly)
    run(ticks.schedule(hourly), lambda: bool(ticks.began) and time.monotonic() > ticks.began[0] + 0.6)
    assert len(ticks.began) == 1
    assert "UTC, which was missed" in capsys.readouterr().err


class _At:
    """A clock that stands."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def now(self, zone: Any) -> datetime:
        return self._moment


def test_time_that_a_tick_has_served_is_not_run_again_after_a_restart(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        tenths(ticks, earlier, 1)
        run(ticks.schedule(EACH_SECOND), lambda: len(ticks.began) == 1)
    until = time.monotonic() + 0.6
    run(ticks.schedule(NEVER), lambda: time.monotonic() > until)
    assert len(ticks.began) == 1


def test_time_whose_tick_failed_is_run_again_after_a_restart(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    started = datetime.now(UTC) - timedelta(minutes=50)
    hourly = Cron(f"{(started + timedelta(minutes=10)).minute} * * * *")
    with monkeypatch.context() as earlier:
        earlier.setattr(book, "datetime", _At(started))
        plan(ticks.database, hourly)
    end(ticks.database, begin(ticks.database), Outcome.FAILED, "embed: exit code 1", {})
    run(ticks.schedule(hourly), lambda: len(ticks.began) == 1)
    assert [tick.outcome for tick in read_book(ticks.database).ticks] == ["failed", "done"]


def test_tick_that_fails_is_run_again_with_growing_waits_and_then_given_up(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks.codes = [1]
    said = ""

    def given_up() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return "given up" in said

    schedule = ticks.schedule(EACH_SECOND, Retries(2, 0.2))
    times(monkeypatch, 0.1)
    run(schedule, given_up)
    first, second, third = ticks.began
    assert 0.2 <= second - first < third - second
    assert "run 1 of 3 at most ended with exit code 1" in said
    assert "given up after 3 runs" in said


def test_tick_that_fails_and_then_goes_well_is_not_run_again(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks.codes = [1, 0]
    schedule = ticks.schedule(EACH_SECOND, Retries(3, 0.1))
    times(monkeypatch, 0.1)
    run(schedule, lambda: len(ticks.began) > 1 and time.monotonic() > ticks.began[1] + 0.6)
    assert len(ticks.began) == 2


def test_of_two_schedules_of_a_table_one_runs_a_time_and_the_other_waits_and_sees_it(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks.seconds = 0.5
    monkeypatch.setattr(schedules, "_LOOKS", 0.05)
    two = [ticks.schedule(EACH_SECOND, Retries(3, 0.1)) for _ in range(2)]
    due = read_book(ticks.database).planned
    assert due is not None
    monkeypatch.setattr(Cron, "after", lambda cron, moment: due + timedelta(days=moment > due))
    threads = [threading.Thread(target=schedule._fire) for schedule in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(ticks.began), ticks.most_at_once) == (1, 1)


def test_schedule_that_is_stopped_stops_its_tick_and_waits_for_it(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks.seconds = 60
    tenths(ticks, monkeypatch, 1)
    run(ticks.schedule(EACH_SECOND, Retries(3, 0.1)), lambda: len(ticks.began) == 1)
    (tick,) = read_book(ticks.database).ticks
    assert tick.outcome == "interrupted"


def test_schedule_goes_on_when_a_tick_cannot_be_started(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tenths(ticks, monkeypatch, 1)
    schedule, tries = ticks.schedule(EACH_SECOND), []

    def launch() -> Running:
        tries.append(1)
        if len(tries) == 1:
            raise ConfigError("cannot run 'pyhton': there is no such program: name one after --")
        return ticks.launch()

    schedule.launch = launch
    run(schedule, lambda: len(ticks.began) == 1)
    assert "error: cannot run 'pyhton': there is no such program" in capsys.readouterr().err


@contextmanager
def listening(code: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real HTTP server: its URL, with a secret in it, and what was posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            assert self.headers["Content-Type"] == "application/json"
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hooks/s3cret", posted
    finally:
        server.shutdown()
        server.server_close()


def told(ticks: Ticks, webhook: str, *codes: int) -> None:
    """Some ticks, one after the other, and their reports."""
    reporter = Reporter(ticks.database, webhook)
    for code in codes:
        ticks.codes = [code]
        reporter.follow(ticks.launch)


def test_webhook_is_told_of_each_failure_and_of_the_first_success_after(ticks: Ticks) -> None:
    with listening() as (url, posted):
        told(ticks, url, 0, 1, 1, 0, 0)
    assert [(m["outcome"], m["exit_code"], m["why"]) for m in posted] == [
        ("failed", 1, "verify: rows are wrong"),
        ("failed", 1, "verify: rows are wrong"),
        ("done", 0, ""),
    ]
    names = [tick.name for tick in read_book(ticks.database).ticks]
    assert [m["tick"] for m in posted] == names[1:4]
    assert posted[0]["table"].endswith("lake/laion.lance")
    assert posted[0]["live"] == 7


@pytest.mark.parametrize("code", [404, 500])
def test_webhook_that_refuses_is_only_a_warning_without_its_path(
    ticks: Ticks, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(code) as (url, posted):
        told(ticks, url, 1)
    assert len(posted) == 1
    said = capsys.readouterr().err
    assert f"warning: the webhook at 127.0.0.1 could not be told: it answered {code}" in said
    assert "s3cret" not in said


def test_webhook_where_nobody_listens_is_only_a_warning(ticks: Ticks, capsys: pytest.CaptureFixture[str]) -> None:
    told(ticks, "http://127.0.0.1:9/hooks/s3cret", 1)
    said = capsys.readouterr().err
    assert "warning: the webhook at 127.0.0.1 could not be told: [Errno 111] Connection refused" in said
    assert "s3cret" not in said


@pytest.mark.parametrize("url", ["ftp://x/s3cret", "file:///etc/s3cret", "hooks/s3cret", "https:///s3cret"])
def test_webhook_that_is_no_http_url_is_refused_and_not_shown(ticks: Ticks, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--webhook is not valid: allowed is an http:// or https:// URL$"):
        Reporter(ticks.database, url)


@pytest.mark.parametrize(("count", "wait"), [(-1, 60.0), (3, -1.0), (3, float("nan"))])
def test_retries_that_cannot_be_are_refused(count: int, wait: float) -> None:
    with pytest.raises(ConfigError, match="is not valid: allowed is"):
        Retries(count, wait)
