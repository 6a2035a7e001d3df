"""What the CRDs' schema and the operator's rules refuse: each by a change to the file that they take."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.cluster.files import load
from tests.cluster.kuberay_operator import refusals
from tests.cluster.ray_io_v1 import admitted

FILES = {"RayCluster": load("kuberay/raycluster.yaml"), "RayJob": load("kuberay/rayjob.yaml")}
HEAD: tuple[Any, ...] = ("headGroupSpec",)
GROUP: tuple[Any, ...] = ("workerGroupSpecs", 0)
GONE = object()


def changed(kind: str, *changes: tuple[Any, ...]) -> dict[str, Any]:
    """Return a file in which each change's last item stands in `spec` at the place that the items before it say."""
    document: dict[str, Any] = copy.deepcopy(FILES[kind])
    for *steps, last, value in changes:
        inner: Any = document["spec"]
        for step in steps:
            inner = inner[step]
        if value is GONE:
            del inner[last]
        else:
            inner[last] = value
    return document


def of_cluster(*changes: tuple[Any, ...]) -> dict[str, Any]:
    return changed("RayCluster", *changes)


def of_job(*changes: tuple[Any, ...]) -> dict[str, Any]:
    return changed("RayJob", *changes)


LEGACY = {"onSuccess": {"policy": "DeleteSelf"}, "onFailure": {"policy": "DeleteNone"}}
RULE = {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(of_cluster(("rayVerison", "2.60.0")), id="name"),
        pytest.param(of_cluster(("authOptions", "mode", "on")), id="enum"),
        pytest.param(of_cluster((*HEAD, "rayStartParams", "num-cpus", 0)), id="text"),
        pytest.param(of_cluster((*HEAD, GONE)), id="head"),
        pytest.param(of_cluster((*HEAD, "template", GONE)), id="template"),
        pytest.param(of_cluster((*HEAD, "template", "spec", "containers", 0, "volumeMount", [])), id="pod"),
        pytest.param(of_cluster((*HEAD, "headService", {"spec": {"ports": [{"prot": 1}]}})), id="service"),
        pytest.param(of_cluster((*HEAD, "ingressOptions", {"pathType": "Regex"})), id="ingress"),
        pytest.param(of_cluster((*GROUP, "idleTimeout", 300)), id="group"),
        pytest.param(of_cluster((*GROUP, "groupName", GONE)), id="groupName"),
        pytest.param(of_cluster((*GROUP, "priority", 2**31)), id="int32"),
        pytest.param(of_cluster((*GROUP, "scaleStrategy", {"workersToDelete": [1]})), id="scaleStrategy"),
        pytest.param(of_cluster(("autoscalerOptions", "version", "v3")), id="autoscaler"),
        pytest.param(of_cluster(("autoscalerOptions", "env", [{"value": "1"}])), id="env"),
        pytest.param(of_cluster(("managedBy", "me")), id="managedBy"),
        pytest.param(of_cluster(("upgradeStrategy", {"type": "Rolling"})), id="upgrade"),
        pytest.param(of_cluster(("gcsFaultToleranceOptions", {"backend": "etcd"})), id="gcs"),
        pytest.param(of_cluster(("networkPolicy", {"mode": "AllowAll"})), id="networkPolicy"),
        pytest.param(of_cluster(("tlsOptions", {"enabled": "yes"})), id="tls"),
        pytest.param(of_job(("entrypointNumCpus", "1")), id="cpus"),
        pytest.param(of_job(("preRunningDeadlineSeconds", 0)), id="preRunning"),
        pytest.param(of_job(("submitterPodTemplate", "spec", "restartPolice", "Never")), id="submitter"),
        pytest.param(of_job(("deletionStrategy", {})), id="no deletion"),
        pytest.param(of_job(("deletionStrategy", {"deletionRules": []})), id="no rule"),
        pytest.param(of_job(("deletionStrategy", {"onSuccess": LEGACY["onSuccess"]})), id="half"),
        pytest.param(of_job(("deletionStrategy", {**LEGACY, "deletionRules": [RULE]})), id="both"),
        pytest.param(of_job(("deletionStrategy", {"deletionRules": [{**RULE, "condition": {}}]})), id="condition"),
    ],
)
def test_the_api_server_refuses(document: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        admitted(document)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(of_cluster((*HEAD, "template", "spec", "containers", [])), "head: a container", id="container"),
        pytest.param(
            of_cluster((*HEAD, "resources", {"CPU": "1"})), "head: resources or rayStartParams", id="resources"
        ),
        pytest.param(of_cluster((*GROUP, "rayStartParams", "labels", "a=b")), "gpu: labels, not", id="labels"),
        pytest.param(of_cluster((*GROUP, "labels", {"arena class": "gpu"})), "is no label", id="label"),
        pytest.param(of_cluster((*GROUP, "minReplicas", 17)), "gpu: 0 <= minReplicas <= maxReplicas", id="replicas"),
        pytest.param(of_cluster((*GROUP, "suspend", True)), "gpu: suspend not", id="suspended group"),
        pytest.param(of_cluster((*GROUP, "idleTimeoutSeconds", -1)), "gpu: idleTimeoutSeconds is not", id="idle"),
        pytest.param(of_cluster(("autoscalerOptions", "version", "v1")), "idleTimeoutSeconds needs", id="v1"),
        pytest.param(
            of_cluster((*GROUP, "priority", 1), ("rayVersion", "2.55.1")), "gpu: priority needs", id="priority"
        ),
        pytest.param(
            of_cluster((*GROUP, "template", "spec", "restartPolicy", "Always")),
            "autoscaler v2: restartPolicy",
            id="restart",
        ),
        pytest.param(
            of_cluster((*HEAD, "template", "spec", "containers", 0, "env", [{"name": "RAY_enable_autoscaler_v2"}])),
            "not both",
            id="two versions",
        ),
        pytest.param(
            of_cluster(("autoscalerOptions", "env", [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD"}])),
            "is the operator's",
            id="command",
        ),
        pytest.param(
            of_cluster(("autoscalerOptions", "idleTimeoutSeconds", -1)), "autoscalerOptions: idleTimeout", id="all idle"
        ),
        pytest.param(of_cluster(("rayVersion", GONE)), "a token needs rayVersion", id="token"),
        pytest.param(
            of_cluster(("authOptions", {"mode": "disabled", "enableK8sTokenAuth": True})),
            "enableK8sTokenAuth needs mode token",
            id="kubernetes token",
        ),
        pytest.param(of_cluster(("networkPolicy", {})), "needs the feature gate RayClusterNetworkPolicy", id="gate"),
        pytest.param(
            of_cluster(("gcsFaultToleranceOptions", {"backend": "rocksdb"})), "GCSFaultToleranceEmbedded", id="rocksdb"
        ),
        pytest.param(of_job(("activeDeadlineSeconds", 0)), "a deadline above 0", id="deadline"),
        pytest.param(of_job(("shutdownAfterJobFinishes", False)), "ttlSecondsAfterFinished only", id="ttl"),
        pytest.param(
            of_job(("shutdownAfterJobFinishes", False), ("suspend", True)), "suspend only with", id="suspended job"
        ),
        pytest.param(of_job(("rayClusterSpec", GONE)), "rayClusterSpec or clusterSelector", id="no cluster"),
        pytest.param(of_job(("clusterSelector", {"name": "a"})), "needs ray.io/cluster", id="selector"),
        pytest.param(
            of_job(("submissionMode", "InteractiveMode"), ("backoffLimit", 1)), "backoffLimit not with", id="tries"
        ),
        pytest.param(of_job(("submissionMode", "SshMode")), "submissionMode is one of", id="mode"),
        pytest.param(of_job(("submissionMode", "SidecarMode")), "SidecarMode not with submitterPod", id="sidecar"),
        pytest.param(of_job(("runtimeEnvYAML", "a: [")), "runtimeEnvYAML is YAML", id="runtime environment"),
        pytest.param(of_job(("deletionStrategy", {"deletionRules": [RULE]})), "deletionRules not with", id="rules"),
        pytest.param(of_job(("deletionStrategy", LEGACY)), "DeleteNone not with", id="none"),
        pytest.param(
            of_job(("deletionStrategy", {**LEGACY, "onSuccess": {}})), "onSuccess and onFailure need", id="policy"
        ),
        pytest.param(
            of_job(("deletionStrategy", {"deletionRules": [{**RULE, "policy": "DeleteWorkers"}]})),
            "DeleteWorkers not with an autoscaler",
            id="workers",
        ),
        pytest.param(
            of_job(
                ("clusterSelector", {"ray.io/cluster": "a"}),
                ("deletionStrategy", {"deletionRules": [{**RULE, "policy": "DeleteCluster"}]}),
            ),
            "a selected cluster is not deleted",
            id="selected",
        ),
        pytest.param(
            of_job(("rayClusterSpec", "upgradeStrategy", {"type": "None"})), "upgradeStrategy not", id="upgrade"
        ),
        pytest.param(
            of_job(("rayClusterSpec", "authOptions", "enableK8sTokenAuth", True)),
            "enableK8sTokenAuth not",
            id="job token",
        ),
    ],
)
def test_the_operator_refuses(document: dict[str, Any], reason: str) -> None:
    assert [found for found in refusals(admitted(document)) if reason in found]


@pytest.mark.parametrize(("kind", "longest"), [pytest.param("RayCluster", 53), pytest.param("RayJob", 47)])
def test_names_leave_room_for_what_the_operator_appends(kind: str, longest: int) -> None:
    document = copy.deepcopy(FILES[kind])
    document["metadata"]["name"] = "a" * longest
    assert refusals(admitted(document)) == []
    for name in ("a" * (longest + 1), "1a", "a.b"):
        document["metadata"]["name"] = name
        assert len(refusals(admitted(document))) == 1


def test_defaults_are_set_before_anything_is_looked_for() -> None:
    kept = admitted(of_cluster((*GROUP, "minReplicas", GONE), (*GROUP, "maxReplicas", GONE)))["spec"][
        "workerGroupSpecs"
    ][0]
    assert (kept["minReplicas"], kept["maxReplicas"], kept["numOfHosts"], kept["priority"]) == (0, 2**31 - 1, 1, 0)
