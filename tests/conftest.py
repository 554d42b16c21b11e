"""Shared by all tests: one Ray a session, and the demo shards packed once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
