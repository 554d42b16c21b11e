"""What a run has to do: listed less committed, by shard."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Failures, plan
from pipeline.records import SliceRecord
from pipeline.shards import Shard, Slice, shard_of
from tests.blocks import record


def slices(*paths: str, count: int = 1, etag: str = "1") -> list[Slice]:
    shards = [Shard(f"/data/{path}", path, 7, etag) for path in paths]
    return [Slice(s, i, count, (i, i + 1) if count > 1 else None) for s in shards for i in range(count)]


def committed(*names: str, etag: str = "1", count: int = 1) -> dict[str, SliceRecord]:
    return {n: record(n, shard=n.partition("#")[0], size=7, etag=etag, slices=count) for n in names}


def failed(path: str, runs: int, etag: str = "1") -> dict[tuple[str, tuple[int, str]], Failures]:
    return {(path, (7, etag)): Failures(runs, "cut")}


def names(part: tuple[Slice, ...]) -> list[str]:
    return [slice_.name for slice_ in part]


def test_plan_is_listed_less_committed() -> None:
    found = plan(slices("a.tar", "b.tar", "c.tar"), committed("a.tar", "d.tar") | committed("b.tar", etag="0"))
    assert (names(found.pending), names(found.skipped), names(found.changed)) == (["c.tar"], ["a.tar"], ["b.tar"])
    assert found.vanished == ("d.tar",)


def test_plan_calls_vanished_only_what_this_runs_inputs_would_list() -> None:
    current = committed("00007.tar", "more/00007.tar", "x.parquet#3", "x.parquet#1")
    assert plan([], current, matches=lambda path: "/" not in path).vanished == ("00007.tar", "x.parquet")


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_plan_puts_every_slice_in_exactly_one_place(listed: set[int], done: set[int], bad: set[int]) -> None:
    current = {str(d): record(str(d), shard=str(d), size=7, etag="1" if d % 2 else "0") for d in done}
    failures = {key: f for b in bad for key, f in failed(str(b), b % 5).items()}
    found = plan(slices(*map(str, listed)), current, failures)
    parts = (found.pending, found.skipped, found.changed, found.quarantined)
    assert sorted(n for part in parts for n in names(part)) == sorted(map(str, listed))
    assert set(found.vanished) == set(map(str, done - listed))
    assert set(names(found.quarantined)) <= set(map(str, bad))


def test_plan_resumes_a_shard_of_which_some_slices_are_committed() -> None:
    made = plan(slices("a.parquet", count=3), committed("a.parquet#0", "a.parquet#2", count=3))
    assert names(made.pending) == ["a.parquet#1"]
    assert names(made.skipped) == ["a.parquet#0", "a.parquet#2"]
    assert not made.changed


@pytest.mark.parametrize(
    ("now", "current"),
    [
        (slices("a.parquet"), committed("a.parquet#0", "a.parquet#1")),  # cut into fewer
        (slices("a.parquet", count=2, etag="2"), committed("a.parquet")),  # cut into more
        (slices("a.parquet", count=3, etag="2"), committed("a.parquet#0", count=3)),  # when one slice was done
        (slices("a.parquet", count=3), committed("a.parquet#0", "a.parquet#1", count=2)),  # the first names stayed
    ],
)
def test_plan_never_embeds_part_of_a_changed_shard_beside_its_old_rows(
    now: list[Slice], current: dict[str, SliceRecord]
) -> None:
    made = plan(now, current)
    assert made.changed == tuple(now)
    assert not made.pending
    assert not made.skipped
    assert made.vanished == ()


def test_plan_quarantines_what_failed_three_runs_unchanged_and_says_so() -> None:
    failures = failed("a.tar", 3) | failed("b.tar", 2) | failed("c.tar", 5, etag="0") | failed("e.tar", 9)
    found = plan(slices("a.tar", "b.tar", "c.tar", "d.tar", "e.tar"), committed("e.tar"), failures)
    assert names(found.quarantined) == ["a.tar"]
    assert names(found.pending) == ["b.tar", "c.tar", "d.tar"]
    assert found.counts() == "shards: skipped 1, pending 2, failed before 1, changed 0, quarantined 1"
    assert not plan(slices("a.tar"), {}, failures, quarantine=math.inf).quarantined


def test_plan_quarantines_a_changed_shard_as_a_whole_and_never_takes_it_for_new() -> None:
    now = slices("a.parquet", count=2, etag="2")
    current = committed("a.parquet#0", "a.parquet#1", count=2)
    failures = failed("a.parquet", 3, etag="2")
    assert plan(now, current, failures).quarantined == tuple(now)
    again = plan(now, current, failures, quarantine=math.inf)
    assert (again.changed, again.pending) == (tuple(now), ())


def test_slices_of_a_shard_are_never_taken_for_another_shard() -> None:
    odd, cut_in_two = slices("a.parquet#1"), slices("a.parquet", count=2)
    names_ = [s.name for s in (*odd, *cut_in_two)]
    assert len(set(names_)) == 3
    assert [shard_of(n) for n in names_] == ["a.parquet#1", "a.parquet", "a.parquet"]
    current = committed(*(s.name for s in cut_in_two), count=2)
    assert names(plan([*odd, *cut_in_two], current).pending) == ["a.parquet#1#0"]
