"""Shared by all tests: one Ray a session, and the demo shards packed once."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.moulds import Moulds

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share few cores


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need one; BRIDGELAKE_TEST_RAY names a real cluster instead."""
    if address := os.environ.get("BRIDGELAKE_TEST_RAY"):
        os.environ["RAY_ADDRESS"] = address
    from pipeline import cluster

    with cluster.joined():
        yield


@pytest.fixture(scope="session")
def moulds(tmp_path_factory: pytest.TempPathFactory) -> Moulds:
    """For a fixture that many tests have, each of its own."""
    return Moulds(tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield f"http://127.0.0.1:{moto.get_host_and_port()[1]}"
    moto.stop()


@pytest.fixture
def s3_access(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables that the provider's chain reads, set in the environment."""
    import fsspec

    access = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "verysecret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    stores = fsspec.get_filesystem_class("s3")
    stores.clear_instance_cache()
    yield access
    stores.clear_instance_cache()


@pytest.fixture
def bucket(s3_access: dict[str, str]) -> Iterator[Any]:
    """An S3 bucket of the test's own (boto3's), reached with nothing but `s3_access`."""
    import boto3

    bucket = boto3.resource("s3").create_bucket(Bucket=f"test-{uuid4().hex[:12]}")
    yield bucket
    bucket.objects.delete()
    bucket.delete()
