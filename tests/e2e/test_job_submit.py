"""A real `ray start --head` with a logical GPU, and jobs on it in every way that the README names; no secret shows."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.secrets import told, written
from tests.ports import free_port
from tests.shards import members, write_tar

BIN = Path(sys.executable).parent
OF_THE_CLUSTER = uuid4().hex
OF_THE_USER = uuid4().hex
EMBED = ("--device", "cpu", "--num-gpus", "0.5")


@dataclass(frozen=True)
class Head:
    """A Ray head of its own with one logical GPU."""

    dashboard: str
    folder: Path  # Ray's temporary one
    env: dict[str, str]  # of whoever submits


@pytest.fixture(scope="module")
def head(s3_server: str) -> Iterator[Head]:
    """Its processes have credentials in their environment; whoever submits has others, and no endpoint."""
    plain = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS" and not k.startswith("AWS_")}
    plain |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    mine = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": OF_THE_CLUSTER, "AWS_REGION": "us-east-1"}
    mine |= {"AWS_ENDPOINT_URL": s3_server, "AWS_DEFAULT_REGION": "us-east-1"}
    theirs = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": OF_THE_USER, "HF_TOKEN": OF_THE_USER}
    dashboard = free_port()
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # Ray's sockets must have short paths
    command = [
        *("ray", "start", "--head", "--block", "--num-gpus=1", "--disable-usage-stats"),
        *(f"--port={free_port()}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
        f"--dashboard-agent-listen-port={free_port()}",  # without the agent no job can be submitted
        f"--temp-dir={folder}",
    ]
    log = folder / "start.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=plain | mine, cwd=REPOSITORY, stdout=out, stderr=out, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(f"{address}/api/version", process, log)
        yield Head(address, folder, plain | theirs)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # all of its Ray, and no other test's
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(url):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer: {log.read_text()}")


def ray_job_submit(head: Head, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["ray", "job", "submit", "--address", head.dashboard, *arguments]
    for _ in range(5):
        done = subprocess.run(command, cwd=REPOSITORY, env=head.env, capture_output=True, text=True, timeout=200)
        if "No available agent" not in done.stderr:  # the dashboard answers before the agent does
            break
        time.sleep(2)
    return done


@pytest.fixture(scope="module")
def places(head: Head, s3_server: str) -> Iterator[dict[str, str]]:
    """Shards in a bucket, and a lake beside them, as options."""
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    bucket = boto3.resource("s3", endpoint_url=s3_server, **keys).create_bucket(Bucket=f"test-{uuid4().hex[:12]}")
    tar = head.folder / "00000.tar"
    write_tar(tar, members(20))
    bucket.upload_file(str(tar), "shards/00000.tar")
    yield {"--input": f"s3://{bucket.name}/shards", "--db": f"s3://{bucket.name}/lake"}
    bucket.objects.delete()
    bucket.delete()


def options(places: dict[str, str]) -> list[str]:
    return [word for pair in places.items() for word in pair]


def test_job_submit_embeds_on_a_logical_gpu(head: Head, places: dict[str, str]) -> None:
    done = ray_job_submit(head, "--working-dir", ".", "--", "python", "jobs/embed_laion.py", *options(places), *EMBED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "up to 2 actors, each with 0.5 CPU and 0.5 GPU" in done.stdout
    assert "rows 20 " in done.stdout


def test_submit_of_the_job_itself_does_the_same_and_resumes(head: Head, places: dict[str, str]) -> None:
    command = [str(REPOSITORY / "jobs" / "embed_laion.py"), *options(places), *EMBED]
    command += ["--submit", head.dashboard, "--json"]
    # An address in the environment is another cluster's; what was named counts.
    env = head.env | {"RAY_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=head.folder, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "skipped 1, pending 0" in done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert (summary["outcome"], summary["skipped"]) == ("done", 1)


def test_job_submit_of_nothing_but_the_script_runs_it_and_tells_a_gpu_without_cuda(head: Head, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "00000.tar", members(2))
    paths = ("--input", f"{tmp_path}/shards", "--db", f"{tmp_path}/lake")
    done = ray_job_submit(head, "jobs/embed_laion.py", "--", *paths)
    assert done.returncode == 1
    assert "torch sees no CUDA" in done.stdout, done.stdout + done.stderr


def test_submit_ends_with_the_exit_code_of_the_job(head: Head) -> None:
    from pipeline.submit import submit

    shown: list[str] = []
    name = f"seven-{uuid4().hex[:8]}"
    job = submit(head.dashboard, ["sh", "-c", 'echo "it\'s $((3 + 4))"; exit 7'], name)
    assert (job.name, job.follow(shown.append)) == (name, 7)
    again: list[str] = []
    assert job.follow(again.append) == 7
    assert "".join(again) == "".join(shown)
    assert "it's 7" in "".join(shown).splitlines()  # Ray's own lines may stand around it


WATCH = """
import sys
from jobs.elsewhere import ask
from pipeline.submit import submit
job = submit(sys.argv[1], ["sh", "-c", "echo begun; sleep 300"])
print(job.name, flush=True)
sys.exit(job.attend(lambda text: print(text, end="", flush=True), ask))
"""


def test_interrupt_at_a_terminal_asks_and_stops_the_job(head: Head) -> None:
    terminal, end = pty.openpty()
    env = head.env | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WATCH, head.dashboard]
    with subprocess.Popen(command, env=env, stdin=end, stdout=-1, stderr=-1, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        name = watcher.stdout.readline().strip()
        while watcher.stdout.readline() != "begun\n":
            assert watcher.poll() is None
        watcher.send_signal(signal.SIGINT)
        assert watcher.stderr.read(len(name) + 18) == f"\nstop the job {name}? y,"
        os.write(terminal, b"y\n")
        assert watcher.wait(60) == 130
    with urlopen(f"{head.dashboard}/api/jobs/{name}") as answer:
        assert json.load(answer)["status"] == "STOPPED"


def test_no_secret_shows_in_the_dashboard_the_runtime_environment_or_any_file(head: Head) -> None:
    """After the jobs above, which worked with the one in the cluster's environment."""
    with urlopen(f"{head.dashboard}/api/jobs/") as answer:
        jobs = json.load(answer)
    assert len(jobs) >= 5
    assert set().union(*(job["runtime_env"] for job in jobs)) <= {"working_dir", "env_vars", "_ray_commit"}
    seen = [*told(head.dashboard, [job["submission_id"] for job in jobs]), *written(head.folder)]
    for secret in (OF_THE_CLUSTER, OF_THE_USER):
        assert [where for where, text in seen if secret.encode() in text] == []
    assert any(b"rows 20 " in text for where, text in seen if "job-driver" in where)  # the logs were among them
    assert sum(b"embed_laion.py" in text for where, text in seen if where.startswith("/")) > 2
