"""Signals that come during a commit."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.watch.interrupts import uninterrupted


@pytest.fixture(autouse=True)
def terminated() -> Iterator[list[int]]:
    """A handler as a job has it for SIGTERM; Python's own for SIGINT."""
    calls: list[int] = []

    def handler(number: int, frame: object) -> None:
        calls.append(number)
        raise SystemExit(143)

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield calls
    for number, old in kept.items():
        signal.signal(number, old)


def commit(*steps: int | str | Exception) -> list[str]:
    """A commit in which signals come between the steps, and which may fail; the steps that were reached."""
    reached: list[str] = []
    try:
        with uninterrupted():
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, str):
                    reached.append(step)
                else:
                    os.kill(os.getpid(), step)
                    time.sleep(0.01)
    except BaseException as error:
        error.add_note(",".join(reached))
        raise
    return reached


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_uninterrupted_finishes_the_block_and_then_hands_the_signal_on(
    number: int, raised: type[BaseException]
) -> None:
    with pytest.raises(raised) as ended:
        commit(number, "finished")
    assert ended.value.__notes__ == ["finished"]


def test_uninterrupted_hands_on_a_signal_also_when_the_block_fails() -> None:
    with pytest.raises(SystemExit):
        commit(signal.SIGTERM, ValueError("the store is gone"))


def test_uninterrupted_does_not_hold_a_second_sigint() -> None:
    with pytest.raises(KeyboardInterrupt) as ended:
        commit(signal.SIGINT, "first", signal.SIGINT, "second")
    assert ended.value.__notes__ == ["first"]


def test_uninterrupted_calls_the_handler_as_often_as_it_was_asked() -> None:
    """It may end the process at the second time."""
    asked: list[int] = []

    def handler(number: int, frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt):
        commit(signal.SIGINT, "first", signal.SIGINT)
    assert asked == [signal.SIGINT, signal.SIGINT]


def test_uninterrupted_takes_a_repeated_sigterm_for_one(terminated: list[int]) -> None:
    with pytest.raises(SystemExit) as ended:
        commit(signal.SIGTERM, signal.SIGTERM, "finished")
    assert (ended.value.__notes__, terminated) == (["finished"], [signal.SIGTERM])


def test_uninterrupted_leaves_the_handlers_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_uninterrupted_does_nothing_in_another_thread() -> None:
    ran = []

    def work() -> None:
        with uninterrupted():
            ran.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [signal.default_int_handler]
