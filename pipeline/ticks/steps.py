"""One tick: embed, fold in, compact, measure, verify; and only then the tag `live` moves to what was verified."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.database import Database, naming
from pipeline.embed import Model
from pipeline.errors import BridgelakeError, TickError
from pipeline.indexes.report import Request
from pipeline.indexes.work import fold_in, index, kept_up
from pipeline.quarantine import quarantined
from pipeline.table import latest
from pipeline.ticks.book import Outcome, Tick, beat, begin, end, read_book
from pipeline.ticks.command import Running
from pipeline.ticks.report import say
from pipeline.upkeep.compact import Limits, compact
from pipeline.upkeep.verify import verify
from pipeline.watch.interrupts import uninterrupted

LIVE = "live"  # the tag
BEAT = 60.0  # seconds between two signs of life


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What must hold before `live` moves."""

    min_recall: float = 0.95  # of each index
    model: Callable[[], Model] | None = None  # to embed rows again; None embeds none
    sample: int = 0  # so many rows


@dataclass(slots=True)
class Work:
    """The steps of one tick, each returning what it did in a line; what they found goes into the tick's record."""

    database: Database
    embed_by: Callable[[], Running]
    checks: Checks
    name: str
    verified: int = 0
    done: list[dict[str, Any]] = field(default_factory=list)

    def steps(self) -> Sequence[tuple[str, Callable[[], str]]]:
        """In their order."""
        return (
            ("embed", self.embed),
            ("fold in", self.fold),
            ("compact", self.compact),
            ("recall", self.recall),
            ("verify", self.verify),
            (LIVE, self.move),
        )

    def embed(self) -> str:
        """Run the embedding command; 1 is a failure, be it for a single shard: the next try may do without it."""
        ended = self.embed_by().follow(say)
        if ended.code:
            raise TickError(ended.why)
        return ended.last[-1] if ended.last else "exit code 0"

    def fold(self) -> str:
        """Bring new rows into the indexes that are there."""
        return f"indexes of {', '.join(fold_in(self.database)) or 'no column yet'}"

    def compact(self) -> str:
        """Merge fragments; versions older than a week go, tagged ones stay."""
        return compact(self.database, Limits()).lines()[0]

    def recall(self) -> str:
        """Measure each index, after building it if it is not there yet."""
        wanted = Request(columns=kept_up(self.database), optimize=True, min_recall=self.checks.min_recall)
        report = index(self.database, wanted)
        found = [f"{one.column}: {m.line}" for one in report.vectors for m in one.measured]
        if not report.enough:
            raise TickError(f"an index finds too little, --min-recall is {wanted.min_recall:g}: {'; '.join(found)}")
        return "; ".join(found)

    def verify(self) -> str:
        """Check every promise about the table."""
        model = self.checks.model() if self.checks.model and self.checks.sample else None
        found = verify(self.database, model, self.checks.sample)
        lines = found.lines()
        if not found.ok:
            wrong = next(line for line in lines if line.startswith("wrong:"))
            raise TickError(f"{lines[-1]}; the first is {wrong.removeprefix('wrong: ')}; verify.py tells all")
        self.verified = found.version
        return lines[-1]

    def move(self) -> str:
        """Move the tag to the version that was verified."""
        if not beat(self.database, self.name):
            raise TickError("this tick was not heard of for so long that another one has begun: its word counts now")
        tags = latest(self.database).dataset.tags
        with naming(f"move the tag {LIVE} of", self.database.path()):
            if LIVE in tags.list():
                tags.update(LIVE, self.verified)
            else:
                tags.create(LIVE, self.verified)
        return f"the tag {LIVE} is at version {self.verified}"

    def summary(self) -> dict[str, Any]:
        """For the tick's record."""
        return {"steps": self.done, "live": live_version(self.database), "quarantined": quarantined(self.database)}


def live_version(database: Database) -> int | None:
    """Where the tag is; None if nowhere."""
    dataset = database.open()
    if dataset is None:
        return None
    with naming("read the tags of", database.path()):
        version: int | None = dataset.tags.list().get(LIVE, {}).get("version")
    return version


def tick(database: Database, embed_by: Callable[[], Running], checks: Checks) -> Tick:
    """Do all steps, up to the first that fails; what came of it is in the book.

    Args:
        database: where the table is, or will be.
        embed_by: starts the embedding command.
        checks: what must hold.

    Raises:
        BusyError: another tick is running.
        TableError: the book cannot be written.
    """
    work = Work(database, embed_by, checks, begin(database))
    outcome, why = Outcome.INTERRUPTED, "stopped by a signal"
    try:
        with _heard(database, work.name):
            why = _do(work)
        outcome = Outcome.FAILED if why else Outcome.DONE
    except Exception as error:  # only to write it down; raised again
        outcome, why = Outcome.FAILED, f"{type(error).__name__}: {error}"
        raise
    finally:
        with uninterrupted():
            end(database, work.name, outcome, why, work.summary())
    return next(one for one in read_book(database).ticks if one.name == work.name)


def _do(work: Work) -> str:
    """Why a step failed; nothing if none did."""
    for name, step in work.steps():
        began, at = time.monotonic(), datetime.now(UTC)
        record: dict[str, Any] = {"step": name, "at": at}
        work.done.append(record)
        try:
            record["said"] = step()
        except BridgelakeError as error:
            record["failed"] = str(error)
            return f"{name}: {error}"
        finally:
            record["seconds"] = round(time.monotonic() - began, 2)
        say(f"{name}: {record['said']} ({record['seconds']:.1f} s)")
    return ""


@contextmanager
def _heard(database: Database, name: str) -> Iterator[None]:
    """Write down that the tick is alive for as long as the block takes."""
    over = threading.Event()

    def beats() -> None:
        while not over.wait(BEAT):
            try:
                beat(database, name)
            except BridgelakeError:
                continue  # the store has a bad moment: the next one is as good, until the lease is over

    thread = threading.Thread(target=beats, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
