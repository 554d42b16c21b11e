"""A takedown and a job, step by step in every order: nothing that was taken down is left, and the books agree."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pipeline.committer
import pipeline.prepare
import pipeline.upkeep.accounts
import pipeline.upkeep.takedown
from pipeline.committer import Committer
from pipeline.database import Database
from pipeline.decode import Rejected
from pipeline.errors import RejectReason
from pipeline.gather import positions_of
from pipeline.ledger import Ledger
from pipeline.pending import Pending
from pipeline.replay import rejected
from pipeline.schema import Kind
from pipeline.table import open_or_create
from pipeline.upkeep.delete import delete
from pipeline.upkeep.orders import Order
from pipeline.upkeep.verify import verify
from pipeline.write import Job, Target, write_jobs
from tests.ingest import Lake
from tests.moulds import Moulds
from tests.shards import members, write_tar
from tests.tables.test_delete import counts, url, urls, urls_in

JOB, DELETE = "job", "delete"
TAKEN = {3, 5, 21, 26}  # a row and a reject of what is there, and of what the job brings
ORDER = Order(urls=tuple(url(n) for n in sorted(TAKEN)))
# reads, and writes fragments | looks | writes rejects | commits
JOB_STEPS = 4
# writes down | opens and finds | commits | strikes rejects
DELETE_STEPS = 4


@dataclass
class Turns:
    """Two threads of which one runs at a time; each goes on from a step when the schedule says so."""

    schedule: list[str]
    _running: str | None = None
    _over: set[str] = field(default_factory=set)
    _turn: threading.Condition = field(default_factory=threading.Condition)

    def step(self) -> None:
        """Of the thread that is named like an actor: wait here until it is its turn."""
        me = threading.current_thread().name
        if me not in (JOB, DELETE):
            return
        with self._turn:
            if self._running == me:
                self._running = None
            self._turn.notify_all()
            assert self._turn.wait_for(lambda: self._running is None and self._next() in (None, me), timeout=60)
            if self.schedule:
                self.schedule.pop(0)
            self._running = me

    def _next(self) -> str | None:
        while self.schedule and self.schedule[0] in self._over:
            self.schedule.pop(0)
        return self.schedule[0] if self.schedule else None

    def run(self, actors: dict[str, Callable[[], object]]) -> None:
        failed: list[BaseException] = []

        def act(name: str) -> None:
            try:
                self.step()
                actors[name]()
            except BaseException as error:  # noqa: BLE001  # told to the test
                failed.append(error)
            finally:
                with self._turn:
                    self._over.add(name)
                    self._running = None
                    self._turn.notify_all()

        threads = [threading.Thread(target=act, args=(name,), name=name) for name in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        if failed:
            raise failed[0]


@contextmanager
def steps(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A step before each of these, in whichever thread."""

    def before(owner: Any, name: str, only: Callable[..., bool] = lambda *args: True) -> None:
        real = getattr(owner, name)

        def stepping(*args: Any, **kwargs: Any) -> Any:
            if only(*args):
                turns.step()
            return real(*args, **kwargs)

        patch.setattr(owner, name, stepping)

    with monkeypatch.context() as patch:
        before(Pending, "look")
        before(Database, "append", lambda *a: threading.current_thread().name == JOB and a[1] == "rejects")
        before(pipeline.committer, "commit")
        before(pipeline.upkeep.takedown, "latest")
        before(Database, "swap", lambda *a: threading.current_thread().name == DELETE and a[1] == "")
        before(pipeline.upkeep.takedown, "strike")
        yield


def schedules() -> list[list[str]]:
    """Every order of the steps of both."""
    total = JOB_STEPS + DELETE_STEPS
    return [[JOB if i in mine else DELETE for i in range(total)] for mine in combinations(range(total), JOB_STEPS)]


def built(folder: Path) -> Lake:
    """A shard that is embedded, and one that is not yet."""
    lake = Lake(folder)
    lake.write("0.tar", 0, 5, 2)
    lake.run("0.tar")
    lake.write("2.tar", 20, 5, 2)
    return lake


@pytest.fixture
def made(moulds: Moulds, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Lake]:
    monkeypatch.setattr(pipeline.upkeep.accounts, "A_MOMENT", 0.0)
    return partial(moulds.cast, built)


def settled(lake: Lake) -> None:
    """Whatever the order was."""
    assert TAKEN.isdisjoint(urls(lake) | urls(lake, "rejects"))
    found = verify(lake.database)
    assert found.problems == {}, found.lines()
    for read, embedded, rejected_, taken in counts(lake).values():
        assert read == embedded + rejected_ + taken


def test_schedules_are_all_and_each_is_another() -> None:
    assert len({tuple(s) for s in schedules()}) == len(schedules()) == 70


