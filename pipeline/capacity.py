"""What a cluster has, and what its autoscaler may still add: one that scales from zero has no GPU at the start."""

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

_HEAD = "node:__internal_head__"
_FLAG = "--autoscaling-config="
_SECONDS = 20.0  # for the head to answer
_MANY = 1000  # nodes of a kind of which there may be any number


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind."""

    nodes: int
    cpus: float
    gpus: float


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
    return Group(nodes, resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _reported() -> tuple[Group, ...]:
    """As Ray keeps it, where the autoscaler reports it there; Ray's own launcher does not."""
    config = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return tuple(_group(_MANY if g.max_count < 0 else g.max_count, g.resources) for g in groups if g.max_count)


def _configured(heads: Iterable[str]) -> tuple[Group, ...]:
    """As it stands in the file with which the head was started."""
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
    """Of the autoscaler that runs on this machine for a cluster; empty if there is none."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        paths = [word.removeprefix(_FLAG) for word in words if word.startswith(_FLAG)]
        if paths and f"--gcs-address={gcs_address}" in words:
            return dict(yaml.safe_load(Path(paths[-1]).expanduser().read_text()))
    return {}


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
