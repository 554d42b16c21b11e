"""How a job ends: its exit code, and its errors in one line."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from jobs.outcome import finish, show_json
from pipeline.errors import ConfigError, InputError


@dataclass
class Options:
    number: int = 1
    """A number."""


@pytest.fixture(autouse=True)
def _kept_handler() -> object:
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


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

    assert ended(main, monkeypatch) == 143


def test_job_shows_an_error_that_nobody_expected_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["job"])
    with pytest.raises(ZeroDivisionError):
        finish(Options, raising(ZeroDivisionError()), "A job.")


def test_show_json_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"rows": 3, "failures": {}})
    assert json.loads(capsys.readouterr().out) == {"rows": 3, "failures": {}}
