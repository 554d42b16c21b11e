"""Real S3 servers with and without conditional writes, asked before the first write."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PreflightError
from pipeline.stores.probe import Probe, require_atomic_writes
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.shards import members, write_tar

KEY, SECRET = "testaccesskey", "verysecretkey"


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return monkeypatch


@pytest.fixture
def rclone(tmp_path: Path, access: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server that ignores If-None-Match; yields the folder that is its bucket."""
    bucket = tmp_path / "served" / "bucket"
    bucket.mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    program = Path(sys.executable).parent / "rclone"
    command = [program, "serve", "s3", "--addr", address, "--auth-key", f"{KEY},{SECRET}", bucket.parent]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    access.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    try:
        for _ in range(100):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                    break
            time.sleep(0.1)
        yield bucket
    finally:
        server.kill()
        server.wait()


def embed(shards: Path, db: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "jobs/embed_laion.py", "--input", str(shards), "--db", db]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_job_refuses_a_store_without_conditional_writes_and_leaves_nothing_there(rclone: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", members(2))
    done = embed(tmp_path / "shards", "s3://bucket/lake")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: s3://bucket/lake: the store replaced an object that it was told only to create")
    assert SECRET not in line
    assert [path for path in rclone.rglob("*") if path.is_file()] == []


def objects(bucket: Any) -> list[str]:
    return [one.key for one in bucket.objects.all()]


def test_probe_takes_a_store_with_conditional_writes_and_leaves_nothing_there(bucket: Any) -> None:
    require_atomic_writes(f"s3://{bucket.name}/lake")
    assert objects(bucket) == []


def test_probe_is_seen_under_the_databases_own_folder(bucket: Any) -> None:
    probe = Probe(f"s3://{bucket.name}/lake")
    with probe.removing("driver"):
        probe.create("driver")
        assert objects(bucket) == [f"lake/{probe.stem}-driver"]
        assert Probe(f"s3://{bucket.name}/lake", probe.stem).sees("driver")
        assert not Probe(f"s3://{bucket.name}/another", probe.stem).sees("driver")
    assert objects(bucket) == []


def test_probe_finds_the_credentials_of_a_profile(bucket: Any, access: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Lance does; not only those in the environment."""
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    access.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    access.setenv("AWS_PROFILE", "mine")
    access.delenv("AWS_ACCESS_KEY_ID")
    access.delenv("AWS_SECRET_ACCESS_KEY")
    require_atomic_writes(f"s3://{bucket.name}/lake")


def test_probe_names_a_bucket_that_is_not_there(bucket: Any) -> None:
    with pytest.raises(PreflightError) as told:
        require_atomic_writes("s3://nosuchbucket/lake")
    assert str(told.value) == (
        "s3://nosuchbucket/lake cannot be written to: NoSuchBucket: The specified bucket does not exist"
    )


def test_probe_is_told_of_keys_that_are_refused(rclone: Path, access: pytest.MonkeyPatch) -> None:
    access.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(PreflightError, match="s3://bucket/lake cannot be written to: SignatureDoesNotMatch"):
        require_atomic_writes("s3://bucket/lake")


def test_probe_gives_up_on_a_store_that_is_not_there_in_time(access: pytest.MonkeyPatch) -> None:
    access.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(PreflightError, match="s3://bucket/lake cannot be written to: Generic S3 error"):
        require_atomic_writes("s3://bucket/lake")
    assert time.monotonic() - began < 10
