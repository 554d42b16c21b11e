"""The Ray cluster: joining it quietly, and how a run is laid out on what it has."""

import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayTaskError

from pipeline.capacity import Capacity, capacity
from pipeline.config import EmbedConfig
from pipeline.errors import BridgelakeError, ClusterError

_OURS = re.compile(r"^(?:pipeline|model)\.errors\.\w+: (.*)$", re.MULTILINE)
_TRIES = "RAY_gcs_server_port_wait_time_s"  # at a head, of half a minute each
_SECONDS = 5.0  # for a head to take a connection
# Writers and the like reserve no CPU, so on few CPUs Ray ends their processes after a second and starts them anew.
_KEPT = {"idle_worker_killing_time_threshold_ms": 60_000}
_SMALL = 4  # below this many CPUs, actors and readers share them


@dataclass(frozen=True, slots=True)
class Placement:
    """How the stages are laid out: actors and what Ray reserves for each, and where torch computes."""

    actors: int
    most_actors: int  # if GPU nodes join while it runs
    reader_cpus: float
    num_cpus: float
    num_gpus: float
    device: str
    dtype: str
    reason: str
    near: bool = False  # readers rather go where actors are

    def describe(self) -> str:
        """One line for the person who pays for it."""
        gpu = f" and {self.num_gpus:g} GPU" if self.num_gpus else ""
        dtype = "bfloat16 where a CPU has it" if self.dtype == "auto" else self.dtype
        return (
            f"computing on {self.device} in {dtype} ({self.reason}): "
            f"up to {self.actors} actors, each with {self.num_cpus:g} CPU{gpu}"
        )


@contextmanager
def joined() -> Iterator[Capacity]:
    """Join the cluster of RAY_ADDRESS, else start one here, quietly; yields what it has and may get.

    A cluster that was started here is stopped again; one that was joined before is left as it was.
    """
    if ray.is_initialized():
        yield capacity()
        return
    _quieten()
    elsewhere = os.environ.get("RAY_ADDRESS")
    try:
        with _native_chatter_hidden(), _own_signals(), _one_try(elsewhere):
            ray.init(
                # Not None: Ray would look for any cluster on this machine, and wait for one that has died.
                address=elsewhere or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=None if elsewhere else False,
                _system_config=None if elsewhere else _KEPT,
            )
    except (OSError, RuntimeError, ValueError) as error:
        hint = "; if it uses tokens, set RAY_AUTH_MODE=token" if elsewhere and "RAY_AUTH_MODE" not in os.environ else ""
        if isinstance(error, socket.gaierror | ConnectionRefusedError | TimeoutError):
            hint = ": nobody answers there; RAY_ADDRESS names a head that runs, and without it this machine computes"
        raise ClusterError(f"cannot join Ray at {elsewhere or 'this machine'}: {_first_line(error)}{hint}") from error
    try:
        yield capacity()
    finally:
        ray.shutdown()


def _quieten() -> None:
    """What goes wrong reaches the user as our own one line; Ray's words stay in its log files."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray starts its processes by fork and exec at once, which these two cannot tell from a bare fork.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    warnings.filterwarnings("ignore", message="lancedb fork support")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; how a job ends is the job's to say."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def _one_try(elsewhere: str | None) -> Iterator[None]:
    """At a head that is joined: Ray by itself makes twenty, which take ten minutes, without a word."""
    host, _, port = (elsewhere or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), _SECONDS):
            pass  # somebody is there
    if not elsewhere or _TRIES in os.environ:
        yield
        return
    os.environ[_TRIES] = "1"
    try:
        yield
    finally:
        del os.environ[_TRIES]


@contextmanager
def _native_chatter_hidden() -> Iterator[None]:
    """Ray's native half greets on file descriptor 2, whatever its log level; errors come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cause(error: BaseException) -> BridgelakeError:
    """The error that a worker raised, said in one line."""
    found: BaseException = error
    while isinstance(found, RayTaskError) and found.cause is not None:
        found = found.cause
    if isinstance(found, BridgelakeError):
        return found
    if ours := _OURS.findall(str(found)):  # an actor that cannot start has its error as text only
        return ClusterError(ours[-1].strip())
    lines = [line for line in str(found).splitlines() if line.strip()]
    return ClusterError(f"the run cannot go on: {lines[-1].strip() if lines else type(found).__name__}")


def _require_none(config: EmbedConfig, cpus: float) -> None:
    """Refuse what is asked of GPUs where there are none."""
    if config.device == "gpu" or config.num_gpus:
        raise ClusterError(
            f"--device {config.device} --num-gpus {config.num_gpus or 1:g}: the cluster has no GPU "
            f"({cpus:g} CPUs): start Ray with one, or use --device cpu without --num-gpus"
        )
    if config.dtype == "fp8":
        raise ClusterError(
            f"--dtype fp8: the cluster has no GPU ({cpus:g} CPUs), and CPUs do not multiply float8: start Ray with an "
            "H100 or later, or use --dtype bfloat16"
        )


def lay_out(config: EmbedConfig, has: Capacity, slices: int | None = None) -> Placement:
    """Choose device and actors from what the cluster has and may get.

    Args:
        config: what the user asked for.
        has: the cluster's nodes.
        slices: so many are to be read; for fewer than that no nodes need to come.

    Raises:
        ClusterError: a GPU or float8 was asked for, and the cluster has no GPU and can get none.
    """
    gpus, cpus = has.gpus, has.cpus
    if gpus == 0:
        _require_none(config, cpus)
    on_gpu = config.device == "gpu" or (config.device == "auto" and gpus > 0)
    share = (config.num_gpus if config.num_gpus is not None else 1.0) if on_gpu else (config.num_gpus or 0.0)
    if on_gpu and share == 0:
        raise ClusterError(
            "--num-gpus 0 with a GPU: name the share that each actor takes, such as 0.5, or --device cpu"
        )
    each = int(1 / share + 1e-9) if share else 0  # actors a GPU; none has a share of two
    fitting = max(1, int(gpus) * each if share else int(cpus // 2))
    # Nodes that somebody adds by hand are none that we know of now.
    most = 2 * fitting if share and not has.scales else fitting
    if has.scales and slices is not None:
        fitting = min(fitting, max(1, slices, int(has.gpus_up) * each))
    actors = min(config.actors or fitting, fitting)
    # Half of the CPUs stay with the readers, or many actors on few CPUs would wait for pictures for ever.
    num_cpus = min(1.0 if cpus >= _SMALL else 0.5, math.floor(5000 * cpus / actors) / 10_000)
    if share:  # what a GPU node has is shared by the actors there, or some would find no CPU beside their GPU
        num_cpus = min(num_cpus, math.floor(10_000 * has.cpus_per_gpu / each) / 10_000)
    device, dtype = ("cuda", "bfloat16") if on_gpu else ("cpu", "auto")  # each node knows its own CPU
    return Placement(
        actors=actors,
        most_actors=min(config.actors or most, most),
        reader_cpus=1.0 if cpus >= _SMALL else 0.75 if cpus >= 2 else 0.5,
        num_cpus=num_cpus,
        num_gpus=share,
        device=device,
        dtype=dtype if config.dtype == "auto" else config.dtype,
        reason=has.describe() if config.device == "auto" else f"--device {config.device}",
        # An autoscaler sees in what waits which nodes are wanted: there, none is named.
        near=not has.scales and sum(group.nodes for group in has.up) > 1,
    )
