"""Ray's head is lost, or was never there, or Ray ends on the driver's node: the job says so; what was whole stays."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.faults.head import Head, running_head
from tests.faults.launch import Fault, environment, happened, place, start, waves
from tests.faults.proof import prove, sound

pytestmark = pytest.mark.faults


def test_a_head_lost_in_mid_job_is_named_and_another_goes_on(
    head: Head, shards: Path, reference: Path, tmp_path: Path
) -> None:
    with running_head(tmp_path, RAY_gcs_rpc_server_reconnect_timeout_s="15") as lost:
        pace = waves()
        lost.place(*pace)
        job = lost.start(shards, tmp_path / "lake")
        while not lost.happened(pace[0]) and job.process.poll() is None:
            time.sleep(0.1)
        os.killpg(lost.session, signal.SIGKILL)
        done = job.done(within=120)
    assert done.code != 0
    assert re.search(rf"Ray.s head at \S+:{lost.address.rpartition(':')[2]} does not answer", done.said), done.said
    assert sound(tmp_path / "lake", reference) > 0
    assert head.embed(shards, tmp_path / "lake").code == 0
    prove(tmp_path / "lake", reference)


def test_a_head_that_takes_calls_and_never_answers_is_named(shards: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        env = environment(place(tmp_path / "faults"), RAY_ADDRESS=address)
        done = start(shards, tmp_path / "lake", env=env).done(within=120)
    assert (done.code, f"error: cannot join Ray at {address}: " in done.said) == (1, True), done.said


def test_a_job_whose_own_raylet_is_killed_says_so_and_the_next_goes_on(
    head: Head, shards: Path, reference: Path, tmp_path: Path
) -> None:
    kill = Fault("tests.faults.model:SmallEmbedder.embed", "kill node", nth=18)  # the 17th waits for a commit
    faults = place(tmp_path / "faults", *waves(), kill)
    lake, env = tmp_path / "lake", environment(faults)  # of a Ray that the job starts for itself
    done = start(shards, lake, "--actors", "1", "--batch-size", "2", env=env).done(within=120)
    assert happened(faults, kill), done.said
    assert (done.code, done.summary) == (1, {}), done.said
    assert done.said.count("error: Ray's own process on this node (raylet) has ended") == 1, done.said
    committed = sound(lake, reference)
    assert committed > 0
    again = head.embed(shards, lake)
    assert (again.code, again.summary["skipped"]) == (0, committed), again.said
    prove(lake, reference)
