"""Which of Ray's metrics a run moves, by how much, and with which tags; Ray left out."""

from collections import defaultdict
from typing import Any

import pytest

from pipeline.cluster import Placement
from pipeline.config import WriteConfig
from pipeline.watch import metrics
from pipeline.watch.events import Committed, Event, Retried, ShardSettled, SliceSettled, Worked
from pipeline.watch.journal import Journal
from pipeline.watch.metrics import recorded
from pipeline.watch.progress import Counts

ON = Placement(2, most_actors=4, reader_cpus=1, num_cpus=1, num_gpus=0.5, device="cuda", dtype="float32", reason="test")
WRITE = WriteConfig("s3://key:verysecret@bucket/lake", "laion", "mine")
Moved = dict[tuple[str, ...], list[float]]


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Moved:
    """What was done, by metric and by its tags other than dataset and table."""
    found: Moved = defaultdict(list)

    class InMemory:
        def __init__(self, name: str, description: str, *more: Any) -> None:
            assert description.endswith(".")
            self.name, self.keys, self.default = name, more[-1], {}

        def set_default_tags(self, tags: dict[str, str]) -> "InMemory":
            self.default = tags
            return self

        def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
            assert value > 0
            together = self.default | (tags or {})
            assert sorted(together) == sorted(self.keys)
            assert (together.pop("dataset"), together.pop("table")) == ("mine", "laion")
            found[(self.name, *together.values())].append(value)

        observe = inc

        def set(self, value: float) -> None:
            found[(self.name, self.default["device"])].append(value)

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, InMemory)
    return found


def told(*events: Event) -> None:
    journal = Journal()
    with recorded(journal, WRITE, ON):
        for event in events:
            journal.tell(event)
    journal.tell(Worked("infer", 100.0, (100,)))  # it is over
    assert journal.listeners == []


def test_metrics_count_pairs_and_rejects_slice_by_slice_and_shards_as_a_whole(moved: Moved) -> None:
    told(
        SliceSettled("a.tar", "committed", 5, {"no_caption": 2, "truncated": 1}, 1),
        SliceSettled("a.tar", "committed", 4, {"no_caption": 1}),
        SliceSettled("b.tar", "failed", error="cut"),
        ShardSettled("a.tar", "committed", 9, {"no_caption": 3, "truncated": 1}, 1),
        ShardSettled("b.tar", "failed", error="cut"),
    )
    assert moved["bridgelake_pairs",] == [9, 5]
    assert moved["bridgelake_rows",] == [5, 4]
    assert moved["bridgelake_rejects", "no_caption"] == [2, 1]
    assert moved["bridgelake_rejects", "truncated"] == [1]
    assert moved["bridgelake_shards", "committed"] == moved["bridgelake_shards", "failed"] == [1]


def test_metrics_count_the_stages_seconds_the_models_calls_and_the_commits(moved: Moved) -> None:
    told(
        Worked("read", 0.5),
        Worked("infer", 1.5, (64, 64, 3)),
        Worked("infer", 0.0),  # a block of rejects
        Worked("write", 0.25),
        Worked("commit", 0.75),
        Committed(version=7, seconds=0.75, slices=2, rows=9),
        Retried("commit", "conflict"),
        Retried("read", "error", 3, "a.tar"),
        Retried("write", "error", shard="a.tar"),
    )
    assert {key[1]: values for key, values in moved.items() if key[0] == "bridgelake_stage_seconds"} == {
        "read": [0.5],
        "infer": [1.5],
        "write": [0.25],
        "commit": [0.75],
    }
    assert moved["bridgelake_embedded_pairs",] == [131]
    assert moved["bridgelake_model_call_pairs",] == [64, 64, 3]
    assert (moved["bridgelake_commits",], moved["bridgelake_commit_seconds",]) == ([1], [0.75])
    retries = {key[1:]: values for key, values in moved.items() if key[0] == "bridgelake_retries"}
    assert retries == {("commit", "conflict"): [1], ("read", "error"): [3], ("write", "error"): [1]}


def test_metrics_tell_the_share_of_the_actors_time_over_a_window(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipeline.watch.metrics.time.monotonic", lambda: now[0])
    counts = Counts(1, 4, 100, 2, 1, 10)
    journal = Journal()
    with recorded(journal, WRITE, ON):
        for at, seconds in ((1004.0, 10.0), (1010.0, 5.0), (1015.0, 0.0), (1030.0, 0.0)):
            now[0] = at
            journal.tell(Worked("infer", seconds, (1,)))
            journal.tell(counts)
    assert moved["bridgelake_model_busy", "cuda"] == [0.0, 0.75, 0.0, 0.0]


def test_metrics_carry_no_tag_but_a_few_words(moved: Moved) -> None:
    told(ShardSettled("a.tar", "committed"), SliceSettled("a.tar", "committed", 1, {"no_caption": 1}))
    assert {word for key in moved for word in key[1:]} <= {"cuda", "no_caption", "committed"}
