"""Counters and histograms of a run through Ray's metrics: its nodes' agents show them to Prometheus.

All are counted by the driver, which hears of everything once. Ray puts `ray_` before each name, and `_total` behind a
counter's; of a histogram, its agent keeps how many values fell into each bucket, and guesses their sum from that.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.cluster import Placement
from pipeline.config import WriteConfig
from pipeline.watch.events import INFER, Committed, Event, Retried, ShardSettled, SliceSettled, Worked
from pipeline.watch.journal import Journal
from pipeline.watch.progress import Counts

_WINDOW = 10.0  # seconds over which the share of the time is taken; Ray tells its agents as often
_PAIRS = [float(2**n) for n in range(13)]
_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_TAGS = ("dataset", "table")


class Metrics:
    """The listener that counts."""

    def __init__(self, write: WriteConfig, placement: Placement) -> None:
        tags = {"dataset": write.dataset_name, "table": write.table}

        def counter(name: str, what: str, *more: str) -> Counter:
            return Counter(f"bridgelake_{name}", what, (*_TAGS, *more)).set_default_tags(tags)

        def histogram(name: str, what: str, bounds: list[float]) -> Histogram:
            return Histogram(f"bridgelake_{name}", what, bounds, _TAGS).set_default_tags(tags)

        self._pairs = counter("pairs", "Pairs read and committed: rows, rejects and what was taken down.")
        self._rows = counter("rows", "Rows committed.")
        self._rejects = counter("rejects", "Rejected pairs committed.", "reason")
        self._embedded = counter("embedded_pairs", "Pairs that left the model, committed or not.")
        self._shards = counter("shards", "Shards that a run has done with.", "outcome")
        self._stage = counter("stage_seconds", "Seconds of work, added up over all workers.", "stage")
        self._retries = counter("retries", "What was done again.", "stage", "reason")
        self._commits = counter("commits", "Commits to the table.")
        self._latency = histogram("commit_seconds", "Seconds of a commit, with its tries.", _SECONDS)
        self._sizes = histogram("model_call_pairs", "Pairs in a call of the model.", _PAIRS)
        busy = Gauge("bridgelake_model_busy", "Share of the actors' time in the model.", (*_TAGS, "device"))
        self._busy = busy.set_default_tags(tags | {"device": placement.device})
        self._actors = placement.actors
        self._infer, self._since = 0.0, time.monotonic()
        self._busy.set(0.0)

    def hear(self, event: Event) -> None:
        """Count it."""
        match event:
            case Worked():
                _add(self._stage, event.seconds, stage=event.stage)
                _add(self._embedded, sum(event.calls))
                for pairs in event.calls:
                    self._sizes.observe(pairs)
                self._infer += event.seconds if event.stage == INFER else 0.0
            case SliceSettled():
                _add(self._pairs, event.pairs)
                _add(self._rows, event.rows)
                for reason, count in event.rejects.items():
                    _add(self._rejects, count, reason=reason)
            case ShardSettled():
                _add(self._shards, 1, outcome=event.outcome)
            case Committed():
                _add(self._commits, 1)
                self._latency.observe(event.seconds)
            case Retried():
                _add(self._retries, event.times, stage=event.stage, reason=event.reason)
            case Counts():
                self._share()

    def close(self) -> None:
        """Nothing computes any more."""
        self._busy.set(0.0)

    def _share(self) -> None:
        passed = time.monotonic() - self._since
        if passed >= _WINDOW:
            self._busy.set(self._infer / (passed * self._actors))
            self._infer, self._since = 0.0, time.monotonic()


def _add(counter: Counter, value: float, **tags: str) -> None:
    if value > 0:  # Ray refuses 0
        counter.inc(value, tags)


@contextmanager
def recorded(journal: Journal, write: WriteConfig, placement: Placement) -> Iterator[None]:
    """Count what the journal tells, while the block runs."""
    metrics = Metrics(write, placement)
    journal.listeners.append(metrics)
    try:
        yield
    finally:
        journal.listeners.remove(metrics)
        metrics.close()
