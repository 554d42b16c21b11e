"""cluster.yaml's install commands in clean environments; and a job from a head without torch to a node that has it.

The commands are run as they stand there, with a home of the test's own. Not run: those with sudo, which need Ubuntu.
Where PyPI's torch is the CUDA build, as on a GPU node, this would fetch gigabytes: the group with torch is only
resolved, not installed, and its part as a node is played by the environment of these tests.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import lancedb
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.e2e.test_job_submit import wait_for
from tests.ports import free_port
from tests.shards import members, write_tar

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
CONFIG: dict[str, Any] = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


def run(command: Sequence[str] | str, env: Mapping[str, str], **options: Any) -> "subprocess.CompletedProcess[str]":
    shell = isinstance(command, str)
    return subprocess.run(command, env=env, shell=shell, capture_output=True, text=True, timeout=800, **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the launcher makes of a head's home: the repository in it, and then the head's commands."""
    home = tmp_path_factory.mktemp("home")
    for there, here in CONFIG["file_mounts"].items():
        target = home / there.removeprefix("~/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / here).is_dir():
            shutil.copytree(REPOSITORY / here, target, ignore=shutil.ignore_patterns(*CONFIG["rsync_exclude"]))
        else:
            shutil.copy(REPOSITORY / here, target)
    for command in [*CONFIG["setup_commands"], *CONFIG["head_setup_commands"]]:
        done = run(command, environment(home))
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return home


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a login on the head."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{home}/venv/bin:{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
    return kept | {"HOME": str(home), "PATH": path, "RAY_AUTH_MODE": "disabled"} | more


def test_the_commands_make_an_environment_without_torch_in_which_every_job_says_its_options(home: Path) -> None:
    env = environment(home)
    assert 'export PATH="$HOME/venv/bin:$PATH"' in (home / ".bashrc").read_text()
    frozen = run([str(home / "venv/bin/pip"), "freeze"], env).stdout
    assert "ray==2.60.0" in frozen
    assert not re.search(r"^(torch|transformers|nvidia.*)==", frozen, re.MULTILINE)
    locked = dict(line.split("==") for line in (REPOSITORY / "requirements.lock").read_text().splitlines())
    installed = dict(line.split("==") for line in frozen.splitlines() if "==" in line)
    assert {name: version for name, version in installed.items() if locked.get(name, version) != version} == {}
    for job in ("embed_laion", "query"):
        done = run([f"{home}/bridgelake/jobs/{job}.py", "--help"], env)
        assert done.returncode == 0, done.stderr
        assert "--db" in done.stdout


def test_the_commands_are_the_same_a_second_time(home: Path) -> None:
    """`ray up` runs them again."""
    for command in CONFIG["setup_commands"]:
        assert run(command, environment(home)).returncode == 0
    assert (home / ".bashrc").read_text().count("venv/bin") == 1


def test_the_gpu_groups_packages_can_be_had_together(home: Path) -> None:
    (command,) = CONFIG["available_node_types"]["gpu"]["worker_setup_commands"]
    done = run(command.replace("install", "install --dry-run --report -"), environment(home))
    assert done.returncode == 0, done.stderr
    assert re.search(r'"name": "torch",(?:(?!"name").)*"version": "2\.13\.0', done.stdout, re.DOTALL)


@pytest.fixture(scope="module")
def dashboard(home: Path) -> Iterator[str]:
    """A head in the environment without torch, which computes nothing, and a node with torch that joins it.

    Started in the repository, as cluster.yaml does it.
    """
    port, board = free_port(), free_port()
    start = ["ray", "start", "--block", "--disable-usage-stats"]
    head = [*start, "--head", "--num-cpus=0", f"--port={port}", f"--dashboard-port={board}"]
    head += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}"]
    node = [*start, f"--address=127.0.0.1:{port}", "--num-cpus=2", f"--dashboard-agent-listen-port={free_port()}"]
    with_torch = environment(home, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", HOME=os.environ["HOME"])
    processes = []
    log = home / "head.log"
    try:
        for command, env in ((head, environment(home)), (node, with_torch)):
            with log.open("ab") as out:
                processes.append(
                    subprocess.Popen(
                        command, env=env, cwd=home / "bridgelake", stdout=out, stderr=out, start_new_session=True
                    )
                )
            wait_for(f"http://127.0.0.1:{board}/api/version", processes[-1], log)
        yield f"http://127.0.0.1:{board}"
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def test_a_head_without_torch_submits_and_drives_a_whole_job(home: Path, dashboard: str, tmp_path: Path) -> None:
    """With the built-in model: the driver has no torch; the actors, on the node, have."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "00000.tar", members(20))
    command = [f"{home}/bridgelake/jobs/embed_laion.py", "--input", f"{tmp_path}/shards", "--db", f"{tmp_path}/lake"]
    done = run([*command, "--submit", dashboard], environment(home), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "computing on cpu" in done.stderr
    assert lancedb.connect(tmp_path / "lake").open_table("laion").count_rows() == 20


def test_job_submit_of_nothing_but_the_script_embeds_by_the_file_as_it_lies_on_the_head(
    home: Path, dashboard: str, tmp_path: Path
) -> None:
    """Typed in the repository there; Ray finds its dashboard by itself at the usual port, which a test's has not."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "00000.tar", members(20))
    typed = f"ray job submit jobs/embed_laion.py -- --input {tmp_path}/shards --db {tmp_path}/lake"
    env, until = environment(home, RAY_API_SERVER_ADDRESS=dashboard), time.monotonic() + 30
    while "No available agent" in (done := run(typed, env, cwd=home / "bridgelake")).stderr:
        assert time.monotonic() < until, done.stderr  # the dashboard answers before the agent does
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows 20 " in done.stdout
    with urlopen(f"{dashboard}/api/jobs/") as answer:
        (job,) = [one for one in json.load(answer) if one["entrypoint"].startswith("jobs/embed_laion.py --input ")]
    assert (job["status"], "working_dir" in job["runtime_env"]) == ("SUCCEEDED", False)
    assert lancedb.connect(tmp_path / "lake").open_table("laion").count_rows() == 20
