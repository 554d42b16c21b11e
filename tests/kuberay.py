"""The fields of a RayJob by KubeRay's API reference (1.7), a strict JSON schema written by hand, and what it refuses.

KubeRay's own schema was found in no package. Fewer fields stand here than KubeRay knows, and none that
it does not: a manifest that passes names nothing that it would drop. Each was looked up, with its type and whether it
must be there, in what the schema is made from, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go of
ray-project/kuberay, and what its operator refuses beyond them in ray-operator/controllers/ray/utils/validation.go: the
first as it was with `deletionRules`, the others as they were with `tlsOptions` and a group's `priority`. (In the older
commits f6ef3f7b3263 and 3275ee09f6a6, SidecarMode, `authOptions` and the autoscaler's `version` were still missing.)
Pods and services in it are Kubernetes', and are checked by its schemas.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

# It reads 1.5 MB of definitions for each resource.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
Schema = dict[str, Any]

TEXT, FLAG, NUMBER, WHOLE = ({"type": name} for name in ("string", "boolean", "number", "integer"))
COUNT = {"type": "integer", "minimum": 0}
NAMES = {"type": "object", "additionalProperties": TEXT}
KUBERNETES = {"type": "object"}  # checked by itself


def one_of(*choices: str) -> Schema:
    return {"enum": list(choices)}


def fields(*required: str, **known: Schema) -> Schema:
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


AUTOSCALER = fields(
    resources=KUBERNETES,
    securityContext=KUBERNETES,
    image=TEXT,
    idleTimeoutSeconds=COUNT,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    version=one_of("v1", "v2"),
)
HEAD = fields("template", template=KUBERNETES, headService=KUBERNETES, rayStartParams=NAMES, serviceType=TEXT)
WORKERS = fields(
    *("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=NAMES,
    template=KUBERNETES,
)
CLUSTER = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    authOptions=fields(mode=one_of("disabled", "token"), secretName=TEXT),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = fields(
    entrypoint=TEXT,
    entrypointNumCpus=NUMBER,
    runtimeEnvYAML=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterPodTemplate=KUBERNETES,
    submitterConfig=fields(backoffLimit=COUNT),
    backoffLimit=COUNT,
    activeDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)
RAYJOB = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=KUBERNETES,
    spec=JOB,
)


def require_valid(document: dict[str, Any], version: str) -> None:
    """Check a manifest strictly, by the schemas of a version of Kubernetes.

    Raises:
        jsonschema.ValidationError: a field is unknown, missing, or of another type.
    """
    if document["kind"] != "RayJob":
        kubernetes_validate.validate(document, version, strict=True)
        return
    jsonschema.validate(document, RAYJOB)
    for part in parts(document):
        kubernetes_validate.validate(part, version, strict=True)


def parts(rayjob: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is Kubernetes' own in a RayJob, each as a resource of its own."""
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": rayjob["metadata"]}
    cluster = rayjob["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]
    yield {"apiVersion": "v1", "kind": "Service"} | head.get("headService", {})
    beside = {"name": "autoscaler"} | {
        key: value for key, value in cluster["autoscalerOptions"].items() if key in ("resources", "securityContext")
    }
    templates = [head["template"], {"spec": {"containers": [beside]}}]
    for template in [*templates, *(group["template"] for group in cluster["workerGroupSpecs"])]:
        yield {"apiVersion": "v1", "kind": "PodTemplate", "template": template}


def refusals(rayjob: dict[str, Any]) -> list[str]:
    """What KubeRay's operator has against a RayJob whose fields are all right, as far as its fields above go."""
    spec, name = rayjob["spec"], rayjob["metadata"]["name"]
    cluster = spec["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    pods = [one["template"]["spec"] for one in (cluster["headGroupSpec"], *groups)]
    version = tuple(int(part) for part in cluster.get("rayVersion", "0").split(".")[:2])
    wrong = {
        "its name": len(name) > 47 or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name),
        "a token before Ray 2.52": cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52),
        "a time to live of a cluster that stays": spec.get("ttlSecondsAfterFinished", 0) > 0
        and not spec.get("shutdownAfterJobFinishes", False),
        "a deadline of nothing": spec.get("activeDeadlineSeconds", 1) <= 0,
        "more workers at least than at most": any(one["minReplicas"] > one["maxReplicas"] for one in groups),
        "a pod that is restarted, beside autoscaler v2": any(
            pod.get("restartPolicy", "Never") != "Never" for pod in pods
        ),
        "autoscaler v2 by a variable too": "RAY_enable_autoscaler_v2" in str(pods[0]),
        "GCS fault tolerance by a variable": "RAY_REDIS_ADDRESS" in str(pods[0]),
        "a runtime environment that is no YAML": not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict),
    }
    return [why for why, is_so in wrong.items() if is_so]
