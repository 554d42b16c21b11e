"""Checkpoints from a hub, from S3 and under concurrency: huggingface_hub's and s3fs's own code, in own processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from model.spec import hash_weights
from tests.checkpoints import as_bin, rewrite, without
from tests.hub import Hub, serve

TOKEN = "hf_" + "thisisasecretofthetests"  # joined, so that no scanner takes it for a real one
ID = "owner/tower"
SCRIPT = """
import dataclasses, json, sys, model
source, revision, step = sys.argv[1:]
try:
    spec = model.resolve(source, revision or None)
    folder = str(spec.fetch()) if step == "fetch" else ""
    if step == "mlm":
        from model.heads import require_mlm
        require_mlm(spec)
    if step == "prepare":
        spec.preparer().captions(["cats"])
    size = spec.size() if step == "prepare" else None
    more = {"folder": folder, "size": size, "torch": "torch" in sys.modules}
    print(json.dumps(dataclasses.asdict(spec) | more))
except model.ModelError as error:
    sys.exit(f"ModelError {error}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


def start(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AWS_"))}
    env = {**clean, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "xdg"), "HF_TOKEN": TOKEN,
           "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> dict[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found: dict[str, str] = json.loads(out)
    assert found.pop("torch") is False
    return found


def refused(process: subprocess.Popen[str]) -> str:
    """The one line of a refusal, which came within ten seconds and names no token."""
    begun = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 1, err
    assert TOKEN not in err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("ModelError ")]
    assert err.rstrip().splitlines()[-1:] == lines  # one, and the last
    return lines[0]


def test_import_check_can_fail() -> None:
    """The other half of test_model_spec's test of the head node's rooms: this room does import torch."""
    code = "import sys, model.batching; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_hub_id_is_resolved_to_one_commit_without_fetching_weights(hub: Hub, copied: Path, tmp_path: Path) -> None:
    commit = hub.push(ID, copied)
    spec = finish(start(tmp_path, ID, "", "prepare", HF_ENDPOINT=hub.url))
    assert (spec["source"], spec["revision"], spec["weights"]) == (ID, commit, hash_weights(copied))
    assert spec["size"] == (copied / "model.safetensors").stat().st_size
    assert hub.fetched("config.json")
    assert not hub.fetched(".safetensors")


def test_hub_weights_are_looked_into_for_an_mlm_head_and_not_fetched(hub: Hub, copied: Path, tmp_path: Path) -> None:
    hub.push(ID, copied)
    finish(start(tmp_path, ID, "", "mlm", HF_ENDPOINT=hub.url))
    rewrite(copied, without("mlm_score"))
    as_bin(copied)
    size = (copied / "pytorch_model.bin").stat().st_size
    hub.push(ID, copied)
    said = refused(start(tmp_path, ID, "", "mlm", HF_ENDPOINT=hub.url))
    assert said.startswith(f"ModelError {ID} cannot fill masks (it has no MLM head)")
    assert {name for name, _ in hub.parts} == {"model.safetensors", "pytorch_model.bin"}
    assert all(part <= max(size, 2**20 + 8) for _, part in hub.parts)
    assert not list((tmp_path / "hf").rglob("model.safetensors"))
    assert not list((tmp_path / "hf").rglob("pytorch_model.bin"))


def test_hub_id_is_fetched_once_and_of_two_kinds_of_weights_only_one(hub: Hub, copied: Path, tmp_path: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"the second kind")
    hub.push(ID, copied)
    for _ in range(2):
        spec = finish(start(tmp_path, ID, "", "fetch", HF_ENDPOINT=hub.url))
        assert hash_weights(Path(spec["folder"])) == spec["weights"]
    assert len(hub.fetched(".safetensors")) == 1
    assert not hub.fetched(".bin")


def test_hub_that_does_not_tell_hashes_has_them_computed(hub: Hub, copied: Path, tmp_path: Path) -> None:
    hub.lfs = False
    hub.push(ID, copied)
    assert finish(start(tmp_path, ID, "", "fetch", HF_ENDPOINT=hub.url))["weights"] == hash_weights(copied)


def test_hub_revision_is_pinned_while_the_branch_moves_on(hub: Hub, copied: Path, tmp_path: Path) -> None:
    first = hub.push(ID, copied)
    newer = Path(shutil.copytree(copied, tmp_path / "newer"))
    rewrite(newer, lambda state: {key: value * 2 for key, value in state.items()})
    second = hub.push(ID, newer)
    assert first != second
    old = finish(start(tmp_path, ID, first, "fetch", HF_ENDPOINT=hub.url))
    new = finish(start(tmp_path, ID, "main", "fetch", HF_ENDPOINT=hub.url))
    assert (old["revision"], old["weights"]) == (first, hash_weights(copied))
    assert (new["revision"], new["weights"]) == (second, hash_weights(newer))

    # A node that has the commit already goes on without the hub.
    dead = start(tmp_path, ID, first, "fetch", HF_ENDPOINT="http://127.0.0.1:9")
    assert finish(dead)["weights"] == old["weights"]


def test_hub_weights_that_changed_under_their_commit_are_refused(hub: Hub, copied: Path, tmp_path: Path) -> None:
    commit = hub.push(ID, copied)
    finish(start(tmp_path, ID, commit, "fetch", HF_ENDPOINT=hub.url))
    [cached] = (tmp_path / "hf").rglob("model.safetensors")
    cached.resolve().write_bytes(b"tampered with")
    assert "the run began with" in refused(start(tmp_path, ID, commit, "fetch", HF_ENDPOINT=hub.url))


@pytest.mark.parametrize(
    ("source", "revision", "says"),
    [
        ("owner/nothing", "", "no such model on the hub (or it is private: set HF_TOKEN)"),
        (ID, "nobranch", f"--model {ID} at revision nobranch: the hub has the model but not this revision"),
        ("owner/gated", "", "asks for its terms to be accepted"),
    ],
)
def test_hub_that_refuses_is_told_in_one_line(
    source: str, revision: str, says: str, hub: Hub, copied: Path, tmp_path: Path
) -> None:
    hub.push(ID, copied)
    hub.push("owner/gated", copied)
    hub.gated.add("owner/gated")
    assert says in refused(start(tmp_path, source, revision, "fetch", HF_ENDPOINT=hub.url))


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("revision", ["", "0" * 40])
def test_no_network_is_told_in_one_line_within_ten_seconds(revision: str, silent: str, tmp_path: Path) -> None:
    endpoints = ("http://127.0.0.1:9", "http://nosuch.invalid", silent)
    started = [start(tmp_path, ID, revision, "fetch", HF_ENDPOINT=endpoint) for endpoint in endpoints]
    started.append(start(tmp_path, ID, revision, "fetch", HF_HUB_OFFLINE="1"))
    for process in started:
        line = refused(process)
        assert f"--model {ID}" in line
        assert "no such folder here, and the hub cannot be reached" in line


def test_url_is_fetched_once_by_many_processes(copied: Path, tmp_path: Path) -> None:
    started = [start(tmp_path, f"file://{copied}", "", "fetch") for _ in range(4)]
    outcomes = [(process.communicate(timeout=60), process.returncode) for process in started]
    assert [code for _, code in outcomes] == [0] * 4
    assert sum(err.count("fetching file://") for (_, err), _ in outcomes) == 1
    [folder] = {json.loads(out)["folder"] for (out, _), _ in outcomes}
    assert hash_weights(Path(folder)) == hash_weights(copied)


def test_url_fetch_waits_while_another_process_fetches(copied: Path, tmp_path: Path) -> None:
    url = f"file://{copied}"
    folder = Path(finish(start(tmp_path, url, "", "fetch"))["folder"])
    shutil.rmtree(folder)
    with FileLock(f"{folder}.lock"):
        waiting = start(tmp_path, url, "", "fetch")
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=3)
        assert not list(folder.parent.glob(f"{folder.name}*.part"))
    assert Path(finish(waiting)["folder"]) == folder


