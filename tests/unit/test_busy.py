"""The share of their time that readers and actors were busy, from what they told of their work."""

import pytest

from pipeline.gather import inspect_block
from pipeline.watch.busy import Busy, Share, Work
from tests.blocks import block, call, end


def read(busy: float, began: float, ended: float) -> tuple[float, Work]:
    return busy, Work("any", began, ended - began)


def called(worker: str, began: float, ended: float) -> tuple[float, list[int], set[str], list[Work]]:
    return ended - began, [8], {"float32"}, [Work(worker, began, ended - began)]


def test_readers_are_as_many_as_were_at_a_slice_at_once() -> None:
    busy = Busy()
    for one in (read(4, 100, 110), read(4, 102, 112), read(2, 112, 120), read(2, 110, 120)):
        busy.was_read(*one)
    assert busy.shares() == {"read": Share(2, 12 / 40)}


def test_actors_are_counted_from_their_own_first_call_to_the_last_of_all() -> None:
    busy = Busy()
    for one in (called("a", 10, 14), called("b", 15, 16), called("a", 18, 20)):
        busy.computed(*one)
    assert busy.shares() == {"infer": Share(2, round(7 / (10 + 5), 4))}
    assert (busy.infer, busy.calls, busy.pairs, busy.dtypes) == (7, 3, 24, {"float32"})


def test_share_is_never_above_one_whatever_the_clocks_say() -> None:
    busy = Busy()
    busy.was_read(*read(9, 100, 110))
    busy.was_read(*read(9, 50, 55))  # on a node whose clock is late, so that the two seem to be one after the other
    busy.was_read(*read(60, 52, 54))
    busy.computed(*called("a", 10, 14))
    assert busy.shares() == {"read": Share(2, 78 / 120), "infer": Share(1, 1.0)}
    busy.was_read(*read(900, 52, 54))
    assert busy.shares()["read"].share == 1.0


def test_nothing_is_told_of_stages_that_did_nothing_or_did_not_tell() -> None:
    busy = Busy()
    busy.was_read(2.0, None)
    busy.computed(1.0, [1], (), ())
    assert (busy.read, busy.infer, busy.shares()) == (2.0, 1.0, {})


@pytest.mark.parametrize("told", [True, False])
def test_block_tells_who_was_at_work_and_when(told: bool) -> None:
    at = {"at_work": {"worker": "w", "began": 5.0, "seconds": 2.0}} if told else {}
    (part,), calls = inspect_block(block(end("a", 0) | at, call(3) | at))
    assert part.end is not None
    assert (part.end.work, calls.works) == ((Work("w", 5, 2), (Work("w", 5, 2),)) if told else (None, ()))
