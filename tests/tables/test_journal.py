"""What a run tells whoever listens: what becomes of each slice, and of each shard as a whole."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.database import Database
from pipeline.errors import CommitConflictError
from pipeline.records import Outcome
from pipeline.watch.events import COMMIT, Committed, Event, Retried, ShardSettled, SliceSettled, Worked
from pipeline.watch.journal import ELSEWHERE, TOUCHED, UNFINISHED, Journal
from tests.blocks import record
from tests.tables.test_committer import add, committer


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def hear(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_shard_is_told_once_all_its_slices_are_settled(heard: Heard) -> None:
    journal = Journal(heard)
    journal.expect(["a.tar", "a.tar", "b.tar"])
    journal.read("a0", 0.5)
    journal.settled(record("a", attempt="a0", seconds=0.75), Outcome.COMMITTED, 3, {"no_caption": 1}, 2)
    assert (len(heard.of(SliceSettled)), heard.of(ShardSettled)) == (1, [])
    journal.settled(record("b"), Outcome.COMMITTED, 1)
    journal.settled(record("a", attempt="a1"), Outcome.COMMITTED, 4, {"no_caption": 1, "truncated": 1})
    b, a = heard.of(ShardSettled)
    assert b == ShardSettled("b.tar", "committed", rows=1)
    assert a == ShardSettled("a.tar", "committed", 7, {"no_caption": 2, "truncated": 1}, 2, 0.75)
    assert (a.pairs, heard.of(Worked)) == (12, [Worked("read", 0.5)])


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ([Outcome.COMMITTED, Outcome.FAILED, Outcome.LOST], Outcome.FAILED),
        ([Outcome.LOST, Outcome.COMMITTED, Outcome.COMMITTED], Outcome.LOST),
        ([Outcome.COMMITTED, ELSEWHERE, Outcome.COMMITTED], ELSEWHERE),
        ([TOUCHED] * 3, TOUCHED),
    ],
)
def test_shard_is_as_bad_as_the_worst_of_its_slices(heard: Heard, outcomes: list[str], told: str) -> None:
    journal = Journal(heard)
    journal.expect(["a.tar"] * 3)
    for number, outcome in enumerate(outcomes):
        error = f"error {number}" if outcome in (Outcome.FAILED, Outcome.LOST) else None
        journal.settled(record("a", error=error, seconds=9.0), outcome)
    (shard,) = heard.of(ShardSettled)
    assert shard.outcome == told
    assert (shard.error is None) == (told not in (Outcome.FAILED, Outcome.LOST))
    assert shard.seconds == (0.0 if told == TOUCHED else 27.0)  # a touched one's are of the run that embedded it


@pytest.mark.parametrize("outcome", [Outcome.FAILED, TOUCHED])
def test_shard_that_was_read_and_not_embedded_took_the_seconds_of_its_reading(heard: Heard, outcome: str) -> None:
    journal = Journal(heard)
    journal.expect(["a.tar"])
    journal.read("a0", 0.5)
    journal.settled(record("a", attempt="a0", seconds=9.0 if outcome == TOUCHED else 0.0), outcome)
    assert [shard.seconds for shard in heard.of(ShardSettled)] == [0.5]


def test_shard_that_is_left_half_done_is_told_at_the_end(heard: Heard) -> None:
    journal = Journal(heard)
    journal.expect(["a.tar", "a.tar", "never.tar"])
    journal.settled(record("a"), Outcome.COMMITTED, 3)
    journal.close()
    journal.close()
    assert heard.of(ShardSettled) == [ShardSettled("a.tar", UNFINISHED, 3)]


def test_committer_tells_what_its_tally_counts(tmp_path: Path, heard: Heard) -> None:
    database = Database(str(tmp_path), "laion")
    one = committer(database)
    one.journal.listeners.append(heard)
    add(one, database, "a", pairs=2, rejects=1)
    add(one, database, "b", pairs=1)
    one.fail({"x": record("x", outcome=Outcome.FAILED, error="x.tar: cut")})
    assert [(s.shard, s.error) for s in heard.of(ShardSettled)] == [("x.tar", "x.tar: cut")]
    one.commit()
    one.commit()
    (commit,) = heard.of(Committed)
    assert (commit.version, commit.slices, commit.rows) == (one.version, 2, 3)
    assert [(s.shard, s.rows, s.rejects) for s in heard.of(ShardSettled)[1:]] == [
        ("a.tar", 2, {"undecodable": 1}),
        ("b.tar", 1, {}),
    ]
    (work,) = heard.of(Worked)
    assert (work.stage, work.seconds) == (COMMIT, commit.seconds)
    assert work.seconds == one.tally.seconds > 0


def test_committer_tells_a_conflict_as_a_retry_and_what_another_job_had_first(tmp_path: Path, heard: Heard) -> None:
    database = Database(str(tmp_path), "laion")
    slow, quick = committer(database, "slow"), committer(database, "quick")
    slow.journal.listeners.append(heard)
    add(quick, database, "a", run_id="quick")
    quick.commit()
    for name in "ab":
        add(slow, database, name, run_id="slow")
    slow.commit()
    assert heard.of(Retried) == [Retried(COMMIT, "conflict")] * slow.tally.conflicts
    assert slow.tally.conflicts == 1
    assert {s.shard: s.outcome for s in heard.of(ShardSettled)} == {"a.tar": ELSEWHERE, "b.tar": "committed"}
    assert [c.slices for c in heard.of(Committed)] == [1]


def test_committer_tells_another_error_of_the_store_as_such(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.committer
    from pipeline.errors import TableError

    database = Database(str(tmp_path), "laion")
    one = committer(database)
    one.journal.listeners.append(heard)
    add(one, database, "a")
    real, errors = pipeline.committer.commit, [TableError("503"), CommitConflictError("late"), TableError("503")]

    def commit(*arguments: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return real(*arguments)

    monkeypatch.setattr(pipeline.committer, "commit", commit)
    one.commit()
    assert [r.reason for r in heard.of(Retried)] == ["error", "conflict", "error"]