def test_url_fetch_that_was_killed_leaves_nothing_that_is_trusted(copied: Path, tmp_path: Path) -> None:
    url = f"file://{copied}"
    folder = Path(finish(start(tmp_path, url, "", "fetch"))["folder"])
    # As a killed process leaves it: a part, cut, under a lock that nobody holds.
    part = folder.rename(folder.with_suffix(".part"))
    os.truncate(part / "model.safetensors", 100)
    again = finish(start(tmp_path, url, "", "fetch"))
    assert Path(again["folder"]) == folder
    assert hash_weights(folder) == hash_weights(copied)
    assert not part.exists()


def test_s3_url_is_fetched_once_and_a_change_is_refused(
    bucket: Any, s3_access: dict[str, str], copied: Path, tmp_path: Path
) -> None:
    for path in copied.iterdir():
        bucket.upload_file(str(path), f"tower/{path.name}")
    first = finish(start(tmp_path, f"s3://{bucket.name}/tower", "", "fetch", **s3_access))
    assert first["weights"] == hash_weights(copied)
    assert finish(start(tmp_path, f"s3://{bucket.name}/tower", "", "fetch", **s3_access)) == first

    bucket.put_object(Key="tower/model.safetensors", Body=b"other")
    second = finish(start(tmp_path, f"s3://{bucket.name}/tower", "", "fetch", **s3_access))
    assert second["weights"] != first["weights"]
    assert second["folder"] != first["folder"]  # the cached copy is of what was there then

    line = refused(start(tmp_path, f"s3://{bucket.name}/nothing", "", "fetch", **s3_access))
    assert f"s3://{bucket.name}/nothing" in line
    assert s3_access["AWS_SECRET_ACCESS_KEY"] not in line
