"""JSON Schema of the ray.io/v1 objects RayCluster and RayJob, field for field what KubeRay 1.7's CRDs say of `spec`.

The facts are from ray-project/kuberay, whose CRDs are generated from its Go types:

* names, types, defaults and enums: docs/reference/api.md of v1.7.0 (v1.7.1 is fixes only, by its release notes);
* what is required, and the rules written in CEL: ray-operator/apis/ray/v1/raycluster_types.go, in a state with exactly
  the fields of that reference, and rayjob_types.go, in an older one without `preRunningDeadlineSeconds`;
* the operator's own rules, which come after these: kuberay_operator.py.

What is Kubernetes' there is Kubernetes' here: `kubernetes(...)` points to the definitions that kubernetes-validate
ships. Two things are stricter than a CRD: names that are not there are mistakes (a CRD drops them; `kubectl apply`
refuses them), and pods are checked by all that Kubernetes says of them. One is looser: a file has no past, so that
`managedBy` and `gcsFaultToleranceOptions.backend` never change cannot be seen. `status` is left out: the operator's.
"""

from __future__ import annotations

import copy
import functools
import json
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource

from tests.cluster.files import VERSIONS

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
INT32: Schema = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}


def kubernetes(name: str) -> Schema:
    """Return the schema of one of Kubernetes' own types, such as `core.v1.EnvVar`."""
    return {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.{name}"}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def default(value: Any, schema: Schema) -> Schema:
    return {**schema, "default": value}


def closed(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def either(*names: str) -> Schema:
    """Return what holds of an object with exactly one of these fields."""
    return {"oneOf": [{"required": [name]} for name in names]}


POD = kubernetes("api.core.v1.PodTemplateSpec")
RESOURCES = kubernetes("api.core.v1.ResourceRequirements")
PULL_POLICY = STRING
ENV = array(kubernetes("api.core.v1.EnvVar"))
MANAGED_BY = one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")

AUTH = closed(mode=one_of("disabled", "token"), secretName=STRING, enableK8sTokenAuth=BOOLEAN)

AUTOSCALER = closed(
    version=one_of("v1", "v2"),
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    idleTimeoutSeconds=INT32,
    image=STRING,
    imagePullPolicy=PULL_POLICY,
    resources=RESOURCES,
    securityContext=kubernetes("api.core.v1.SecurityContext"),
    env=ENV,
    envFrom=array(kubernetes("api.core.v1.EnvFromSource")),
    volumeMounts=array(kubernetes("api.core.v1.VolumeMount")),
    command=array(STRING),
    args=array(STRING),
)

CREDENTIAL = closed(value=STRING, valueFrom=kubernetes("api.core.v1.EnvVarSource"))
GCS_FAULT_TOLERANCE = closed(
    backend=one_of("redis", "rocksdb"),
    redisAddress=STRING,
    redisUsername=CREDENTIAL,
    redisPassword=CREDENTIAL,
    externalStorageNamespace=STRING,
    storage=closed(
        claimName=STRING,
        size=kubernetes("apimachinery.pkg.api.resource.Quantity"),
        storageClassName=STRING,
        accessModes=array(STRING),
        subPath=STRING,
        deletionPolicy=one_of("DeleteWithCluster", "Retain"),
    ),
)

HISTORY_SERVER = closed(
    collectorOptions=closed(image=STRING, imagePullPolicy=PULL_POLICY, resources=RESOURCES, env=ENV),
)

NETWORK_RULES: dict[str, Schema] = {
    "ingressRules": array(kubernetes("api.networking.v1.NetworkPolicyIngressRule")),
    "egressRules": array(kubernetes("api.networking.v1.NetworkPolicyEgressRule")),
}
NETWORK_POLICY = closed(
    mode=default("DenyAll", one_of("DenyAll", "DenyAllIngress", "DenyAllEgress")),
    head=closed(**NETWORK_RULES),
    worker=closed(**NETWORK_RULES),
    workerGroups=array(closed(("groupName",), groupName=STRING, **NETWORK_RULES)),
)

INGRESS = closed(
    host=STRING,
    path=STRING,
    pathType=one_of("Exact", "Prefix", "ImplementationSpecific"),
    tls=array(kubernetes("api.networking.v1.IngressTLS")),
)

HEAD_GROUP = closed(
    ("template",),
    template=POD,
    rayStartParams=STRINGS,
    serviceType=STRING,
    headService=kubernetes("api.core.v1.Service"),
    enableIngress=BOOLEAN,
    ingressOptions=INGRESS,
    labels=STRINGS,
    resources=STRINGS,
)

WORKER_GROUP = closed(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=STRING,
    template=POD,
    rayStartParams=STRINGS,
    replicas=default(0, INT32),
    minReplicas=default(0, INT32),
    maxReplicas=default(2**31 - 1, INT32),
    numOfHosts=default(1, INT32),
    idleTimeoutSeconds=INT32,
    priority=default(0, INT32),
    suspend=BOOLEAN,
    scaleStrategy=closed(workersToDelete=array(STRING)),
    labels=STRINGS,
    resources=STRINGS,
)

RAY_CLUSTER_SPEC = closed(
    ("headGroupSpec",),
    rayVersion=STRING,
    authOptions=AUTH,
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=array(WORKER_GROUP),
    headServiceAnnotations=STRINGS,
    suspend=BOOLEAN,
    managedBy=MANAGED_BY,
    upgradeStrategy=closed(type=one_of("Recreate", "None")),
    gcsFaultToleranceOptions=GCS_FAULT_TOLERANCE,
    historyServerOptions=HISTORY_SERVER,
    networkPolicy=NETWORK_POLICY,
    tlsOptions=closed(enabled=BOOLEAN),
)

DELETION_POLICY = one_of("DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone")
DELETION_CONDITION = {
    **closed(
        jobStatus=one_of("SUCCEEDED", "FAILED"),
        jobDeploymentStatus=one_of("Failed"),
        ttlSeconds=default(0, {**INT32, "minimum": 0}),
    ),
    **either("jobStatus", "jobDeploymentStatus"),
}
DELETION_STRATEGY = {
    **closed(
        onSuccess=closed(policy=DELETION_POLICY),
        onFailure=closed(policy=DELETION_POLICY),
        deletionRules=array(
            closed(("policy", "condition"), policy=DELETION_POLICY, condition=DELETION_CONDITION), minItems=1
        ),
    ),
    **either("onSuccess", "deletionRules"),
    "dependentRequired": {"onSuccess": ["onFailure"], "onFailure": ["onSuccess"]},
}

RAY_JOB_SPEC = closed(
    entrypoint=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=STRING,
    runtimeEnvYAML=STRING,
    metadata=STRINGS,
    jobId=STRING,
    submissionMode=default("K8sJobMode", STRING),
    submitterConfig=closed(backoffLimit=INT32),
    submitterPodTemplate=POD,
    backoffLimit=default(0, INT32),
    activeDeadlineSeconds=INT32,
    preRunningDeadlineSeconds={**INT32, "minimum": 1},
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=default(0, INT32),
    suspend=BOOLEAN,
    managedBy=MANAGED_BY,
    clusterSelector=STRINGS,
    deletionStrategy=DELETION_STRATEGY,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)


def document(kind: str, spec: Schema) -> Schema:
    """Return the schema of a file: what Kubernetes asks of every object, and the CRD's `spec`."""
    return closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=kubernetes("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
        spec=spec,
    )


DOCUMENTS = {
    "RayCluster": document("RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": document("RayJob", RAY_JOB_SPEC),
}


@functools.cache
def _kubernetes_definitions() -> Registry[Any]:
    schemas = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    strict = schemas / f"v{VERSIONS['KUBERNETES_VERSION']}.0-local-strict" / "_definitions.json"
    return Resource.from_contents(json.loads(strict.read_text())) @ Registry()


def _fill_in(value: Any, schema: Schema) -> None:
    """Set the defaults in a value, which may not be valid."""
    if isinstance(value, list):
        for item in value:
            _fill_in(item, schema.get("items", {}))
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if "default" in inner:
                value.setdefault(name, inner["default"])
            _fill_in(value.get(name), inner)


def admitted(written: dict[str, Any]) -> dict[str, Any]:
    """Return an object as the API server keeps it: with the CRD's defaults, which it sets before it looks.

    Raises:
        jsonschema.ValidationError: The API server, or `kubectl apply`, refuses the object.
    """
    schema, kept = DOCUMENTS[written["kind"]], copy.deepcopy(written)
    _fill_in(kept, schema)
    Draft202012Validator(schema, registry=_kubernetes_definitions()).validate(kept)
    return kept
