"""Whole slices land in one commit each once; parts, failures, conflicts, lost replies."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pipeline.committer
import pipeline.stores.retry
from pipeline.committer import Committer
from pipeline.database import Database
from pipeline.errors import CommitConflictError, CoverageError, DoubtError, LedgerError, RejectReason
from pipeline.gather import End
from pipeline.ledger import Ledger
from pipeline.records import Outcome, SliceRecord, properties
from pipeline.schema import REJECTS, SHARDS
from pipeline.table import Change, Rows, commit, open_or_create
from pipeline.write import Report, write_jobs
from tests.blocks import LAYOUT, block, job, pair, record, reject, report, target


def end(pairs: int) -> End:
    return End(pairs, None, 0.0, "fingerprint")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path), "laion")


def committer(database: Database, run_id: str = "run") -> Committer:
    ledger = Ledger(database, "laion")
    return Committer(open_or_create(database, LAYOUT), LAYOUT, target(Path(database.uri), run_id), ledger)


def written(database: Database, name: str, pairs: int = 2, rejects: int = 0, attempt: str | None = None) -> Report:
    """A slice whose first pairs are embedded and whose last are rejects."""
    attempt = attempt or name
    rows = [pair(attempt, p, shard=f"{name}.tar") for p in range(pairs)]
    rows += [reject(attempt, pairs + i) | {"slice": name} for i in range(rejects)]
    return write_jobs(target(Path(database.uri)), [job(attempt, *range(pairs + rejects))], block(*rows))[0]


def add(one: Committer, database: Database, name: str, pairs: int = 2, rejects: int = 0, run_id: str = "run") -> None:
    attempt = f"{run_id}-{name}"
    made = written(database, name, pairs, rejects, attempt)
    assert one.add(made, record(name, attempt=attempt, run_id=run_id), end(pairs + rejects))


def add_alone(database: Database, name: str) -> None:
    """The shard a.tar, embedded by an earlier run."""
    one = committer(database, "earlier")
    made = written(database, "a", attempt="earlier-0")
    one.add(made, record(name, attempt="earlier-0", run_id="earlier", shard="a.tar", etag="old"), end(2))
    one.commit()


def block_rejects(attempt: str, reasons: list[str]) -> pa.Table:
    rows = [{"attempt": attempt, "position": i, "reason": str(reason)} for i, reason in enumerate(reasons)]
    return pa.Table.from_pylist(rows, schema=REJECTS)


def column(database: Database, suffix: str, name: str) -> list[Any]:
    dataset = database.open(suffix)
    values = [] if dataset is None else database.scan(suffix, dataset, [name])[name].to_pylist()
    return sorted(values, key=str)


def shards(database: Database) -> list[str]:
    return column(database, "", "shard")


def test_commit_brings_rows_rejects_and_the_ledger(database: Database) -> None:
    one = committer(database)
    add(one, database, "a", pairs=2, rejects=1)
    add(one, database, "b", pairs=1)
    assert shards(database) == []
    one.commit()
    assert shards(database) == ["a.tar", "a.tar", "b.tar"]
    assert column(database, "rejects", "slice") == ["a"]
    tally = one.tally
    assert (tally.slices, tally.embedded, dict(tally.rejects), tally.commits) == (2, 3, {"undecodable": 1}, 1)
    dataset = database.open("shards")
    rows = database.scan("shards", dataset, SHARDS.names).sort_by("slice").to_pylist()
    counts = [(r["read"], r["embedded"], r["rejected"], r["taken_down"], r["version"]) for r in rows]
    assert counts == [(3, 2, 1, 0, 2), (1, 1, 0, 0, 2)]


@pytest.mark.parametrize("rejects", [0, 2])
def test_commit_of_a_slice_without_rows_is_remembered(database: Database, rejects: int) -> None:
    one = committer(database)
    add(one, database, "a")
    one.commit()
    add(one, database, "none", pairs=0, rejects=rejects)
    one.commit()
    assert set(Ledger(database, "laion").current()) == {"a", "none"}
    assert (len(shards(database)), one.tally.commits) == (2, 2)


def test_commit_of_only_a_slice_without_rows_on_an_empty_table_is_remembered(database: Database) -> None:
    one = committer(database)
    add(one, database, "none", pairs=0, rejects=1)
    one.commit()
    add(one, database, "a")
    one.commit()
    assert set(Ledger(database, "laion").current()) == {"a", "none"}
    assert shards(database) == ["a.tar", "a.tar"]


def test_commit_of_nothing_makes_no_version(database: Database) -> None:
    one = committer(database)
    one.commit()
    assert (one.version, one.tally.commits, database.open("shards")) == (1, 0, None)


def test_due_at_once_and_then_after_a_while(database: Database) -> None:
    one = committer(database)
    assert not one.due(0)
    add(one, database, "a")
    assert one.due(1e9)
    one.commit()
    assert not one.due(0)
    add(one, database, "b")
    assert not one.due(60)
    assert one.due(0)


def test_add_waits_for_all_parts_in_any_order(database: Database) -> None:
    one = committer(database)
    assert not one.add(report("a", [4, 5], parts=3), record("a"), end(6))
    assert not one.add(report("a", [0, 1], parts=0), record("a"), end(6))
    assert one.add(report("a", [2, 3], parts=0), record("a"), end(6))


def test_add_waits_for_the_end_record(database: Database) -> None:
    one = committer(database)
    assert not one.add(report("a", [0, 1], parts=0), record("a"), None)
    assert one.add(report("a", [2], parts=2), record("a"), end(3))


def test_add_refuses_a_writer_that_found_less_than_it_was_told_to_write(database: Database) -> None:
    one = committer(database)
    with pytest.raises(CoverageError, match="a: position 2 was reported 0 times"):
        one.add(report("a", [0, 1]), record("a"), end(3))
    assert not one.due(0)


def test_add_refuses_a_position_that_two_parts_hold(database: Database) -> None:
    one = committer(database)
    one.add(report("a", [0, 1], parts=0), record("a"), end(3))
    with pytest.raises(CoverageError, match="a: position 1 was reported 2 times"):
        one.add(report("a", [1, 2], parts=2), record("a"), end(3))


def test_add_refuses_positions_that_are_neither_embedded_nor_rejected(database: Database) -> None:
    one = committer(database)
    with pytest.raises(CoverageError, match="a: 1 embedded and 0 rejected of 2 pairs"):
        one.add(report("a", [0, 1], embedded=1), record("a"), end(2))


@pytest.mark.parametrize(
    ("pairs", "broken", "doubted"), [(2, 1, False), (50, 2, True), (300, 3, False), (300, 4, True)]
)
def test_add_doubts_a_slice_with_too_many_broken_vectors_whichever_part_has_them(
    database: Database, pairs: int, broken: int, doubted: bool
) -> None:
    one = committer(database)
    rejects = block_rejects("a", [RejectReason.NOT_FINITE] * broken)
    first = report("a", list(range(broken)), parts=0, embedded=0, rejects=rejects)
    rest = report("a", list(range(broken, pairs)), parts=2)
    assert not one.add(first, record("a"), None)
    if not doubted:
        assert one.add(rest, record("a"), end(pairs))
        return
    with pytest.raises(DoubtError, match=f"a: {broken} of its {pairs} pairs have vectors .* more than 1%"):
        one.add(rest, record("a"), end(pairs))


def replacing(database: Database, run_id: str, etag: str, names: Sequence[str], **more: Any) -> Committer:
    """A job that replaces a.tar by slices of these names."""
    one = committer(database, run_id)
    for name in names:
        attempt = f"{run_id}-{name}"
        of = record(name, attempt=attempt, run_id=run_id, shard="a.tar", etag=etag, slices=len(names), replaces=True)
        one.add(written(database, "a", attempt=attempt), replace(of, **more), end(2))
    return one


def test_two_jobs_that_replace_a_shard_land_once(database: Database) -> None:
    add_alone(database, "a.tar")
    one, two = (replacing(database, run, "new", ["a.tar"]) for run in ("one", "two"))
    one.commit()
    two.commit()
    assert (shards(database), two.tally.elsewhere, two.overtaken) == (["a.tar"] * 2, 1, {})


def test_replacement_by_another_content_meanwhile_is_no_success_of_ours(database: Database) -> None:
    add_alone(database, "a.tar")
    one, two = replacing(database, "one", "new", ["a.tar"]), replacing(database, "two", "newer", ["a.tar"])
    one.commit()
    two.commit()
    assert (shards(database), list(two.overtaken)) == (["a.tar"] * 2, ["a.tar"])
    assert Ledger(database, "laion").current()["a.tar"].etag == "new"


def test_replacement_cut_in_another_way_meanwhile_leaves_one_of_the_two(database: Database) -> None:
    add_alone(database, "a.tar")
    one, two = replacing(database, "one", "new", ["a.tar#0", "a.tar#1"]), replacing(database, "two", "new", ["a.tar"])
    one.commit()
    two.commit()
    assert (len(shards(database)), list(two.overtaken)) == (4, ["a.tar"])
    assert set(Ledger(database, "laion").current()) == {"a.tar#0", "a.tar#1"}


def test_prune_beside_a_touch_leaves_books_and_table_agreed(database: Database) -> None:
    add_alone(database, "a.tar")
    old = Ledger(database, "laion").current()["a.tar"]
    one, two = committer(database, "one"), committer(database, "two")
    one.touch([replace(old, run_id="one", etag="new", replaces=True)])
    two.prune([replace(old, run_id="two", outcome=Outcome.PRUNED, replaces=True, embedded=0, read=0)])
    one.commit()
    two.commit()
    assert (len(shards(database)), list(two.overtaken), two.tally.pruned) == (2, ["a.tar"], set())
    assert sum(r.embedded for r in Ledger(database, "laion").current().values()) == 2


def test_first_embedding_of_a_shard_cut_in_two_ways_lands_once(database: Database) -> None:
    one, two = (committer(database, run) for run in ("one", "two"))
    whole = record("a.tar", attempt="one-0", run_id="one", shard="a.tar")
    one.add(written(database, "a", attempt="one-0"), whole, end(2))
    part = record("a.tar#0", attempt="two-0", run_id="two", shard="a.tar", slices=2)
    two.add(written(database, "a", attempt="two-0"), part, end(2))
    one.commit()
    two.commit()
    assert (shards(database), list(two.overtaken)) == (["a.tar"] * 2, ["a.tar#0"])


def test_slices_read_in_another_way_than_another_job_declared_meanwhile_do_not_land(database: Database) -> None:
    one = committer(database)
    add(one, database, "a")
    declared = record("", shard="", run_id="two", outcome=Outcome.DECLARED, read_as="other keys")
    commit(database, one.base, LAYOUT, Change([], properties([declared]), "laion"))
    one.commit()
    assert (shards(database), list(one.overtaken)) == ([], ["a"])


def test_add_ignores_what_comes_after_the_end(database: Database) -> None:
    one = committer(database)
    one.fail({"a": record("a", error="cut")})
    assert not one.add(report("a", [0]), record("a"), end(1))
    assert one.add(report("b", [0]), record("b"), end(1))
    assert not one.add(report("b", [0]), record("b"), end(1))


def test_failed_slice_is_named_in_the_ledger_by_the_next_commit_and_nothing_of_it_lands(database: Database) -> None:
    one = committer(database)
    one.add(report("bad", [0, 1], parts=0, fragments=written(database, "bad").fragments), record("bad"), None)
    one.fail({"bad": record("bad", outcome=Outcome.FAILED, error="bad.tar: cut")})
    assert one.due(1e9)
    one.commit()
    assert (shards(database), column(database, "shards", "outcome")) == ([], ["failed"])
    one.commit()
    assert column(database, "shards", "error") == ["bad.tar: cut"]
    assert Ledger(database, "laion").current() == {}


def test_two_jobs_on_other_slices_both_land(database: Database) -> None:
    one, two = committer(database, "one"), committer(database, "two")
    for i in range(3):
        add(one, database, f"a{i}", run_id="one")
        add(two, database, f"b{i}", run_id="two")
        one.commit()
        two.commit()
    assert len(shards(database)) == 12
    assert (one.tally.slices, two.tally.slices, one.tally.elsewhere) == (3, 3, 0)
    assert two.tally.conflicts > 0
    assert column(database, "shards", "slice") == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_two_jobs_on_the_same_slices_land_each_once(database: Database) -> None:
    one, two = committer(database, "one"), committer(database, "two")
    for name in "abc":
        add(one, database, name, rejects=1, run_id="one")
    for name in "bcd":
        add(two, database, name, rejects=1, run_id="two")
    one.commit()
    two.commit()
    assert shards(database) == [f"{n}.tar" for n in "aabbccdd"]
    assert column(database, "shards", "slice") == ["a", "b", "c", "d"]
    assert (one.tally.slices, two.tally.slices, two.tally.elsewhere) == (3, 1, 2)
    assert (two.tally.embedded, dict(two.tally.rejects)) == (2, {"undecodable": 1})


def test_slices_that_another_job_committed_between_the_plan_and_the_first_look_do_not_land_again(
    database: Database,
) -> None:
    open_or_create(database, LAYOUT)
    ledger = Ledger(database, "laion")  # the plan is made of this
    other = committer(database, "other")
    add(other, database, "a", run_id="other")
    other.commit()
    late = Committer(open_or_create(database, LAYOUT), LAYOUT, target(Path(database.uri)), ledger)
    add(late, database, "a", rejects=1)
    late.commit()
    assert len(shards(database)) == 2
    assert (late.tally.elsewhere, late.tally.commits) == (1, 0)
    assert column(database, "rejects", "slice") == []


def test_commit_whose_reply_was_lost_lands_once_and_counts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    one = committer(database)

    def lose_the_reply(*args: Any) -> Rows:
        monkeypatch.undo()
        commit(*args)
        raise CommitConflictError("the store answered 412 to its own retry")

    monkeypatch.setattr(pipeline.committer, "commit", lose_the_reply)
    add(one, database, "a", rejects=1)
    one.commit()
    assert (shards(database), one.tally.slices, one.tally.elsewhere) == (["a.tar", "a.tar"], 1, 0)
    assert column(database, "shards", "slice") == ["a"]


def test_commit_that_is_refused_for_no_reason_is_an_error_and_no_endless_loop(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = committer(database)
    add(one, database, "a")

    def refuse(*args: Any) -> Rows:
        raise CommitConflictError("no")

    monkeypatch.setattr(pipeline.committer, "commit", refuse)
    monkeypatch.setattr(pipeline.stores.retry, "DEADLINE", 0.3)
    with pytest.raises(CommitConflictError, match="no"):
        one.commit()


def test_commit_that_cannot_be_read_back_is_an_error_and_is_not_done_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = committer(database)
    add(one, database, "a")
    monkeypatch.setattr(pipeline.committer, "properties", lambda records: {})
    with pytest.raises(LedgerError, match="version 2 does not tell that it holds a"):
        one.commit()
    assert shards(database) == ["a.tar", "a.tar"]


def test_commit_goes_on_after_a_compaction_an_index_and_a_deletion(database: Database) -> None:
    one = committer(database)
    add(one, database, "a")
    one.commit()
    add(one, database, "b")
    one.commit()
    table = database.open()
    table.create_scalar_index("id", "BTREE")
    table.optimize.compact_files()
    add(one, database, "c")
    one.commit()
    database.open().delete("shard = 'a.tar'")
    add(one, database, "d")
    one.commit()
    assert shards(database) == [f"{n}.tar" for n in "bbccdd"]
    assert one.tally.conflicts == 2


def test_commit_beside_a_job_that_adds_a_column_leaves_it_null(database: Database) -> None:
    one = committer(database)
    add(one, database, "a")
    database.open().add_columns(pa.field("extra", pa.float32()))
    one.commit()
    add(one, database, "b")
    one.commit()
    assert column(database, "", "extra") == [None] * 4


def test_commit_after_a_crash_before_the_ledger_is_not_repeated_by_the_next_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = committer(database)
    add(one, database, "a")

    def die(self: Ledger, table: Rows, failed: list[SliceRecord]) -> list[SliceRecord]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "absorb", die)
        with pytest.raises(KeyboardInterrupt):
            one.commit()
    assert database.open("shards") is None
    assert set(Ledger(database, "laion").current()) == {"a"}


def test_a_hundred_slices_are_one_version(database: Database) -> None:
    one = committer(database)
    began = time.process_time()
    for i in range(100):
        assert one.add(report(f"s{i}", [], rejects=REJECTS.empty_table()), record(f"s{i}"), end(0))
    one.commit()
    assert (one.version, one.tally.slices, database.open("shards").count_rows()) == (2, 100, 100)
    assert time.process_time() - began < 2
