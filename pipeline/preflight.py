"""What a run needs of the store and of the cluster's nodes, looked at before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster import cause
from pipeline.errors import PreflightError, ShardError
from pipeline.stores.probe import Probe, require_atomic_writes
from pipeline.stores.storage import FIRST_BYTES, open_file, reading, redact

# What tests/contract holds these to; a commit rests on it.
TESTED = {"lancedb": "0.40.0", "pylance": "13.0.0", "ray": "2.60.0"}
_MOST_NODES = 32
_SHARDS = 3  # of which a node must be able to read one
_SECONDS = 8.0  # for all nodes


def require_store(db: str) -> None:
    """Before the first write: the driver's libraries, and a store on which no commit is lost.

    Raises:
        PreflightError: saying what is not as it must be.
    """
    if wrong := _untested():
        raise PreflightError(f"this process has {wrong}")
    require_atomic_writes(db)


def require_nodes(db: str, shards: Sequence[str]) -> list[str]:
    """Before any work on Ray: each node reads shards, and sees and writes the same database, by its own means.

    Args:
        db: with an absolute path, if it is a folder.
        shards: URLs of some that will be read.

    Returns:
        What a person should be told: which nodes were not looked at.

    Raises:
        PreflightError: naming the node and what it lacks.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    names = {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in alive[:_MOST_NODES]}
    probe = Probe(db)
    with probe.removing("driver", *names):
        probe.create("driver")
        tasks = {}
        for i, node in enumerate(names):
            some = [shards[(i + k) % len(shards)] for k in range(min(_SHARDS, len(shards)))]
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            tasks[_look.options(scheduling_strategy=here).remote(probe, node, some)] = node
        told = _answers(tasks, names)
    if len(alive) > _MOST_NODES:
        told.append(f"looked at {_MOST_NODES} of {len(alive)} nodes")
    return told


def _answers(tasks: Mapping[Any, str], names: Mapping[str, str]) -> list[str]:
    """What is to be told of nodes that gave no answer; raises what the others found."""
    done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=_SECONDS, fetch_local=True)
    for task in late:
        ray.cancel(task, force=True)
    problems, told = [], []
    for task in done:
        try:
            found: Found = ray.get(task)
        except (TaskUnschedulableError, NodeDiedError):  # an autoscaler takes idle ones away at any time
            told.append(f"went away while it was looked at: node {names[tasks[task]]}")
            continue
        except RayError as error:
            found = Found(str(cause(error)))
        if found.problem or (found.unread and _readable(found.unread)):
            problems.append(f"node {names[tasks[task]]}: {found.problem or found.unread[0].why}")
    if problems:
        more = f"; and {len(problems) - 1} more nodes" if len(problems) > 1 else ""
        raise PreflightError(problems[0] + more)
    doubt = f"did not answer within {_SECONDS:g} s, so nobody knows yet whether it can work: node"
    return told + [f"{doubt} {names[tasks[task]]}" for task in late]


@dataclass(frozen=True, slots=True)
class Unread:
    """A shard that a node could not read."""

    uri: str
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong with a node: a problem, or shards that it cannot read, which may be theirs."""

    problem: str = ""
    unread: tuple[Unread, ...] = ()


def look(probe: Probe, node: str, shards: Sequence[str]) -> Found:
    """What is wrong with this node, whose own object is called `node`."""
    if wrong := _untested():
        return Found(wrong)
    try:
        if not probe.sees("driver"):
            return Found(
                f"{redact(probe.db)} is not the same there as where the job runs: use a folder that all nodes share "
                "under this path, or an object store"
            )
        with probe.removing(node):
            probe.create(node)
    except PreflightError as error:
        return Found(str(error))
    unread: list[Unread] = []
    for uri in shards:
        if (why := _unreadable(uri)) is None:
            return Found()
        unread.append(Unread(uri, why))
    return Found(unread=tuple(unread))


_look = ray.remote(num_cpus=0, max_retries=1)(look)


def _readable(unread: Sequence[Unread]) -> bool:
    """Whether any of the shards can be read here; else they are bad, and the run will say so of each."""
    return any(_unreadable(shard.uri) is None for shard in unread)


def _unreadable(uri: str) -> str | None:
    try:
        with reading(uri), open_file(uri) as file:
            file.read(FIRST_BYTES)
    except ShardError as error:
        return str(error)
    return None


def _untested() -> str | None:
    """Libraries whose version is another than the tested one."""
    wrong = [
        f"{name} {version(name)}, tested is {tested}" for name, tested in TESTED.items() if version(name) != tested
    ]
    return f"{'; '.join(wrong)}: install the tested versions (requirements.lock)" if wrong else None
