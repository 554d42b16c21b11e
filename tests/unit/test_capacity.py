"""What a launcher's configuration lets a cluster grow to, and where it is found."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.capacity import Capacity, Group, autoscaling_config, worker_groups

GPU = {"resources": {"CPU": 8, "GPU": 4}, "max_workers": 2}
CPU = {"resources": {"CPU": 16}, "max_workers": 10}
CONFIG = {"max_workers": 20, "head_node_type": "head", "available_node_types": {"head": CPU, "cpu": CPU, "gpu": GPU}}


def test_worker_groups_are_all_kinds_but_the_head() -> None:
    assert worker_groups(CONFIG) == (Group(2, 8, 4), Group(10, 16, 0))


@pytest.mark.parametrize(("most", "groups"), [(5, (Group(2, 8, 4), Group(3, 16, 0))), (1, (Group(1, 8, 4),)), (0, ())])
def test_worker_groups_keep_to_the_limit_of_all_workers(most: int, groups: tuple[Group, ...]) -> None:
    assert worker_groups(CONFIG | {"max_workers": most}) == groups


def test_worker_groups_without_a_number_of_their_own_may_be_as_many_as_all() -> None:
    kinds = {"head": CPU, "gpu": {"resources": {"GPU": 1}}}
    assert worker_groups(CONFIG | {"available_node_types": kinds}) == (Group(20, 0, 1),)
    assert worker_groups({}) == ()


def test_capacity_says_what_is_up_and_what_may_come() -> None:
    up = (Group(1, 4, 0),)
    assert Capacity(up, up).describe() == "the cluster has 0 GPUs and 4 CPUs"
    grown = Capacity(up, (*up, Group(2, 8, 4)))
    assert grown.describe() == "the cluster has 0 GPUs and 4 CPUs, with its autoscaler up to 8 and 20"
    assert (grown.cpus_per_gpu, grown.scales) == (2, True)


def test_autoscaling_config_is_that_of_the_cluster_that_was_joined(tmp_path: Path) -> None:
    """Several clusters may have their head on one machine."""
    (tmp_path / "mine.yaml").write_text("cluster_name: mine\n")
    flags = ["--gcs-address=10.9.8.7:6379", f"--autoscaling-config={tmp_path}/mine.yaml"]
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()", *flags], stdin=-1, stdout=-1) as monitor:
        assert monitor.stdout is not None
        monitor.stdout.readline()
        assert autoscaling_config("10.9.8.7:6379") == {"cluster_name": "mine"}
        assert autoscaling_config("10.9.8.7:6380") == {}
        monitor.kill()
