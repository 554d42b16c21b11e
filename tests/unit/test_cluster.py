"""How a run is laid out on what the cluster has: a pure function of the options and the resources; and no cluster."""

import os
import socket
import subprocess
import sys

import pytest

from pipeline.capacity import Capacity, Group
from pipeline.cluster import joined, lay_out
from pipeline.config import EmbedConfig
from pipeline.errors import ClusterError


def cluster(cpus: float, gpus: float = 0) -> Capacity:
    """One node, and nothing more to come."""
    one = (Group(1, cpus, gpus),)
    return Capacity(one, one)


HEAD = Group(1, 0, 0)
FROM_ZERO = Capacity((HEAD,), (HEAD, Group(8, 16, 1), Group(4, 32, 0)))  # as in cluster.yaml


@pytest.mark.parametrize(
    ("config", "has", "device", "dtype", "actors", "gpus"),
    [
        (EmbedConfig(), cluster(8), "cpu", "auto", 4, 0),
        (EmbedConfig(), cluster(8, 2), "cuda", "bfloat16", 2, 1),
        (EmbedConfig(num_gpus=0.5), cluster(8, 2), "cuda", "bfloat16", 4, 0.5),
        (EmbedConfig(num_gpus=0.3), cluster(8, 1), "cuda", "bfloat16", 3, 0.3),
        (EmbedConfig(num_gpus=0.6), cluster(8, 2), "cuda", "bfloat16", 2, 0.6),
        (EmbedConfig(num_gpus=0.1), cluster(64, 1), "cuda", "bfloat16", 10, 0.1),
        (EmbedConfig(device="gpu"), cluster(8, 1), "cuda", "bfloat16", 1, 1),
        (EmbedConfig(device="cpu"), cluster(8, 2), "cpu", "auto", 4, 0),
        (EmbedConfig(device="cpu", num_gpus=0.5), cluster(8, 2), "cpu", "auto", 4, 0.5),
        (EmbedConfig(num_gpus=0), cluster(8), "cpu", "auto", 4, 0),
        (EmbedConfig(dtype="float32"), cluster(8, 1), "cuda", "float32", 1, 1),
        (EmbedConfig(dtype="bfloat16"), cluster(8), "cpu", "bfloat16", 4, 0),
        (EmbedConfig(dtype="fp8"), cluster(8, 1), "cuda", "fp8", 1, 1),
        (EmbedConfig(actors=1), cluster(8, 2), "cuda", "bfloat16", 1, 1),
        (EmbedConfig(actors=9), cluster(8, 2), "cuda", "bfloat16", 2, 1),
    ],
)
def test_layout_follows_the_options_and_what_the_cluster_has(
    config: EmbedConfig, has: Capacity, device: str, dtype: str, actors: int, gpus: float
) -> None:
    layout = lay_out(config, has)
    assert (layout.device, layout.dtype, layout.actors, layout.num_gpus) == (device, dtype, actors, gpus)


@pytest.mark.parametrize(
    "config", [EmbedConfig(device="gpu"), EmbedConfig(num_gpus=0.5), EmbedConfig(device="cpu", num_gpus=1)]
)
def test_layout_refuses_a_gpu_that_the_cluster_lacks_and_says_what_to_do(config: EmbedConfig) -> None:
    with pytest.raises(
        ClusterError, match=r"the cluster has no GPU \(8 CPUs\): start Ray with one, or use --device cpu"
    ):
        lay_out(config, cluster(8))


def test_layout_refuses_float8_without_a_gpu_and_says_what_to_do() -> None:
    with pytest.raises(
        ClusterError, match=r"--dtype fp8: the cluster has no GPU \(8 CPUs\).* use --dtype bfloat16"
    ) as no:
        lay_out(EmbedConfig(dtype="fp8"), cluster(8))
    assert no.value.exit_code == 1


