"""`<table>_ticks`: the ticks of a table, from start to end, wherever they run; so that two never run at once.

A tick starts by a row that is committed by compare-and-swap: of two, one gets in. While it runs it writes now and then
that it is alive. One that has not ended is over if its process is gone (where it can be looked for), or if nothing
was heard of it for `LEASE`.
"""

import json
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import lance
import psutil
import pyarrow as pa

from pipeline.database import Database, naming
from pipeline.errors import BusyError, TableError
from pipeline.schema import TICKS
from pipeline.stores.probe import require_atomic_writes
from pipeline.stores.retry import patiently
from pipeline.stores.storage import redact
from pipeline.ticks.cron import Cron

LEASE = timedelta(minutes=5)
_APART = 5.0  # seconds by which one process's start may be told differently: the clock is set now and then


class Event(StrEnum):
    """What a row of `<table>_ticks` says."""

    PLANNED = "planned"  # from now on this cron line holds
    STARTED = "started"
    ALIVE = "alive"
    ENDED = "ended"


class Outcome(StrEnum):
    """How a tick ended."""

    DONE = "done"  # all checks held, and `live` is at the version that was checked
    FAILED = "failed"  # a step failed, `live` is where it was
    INTERRUPTED = "interrupted"  # somebody stopped it


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick, as far as it is known; without an outcome it is running, or was killed."""

    name: str
    started: datetime
    seen: datetime
    host: str
    process: str
    outcome: str | None = None
    why: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)

    def running(self, now: datetime) -> bool:
        """Whether it is, as far as this machine can tell."""
        if self.outcome is not None:
            return False
        alive = _alive(self.process) if self.host == here() else None
        return now - self.seen < LEASE if alive is None else alive

    @property
    def machine(self) -> str:
        """The name of the machine on which it runs."""
        return self.host.partition(" ")[0]

    def said(self, now: datetime) -> str:
        """Its outcome in one word."""
        return self.outcome or ("running" if self.running(now) else "killed")


@dataclass(frozen=True, slots=True)
class Book:
    """All that is known: the ticks by their start, and the cron line that holds since when."""

    rows: lance.LanceDataset | None
    ticks: tuple[Tick, ...] = ()
    cron: Cron | None = None
    planned: datetime | None = None

    def running(self, now: datetime) -> Tick | None:
        """The tick that runs."""
        return next((tick for tick in reversed(self.ticks) if tick.running(now)), None)

    def served(self) -> datetime | None:
        """Up to when no time was missed: a tick that ended well began then, or the cron line was new."""
        well = [tick.started for tick in self.ticks if tick.outcome == Outcome.DONE]
        return max([*well, *([self.planned] if self.planned else [])], default=None)


def read_book(database: Database) -> Book:
    """As it is now; nothing is written."""
    rows = database.open("ticks")
    if rows is None:
        return Book(None)
    ticks: dict[str, Tick] = {}
    cron, planned = None, None
    events = database.scan("ticks", rows, TICKS.names)
    for row in events.sort_by("at").to_pylist():
        match row["event"]:
            case Event.PLANNED:
                cron, planned = Cron(row["cron"], row["timezone"]), row["at"]
            case Event.STARTED:
                ticks[row["tick"]] = Tick(row["tick"], row["at"], row["at"], row["host"], row["process"])
            case Event.ALIVE if row["tick"] in ticks:
                ticks[row["tick"]] = replace(ticks[row["tick"]], seen=row["at"])
            case Event.ENDED if row["tick"] in ticks:
                how = {"outcome": row["outcome"], "why": row["why"], "summary": json.loads(row["summary"])}
                ticks[row["tick"]] = replace(ticks[row["tick"]], seen=row["at"], **how)
    return Book(rows, tuple(sorted(ticks.values(), key=lambda tick: tick.started)), cron, planned)


def plan(database: Database, cron: Cron) -> None:
    """Write down from when on a cron line holds, unless it does already.

    Raises:
        PreflightError, TableError: nothing can be written there.
    """
    require_atomic_writes(database.absolute().uri)  # before Lance, which waits minutes for a store that is not there
    if read_book(database).cron != cron:
        database.append("ticks", _row(Event.PLANNED, cron=cron.text, timezone=cron.timezone))


def begin(database: Database) -> str:
    """Start a tick, if none runs; returns its name.

    Raises:
        BusyError: one does.
        PreflightError, TableError: nothing can be written there.
    """
    require_atomic_writes(database.absolute().uri)
    name = f"tick-{uuid.uuid4().hex[:12]}"
    fragments: list[str] | None = None
    for attempt in patiently(TableError):
        with attempt:
            database.create("ticks", TICKS)
            book = read_book(database)
            other = book.running(datetime.now(UTC))
            if other is not None and other.name == name:
                return name  # the commit landed, and its reply was lost
            if other is not None:
                raise BusyError(
                    f"a tick of {database.table} is running since {other.started:%Y-%m-%d %H:%M:%S} UTC, in process "
                    f"{other.process.partition(' ')[0]} on {other.machine}: ticks never overlap; wait "
                    "for its end"
                )
            if fragments is None:
                fragments = database.write("ticks", _row(Event.STARTED, name))
            database.swap("ticks", book.rows, TICKS, fragments)
    return name


def beat(database: Database, name: str) -> bool:
    """Write down that a tick is alive; whether it still is the one, and nobody took it for dead."""
    ticks = read_book(database).ticks
    if not ticks or ticks[-1].name != name:
        return False
    database.append("ticks", _row(Event.ALIVE, name))
    return True


def end(database: Database, name: str, outcome: Outcome, why: str, summary: Mapping[str, Any]) -> None:
    """Write down how a tick ended."""
    known = {"outcome": str(outcome), "why": redact(why), "summary": redact(json.dumps(summary, default=str))}
    database.append("ticks", _row(Event.ENDED, name, **known))
    with suppress(TableError), naming("tidy", database.path("ticks")):  # if not, they only take room
        database.create("ticks", TICKS).delete(f"event = '{Event.ALIVE}' AND tick = '{name}'")


def _row(event: Event, name: str | None = None, **values: str) -> pa.Table:
    row = {"tick": name, "event": str(event), "at": datetime.now(UTC), "host": here(), "process": _this(), **values}
    return pa.Table.from_pylist([row], schema=TICKS)


@cache
def here() -> str:
    """This machine since its start, and the room in it in which process numbers mean something."""
    parts = [socket.gethostname()]
    boot, room = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and room.exists():  # elsewhere than on Linux, the name alone must do
        parts += [boot.read_text().strip(), str(room.stat().st_ino)]
    return " ".join(parts)


def _this() -> str:
    return f"{os.getpid()} {psutil.Process().create_time():.2f}"


def _alive(process: str) -> bool | None:
    """Whether a process of this machine is; None if one of its number is, that may be another."""
    number, _, since = process.partition(" ")
    try:
        found = psutil.Process(int(number))
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        return True if abs(found.create_time() - float(since)) < _APART else None
    except psutil.NoSuchProcess:
        return False
