"""The fields of a RayJob by KubeRay's API reference (1.7), as a strict JSON schema written by hand.

KubeRay's own schema is in no package. Fewer fields stand here than KubeRay knows, and none that it does not: a manifest
that passes names nothing that it would drop. Pods and services in it are Kubernetes', and are checked by its schemas.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

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