def test_layout_refuses_a_gpu_of_which_an_actor_takes_nothing() -> None:
    with pytest.raises(ClusterError, match="--num-gpus 0 with a GPU: name the share"):
        lay_out(EmbedConfig(num_gpus=0), cluster(8, 1))


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 5, 16, 64])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("share", [None, 0.05, 0.5])
def test_layout_leaves_a_reader_room_beside_all_actors(cpus: int, gpus: int, share: float | None) -> None:
    """Else the actors would wait for pictures, and the readers for CPUs, for ever."""
    if share and not gpus:
        return
    layout = lay_out(EmbedConfig(num_gpus=share), cluster(cpus, gpus))
    assert layout.num_cpus > 0
    assert layout.actors * layout.num_cpus + layout.reader_cpus <= cpus + 1e-9
    assert layout.actors * layout.num_gpus <= gpus + 1e-9


def test_layout_says_where_it_computes_and_why() -> None:
    line = lay_out(EmbedConfig(num_gpus=0.5), cluster(8, 1)).describe()
    assert line == (
        "computing on cuda in bfloat16 (the cluster has 1 GPUs and 8 CPUs): up to 2 actors, each with 1 CPU and 0.5 GPU"
    )
    assert "(--device cpu)" in lay_out(EmbedConfig(device="cpu"), cluster(8, 1)).describe()
    assert "on cpu in bfloat16 where a CPU has it (" in lay_out(EmbedConfig(), cluster(8)).describe()


def test_layout_counts_what_the_autoscaler_may_bring_and_says_so() -> None:
    layout = lay_out(EmbedConfig(num_gpus=0.5), FROM_ZERO, slices=1000)
    assert (layout.device, layout.actors, layout.num_gpus, layout.num_cpus) == ("cuda", 16, 0.5, 1)
    assert layout.reason == "the cluster has 0 GPUs and 0 CPUs, with its autoscaler up to 8 and 256"


def test_layout_lets_no_more_nodes_come_than_there_are_slices() -> None:
    assert lay_out(EmbedConfig(num_gpus=0.5), FROM_ZERO, slices=3).actors == 3
    up = Capacity((HEAD, Group(4, 16, 1)), FROM_ZERO.most)
    assert lay_out(EmbedConfig(num_gpus=0.5), up, slices=3).actors == 8  # those that are there are used
    assert lay_out(EmbedConfig(num_gpus=0.5), cluster(16, 4), slices=3).actors == 8


@pytest.mark.parametrize(("share", "each"), [(0.25, 4), (0.5, 2), (1.0, 1)])
def test_layout_finds_a_cpu_for_each_actor_beside_its_gpu(share: float, each: int) -> None:
    """GPU nodes with few CPUs beside CPU nodes with many: an actor asks for no more than its node has for it."""
    two = (Group(1, 32, 0), Group(1, 32, 0), Group(1, 2, 1), Group(1, 2, 1))
    layout = lay_out(EmbedConfig(num_gpus=share), Capacity(two, two))
    assert layout.actors == 2 * each
    assert each * layout.num_cpus <= 2


def test_layout_leaves_room_for_actors_on_gpus_that_join_late() -> None:
    assert lay_out(EmbedConfig(num_gpus=0.5), cluster(16, 1)).most_actors == 4
    assert lay_out(EmbedConfig(num_gpus=0.5), FROM_ZERO, slices=3).most_actors == 16
    assert lay_out(EmbedConfig(num_gpus=0.5, actors=1), cluster(16, 1)).most_actors == 1
    assert lay_out(EmbedConfig(), cluster(16)).most_actors == 8  # on CPUs they would take the readers' room


@pytest.mark.parametrize(
    ("host", "why"), [("127.0.0.1", "Connection refused"), ("head.invalid", "not known|No address")]
)
def test_head_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch, host: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"{host}:{port}")
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # as another test may have left it in this process
    with pytest.raises(ClusterError, match=f"cannot join Ray at {host}:{port}: .*({why}).*RAY_ADDRESS"), joined():
        pass
    assert "RAY_gcs_server_port_wait_time_s" not in os.environ


def test_calls_to_a_silent_host_end_within_two_minutes_and_no_server_takes_the_pings_for_an_attack() -> None:
    """Ray reads its settings once, when it is first imported: a new process tells what it made of them."""
    program = "import pipeline, ray._raylet as r; c = r.Config; print(c.grpc_client_keepalive_time_ms(), end=' ');"
    program += "print(c.grpc_client_keepalive_timeout_ms())"
    env = {name: value for name, value in os.environ.items() if "keepalive" not in name}
    told = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    every, patience = map(int, told.split())
    assert 60_000 < every < every + patience <= 120_000
