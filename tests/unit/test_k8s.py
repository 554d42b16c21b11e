"""k8s/, as far as it can be tried without Kubernetes: by its schemas, Ray's own reading, and the jobs' own parsers."""

import copy
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity

from jobs import embed_laion, schedule
from pipeline import submit
from pipeline.capacity import Group, worker_groups
from tests.conftest import REPOSITORY
from tests.kuberay import refusals, require_valid

K8S = REPOSITORY / "k8s"
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCK = dict(line.split("==") for line in (REPOSITORY / "requirements.lock").read_text().splitlines())
DOCKERFILE = (K8S / "Dockerfile").read_text()
MOTO = Path(util.find_spec("moto").submodule_search_locations[0])  # type: ignore[union-attr, index]
# What EC2 offers; `moto.ec2` reads much more as it is imported.
INSTANCES = json.loads(gzip.decompress((MOTO / "ec2/resources/instance_types.json.gz").read_bytes()))
PICTURE = 294 * 294 * 3  # bytes, prepared for the large checkpoint


def manifests() -> dict[str, dict[str, Any]]:
    """By kind and name."""
    documents = [one for path in sorted(K8S.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in documents}


ALL = manifests()
RAYJOB, CRONJOB = ALL["RayJob/bridgelake"]["spec"], ALL["CronJob/bridgelake-tick"]["spec"]
CLUSTER = RAYJOB["rayClusterSpec"]
GROUPS = {"head": CLUSTER["headGroupSpec"]} | {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
TICK = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]
PODS = {name: group["template"]["spec"] for name, group in GROUPS.items()} | {"tick": TICK}


@pytest.mark.parametrize("version", ["1.33", "1.37"])
@pytest.mark.parametrize("name", ALL)
def test_manifest_has_only_fields_that_its_kind_has(name: str, version: str) -> None:
    require_valid(ALL[name], version)


def places() -> Iterator[tuple[str, Sequence[str | int], Any]]:
    """Where a manifest is made wrong, and by what."""
    cluster, pod = ("spec", "rayClusterSpec"), ("template", "spec", "containers", 0)
    for place, wrong in (
        (("spec", "entrypiont"), "python"),
        (("spec", "backoffLimit"), "1"),
        (("metadata", "nmae"), "bridgelake"),
        ((*cluster, "autoscaling"), True),
        ((*cluster, "autoscalerOptions", "upscalingMode"), "Fast"),
        ((*cluster, "autoscalerOptions", "securityContext", "privilege"), False),
        ((*cluster, "headGroupSpec", "headService", "metadata", "lables"), {}),
        ((*cluster, "headGroupSpec", *pod, "imagePolicy"), "Always"),
        ((*cluster, "workerGroupSpecs", 0, "rayStartParams", "object-store-memory"), 36077725286),
        ((*cluster, "workerGroupSpecs", 1, "maxReplica"), 8),
        ((*cluster, "workerGroupSpecs", 1, *pod, "resources", "limit"), {}),
        ((*cluster, "workerGroupSpecs", 1, "template", "spec", "tolerations", 0, "effects"), "NoSchedule"),
    ):
        yield "RayJob/bridgelake", place, wrong
    job = ("spec", "jobTemplate", "spec")
    for place, wrong in (
        (("spec", "concurencyPolicy"), "Forbid"),
        (("spec", "startingDeadlineSeconds"), "3 h"),
        ((*job, "backoffLimits"), 3),
        ((*job, *pod[:2], "containers", 0, "env", 1, "valueFrom", "secretKeyRef", "value"), "x"),
    ):
        yield "CronJob/bridgelake-tick", place, wrong
    yield "ServiceAccount/bridgelake-head", ("annotations",), {}


@pytest.mark.parametrize(("name", "place", "wrong"), places())
def test_wrong_field_is_refused(name: str, place: Sequence[str | int], wrong: Any) -> None:
    document: Any = copy.deepcopy(ALL[name])
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    told = str(wrong if place[-1] in inner else place[-1])  # its type or value is wrong, or its name
    inner[place[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError, match=re.escape(told)):
        require_valid(document, "1.37")


def test_kuberays_operator_has_nothing_against_the_job_and_would_have_against_these() -> None:
    document = ALL["RayJob/bridgelake"]
    assert refusals(document) == []
    wrong: Any = copy.deepcopy(document)
    wrong["metadata"]["name"] += "_"
    wrong["spec"] |= {"ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 0, "runtimeEnvYAML": "x"}
    cluster = wrong["spec"]["rayClusterSpec"]
    cluster["rayVersion"] = "2.51.1"
    cluster["workerGroupSpecs"][0]["minReplicas"] = 5
    cluster["workerGroupSpecs"][1]["template"]["spec"]["restartPolicy"] = "Always"
    variables = [{"name": name, "value": "1"} for name in ("RAY_enable_autoscaler_v2", "RAY_REDIS_ADDRESS")]
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"] = variables
    assert len(refusals(wrong)) == 9


def test_missing_field_is_refused() -> None:
    document = copy.deepcopy(ALL["RayJob/bridgelake"])
    del document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    with pytest.raises(jsonschema.ValidationError, match="maxReplicas"):
        require_valid(document, "1.37")


def test_images_have_the_ray_and_python_of_the_lock_and_only_gpu_workers_get_torch() -> None:
    python = PROJECT["tool"]["mypy"]["python_version"]
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == [f"python:{python}-slim-bookworm"]
    assert CLUSTER["rayVersion"] == LOCK["ray"]
    image = f"bridgelake:{PROJECT['project']['version']}-ray{LOCK['ray']}-py{python.replace('.', '')}"
    used = {name: pod["containers"][0]["image"].rpartition("/")[2] for name, pod in PODS.items()}
    assert used == {"head": image, "cpu": image, "gpu": f"{image}-model", "tick": image}
    readme = (REPOSITORY / "README.md").read_text()
    for text in (DOCKERFILE, readme):
        assert re.findall(r"docker build .*-t REGISTRY/(\S+) \.", text) == [image, f"{image}-model"]


def test_image_has_what_a_node_of_cluster_yaml_has() -> None:
    mounts = set(yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["file_mounts"].values())
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)]
    assert {source for sources in copied for source in sources} == mounts


@pytest.mark.parametrize("extras", ["", "model", "model,gcs"])
def test_image_installs_what_the_project_asks_for_in_the_locks_versions(extras: str, tmp_path: Path) -> None:
    """The command as it stands there, with a pip that only writes down what it is asked."""
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@" > asked; cp wanted.txt kept\n')
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "pyproject.toml").symlink_to(REPOSITORY / "pyproject.toml")
    (run,) = re.findall(r"^RUN (python (?:[^\n]*\\\n)*[^\n]*)", DOCKERFILE, re.MULTILINE)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "EXTRAS": extras}
    subprocess.run(["sh", "-ec", run], cwd=tmp_path, env=env, check=True, timeout=60)
    project = PROJECT["project"]
    more = [one for extra in extras.split(",") if extra for one in project["optional-dependencies"][extra]]
    assert (tmp_path / "kept").read_text().splitlines() == [*project["dependencies"], *more]
    assert "--constraint requirements.lock" in (tmp_path / "asked").read_text()


