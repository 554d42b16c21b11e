"""kill -9 of a whole node in mid-job: its raylet, its workers and the blocks that it held."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.faults.launch import Fault, environment, happened, place, start, waves
from tests.faults.proof import prove

pytestmark = pytest.mark.faults

PLACES = {
    "while_embedding": Fault("pipeline.embed:embed_batch", "kill node", nth=3),
    "after_embedding_much": Fault("pipeline.embed:embed_batch", "kill node", "after", nth=7),
    "while_reading": Fault("pipeline.decode:decode", "kill node", nth=40),
    "while_writing": Fault("pipeline.database:Database.write", "kill node", "after", where="suffix == ''"),
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that computes nothing, and two nodes."""
    # A dead node is noticed within two seconds instead of half a minute.
    quick = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    for name, value in environment(place(tmp_path / "faults"), **quick).items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for number in (2, 3):  # an address each, so that the driver joins the head and not one of these
            cluster.add_node(num_cpus=3, node_ip_address=f"127.0.0.{number}")
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.parametrize("where", PLACES)
def test_a_node_killed_loses_nothing(
    cluster: Cluster, shards: Path, reference: Path, tmp_path: Path, where: str
) -> None:
    fault = PLACES[where]
    faults = place(tmp_path / "faults", *waves(), fault)
    env = environment(faults, RAY_ADDRESS=cluster.address)
    done = start(shards, tmp_path / "lake", "--actors", "1", "--batch-size", "4", env=env).done()
    assert happened(faults, fault)
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)
