"""kill -9 of a whole node in mid-job: its raylet, its workers and the blocks that it held."""

from collections.abc import Iterator
from itertools import count
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


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place(tmp_path_factory.mktemp("nodes") / "faults")


@pytest.fixture(scope="module")
def bare(faults: Path) -> Iterator[Cluster]:
    """A head that computes nothing."""
    # A dead node is noticed within two seconds instead of half a minute.
    quick = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(faults, **quick).items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def cluster(bare: Cluster, addresses: Iterator[str]) -> Cluster:
    """It with two nodes that live."""
    for node in [n for n in bare.worker_nodes if not n.remaining_processes_alive()]:
        bare.remove_node(node, allow_graceful=False)
    while len(bare.worker_nodes) < 2:
        bare.add_node(num_cpus=3, node_ip_address=next(addresses))
    bare.wait_for_nodes()
    return bare


@pytest.fixture(scope="module")
def addresses() -> Iterator[str]:
    """One for each node, so that the driver joins the head and not one of these."""
    return (f"127.0.0.{number}" for number in count(2))


@pytest.mark.parametrize("where", PLACES)
def test_a_node_killed_loses_nothing(
    cluster: Cluster, faults: Path, shards: Path, reference: Path, tmp_path: Path, where: str
) -> None:
    fault = PLACES[where]
    place(faults, *waves(), fault)
    env = environment(faults, RAY_ADDRESS=cluster.address)
    done = start(shards, tmp_path / "lake", "--actors", "1", "--batch-size", "2", env=env).done()
    assert happened(faults, fault)
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)