def test_a_job_that_embeds_a_new_shard_beside_a_takedown(
    made: Callable[[], Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    for schedule in schedules():
        lake, turns = made(), Turns(list(schedule))
        with steps(turns, monkeypatch):
            turns.run({JOB: partial(lake.run, "2.tar"), DELETE: partial(delete, lake.database, ORDER)})
        assert urls(lake) == {0, 1, 2, 4, 20, 22, 23, 24}, schedule
        assert counts(lake) == {"0.tar": (7, 4, 1, 2), "2.tar": (7, 4, 1, 2)}, schedule
        settled(lake)


def beside(lake: Lake, job: Callable[[], object], before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole takedown before one of the job's steps."""
    turns = Turns([JOB] * before + [DELETE] * 9)
    with steps(turns, monkeypatch):
        turns.run({JOB: job, DELETE: lambda: delete(lake.database, ORDER)})


@pytest.mark.parametrize("before", range(JOB_STEPS + 1))
def test_a_job_that_replaces_a_shard_beside_a_takedown(
    made: Callable[[], Lake], before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = made()
    write_tar(lake.root / "0.tar", members(9))
    beside(lake, lambda: lake.run("0.tar", replaces=True), before, monkeypatch)
    assert (urls(lake), counts(lake)["0.tar"]) == ({0, 1, 2, 4, 6, 7, 8}, (9, 7, 0, 2))
    settled(lake)


@pytest.mark.parametrize("before", range(JOB_STEPS + 1))
def test_a_job_that_tries_rejects_again_beside_a_takedown(
    made: Callable[[], Lake], before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = made()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.prepare, "decode", refusing(4, 5, 6))
        write_tar(lake.root / "1.tar", members(7))
        lake.run("1.tar")
    assert counts(lake)["1.tar"] == (7, 4, 3, 0)
    committer, ledger = committing(lake)
    beside(lake, lambda: replay(lake, committer, ledger), before, monkeypatch)
    assert (urls_in(lake, "1.tar"), counts(lake)["1.tar"]) == ({0, 1, 2, 4, 6}, (7, 5, 0, 2))
    assert committer.overtaken == {}
    settled(lake)


def refusing(*numbers: int) -> Callable[..., Any]:
    """A decoder that cannot read these pictures."""
    bad, decode = {members(1, n)[0][1] for n in numbers}, pipeline.prepare.decode

    def refuse(image: bytes, *how: Any) -> Any:
        if image in bad:
            raise Rejected(RejectReason.UNDECODABLE, "not yet")
        return decode(image, *how)

    return refuse


def committing(lake: Lake) -> tuple[Committer, Ledger]:
    """A job that has planned."""
    ledger = Ledger(lake.database, lake.dataset)
    target = Target(lake.database, lake.layout.schema, lake.dataset, "late")
    committer = Committer(open_or_create(lake.database, lake.layout), lake.layout, target, ledger, {})
    return committer, ledger


def replay(lake: Lake, committer: Committer, ledger: Ledger) -> None:
    record = ledger.current()["1.tar"]
    positions = sorted(rejected(lake.database, lake.dataset, {"1.tar": record})[record.attempt])
    slice_, _ = lake._record("1.tar", "late-0", "late", False)
    again = replace(record, attempt="late-0", run_id="late", replaces=False)
    only = np.array(positions, np.int64)
    committer._proof._only = {"late-0": only}
    blocks, end = lake.embedded(replace(slice_, only=frozenset(positions)), "late-0", committer.takedowns)
    job = Job("late-0", (0,), positions_of(blocks.filter(pa.compute.not_equal(blocks["kind"], Kind.END))), 1)
    assert committer.add(write_jobs(committer._target, [job], blocks)[0], again, end)
    committer.commit()


@pytest.mark.parametrize("before", range(JOB_STEPS + 1))
def test_a_job_that_finds_a_shard_only_touched_beside_a_takedown(
    made: Callable[[], Lake], before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = made()
    committer, ledger = committing(lake)
    touched = replace(ledger.current()["0.tar"], etag="new", run_id="late", replaces=True)

    def touch() -> None:
        committer.touch([touched])
        committer.commit()

    beside(lake, touch, before, monkeypatch)
    assert (counts(lake)["0.tar"], committer.overtaken) == ((7, 4, 1, 2), {})
    assert Ledger(lake.database, lake.dataset).current()["0.tar"].etag == "new"
    settled(lake)


@pytest.mark.parametrize("before", range(JOB_STEPS + 1))
def test_a_job_of_several_commits_beside_a_takedown(
    made: Callable[[], Lake], before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is committed without a conflict was read by readers that knew nothing of it."""
    lake = made()
    for number in (1, 3):
        write_tar(lake.root / f"{number}.tar", members(7, 20))
    beside(lake, lambda: lake.run("1.tar", "2.tar", "3.tar"), before, monkeypatch)
    assert counts(lake) == {
        "0.tar": (7, 4, 1, 2),
        "1.tar": (7, 5, 0, 2),
        "2.tar": (7, 4, 1, 2),
        "3.tar": (7, 5, 0, 2),
    }
    settled(lake)
