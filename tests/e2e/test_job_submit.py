"""A real `ray start --head` with a logical GPU, and `ray job submit` as the README says it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import lancedb
import pytest

from tests.conftest import REPOSITORY
from tests.shards import members, write_tar

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of its own with one logical GPU; yields the dashboard's address and the environment."""
    # Ray's sockets must have short paths.
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
    }
    port, dashboard = free_port(), free_port()
    command = [
        *("ray", "start", "--head", "--block", "--num-gpus=1", "--disable-usage-stats"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
        f"--dashboard-agent-listen-port={free_port()}",  # without the agent no job can be submitted
    ]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"{address}/api/version", process, log)
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # all of its Ray, and no other test's
        process.wait(30)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(url):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer: {log.read_text()}")


def submit(head: tuple[str, dict[str, str]], *arguments: str) -> "subprocess.CompletedProcess[str]":
    address, environment = head
    command = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *arguments]
    for _ in range(5):
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)
        if "No available agent" not in done.stderr:  # the dashboard answers before the agent does
            break
        time.sleep(2)
    return done


def test_job_submit_embeds_on_a_logical_gpu_and_resumes(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "00000.tar", members(20))
    embed = ("python", "jobs/embed_laion.py", "--input", f"{tmp_path}/shards", "--db", f"{tmp_path}/lake")
    first = submit(head, *embed, "--device", "cpu", "--num-gpus", "0.5")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "up to 2 actors, each with 0.5 CPU and 0.5 GPU" in first.stdout
    assert lancedb.connect(tmp_path / "lake").open_table("laion").count_rows() == 20
    second = submit(head, *embed, "--device", "cpu", "--num-gpus", "0.5")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "skipped 1, pending 0" in second.stdout
    assert lancedb.connect(tmp_path / "lake").open_table("laion").count_rows() == 20


def test_job_submit_gpu_actor_without_cuda_is_an_error(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "00000.tar", members(2))
    embed = ("python", "jobs/embed_laion.py", "--input", f"{tmp_path}/shards", "--db", f"{tmp_path}/lake")
    done = submit(head, *embed)
    assert done.returncode == 1
    assert "torch sees no CUDA" in done.stdout
