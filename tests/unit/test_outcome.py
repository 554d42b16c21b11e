"""How a job ends: its exit code, and its errors in one line."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from jobs import outcome
from jobs.options import ComputeOptions
from jobs.outcome import finish, show_json
from pipeline.errors import ConfigError, InputError
from pipeline.watch.events import Started


@dataclass
class Options:
    number: int = 1
    """A number."""


@dataclass
class Logged:
    compute: ComputeOptions = field(default_factory=ComputeOptions)


@pytest.fixture(autouse=True)
def _kept_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(outcome, "end", sys.exit)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def ended(main: Callable[[Options], int], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["job", *arguments])
    with pytest.raises(SystemExit) as exit_:
        finish(Options, main, "A job.")
    return exit_.value.code


def raising(error: BaseException) -> Callable[[Options], int]:
    def main(options: Options) -> int:
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1])
def test_job_exits_with_the_code_of_its_main(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(lambda options: code, monkeypatch) == code


def test_job_gives_the_parsed_options_to_its_main(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(lambda options: options.number, monkeypatch, "--number", "7") == 7


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("no shard in x"), 1), (ConfigError("--keep 'a b' is not valid"), 2)]
)
def test_job_says_an_error_in_one_line_on_standard_error(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(raising(error), monkeypatch) == code
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"error: {error}\n")


def test_job_says_no_secret_of_a_url(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = InputError("there is no table https://me:hunter2@store/lake?X-Amz-Signature=abcdef")
    assert ended(raising(error), monkeypatch) == 1
    assert capsys.readouterr().err == "error: there is no table https://***@store/lake?X-Amz-Signature=***\n"


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [(InputError("no shard in x"), "error", "no shard in x"), (KeyboardInterrupt(), "info", "interrupted; what was")],
)
def test_job_with_a_log_for_machines_says_its_end_as_an_event(
    error: BaseException, level: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(options: Logged) -> int:
        assert options.compute.log is not None
        options.compute.log.hear(Started("r1", "laion", "lake"))
        raise error

    monkeypatch.setattr("sys.argv", ["job", "--log-json"])
    with pytest.raises(SystemExit):
        finish(Logged, main, "A job.")
    _, event = map(json.loads, capsys.readouterr().err.splitlines())
    assert (event["event"], event["level"], event["run"]) == ("message", level, "r1")
    assert event["message"].startswith(words)


def test_job_with_an_option_that_does_not_exist_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(lambda options: 0, monkeypatch, "--nummer", "7") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "nummer" in told.err


def test_job_interrupted_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(KeyboardInterrupt()), monkeypatch) == 130
    assert "what was committed stays" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["signal", "ray"])
def test_job_terminated_exits_with_143(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(options: Options) -> int:
        if how == "ray":
            raise SystemExit(int(signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    reached = []
    monkeypatch.setattr(outcome, "end", lambda code: reached.append(code) or sys.exit(code))
    assert (ended(main, monkeypatch), reached) == (143, [143])


class Left(BaseException):
    """In place of the end of the process."""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_job_that_is_being_ended_leaves_at_once_at_a_sigint(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def left(code: int) -> None:
        raise Left(code)

    def main(options: Options) -> int:
        try:
            os.kill(os.getpid(), first)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
        return 0

    monkeypatch.setattr(outcome, "leave", left)
    monkeypatch.setattr("sys.argv", ["job"])
    with pytest.raises(Left, match="130"):
        finish(Options, main, "A job.")


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_job_that_is_being_ended_takes_a_sigterm_for_the_same_wish(
    first: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []

    def main(options: Options) -> int:
        try:
            os.kill(os.getpid(), first)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            finished.append(True)
        return 0

    assert (ended(main, monkeypatch), finished) == (code, [True])


def test_job_shows_an_error_that_nobody_expected_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["job"])
    with pytest.raises(ZeroDivisionError):
        finish(Options, raising(ZeroDivisionError()), "A job.")


def test_show_json_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"rows": 3, "failures": {}})
    assert json.loads(capsys.readouterr().out) == {"rows": 3, "failures": {}}
