"""The schedule outlives Ray's head: one that is lost and started again in mid-tick, and one that takes all with it."""

import json
import os
import signal
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.upkeep.verify import verify
from tests.faults.head import Head, running_head
from tests.faults.launch import Fault
from tests.faults.model import MODEL
from tests.faults.scheduled import Lake, wait

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
EACH = 20  # seconds


def started(heads: ExitStack, folder: Path, place_of: Head | None = None) -> Head:
    folder.mkdir()
    return heads.enter_context(running_head(folder, "--num-gpus=1", place_of=place_of))


def test_a_schedule_goes_on_when_the_head_is_started_again_and_when_both_are(tmp_path: Path) -> None:
    held = Fault("tests.faults.model:SmallEmbedder.embed", "wait", until="never", seconds=300)
    with ExitStack() as heads:
        head = started(heads, tmp_path / "first")
        lake = Lake(head, tmp_path)
        lake.write("0.tar", 0, 8)
        command = ("--cron", f"*/{EACH} * * * * *", "--backoff", "1", "--submit", head.dashboard)
        with lake.scheduled(*command) as process:
            wait(lambda: lake.outcomes() == ["done"])
            head.place(held)
            lake.write("1.tar", 100, 5)
            wait(lambda: head.happened(held))
            ticks = len(lake.outcomes())
            heads.close()  # kill -9 of all of Ray, the tick that runs there too
            started(heads, tmp_path / "second", head)
            wait(lambda: "done" in lake.outcomes()[ticks:])
            os.kill(process.pid, signal.SIGKILL)
            heads.close()
    assert lake.live() == 13
    status = json.loads(lake.shown("status", "--json"))  # while there is no Ray at all
    last = lake.book().ticks[-1]
    assert (status["ticks"][0]["tick"], status["next"] > status["ticks"][0]["started"]) == (last.name, True)
    lake.write("2.tar", 200, 4)
    wait(lambda: datetime.now(UTC).timestamp() // EACH > last.started.timestamp() // EACH)  # a time passes
    with ExitStack() as heads:
        started(heads, tmp_path / "third", head)
        with lake.scheduled(*command) as process:
            assert process.stderr is not None
            *_, first = (process.stderr.readline() for _ in range(3))  # before it, what all nodes must share
            assert first.endswith(" UTC, which was missed\n"), first
            wait(lambda: lake.live() == 17)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert lake.outcomes()[ticks - 1] in ("killed", "failed")  # the scheduler may have told of its end, or not
    told = lake.book().ticks
    assert all(one.seen <= after.started for one, after in pairwise(told))  # never two at once
    times = [tick.started.timestamp() // EACH for tick in told if tick.outcome == "done"]
    assert len(set(times)) == len(times)  # none was served twice
    assert verify(lake.database, MODEL, 5).ok
