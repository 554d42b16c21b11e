"""Ray's head is lost, or was never there: the job ends and says so, and what was whole stays."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.faults.head import Head, running_head
from tests.faults.launch import environment, place, start, waves
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
