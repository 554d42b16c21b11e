"""What a launcher's configuration lets a cluster grow to, and where it is found."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from ray.autoscaler._private.kuberay import node_provider

from pipeline import capacity
from pipeline.capacity import Capacity, Group, autoscaling_config, worker_groups
from pipeline.errors import ClusterError

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


def test_capacity_tells_of_which_kind_the_gpus_are_that_may_come() -> None:
    known = {"resources": {"CPU": 8, "GPU": 4, "accelerator_type:L40S": 1}, "max_workers": 2}
    kinds = {"head": CPU, "cpu": CPU, "gpu": GPU, "known": known}
    found = Capacity((), worker_groups(CONFIG | {"available_node_types": kinds}))
    assert found.gpu_kinds == {"": 8, "L40S": 8}
    assert Capacity((), worker_groups(CONFIG | {"available_node_types": {"cpu": CPU}})).gpu_kinds == {}


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


Answers = Callable[[int, Any], list[str]]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """In a pod of KubeRay's: how Kubernetes answers from now on; the URLs it is asked come into the list."""
    for name in ("namespace", "token"):
        (tmp_path / name).write_text(f"the-{name}")
    monkeypatch.setattr(capacity, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(node_provider, "IN_CLUSTER_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_CLUSTER_NAME", "bridgelake-x")

    def told(status: int, body: Any) -> list[str]:
        asked: list[str] = []

        def get(url: str, headers: dict[str, str], **options: Any) -> requests.Response:
            assert headers == {"Authorization": "Bearer the-token"}
            asked.append(url)
            if not status:
                raise requests.ConnectionError("nobody is there")
            answer = requests.Response()
            answer.status_code, answer._content = status, json.dumps(body).encode()
            return answer

        monkeypatch.setattr(node_provider.requests, "get", get)
        return asked

    return told


def resource(**spec: Any) -> dict[str, Any]:
    """As KubeRay has it: a head, and GPU workers from zero."""
    limits = {"cpu": "7500m", "memory": "32Gi", "nvidia.com/gpu": "2"}
    group = {"template": {"spec": {"containers": [{"resources": {"limits": limits}}]}}}
    workers = group | {"groupName": "gpu", "replicas": 0, "minReplicas": 0, "maxReplicas": 3}
    head = group | {"rayStartParams": {"num-cpus": "0"}}
    groups = {"headGroupSpec": head, "workerGroupSpecs": [workers]}
    return {"metadata": {"name": "bridgelake-x", "namespace": "the-namespace"}, "spec": groups | spec}


def test_autoscaling_config_in_a_pod_is_that_of_kuberays_resource(answers: Answers) -> None:
    asked = answers(200, resource(enableInTreeAutoscaling=True))
    assert worker_groups(autoscaling_config("10.9.8.7:6379")) == (Group(3, 8, 2),)
    (url,) = asked
    assert url.endswith("/apis/ray.io/v1/namespaces/the-namespace/rayclusters/bridgelake-x")


@pytest.mark.parametrize(("status", "body"), [(200, resource()), (403, {})])
def test_autoscaling_config_in_a_pod_is_none_where_no_autoscaler_is(answers: Answers, status: int, body: Any) -> None:
    """Without one, the head's account may not even look."""
    answers(status, body)
    assert autoscaling_config("10.9.8.7:6379") == {}


@pytest.mark.parametrize("status", [0, 404, 500])
def test_autoscaling_config_in_a_pod_says_what_kubernetes_said(answers: Answers, status: int) -> None:
    """Without an answer, a run would take CPUs where GPUs may come."""
    answers(status, {})
    with pytest.raises(ClusterError, match=r"which workers cluster bridgelake-x may get: .*(nobody is there|404|500)"):
        autoscaling_config("10.9.8.7:6379")
