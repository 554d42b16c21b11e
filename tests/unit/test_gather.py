"""Bookkeeping of what arrived: mixed blocks, doubled blocks, parts of large slices."""

from collections.abc import Iterable

import numpy as np
import pytest

from pipeline.errors import CoverageError
from pipeline.gather import Gather, Ready, check_coverage, inspect_block
from tests.blocks import Row, block, call, end, pair, reject


def pairs(attempt: str, *positions: int) -> list[Row]:
    return [pair(attempt, p) for p in positions]


def add(gather: Gather, ref: str, *rows: Row) -> list[tuple[str, list[int], int, tuple[str, ...]]]:
    return [shown(r) for r in gather.add(ref, inspect_block(block(*rows))[0])]


def shown(ready: Ready) -> tuple[str, list[int], int, tuple[str, ...]]:
    return ready.attempt, ready.positions.tolist(), ready.parts, ready.refs


def test_inspect_tells_slices_and_model_calls_apart() -> None:
    rejects = [reject("a", 2), reject("a", 3, "no_caption"), reject("a", 4)]
    rows = [*pairs("a", 0, 1), *rejects, pair("b", 5), call(3, 1.5), end("a", 3) | {"asked_again": 2}, call(1, 0.5)]
    (a, b), calls = inspect_block(block(*rows))
    assert (a.attempt, sorted(a.positions.tolist()), a.embedded) == ("a", [0, 1, 2, 3, 4], 2)
    assert (a.rejects, b.rejects) == ({"undecodable": 2, "no_caption": 1}, {})
    assert a.end is not None
    assert (a.end.pairs, a.end.error, a.end.seconds, a.end.asked_again) == (3, None, 0.5, 2)
    assert (b.attempt, b.positions.tolist(), b.embedded, b.end) == ("b", [5], 1, None)
    assert (calls.sizes, calls.seconds) == ((3, 1), 2.0)


@pytest.mark.parametrize("rows", [[], [call(1)]])
def test_inspect_of_a_block_without_pairs_finds_no_slice(rows: list[Row]) -> None:
    parts, calls = inspect_block(block(*rows))
    assert (parts, len(calls.sizes)) == ([], len(rows))


def test_gather_gives_a_slice_when_its_pairs_and_its_end_have_come() -> None:
    gather = Gather(100)
    assert add(gather, "r1", *pairs("a", 0, 1)) == []
    assert add(gather, "r2", *pairs("b", 0), *pairs("a", 2)) == []
    assert add(gather, "r3", end("a", 3)) == [("a", [0, 1, 2], 1, ("r1", "r2"))]
    assert add(gather, "r4", end("b", 1)) == [("b", [0], 1, ("r2",))]
    assert gather.unfinished() == {}


def test_gather_waits_for_pairs_that_come_after_the_end() -> None:
    gather = Gather(100)
    assert add(gather, "r1", end("a", 3), *pairs("a", 2)) == []
    assert add(gather, "r2", *pairs("a", 0)) == []
    assert gather.unfinished() == {"a": "2 of its 3 pairs came"}
    assert add(gather, "r3", *pairs("a", 1)) == [("a", [0, 1, 2], 1, ("r1", "r2", "r3"))]


def test_gather_gives_a_slice_without_pairs_at_once() -> None:
    assert add(Gather(100), "r1", end("a", 0)) == [("a", [], 1, ())]


def test_gather_hands_over_a_large_slice_in_parts_and_numbers_the_last() -> None:
    gather = Gather(2)
    assert add(gather, "r1", *pairs("a", 0)) == []
    assert add(gather, "r2", *pairs("a", 1, 2)) == [("a", [0, 1, 2], 0, ("r1", "r2"))]
    assert add(gather, "r3", *pairs("a", 3, 4)) == [("a", [3, 4], 0, ("r3",))]
    assert add(gather, "r4", end("a", 6)) == []
    assert add(gather, "r5", *pairs("a", 5)) == [("a", [5], 3, ("r5",))]


def test_gather_ends_a_slice_whose_pairs_were_all_handed_over_before_its_end() -> None:
    gather = Gather(2)
    assert len(add(gather, "r1", *pairs("a", 0, 1))) == 1
    assert add(gather, "r2", end("a", 2)) == [("a", [], 2, ())]


def test_gather_takes_each_position_once_when_retries_send_blocks_again() -> None:
    gather = Gather(3)
    assert add(gather, "r1", *pairs("a", 0, 1)) == []
    assert add(gather, "r1'", *pairs("a", 0, 1)) == []
    assert add(gather, "r2", *pairs("a", 1, 2)) == [("a", [0, 1, 2], 0, ("r1", "r1'", "r2"))]
    assert add(gather, "r2'", *pairs("a", 1, 2)) == []
    assert add(gather, "r3", *pairs("a", 2, 3), end("a", 4)) == [("a", [3], 2, ("r2'", "r3"))]
    assert add(gather, "r3'", *pairs("a", 2, 3), end("a", 4)) == []
    assert gather.unfinished() == {}


def test_gather_keeps_two_attempts_at_one_slice_apart() -> None:
    gather = Gather(100)
    first, second = [pair("a-1", 0, slice="a")], [pair("a-2", 0, slice="a")]
    assert add(gather, "r1", *first, *second, end("a-2", 1)) == [("a-2", [0], 1, ("r1",))]
    assert gather.unfinished() == {"a-1": "its end record never came (1 pairs did)"}


def test_gather_forgets_a_slice_that_failed_also_after_a_first_part() -> None:
    gather = Gather(2)
    assert len(add(gather, "r1", *pairs("a", 0, 1))) == 1
    assert add(gather, "r2", *pairs("a", 2), end("a", None, "a.tar: cut")) == []
    assert {a: e.error for a, e in gather.failed().items()} == {"a": "a.tar: cut"}
    assert gather.failed() == {}
    assert add(gather, "r3", *pairs("a", 3, 4), end("a", 5)) == []
    assert gather.unfinished() == {}


def test_gather_looks_at_waiting_positions_only_when_they_may_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of many blocks costs a look at each block, not at all before it."""
    looks = []
    unique = np.unique
    monkeypatch.setattr("pipeline.gather.np.unique", lambda values: looks.append(len(values)) or unique(values))
    gather = Gather(1000)
    for i in range(100):
        list(gather.add(i, inspect_block(block(*pairs("a", i)))[0]))
    assert looks == []
    assert len(add(gather, "end", end("a", 100))) == 1
    assert looks == [100]


def arrays(*positions: Iterable[int]) -> list[np.ndarray]:
    return [np.array(list(p), dtype=np.int64) for p in positions]


@pytest.mark.parametrize("positions", [[(0, 1, 2)], [(2,), (), (1, 0)]])
def test_coverage_holds_in_any_order_and_any_parts(positions: list[tuple[int, ...]]) -> None:
    check_coverage("a", 3, arrays(*positions))


def test_coverage_holds_for_no_pairs() -> None:
    check_coverage("a", 0, arrays(()))
    check_coverage("a", 0, [])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([(0, 2)], "a: position 1 was reported 0 times"),
        ([(0, 1), (1, 2)], "a: position 1 was reported 2 times"),
        ([(0, 1, 3)], "a: position 2 was reported 0 times"),
        ([(0, 1, 2, 3)], "a: 4 positions reported for 3 pairs"),
        ([(-1, 0, 1, 2)], "a: 4 positions reported for 3 pairs"),
        ([], "a: position 0 was reported 0 times"),
    ],
)
def test_coverage_names_what_is_missing_doubled_or_foreign(positions: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(CoverageError, match=message):
        check_coverage("a", 3, arrays(*positions))
