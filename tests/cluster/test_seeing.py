"""A run as others see it: Prometheus at the head's own endpoint, Ray's dashboard, and whoever collects its log."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import REPOSITORY
from tests.faults.head import Head, running_head
from tests.faults.inputs import make_shards
from tests.faults.launch import Done, Fault, waves
from tests.ports import free_port

pytestmark = pytest.mark.cluster
KILL = Fault("pipeline.embed:embed_batch", when="after", nth=3)  # an actor, when it has embedded a batch
CONFLICT = Fault(
    "pipeline.committer:commit", "raise", nth=2, error="pipeline.errors:CommitConflictError", says="as if late"
)
BUSY = Fault("pipeline.database:write_fragments", "raise", where="dataset_uri.endswith('laion.lance')")  # in a worker
Samples = dict[tuple[str, ...], float]  # name and our tags -> value


@dataclass(frozen=True)
class Seen:
    """A head, its endpoint for Prometheus, and a job on it that has ended."""

    head: Head
    metrics: str
    shards: Path
    lake: Path
    job: Done

    @property
    def events(self) -> list[dict[str, Any]]:
        """Each line that the job wrote on standard error."""
        return [json.loads(line) for line in self.job.said.splitlines()]

    def scrape(self) -> Samples:
        """Our own metrics, added up over what Ray tells them apart by."""
        with urlopen(self.metrics) as answer:
            text = answer.read().decode()
        found: Samples = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ray_bridgelake_") and not sample.name.endswith("_created"):
                    assert (sample.labels["dataset"], sample.labels["table"]) == ("laion", "laion")
                    tags = (
                        sample.labels[n] for n in ("stage", "outcome", "reason", "device", "le") if n in sample.labels
                    )
                    found[(sample.name.removeprefix("ray_bridgelake_"), *tags)] += sample.value
        return found

    def api(self, page: str) -> Any:
        with urlopen(self.head.dashboard + page, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The job loses an actor and a race for a commit, a writer's store has a bad moment, and one shard is cut off."""
    port, folder = free_port(), tmp_path_factory.mktemp("seen")
    shards = make_shards(folder / "shards")
    (shards / "cut.tar").write_bytes((shards / "00000.tar").read_bytes()[:60_000])
    (folder / "head").mkdir()
    with running_head(folder / "head", f"--metrics-export-port={port}") as head:
        head.place(*waves(), KILL, CONFLICT, BUSY)
        job = head.embed(shards, folder / "lake", "--log-json")
        assert [fault for fault in (KILL, CONFLICT, BUSY) if not head.happened(fault)] == [], job.said
        yield Seen(head, f"http://127.0.0.1:{port}/metrics", shards, folder / "lake", job)


def test_the_endpoint_of_the_head_tells_what_the_summary_tells(seen: Seen) -> None:
    summary, until = seen.job.summary, time.monotonic() + 30
    while (found := seen.scrape()).get(("commits_total",)) != summary["commits"]:  # told to the agent at the end
        assert time.monotonic() < until, found
        time.sleep(0.5)
    assert summary["rows"] > 100
    assert summary["rejects"]
    assert (found["pairs_total",], found["rows_total",]) == (summary["pairs"], summary["rows"])
    assert {k[1]: n for k, n in found.items() if k[0] == "rejects_total"} == summary["rejects"]
    assert found["commits_total",] == found["commit_seconds_count",] == summary["commits"] > 0
    assert found["retries_total", "commit", "conflict"] == summary["conflicts"] == 1
    assert found["retries_total", "write", "error"] == summary["asked_again"] == 1  # in a worker
    assert found["shards_total", "failed"] == len(summary["failures"]) == 1
    assert found["shards_total", "committed"] == summary["shards"] - 1
    assert found["model_call_pairs_count",] == summary["calls"]
    assert found["embedded_pairs_total",] == pytest.approx(summary["calls"] * summary["pairs_per_call"])
    seconds = {k[1]: n for k, n in found.items() if k[0] == "stage_seconds_total"}
    assert seconds["write"] + seconds["commit"] == pytest.approx(summary["busy"]["write"])
    assert {stage: seconds[stage] for stage in ("read", "infer")} == pytest.approx(
        {stage: summary["busy"][stage] for stage in ("read", "infer")}
    )
    assert found["model_busy", "cpu"] == 0


def test_the_log_has_one_event_a_shard_and_its_numbers_add_up(seen: Seen) -> None:
    events, summary = seen.events, seen.job.summary
    assert {event["run"] for event in events} == {summary["run_id"]}
    shards = [event for event in events if event["event"] == "shard"]
    assert sorted(event["shard"] for event in shards) == sorted(path.name for path in seen.shards.iterdir())
    assert sum(event["pairs"] for event in shards) == summary["pairs"]
    assert sum(event["rows"] for event in shards) == summary["rows"]
    assert sum((Counter(event["rejects"]) for event in shards), Counter()) == summary["rejects"]
    (bad,) = [event for event in shards if event["outcome"] != "committed"]
    assert (bad["shard"], bad["outcome"], bad["error"]) == ("cut.tar", "failed", summary["failures"]["cut.tar"])
    retries = [(event["stage"], event["reason"], event["times"]) for event in events if event["event"] == "retry"]
    assert sorted(retries) == [("commit", "conflict", 1), ("write", "error", 1)]
    commits = [event for event in events if event["event"] == "commit"]
    assert (len(commits), sum(event["rows"] for event in commits)) == (summary["commits"], summary["rows"])
    assert [event["event"] for event in (events[0], events[-1])] == ["run_started", "run_ended"]
    assert events[-1]["outcome"] == summary["outcome"] == "incomplete"


def test_the_dashboard_shows_the_stages_by_name(seen: Seen) -> None:
    tasks = seen.api("/api/v0/tasks?limit=10000")["data"]["result"]["result"]
    assert {task["name"] for task in tasks} >= {"MapBatches(read_stage)", "inspect_block", "write_jobs"}
    actors = seen.api("/api/v0/actors?limit=1000")["data"]["result"]["result"]
    assert {actor["class_name"] for actor in actors} >= {"MapWorker(MapBatches(EmbedActor))", "Pulse"}
    (job,) = {task["job_id"] for task in tasks if task["name"] == "write_jobs"}
    (dataset,) = seen.api(f"/api/data/datasets/{job}")["datasets"]
    assert dataset["dataset"].startswith("bridgelake_")
    operators = " ".join(operator["operator"] for operator in dataset["operators"])
    assert "MapBatches(read_stage)" in operators
    assert "MapBatches(EmbedActor)" in operators


def test_a_submitted_jobs_log_is_events_too_and_its_object_is_still_the_summary(seen: Seen, tmp_path: Path) -> None:
    seen.head.place()
    command = [sys.executable, str(REPOSITORY / "jobs" / "embed_laion.py"), "--input", str(seen.shards / "00001.tar")]
    command += ["--db", str(tmp_path / "lake"), "--submit", seen.head.dashboard, "--json", "--log-json"]
    env = dict(seen.head.env) | {"PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["outcome"], summary["rows"]) == ("done", 8)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"event"')]
    (shard,) = [event for event in events if event["event"] == "shard"]
    assert (shard["run"], shard["rows"], shard["pairs"]) == (summary["run_id"], 8, 10)
    assert events[2]["message"].startswith("job raysubmit_")  # after a word on either place