def test_entrypoint_and_tick_are_commands_that_the_jobs_understand() -> None:
    python, script, *given = shlex.split(RAYJOB["entrypoint"])
    assert (python, script) == ("python", "jobs/embed_laion.py")
    embed = tyro.cli(embed_laion.Options, args=given, config=(tyro.conf.OmitArgPrefixes,))
    python, script, *given = TICK["containers"][0]["command"]
    assert (python, script) == ("python", "jobs/schedule.py")
    tick = tyro.cli(schedule.Options, args=given, config=(tyro.conf.OmitArgPrefixes,))
    assert (tick.once, tick.cron, tick.timezone) == (True, CRONJOB["schedule"], "UTC")
    again = tyro.cli(embed_laion.Options, args=tick.command[2:], config=(tyro.conf.OmitArgPrefixes,))
    assert (tick.command[:2], again) == (("python", "jobs/embed_laion.py"), embed)
    assert tick.submit == f"http://{CLUSTER['headGroupSpec']['headService']['metadata']['name']}:8265"
    assert yaml.safe_load(RAYJOB["runtimeEnvYAML"]) == {"env_vars": submit._STOPPING}


def test_ray_reads_groups_from_zero_that_are_those_of_cluster_yaml_less_what_kubernetes_keeps() -> None:
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "bridgelake-x", "namespace": "bridgelake"}, "spec": CLUSTER}
    )
    assert worker_groups(config) == (Group(8, 15, 1, "L40S"), Group(4, 30, 0))
    aws = worker_groups(yaml.safe_load((REPOSITORY / "cluster.yaml").read_text()))
    assert [(group.nodes, group.gpus) for group in aws] == [(8, 1), (4, 0)]
    assert {kind["min_workers"] for kind in config["available_node_types"].values()} == {0}
    assert config["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    assert config["idle_timeout_minutes"] == 10


@pytest.mark.parametrize("name", GROUPS)
def test_pod_fits_its_node_and_its_object_store_its_memory_and_disk(name: str) -> None:
    pod = PODS[name]
    node: Any = INSTANCES[pod["nodeSelector"]["node.kubernetes.io/instance-type"]]
    asked = pod["containers"][0]["resources"]
    assert asked["requests"] == asked["limits"]
    has = {what: float(parse_quantity(amount)) for what, amount in asked["limits"].items()}
    beside = (0.5, 2**29) if name == "head" else (0, 0)  # the autoscaler
    # Kubernetes and its daemons keep some 5%; more than a quarter of a node would be thrown away.
    assert 0.75 * node["VCpuInfo"]["DefaultVCpus"] <= has["cpu"] + beside[0] <= node["VCpuInfo"]["DefaultVCpus"] - 0.5
    memory = node["MemoryInfo"]["SizeInMiB"] * 2**20
    assert 0.75 * memory <= has["memory"] + beside[1] <= 0.92 * memory
    assert has.get("nvidia.com/gpu", 0) == sum(gpu["Count"] for gpu in node.get("GpuInfo", {}).get("Gpus", ()))
    if name != "head":
        store = int(GROUPS[name]["rayStartParams"]["object-store-memory"])
        assert store == pytest.approx(0.3 * has["memory"], rel=1e-6)
        assert store / PICTURE > 100_000
        assert has["ephemeral-storage"] > 2 * store


def test_nothing_secret_stands_in_the_files_and_every_account_and_secret_that_is_named_is_told_of() -> None:
    texts = "".join(path.read_text() for path in sorted(K8S.iterdir()))
    assert not re.search(r"AKIA|ASIA|secret_access|aws_credentials|password", texts, re.IGNORECASE)
    assert not any(name.startswith("Secret/") for name in ALL)
    assert {f"ServiceAccount/{pod['serviceAccountName']}" for pod in PODS.values()} <= set(ALL)
    assert {one["metadata"].get("namespace", one["metadata"]["name"]) for one in ALL.values()} == {"bridgelake"}
    token = TICK["containers"][0]["env"][1]["valueFrom"]["secretKeyRef"]
    secret = f"create secret generic {token['name']} --from-literal={token['key']}="
    assert (token["name"], CLUSTER["authOptions"]["mode"]) == (CLUSTER["authOptions"]["secretName"], "token")
    assert secret in (K8S / "rayjob.yaml").read_text()
    assert secret in (REPOSITORY / "README.md").read_text()


def test_no_pod_is_root_or_may_become_it() -> None:
    for pod in PODS.values():
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 1000)
        assert pod["containers"][0]["securityContext"] == CLUSTER["autoscalerOptions"]["securityContext"]
    assert CLUSTER["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False
