"""One tick: what it does, what holds `live` back, and that two never run at once. Tables on disk, no Ray."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pipeline.upkeep.accounts
from pipeline import records
from pipeline.errors import BusyError
from pipeline.index import Tuned
from pipeline.indexes import work
from pipeline.indexes.measure import Measured
from pipeline.indexes.report import Request
from pipeline.indexes.work import index
from pipeline.ledger import Ledger
from pipeline.query import Query, QueryModel, search
from pipeline.table import latest
from pipeline.ticks import book, steps
from pipeline.ticks.book import Outcome, begin, end, read_book
from pipeline.ticks.steps import Checks, live_version
from pipeline.upkeep.compact import Limits, compact
from tests.conftest import REPOSITORY
from tests.fakes import fake_model
from tests.ingest import Lake
from tests.lakes import FakeEncoder
from tests.ticking import Embedding, Ticking


@pytest.fixture
def ticking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ticking:
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    return Ticking(tmp_path)


def test_three_ticks_follow_new_changed_and_vanished_shards_and_a_failed_one_leaves_live(ticking: Ticking) -> None:
    lake = ticking.lake
    lake.write("0.tar", 0, 6, 1)
    lake.write("1.tar", 100, 4)
    first = ticking.tick("0.tar", "1.tar")
    assert (first.outcome, first.why, ticking.live()) == ("done", "", 10)
    assert [step["step"] for step in first.summary["steps"]] == [
        "embed", "fold in", "compact", "recall", "verify", "live",
    ]  # fmt: skip
    lake.write("2.tar", 200, 3)  # new
    lake.write("1.tar", 300, 9)  # changed
    (lake.root / "0.tar").unlink()  # vanished: its rows stay
    second = ticking.tick("2.tar", changed=["1.tar"])
    assert (second.outcome, ticking.live()) == ("done", 6 + 9 + 3)
    lake.write("3.tar", 400, 5)
    lake.run("3.tar")
    failed = ticking.tick(code=1)
    assert failed.outcome == "failed"
    assert failed.why == "embed: exit code 1: failed: bad.tar: it is cut short"
    assert (ticking.live(), lake.rows().count_rows()) == (18, 23)
    assert [step["step"] for step in failed.summary["steps"]] == ["embed"]
    third = ticking.tick()
    assert (third.outcome, ticking.live()) == ("done", 23)
    assert third.summary["live"] == live_version(lake.database) == lake.rows().version


def test_tick_that_changes_nothing_makes_no_new_version(ticking: Ticking) -> None:
    ticking.lake.write("0.tar", 0, 5)
    ticking.tick("0.tar")
    ticking.tick()  # the ledger catches up with the indexes' commits
    before = ticking.lake.rows().version
    assert ticking.tick().outcome == "done"
    assert ticking.lake.rows().version == before


def test_tick_with_too_little_recall_leaves_live_where_it_was(
    ticking: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking.lake.write("0.tar", 0, 300)
    ticking.tick("0.tar")
    index(ticking.lake.database, Request(kind="ivf_flat", partitions=2, scalars=False, fulltext=False, queries=5))
    ticking.lake.write("1.tar", 1000, 20)
    found = [0.9]
    monkeypatch.setattr(work, "tune", lambda *_: (Tuned(1, 1), [Measured("pictures", 40, found[0], 1, 2)]))
    failed = ticking.tick("1.tar")
    assert failed.outcome == "failed"
    assert failed.why.startswith("recall: an index finds too little, --min-recall is 0.95: image: recall@10 ")
    assert (ticking.live(), ticking.lake.rows().count_rows()) == (300, 320)
    found[0] = 0.96
    assert ticking.tick().outcome == "done"
    assert ticking.live() == 320
    rows = index_rows(ticking)
    assert rows == {"image_embedding": 320, **dict.fromkeys(("caption", "id", "itc_score", "itm_score", "sha256"), 320)}


def index_rows(ticking: Ticking) -> dict[str, int]:
    dataset = ticking.lake.rows()
    found = {i.field_names[0]: dataset.stats.index_stats(i.name) for i in dataset.describe_indices()}
    assert {s["num_unindexed_rows"] for s in found.values()} == {0}
    return {name: s["num_indexed_rows"] for name, s in sorted(found.items()) if name != "shard"}


def test_tick_that_finds_a_broken_promise_leaves_live_and_says_which(ticking: Ticking) -> None:
    ticking.lake.write("0.tar", 0, 5)
    ticking.tick("0.tar")
    ticking.lake.write("1.tar", 10, 4)
    ticking.lake.run("1.tar")
    ticking.lake.rows().update({"itm_score": "7.5"}, "key = '00011'")
    failed = ticking.tick()
    assert failed.outcome == "failed"
    assert failed.why.startswith("verify: checked 4 commits, ")
    assert "wrong are score 1; the first is score: id " in failed.why
    assert failed.why.endswith("itm_score is 7.5, not within 0 and 1; verify.py tells all")
    assert ticking.live() == 5


def test_tick_embeds_rows_again_if_told_to(ticking: Ticking) -> None:
    ticking.lake.write("0.tar", 0, 5)
    done = ticking.tick("0.tar", checks=Checks(sample=3, model=fake_model))
    assert "3 rows embedded again: all holds" in done.summary["steps"][4]["said"]


def fails(lake: Lake, shard: str, run_id: str, error: str) -> None:
    """As a run that could not read a shard writes it down."""
    _, record = lake._record(shard, f"{run_id}-0", run_id, False)
    failed = replace(record, outcome=records.Outcome.FAILED, error=error)
    Ledger(lake.database, lake.dataset).absorb(latest(lake.database), [failed])


def test_quarantined_shard_does_not_hold_live_back_and_is_in_the_record(ticking: Ticking) -> None:
    lake = ticking.lake
    lake.write("0.tar", 0, 5)
    lake.run("0.tar")
    lake.write("1.tar", 10, 2)
    for run in range(3):
        fails(lake, "1.tar", f"run{run}", "1.tar: it is cut short")
    done = ticking.tick()
    assert (done.outcome, ticking.live()) == ("done", 5)
    assert done.summary["quarantined"] == {"laion 1.tar": "1.tar: it is cut short"}
    lake.write("1.tar", 10, 3)
    assert ticking.tick("1.tar").summary["quarantined"] == {}


def test_query_reads_live_while_newer_rows_are_not_checked_yet(ticking: Ticking) -> None:
    lake = ticking.lake
    lake.write("0.tar", 0, 5)
    ticking.tick("0.tar")
    lake.write("1.tar", 10, 4)
    lake.run("1.tar")
    model = QueryModel(lake.model.contract, lake.model.make_preparer, FakeEncoder)
    (like,) = lake.rows().to_table(columns=["id"], filter="key = '00000'")["id"].to_pylist()
    found = {
        version: search(lake.database, Query(like=like, limit=50, version=version), model) for version in ("live", None)
    }
    assert {version: len(hits) + 1 for version, hits in found.items()} == {"live": 5, None: 9}  # and the row itself


def test_clean_up_never_removes_what_live_names(ticking: Ticking) -> None:
    ticking.lake.write("0.tar", 0, 5)
    ticking.tick("0.tar")
    live = live_version(ticking.lake.database)
    ticking.lake.write("0.tar", 50, 7)
    ticking.lake.run("0.tar", replaces=True)
    compact(ticking.lake.database, Limits(timedelta(0), nobody_writes=True, remove_orphans=True))
    assert live in [ref["version"] for ref in ticking.lake.rows().version_refs()]
    assert ticking.live() == 5


def test_second_tick_is_refused_while_the_first_runs(ticking: Ticking) -> None:
    ticking.lake.write("0.tar", 0, 5)

    def embed() -> int:
        ticking.lake.run("0.tar")
        with pytest.raises(BusyError, match=rf"a tick of laion is running since .* UTC, in process {os.getpid()} on "):
            ticking.tick()
        return 0

    assert steps.tick(ticking.lake.database, lambda: Embedding(embed), Checks()).outcome == "done"
    assert len(read_book(ticking.lake.database).ticks) == 1


def test_of_two_ticks_at_the_same_moment_one_begins(ticking: Ticking, monkeypatch: pytest.MonkeyPatch) -> None:
    database, plain = ticking.lake.database, book.read_book

    def reads_and_is_overtaken(database: object) -> book.Book:
        read = plain(ticking.lake.database)
        monkeypatch.setattr(book, "read_book", plain)
        begin(ticking.lake.database)
        return read

    monkeypatch.setattr(book, "read_book", reads_and_is_overtaken)
    with pytest.raises(BusyError):
        begin(database)
    assert len(plain(database).ticks) == 1


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str = "another") -> None:
    monkeypatch.setattr(book, "here", lambda: name)


def test_tick_of_another_machine_is_over_once_nothing_was_heard_of_it_for_long(
    ticking: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = ticking.lake.database
    first = begin(database)
    elsewhere(monkeypatch)
    with pytest.raises(BusyError):
        begin(database)
    now = datetime.now(UTC)
    (tick,) = read_book(database).ticks
    assert (tick.running(now), tick.said(now)) == (True, "running")
    assert (tick.running(now + book.LEASE), tick.said(now + book.LEASE)) == (False, "killed")
    assert book.beat(database, first)
    monkeypatch.setattr(book, "LEASE", timedelta(0))
    assert begin(database) != first
    assert not book.beat(database, first)


def test_tick_that_was_taken_for_dead_does_not_move_live(ticking: Ticking, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking.lake.write("0.tar", 0, 5)

    def embed() -> int:
        ticking.lake.run("0.tar")
        elsewhere(monkeypatch)
        monkeypatch.setattr(book, "LEASE", timedelta(0))
        begin(ticking.lake.database)
        return 0

    overtaken = steps.tick(ticking.lake.database, lambda: Embedding(embed), Checks())
    assert overtaken.outcome == "failed"
    assert overtaken.why.startswith("live: this tick was not heard of for so long")
    assert live_version(ticking.lake.database) is None


def test_tick_writes_down_that_it_is_alive_for_as_long_as_it_is(
    ticking: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed() -> int:
        over = time.monotonic() + 10
        while written().count("alive") < 2 and time.monotonic() < over:
            time.sleep(0.01)
        return 1

    def written() -> list[str]:
        return [*ticking.lake.companion("ticks").to_table()["event"].to_pylist()]

    monkeypatch.setattr(steps, "BEAT", 0.01)
    done = steps.tick(ticking.lake.database, lambda: Embedding(embed), Checks())
    (step,) = done.summary["steps"]
    assert step["seconds"] < 10
    assert written() == ["started", "ended"]


def test_tick_whose_process_number_another_one_has_is_over_after_the_lease(
    ticking: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "_this", lambda: f"{os.getpid()} 12345.00")
    begin(ticking.lake.database)
    (tick,) = read_book(ticking.lake.database).ticks
    now = datetime.now(UTC)
    assert (tick.said(now), tick.said(now + book.LEASE)) == ("running", "killed")


def test_tick_of_a_process_that_was_killed_is_over_at_once(ticking: Ticking) -> None:
    database = ticking.lake.database
    code = (
        "import os; from pipeline.database import Database; from pipeline.ticks.book import begin\n"
        f"begin(Database({database.uri!r}, 'laion')); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    (tick,) = read_book(database).ticks
    assert tick.said(datetime.now(UTC)) == "killed"
    begin(database)


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])  # of SIGTERM and SIGINT, by the jobs' handlers
def test_tick_that_is_stopped_by_a_signal_is_written_down(ticking: Ticking, raised: type[BaseException]) -> None:
    def embed() -> int:
        raise raised

    with pytest.raises(raised):
        steps.tick(ticking.lake.database, lambda: Embedding(embed), Checks())
    (tick,) = read_book(ticking.lake.database).ticks
    assert (tick.outcome, tick.why) == (Outcome.INTERRUPTED, "stopped by a signal")


def test_book_keeps_no_secret(ticking: Ticking) -> None:
    name = begin(ticking.lake.database)
    end(ticking.lake.database, name, Outcome.FAILED, "embed: s3://me:hunter2@x/y", {"said": "s3://me:hunter2@x/y"})
    (tick,) = read_book(ticking.lake.database).ticks
    assert "hunter2" not in f"{tick.why} {tick.summary}"
    assert tick.why.startswith("embed: s3://***@")
