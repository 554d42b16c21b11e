"""The log of a run for machines: one JSON object a line, with its event, its time and its run, and no secret."""

import logging
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from typing import Any, TextIO

import structlog

from pipeline.records import Outcome
from pipeline.shards import shard_of
from pipeline.stores.storage import redact
from pipeline.watch.events import Committed, Ended, Event, Retried, Settled, ShardSettled, Started
from pipeline.watch.progress import Counts

_BAD = (Outcome.FAILED, Outcome.LOST, "quarantined", "unfinished")
_LEVELS = {"warning: ": logging.WARNING, "error: ": logging.ERROR}  # as lines for a person begin
_FIRST = ("event", "time", "level", "run")
_NAMES = ("failures", "quarantined", "vanished", "pruned")  # of shards, each of which has an event of its own


class JsonLines:
    """Hears of a run in place of a person, and keeps its name for what is said after it."""

    def __init__(self, stream: TextIO, every: float = 10.0) -> None:
        """`every`: seconds between two events of progress."""
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(stream),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                _clean,
                structlog.processors.JSONRenderer(),
            ],
            run=None,
        )
        self._every = every
        self._next = 0.0
        self._shards: set[str] = set()  # that have had their event

    def say(self, line: str) -> None:
        """A line that a person would read."""
        begins = next((words for words in _LEVELS if line.startswith(words)), "")
        self._log.log(_LEVELS.get(begins, logging.INFO), "message", message=line.removeprefix(begins))

    def update(self, counts: Counts) -> None:
        """The counts, if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._log.info("progress", **asdict(counts))

    def close(self) -> None:
        """Nothing to tidy."""

    def hear(self, event: Event) -> None:
        """Log it, unless it is of less than a shard."""
        match event:
            case Started():
                self._log = self._log.bind(run=event.run, dataset=event.dataset)
                self._shards = set()
                self._log.info("run_started", table=event.table)
            case ShardSettled():
                self._shard(event)
            case Committed():
                self._log.info("commit", **asdict(event))
            case Retried():
                self._log.warning("retry", **asdict(event))
            case Ended():
                self._ended(event)

    def _shard(self, shard: Settled) -> None:
        self._shards.add(shard.shard)
        level = logging.WARNING if shard.outcome in _BAD else logging.INFO
        self._log.log(level, "shard", **asdict(shard), pairs=shard.pairs)

    def _ended(self, event: Ended) -> None:
        """The shards that nothing was done with come first."""
        summary = event.summary
        known = dict.fromkeys(summary["vanished"], ("vanished", None))
        known |= {name: ("quarantined", why) for name, why in summary["quarantined"].items()}
        known |= {shard_of(name): (str(Outcome.FAILED), why) for name, why in summary["failures"].items()}
        for name, (outcome, why) in known.items():
            if name not in self._shards:
                self._shard(Settled(name, outcome, error=why))
        bad = logging.ERROR if event.error else logging.WARNING
        level = logging.INFO if event.outcome == "done" else bad
        counts = {name: len(value) if name in _NAMES else value for name, value in summary.items() if name != "run_id"}
        self._log.log(level, "run_ended", error=event.error, **counts)


def is_event(line: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a line of such a log."""
    return line.keys() >= set(_FIRST)


def _clean(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Without secrets, and in an order that a person likes too."""
    return {name: _plain(event[name]) for name in [*_FIRST, *(n for n in event if n not in _FIRST)]}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {redact(str(name)): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
