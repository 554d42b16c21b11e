"""Shared by the fault tests: a Ray head and a simulated cluster with the hook in them, shards, a run without faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.head import Head, running_cluster, running_head
from tests.faults.inputs import make_shards


@pytest.fixture(scope="session")
def shared_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with running_head(tmp_path_factory.mktemp("head")) as head:
        yield head


@pytest.fixture
def head(shared_head: Head) -> Head:
    shared_head.place()
    return shared_head


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Head) -> Head:
    """A simulated one: a head that computes nothing, a CPU node, and one with a logical GPU."""
    shared_cluster.place()
    return shared_cluster


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("input") / "shards")


@pytest.fixture(scope="session")
def reference(shared_head: Head, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a run without faults."""
    shared_head.place()
    lake = tmp_path_factory.mktemp("reference") / "lake"
    done = shared_head.embed(shards, lake)
    assert done.code == 0, done.said
    return lake
