"""JSON Schema of the ray.io/v1 objects that `cluster/kuberay` uses, closed: a name that is not there is a mistake.

Names and types are those of KubeRay 1.7's API reference (docs.ray.io, "KubeRay CRD API reference"), written down here
as far as they can be set in a RayCluster or a RayJob. KubeRay's own CRDs are not copied: nine tenths of their 1.2 MB
repeat Kubernetes' pod template, which `kubernetes-validate` checks more strictly (a CRD lets unknown names through).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
#: Checked as what it is by Kubernetes' own schema.
KUBERNETES: Schema = {"type": "object"}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def closed(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


AUTH = closed(mode=one_of("disabled", "token"), secretName=STRING, enableK8sTokenAuth=BOOLEAN)

AUTOSCALER = closed(
    version=one_of("v1", "v2"),
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    idleTimeoutSeconds=COUNT,
    image=STRING,
    imagePullPolicy=STRING,
    resources=KUBERNETES,
    securityContext=KUBERNETES,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)

HEAD_GROUP = closed(
    ("rayStartParams", "template"),
    template=KUBERNETES,
    rayStartParams=STRINGS,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
    headService=KUBERNETES,
    enableIngress=BOOLEAN,
    labels=STRINGS,
    resources=STRINGS,
)

WORKER_GROUP = closed(
    ("groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"),
    groupName=STRING,
    template=KUBERNETES,
    rayStartParams=STRINGS,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    suspend=BOOLEAN,
    scaleStrategy=closed(workersToDelete={"type": "array", "items": STRING}),
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
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
    headServiceAnnotations=STRINGS,
    suspend=BOOLEAN,
    managedBy=STRING,
    gcsFaultToleranceOptions=KUBERNETES,
)

RAY_JOB_SPEC = closed(
    entrypoint=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=STRING,
    runtimeEnvYAML=STRING,
    metadata=STRINGS,
    jobId=STRING,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"),
    submitterConfig=closed(backoffLimit=COUNT),
    submitterPodTemplate=KUBERNETES,
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=COUNT,
    suspend=BOOLEAN,
    managedBy=STRING,
    clusterSelector=STRINGS,
    deletionStrategy=KUBERNETES,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)


def document(kind: str, spec: Schema) -> Schema:
    return closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=closed(("name",), name=STRING, namespace=STRING, labels=STRINGS, annotations=STRINGS),
        spec=spec,
    )


DOCUMENTS = {
    "RayCluster": document("RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": document("RayJob", RAY_JOB_SPEC),
}
