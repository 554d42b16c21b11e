"""A Ray head whose autoscaler makes nodes on this machine, by Ray's fake provider, from a file like cluster.yaml."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.e2e.test_job_submit import wait_for
from tests.ports import free_port
from tests.sessions import session

_HEAD_ID = "f" * 51 + "00000"  # as the fake provider calls its head
_HEAD = "ray.head.default"  # and its kind: by any other name the autoscaler misses one, and starts it, for ever
_STEPS = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


@contextmanager
def autoscaling_head(groups: Mapping[str, Mapping[str, Any]], **env: str) -> Iterator[tuple[str, str]]:
    """A head that computes nothing; yields its address and its dashboard's.

    Args:
        groups: kinds of nodes, as in `available_node_types`.
        env: of all of its processes.
    """
    port, dashboard = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # Ray's sockets must have short paths
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "fake",
        "max_workers": sum(group["max_workers"] for group in groups.values()),
        "idle_timeout_minutes": 1,
        "upscaling_speed": 10,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": _HEAD_ID,
            "disable_node_updaters": True,  # there is nothing to log in to
            "disable_launch_config_check": True,  # else its nodes are taken down again as out of date
        },
        "available_node_types": {_HEAD: head, **{name: {"node_config": {}, **g} for name, g in groups.items()}},
        "head_node_type": _HEAD,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in ("initialization", *_STEPS)},
    }
    (folder / "autoscaling.yaml").write_text(json.dumps(config))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        **env,
    }
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=0",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
    ]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--autoscaling-config={folder}/autoscaling.yaml", f"--temp-dir={folder}"]
    log = folder / "start.log"
    try:
        with session(command, environment, log) as process:  # the nodes that it makes are in it too
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, log)
            yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
