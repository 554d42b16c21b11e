"""The schedule, real jobs on a simulated cluster: ticks that fail, a scheduler that is killed, ticks as Ray jobs."""

import json
import os
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from pipeline.upkeep.verify import verify
from tests.faults.head import Head
from tests.faults.launch import Fault
from tests.faults.model import MODEL
from tests.faults.scheduled import Lake, wait

pytestmark = pytest.mark.faults

GARBAGE = b"\x07no tar at all" * 1000


@pytest.fixture
def lake(cluster: Head, tmp_path: Path) -> Lake:
    return Lake(cluster, tmp_path)


def asked(cluster: Head, what: str) -> list[dict[str, Any]]:
    """What Ray itself tells of its nodes, actors or tasks."""
    with urlopen(f"{cluster.dashboard}/api/v0/{what}?detail=true&limit=10000", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
    return found


def test_three_ticks_with_new_changed_and_vanished_shards_and_one_that_fails(lake: Lake, cluster: Head) -> None:
    lake.write("0.tar", 0, 8)
    lake.write("1.tar", 100, 5)
    done = lake.once("--cron", "0 */6 * * *")
    assert (done.returncode, done.stdout, lake.live()) == (0, "", 13), done.stderr
    lake.write("2.tar", 200, 4)  # new
    lake.write("1.tar", 300, 6)  # changed
    (lake.shards / "0.tar").unlink()  # vanished: its rows stay
    done = lake.once()
    assert (done.returncode, lake.live()) == (0, 18), done.stderr
    assert "vanished, its rows stay (--prune removes them): 0.tar" in done.stderr
    (lake.shards / "bad.tar").write_bytes(GARBAGE)
    lake.write("3.tar", 400, 3)
    failed = lake.once()
    assert (failed.returncode, lake.live()) == (1, 18)
    last = failed.stderr.splitlines()[-1]
    assert re.fullmatch(r"error: embed: exit code 1: failed: .*bad\.tar: .*; live stays at \d+", last), last
    counted = lake.shown("query", "--sql", "SELECT count(*) AS n FROM samples", "--format", "csv", "--version", "live")
    assert counted.split() == ["n", "18"]
    (lake.shards / "bad.tar").unlink()
    assert lake.once().returncode == 0
    assert lake.live() == 21
    assert lake.outcomes() == ["done", "done", "failed", "done"]
    assert verify(lake.database, MODEL, 5).ok
    assert "by 0 */6 * * * UTC" in lake.shown("status")
    assert "up to 1 actors, each with 1 CPU and 0.5 GPU" in done.stderr
    nodes = asked(cluster, "nodes")
    (with_gpu,) = (node["node_id"] for node in nodes if node["resources_total"].get("GPU"))
    (head,) = (node["node_id"] for node in nodes if node["is_head_node"])
    actors, tasks = asked(cluster, "actors"), asked(cluster, "tasks")
    # One that was taken away before it had a place has none.
    assert {one["node_id"] for one in actors if "EmbedActor" in one["class_name"]} - {None} == {with_gpu}
    readers = {one["node_id"] for one in tasks if one["name"] == "MapBatches(read_stage)"} - {None}
    assert readers - {with_gpu, head}
    assert head not in readers


def test_bad_shard_is_retried_until_it_is_quarantined_and_then_live_moves_and_sigterm_ends_with_143(lake: Lake) -> None:
    lake.write("0.tar", 0, 8)
    (lake.shards / "bad.tar").write_bytes(GARBAGE)
    with lake.scheduled("--cron", "* * * * * *", "--retries", "3", "--backoff", "0.1") as process:
        wait(lambda: lake.outcomes()[:4] == ["failed"] * 3 + ["done"] and len(lake.outcomes()) > 4)  # and all is said
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "run 3 of 4 at most ended with exit code 1" in said
    assert "run 4 of 4 at most ended with exit code 0" in said
    assert lake.live() == 8
    assert list(lake.book().ticks[3].summary["quarantined"]) == ["laion bad.tar"]
    assert set(lake.outcomes()[4:]) <= {"done", "interrupted"}
    assert "laion bad.tar" in lake.shown("status")


def test_scheduler_that_is_killed_between_ticks_makes_up_for_the_time_that_it_missed(lake: Lake) -> None:
    lake.write("0.tar", 0, 8)
    each_half_minute = ("--cron", "*/30 * * * * *")
    with lake.scheduled(*each_half_minute) as process:
        wait(lambda: lake.outcomes() == ["done"])
        os.kill(process.pid, signal.SIGKILL)
    first = lake.book().ticks[0]
    lake.write("1.tar", 100, 5)
    wait(lambda: datetime.now(UTC).timestamp() // 30 > first.started.timestamp() // 30)  # a time passes
    with lake.scheduled(*each_half_minute) as process:
        assert process.stderr is not None
        assert process.stderr.readline().endswith(" UTC, which was missed\n")
        wait(lambda: lake.live() == 13)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_scheduler_that_is_killed_during_a_tick_leaves_nothing_behind_and_the_next_goes_on(
    lake: Lake, cluster: Head
) -> None:
    lake.write("0.tar", 0, 8)
    held = Fault("tests.faults.model:SmallEmbedder.embed", "wait", until="never", seconds=60)
    cluster.place(held)
    each_second = ("--cron", "* * * * * *", "--backoff", "0.1")
    with lake.scheduled(*each_second) as process:
        wait(lambda: cluster.happened(held))
        tick, *others = psutil.Process(process.pid).children(recursive=True)
        refused = lake.once()
        assert refused.returncode == 1
        assert re.search(r"error: a tick of laion is running since .* UTC, in process \d+ on ", refused.stderr)
        os.kill(process.pid, signal.SIGKILL)
    gone, left = psutil.wait_procs([tick, *others], timeout=60)
    assert (len(gone), left) == (1 + len(others), [])
    assert lake.outcomes() == ["interrupted"]
    cluster.place()
    with lake.scheduled(*each_second) as process:
        wait(lambda: "done" in lake.outcomes())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert lake.live() == 8
    assert verify(lake.database).ok


def test_tick_that_is_killed_is_run_again(lake: Lake, cluster: Head) -> None:
    lake.write("0.tar", 0, 8)
    cluster.place(Fault("pipeline.ticks.steps:Work.recall", "kill"))
    with lake.scheduled("--cron", "* * * * * *", "--backoff", "0.1") as process:
        wait(lambda: "done" in lake.outcomes())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert lake.outcomes()[:2] == ["killed", "done"]
    assert "run 1 of 4 at most ended with exit code -9" in said
    assert lake.live() == 8


def test_tick_as_a_ray_job_is_followed_and_its_exit_code_is_that_of_the_tick(lake: Lake, cluster: Head) -> None:
    lake.write("0.tar", 0, 8)
    done = lake.once("--submit", cluster.dashboard)
    assert done.returncode == 0, done.stderr
    assert "submitted as raysubmit_" in done.stderr
    assert re.search(r"^live: the tag live is at version \d+", done.stderr, re.MULTILINE)
    assert lake.live() == 8
    (lake.shards / "bad.tar").write_bytes(GARBAGE)
    failed = lake.once("--submit", cluster.dashboard)
    assert failed.returncode == 1
    assert "error: embed: exit code 1: failed: " in failed.stderr
    assert (lake.outcomes(), lake.live()) == (["done", "failed"], 8)
