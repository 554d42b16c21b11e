"""What a cluster has, and what its autoscaler may still add: one that scales from zero has no GPU at the start."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray._private.state import state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import ClusterError

_HEAD = "node:__internal_head__"
_FLAG = "--autoscaling-config="
_SECONDS = 20.0  # for the head to answer
_KIND = "accelerator_type:"  # begins the resource by which Ray tells a node's GPU
_MANY = 1000  # nodes of a kind of which there may be any number
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # of this pod, if this is one


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind."""

    nodes: int
    cpus: float
    gpus: float
    kind: str = ""  # of the GPUs, as Ray calls it, such as L40S; empty where that is not told


@dataclass(frozen=True, slots=True)
class Capacity:
    """The nodes that are up, and all that there can be."""

    up: tuple[Group, ...]
    most: tuple[Group, ...]

    @property
    def scales(self) -> bool:
        """Whether more nodes than those that are up can come."""
        return self.most != self.up

    @property
    def cpus(self) -> float:
        """Of all nodes that there can be."""
        return _cpus(self.most)

    @property
    def gpus(self) -> float:
        """Of all nodes that there can be."""
        return _gpus(self.most)

    @property
    def gpus_up(self) -> float:
        """Of the nodes that are up."""
        return _gpus(self.up)

    @property
    def cpus_per_gpu(self) -> float:
        """On the kind of GPU node that has the fewest."""
        return min((group.cpus / group.gpus for group in self.most if group.gpus), default=0.0)

    @property
    def gpu_kinds(self) -> dict[str, float]:
        """Of all nodes that there can be: kind -> GPUs, with "" for those whose kind is not told."""
        kinds: dict[str, float] = {}
        for group in self.most:
            if group.gpus:
                kinds[group.kind] = kinds.get(group.kind, 0.0) + group.nodes * group.gpus
        return kinds

    def describe(self) -> str:
        """What is up, and what may come."""
        now = f"the cluster has {self.gpus_up:g} GPUs and {_cpus(self.up):g} CPUs"
        return f"{now}, with its autoscaler up to {self.gpus:g} and {self.cpus:g}" if self.scales else now


def _cpus(groups: Iterable[Group]) -> float:
    return sum(group.nodes * group.cpus for group in groups)


def _gpus(groups: Iterable[Group]) -> float:
    return sum(group.nodes * group.gpus for group in groups)


def capacity() -> Capacity:
    """Of the cluster that this process has joined."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    up = tuple(_group(1, node["Resources"]) for node in nodes)
    workers = _reported() or _configured([node["NodeID"] for node in nodes if _HEAD in node["Resources"]])
    heads = tuple(_group(1, node["Resources"]) for node in nodes if _HEAD in node["Resources"])
    most = (*heads, *workers)
    # Nodes that were added by hand are none of the autoscaler's.
    return Capacity(up, most if _cpus(most) + _gpus(most) > _cpus(up) + _gpus(up) else up)


def _group(nodes: int, resources: Mapping[str, float]) -> Group:
    kind = next((name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)), "")
    return Group(nodes, resources.get("CPU", 0.0), resources.get("GPU", 0.0), kind)


def _reported() -> tuple[Group, ...]:
    """As Ray keeps it, where the autoscaler reports it there; Ray's own launcher does not, nor does KubeRay."""
    config = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return tuple(_group(_MANY if g.max_count < 0 else g.max_count, g.resources) for g in groups if g.max_count)


def _configured(heads: Iterable[str]) -> tuple[Group, ...]:
    """As it stands in the file with which the head was started, or in the resource that KubeRay made it from."""
    here, gcs = ray.get_runtime_context().get_node_id(), ray.get_runtime_context().gcs_address
    for head in heads:
        if head == here:
            return worker_groups(autoscaling_config(gcs))
        there = NodeAffinitySchedulingStrategy(head, soft=False)
        task = ray.remote(num_cpus=0, max_retries=1)(autoscaling_config).options(scheduling_strategy=there).remote(gcs)
        try:
            return worker_groups(ray.get(task, timeout=_SECONDS))
        except RayError:
            ray.cancel(task, force=True)
    return ()


def autoscaling_config(gcs_address: str) -> dict[str, Any]:
    """Of the autoscaler that runs on this machine, or beside this pod, for a cluster; empty if there is none.

    Raises:
        ClusterError: Kubernetes does not tell.
    """
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        paths = [word.removeprefix(_FLAG) for word in words if word.startswith(_FLAG)]
        if paths and f"--gcs-address={gcs_address}" in words:
            return dict(yaml.safe_load(Path(paths[-1]).expanduser().read_text()))
    name = os.environ.get("RAY_CLUSTER_NAME")  # KubeRay sets it in all pods of a cluster
    return _of_kuberay(name) if name and _NAMESPACE.is_file() else {}


def _of_kuberay(name: str) -> dict[str, Any]:
    """As Ray's own autoscaler reads it from KubeRay's resource; it runs in a container of its own."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        cluster = KubernetesHttpApiClient(_NAMESPACE.read_text().strip(), "v1").get(f"rayclusters/{name}")
    except OSError as error:  # those of requests are
        if getattr(getattr(error, "response", None), "status_code", None) == 403:
            return {}  # the head of a cluster that has an autoscaler may look
        raise ClusterError(f"Kubernetes does not tell which workers cluster {name} may get: {error}") from error
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return {}
    return dict(_derive_autoscaling_config_from_ray_cr(cluster))


def worker_groups(config: Mapping[str, Any]) -> tuple[Group, ...]:
    """The workers of a launcher's configuration, as many of each kind as there can be; GPU nodes first.

    Args:
        config: of Ray's cluster launcher; `ray up` has filled in the resources of the cloud's instances.
    """
    left = int(config.get("max_workers", 2))  # Ray's own default
    kinds = dict(config.get("available_node_types", {}))
    kinds.pop(config.get("head_node_type", ""), None)
    groups = []
    for kind in sorted(kinds.values(), key=lambda kind: -_group(1, kind.get("resources", {})).gpus):
        nodes = min(int(kind.get("max_workers", left)), left)
        if nodes:
            groups.append(_group(nodes, kind.get("resources", {})))
        left -= nodes
    return tuple(groups)
