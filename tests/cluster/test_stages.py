"""A simulated cluster: where the stages land, and what a node that comes late or goes early means to a run."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lancedb
import pytest
from ray.cluster_utils import Cluster

from pipeline import stages
from pipeline.barred import Barred
from pipeline.cluster import joined, lay_out
from pipeline.config import EmbedConfig, FaultConfig, ReadConfig, RunConfig, WriteConfig
from pipeline.embed import Model
from pipeline.run import Run
from pipeline.summary import Summary
from pipeline.watch.watchdog import watching
from tests.cluster.placed import Notes, Reader, placed_model
from tests.conftest import REPOSITORY
from tests.fakes import CONTRACT, FakeEmbedder, Quiet
from tests.shards import members, whole, write_tar

pytestmark = pytest.mark.cluster
SHARDS, PAIRS = 8, 6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that computes nothing, two nodes of two CPUs, and two of two CPUs and a logical GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", made.address)
        try:
            for number in (2, 3, 4, 5):  # an address each: the driver joins the head, and none of these
                made.add_node(num_cpus=2, num_gpus=number % 2, node_ip_address=f"127.0.0.{number}")
            made.wait_for_nodes()
            yield made
        finally:
            made.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for i in range(SHARDS):
        write_tar(folder / f"{i:05d}.tar", members(PAIRS, start=PAIRS * i))
    return folder


def run(shards: Path, lake: Path, share: float, model: Model) -> Summary:
    config = RunConfig(
        ReadConfig((str(shards),)),
        WriteConfig(str(lake), commit_seconds=0),
        EmbedConfig(batch_size=1, device="cpu", num_gpus=share),
        FaultConfig(stall_seconds=160),
    )
    return Run(config, model, Quiet()).start()


def gpu_nodes(cluster: Cluster) -> set[str]:
    return {node.node_id for node in cluster.worker_nodes if node.get_resource_and_label_spec().num_gpus}


@pytest.mark.parametrize(("share", "each"), [(0.25, 4), (0.5, 2), (1.0, 1)])
def test_stages_land_where_they_should(cluster: Cluster, shards: Path, tmp_path: Path, share: float, each: int) -> None:
    """The readers hold their CPUs until all actors have started: they cannot have taken those that actors need."""
    notes = Notes(tmp_path / "notes")
    summary = run(shards, tmp_path / "lake", share, placed_model(notes, 2 * each, 0))
    assert (summary.outcome, summary.rows) == ("done", SHARDS * PAIRS)
    first = notes.nodes("actor")[: 2 * each]  # Ray Data may take one away later, and start it again
    assert {node: first.count(node) for node in first} == dict.fromkeys(gpu_nodes(cluster), each)
    on_cpu_nodes = [node for node in notes.nodes("reader") if node not in gpu_nodes(cluster)]
    assert len(set(on_cpu_nodes)) == 2


def test_readers_go_where_actors_are_while_there_is_a_cpu_and_elsewhere_then(
    cluster: Cluster, shards: Path, tmp_path: Path
) -> None:
    notes, home = Notes(tmp_path), min(gpu_nodes(cluster))
    with joined() as has, watching(100, "test") as watch:
        on = lay_out(EmbedConfig(device="cpu", num_gpus=1.0), has)
        crew = stages.Crew(on, watch.line, homes=lambda: [home])
        slices = {path.name: whole(path) for path in sorted(shards.iterdir())[:4]}
        read = ReadConfig((str(shards),))
        model = Model(CONTRACT, partial(Reader, notes, 4, "reader"), FakeEmbedder)
        stages.prepared(slices, read, model, crew, Barred()).count()
    first = notes.nodes("reader")[:4]
    assert first.count(home) == 2


def test_a_node_that_joins_late_is_used_and_one_that_leaves_costs_nothing_but_time(
    cluster: Cluster, shards: Path, tmp_path: Path
) -> None:
    first, second = (node for node in cluster.worker_nodes if node.node_id in gpu_nodes(cluster))
    cluster.remove_node(second)
    notes = Notes(tmp_path / "notes")
    summaries: list[Summary] = []

    def job() -> None:
        # The only actor waits for a second one, whose node is not there yet.
        summaries.append(run(shards, tmp_path / "lake", 1.0, placed_model(notes, 1, 2)))

    thread = threading.Thread(target=job)
    thread.start()
    until = time.monotonic() + 100
    while not notes.folder.exists() or not notes.nodes("actor"):
        assert time.monotonic() < until
        time.sleep(0.2)
    late = cluster.add_node(num_cpus=2, num_gpus=1, node_ip_address="127.0.0.6").node_id
    notes.wait(1, on=late)
    cluster.remove_node(first)
    thread.join(200)
    assert [(summary.outcome, summary.rows) for summary in summaries] == [("done", SHARDS * PAIRS)]
    rows = lancedb.connect(tmp_path / "lake").open_table("laion").to_arrow()
    assert len(set(rows["id"].to_pylist())) == len(rows) == SHARDS * PAIRS
