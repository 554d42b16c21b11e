"""What machines read of a run: one JSON object a line."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.summary import Summary
from pipeline.watch.events import (
    COMMIT,
    READ,
    Committed,
    Ended,
    Event,
    Listener,
    Retried,
    ShardSettled,
    SliceSettled,
    Started,
    Worked,
)
from pipeline.watch.log import JsonLines, is_event
from pipeline.watch.progress import Counts, Lines


def summary(**more: Any) -> Summary:
    none: dict[str, Any] = dict.fromkeys(Summary.__dataclass_fields__, 0)
    empty = {"failures": {}, "quarantined": {}, "vanished": (), "pruned": (), "rejects": {}, "busy": {}}
    return replace(Summary(**none), **{**empty, "run_id": "r1", "outcome": "done", "table": "lake", **more})


def logged(*told: Callable[[JsonLines], None]) -> list[dict[str, Any]]:
    stream = io.StringIO()
    log = JsonLines(stream)
    for each in told:
        each(log)
    log.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def hear(event: Event) -> Callable[[JsonLines], None]:
    return lambda log: log.hear(event)


def say(line: str) -> Callable[[JsonLines], None]:
    return lambda log: log.say(line)


def test_log_has_the_event_the_time_and_the_run_in_every_line() -> None:
    before = datetime.now(UTC)
    lines = logged(
        say("found 2 shards"),
        hear(Started("r1", "laion", "lake/laion")),
        say("warning: 1 of the shards are gzipped"),
        hear(Worked("infer", 1.0, (4,))),
        hear(SliceSettled("a.tar", "committed", 4)),
        hear(ShardSettled("a.tar", "committed", 4, {"no_caption": 1}, 0, 0.5)),
        hear(Retried(READ, "error", 2, "a.tar")),
        hear(Retried(COMMIT, "conflict")),
        hear(Committed(3, 0.1, 1, 4)),
        hear(Ended("done", summary(rows=4).to_dict())),
        say("error: and then"),
    )
    assert all(is_event(line) for line in lines)
    assert [(line["event"], line["level"], line["run"]) for line in lines] == [
        ("message", "info", None),
        ("run_started", "info", "r1"),
        ("message", "warning", "r1"),
        ("shard", "info", "r1"),
        ("retry", "warning", "r1"),
        ("retry", "warning", "r1"),
        ("commit", "info", "r1"),
        ("run_ended", "info", "r1"),
        ("message", "error", "r1"),
    ]
    for line in lines:
        assert line["time"].endswith("Z")
        assert before <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC)
    shard = {k: v for k, v in lines[3].items() if k not in ("event", "time", "level", "run")}
    assert shard == {
        "dataset": "laion",
        "shard": "a.tar",
        "outcome": "committed",
        "pairs": 5,
        "rows": 4,
        "rejects": {"no_caption": 1},
        "taken_down": 0,
        "seconds": 0.5,
        "error": None,
    }
    assert [tuple(line[name] for name in ("stage", "reason", "times", "shard")) for line in lines[4:6]] == [
        ("read", "error", 2, "a.tar"),
        ("commit", "conflict", 1, None),
    ]
    assert lines[-1]["message"] == "and then"


def test_log_names_at_the_end_the_shards_that_nothing_was_done_with() -> None:
    failures = {"told.tar": "cut", "left.tar#1": "left.tar: changed since"}
    told = summary(outcome="incomplete", failures=failures, quarantined={"bad.tar": "cut"}, vanished=("gone.tar",))
    lines = logged(hear(ShardSettled("told.tar", "failed", error="cut")), hear(Ended(told.outcome, told.to_dict())))
    shards = [(line["shard"], line["outcome"], line["error"]) for line in lines if line["event"] == "shard"]
    assert shards == [
        ("told.tar", "failed", "cut"),
        ("gone.tar", "vanished", None),
        ("bad.tar", "quarantined", "cut"),
        ("left.tar", "failed", "left.tar: changed since"),
    ]
    assert (lines[-1]["event"], lines[-1]["level"], lines[-1]["failures"]) == ("run_ended", "warning", 2)


def test_log_of_a_run_that_failed_says_why() -> None:
    (line,) = logged(hear(Ended("failed", summary(outcome="failed").to_dict(), "no progress")))
    assert (line["level"], line["outcome"], line["error"]) == ("error", "failed", "no progress")


def test_log_tells_no_secret() -> None:
    secret = "https://me:verysecret@host/a.tar?sig=x&token=verysecret"
    lines = logged(
        hear(Started("r1", "laion", secret)),
        say(f"error: {secret}"),
        hear(ShardSettled(secret, "failed", error=secret)),
        hear(Ended("failed", summary(quarantined={f"{secret}1": secret}, vanished=(f"{secret}2",)).to_dict(), secret)),
    )
    assert len(lines) == 6
    assert "verysecret" not in json.dumps(lines)
    assert "host/a.tar" in json.dumps(lines)


def test_log_tells_progress_at_once_and_then_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipeline.watch.log.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    log = JsonLines(stream)
    for at in (1000, 1005, 1009.9, 1010, 1025):
        now[0] = at
        log.update(Counts(1, 4, 100, 2, 1, at - 990))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["pairs"], line["seconds"]) for line in lines] == [
        ("progress", 100, 10),
        ("progress", 100, 20),
        ("progress", 100, 35),
    ]


def test_only_the_log_for_machines_listens() -> None:
    assert isinstance(JsonLines(io.StringIO()), Listener)
    assert not isinstance(Lines(io.StringIO()), Listener)
