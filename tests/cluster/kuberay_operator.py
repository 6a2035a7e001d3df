"""What KubeRay's operator refuses after the API server has let it in (then the object's events have the reason).

The rules are those of ray-operator/controllers/ray/utils/validation.go of ray-project/kuberay, in its state at 1.7:
all for a RayCluster and a RayJob, but for what only concerns a feature gate that is off by default
(ray-operator/pkg/features/features.go), or Redis. With such a gate off, its fields are refused, and so they are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from packaging.version import Version

Spec = dict[str, Any]

#: How long a name may be (constant.go): the operator appends to it for services, and for a job's cluster first.
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47}

#: Fields of features that are off by default.
GATES = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}

#: What the operator acts on; the CRD takes any word.
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_WORD}")
_LABEL_VALUE = re.compile(rf"({_WORD})?")


def refusals(document: dict[str, Any]) -> list[str]:
    """Return why the operator refuses an object that the API server admitted; nothing, if it takes it."""
    kind, name, spec = document["kind"], document["metadata"]["name"], document["spec"]
    found = []
    if len(name) > LONGEST_NAME[kind] or not _NAME.fullmatch(name):
        found.append(f"a name of {LONGEST_NAME[kind]} characters at most, of a-z, 0-9 and -")
    found += _of_job(spec) if kind == "RayJob" else _of_cluster(spec)
    return found


def _of_job(spec: Spec) -> Iterator[str]:
    cluster, selected = spec.get("rayClusterSpec"), bool(spec.get("clusterSelector"))
    shutdown, ttl_s = spec.get("shutdownAfterJobFinishes"), spec["ttlSecondsAfterFinished"]
    retries = spec["backoffLimit"]
    if ttl_s < 0 or retries < 0 or spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "no negative time to live or number of tries, and a deadline above 0"
    if ttl_s > 0 and not shutdown:
        yield "ttlSecondsAfterFinished only with shutdownAfterJobFinishes"
    if spec.get("suspend") and (selected or not shutdown):
        yield "suspend only with shutdownAfterJobFinishes, and not with clusterSelector"
    if cluster is None and not selected:
        yield "rayClusterSpec or clusterSelector"
    if selected and not spec["clusterSelector"].get("ray.io/cluster"):
        yield "clusterSelector needs ray.io/cluster"
    if retries > 0 and (selected or spec["submissionMode"] == "InteractiveMode"):
        yield "backoffLimit not with clusterSelector or InteractiveMode"
    yield from _of_submission(spec)
    yield from _of_deletion(spec)
    if cluster is not None:
        yield from _of_cluster(cluster)
        if cluster.get("upgradeStrategy"):
            yield "upgradeStrategy not in a job"
        if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
            yield "enableK8sTokenAuth not in a job"


def _of_submission(spec: Spec) -> Iterator[str]:
    if spec["submissionMode"] not in SUBMISSION_MODES:
        yield f"submissionMode is one of {', '.join(SUBMISSION_MODES)}"
    if spec["submissionMode"] == "SidecarMode":
        if {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & set(spec):
            yield "SidecarMode not with submitterPodTemplate, submitterConfig or clusterSelector"
        yield from _of_restarts("SidecarMode", [spec.get("rayClusterSpec", {}).get("headGroupSpec", {})])
    try:
        yaml.safe_load(spec.get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML is YAML"


def _of_deletion(spec: Spec) -> Iterator[str]:
    strategy = spec.get("deletionStrategy", {})
    rules = strategy.get("deletionRules", [])
    policies = [rule["policy"] for rule in rules]
    policies += [strategy[when].get("policy") for when in ("onSuccess", "onFailure") if when in strategy]
    cluster = spec.get("rayClusterSpec", {})
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield "deletionRules not with shutdownAfterJobFinishes"
    if None in policies:
        yield "onSuccess and onFailure need a policy"
    if "DeleteNone" in policies and not rules and spec.get("shutdownAfterJobFinishes"):
        yield "DeleteNone not with shutdownAfterJobFinishes"
    if "DeleteWorkers" in policies and cluster.get("enableInTreeAutoscaling"):
        yield "DeleteWorkers not with an autoscaler"
    if spec.get("clusterSelector") and {"DeleteWorkers", "DeleteCluster"} & set(policies):
        yield "a selected cluster is not deleted"


def _of_cluster(spec: Spec) -> Iterator[str]:
    head, groups = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    for group in (head, *groups):
        yield from _of_group(group)
    for group in groups:
        yield from _of_workers(group, spec)
    if spec.get("enableInTreeAutoscaling") and _autoscaler_v2(spec):
        yield from _of_restarts("autoscaler v2", [head, *groups])
    yield from _of_autoscaler(spec)
    yield from _of_token(spec)
    for field in sorted(GATES.keys() & spec.keys()):
        yield f"{field} needs the feature gate {GATES[field]}"
    if spec.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
        yield "rocksdb needs the feature gate GCSFaultToleranceEmbeddedStorage"


def _of_group(group: Spec) -> Iterator[str]:
    name, start = group.get("groupName", "head"), group.get("rayStartParams", {})
    if not _containers(group):
        yield f"{name}: a container"
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(start):
        yield f"{name}: resources or rayStartParams, not both"
    if "labels" in start:
        yield f"{name}: labels, not rayStartParams['labels']"
    for key, value in group.get("labels", {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            yield f"{name}: {key}={value} is no label of Kubernetes"


def _of_workers(group: Spec, spec: Spec) -> Iterator[str]:
    name = group["groupName"]
    if not 0 <= group["minReplicas"] <= group["maxReplicas"]:
        yield f"{name}: 0 <= minReplicas <= maxReplicas"
    if group.get("suspend") and spec.get("enableInTreeAutoscaling"):
        yield f"{name}: suspend not with an autoscaler"
    if group.get("idleTimeoutSeconds", 0) < 0:
        yield f"{name}: idleTimeoutSeconds is not negative"
    if "idleTimeoutSeconds" in group and not _autoscaler_v2(spec):
        yield f"{name}: idleTimeoutSeconds needs autoscaler v2"
    if group["priority"] and not (_autoscaler_v2(spec) and _ray_is_from(spec, "2.56.0")):
        yield f"{name}: priority needs autoscaler v2 and Ray 2.56"


def _of_restarts(why: str, groups: list[Spec]) -> Iterator[str]:
    for group in groups:
        if group.get("template", {}).get("spec", {}).get("restartPolicy", "Never") != "Never":
            yield f"{why}: restartPolicy is Never, or left out"


def _of_autoscaler(spec: Spec) -> Iterator[str]:
    options = spec.get("autoscalerOptions", {})
    rays_container = _containers(spec["headGroupSpec"])[:1]
    in_head = {variable["name"] for container in rays_container for variable in container.get("env", [])}
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions: idleTimeoutSeconds is not negative"
    if "RAY_enable_autoscaler_v2" in in_head and "version" in options:
        yield "autoscalerOptions.version or RAY_enable_autoscaler_v2, not both"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in {variable["name"] for variable in options.get("env", [])}:
        yield "KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's"


def _of_token(spec: Spec) -> Iterator[str]:
    options = spec.get("authOptions", {})
    token, by_kubernetes = options.get("mode") == "token", options.get("enableK8sTokenAuth")
    if token and not _ray_is_from(spec, "2.52.0"):
        yield "a token needs rayVersion, 2.52.0 or newer"
    if by_kubernetes and not (token and _ray_is_from(spec, "2.55.0") and not options.get("secretName")):
        yield "enableK8sTokenAuth needs mode token and rayVersion 2.55.0, and no secretName"


def _containers(group: Spec) -> list[dict[str, Any]]:
    containers: list[dict[str, Any]] = group["template"].get("spec", {}).get("containers", [])
    return containers


def _autoscaler_v2(spec: Spec) -> bool:
    return bool(spec.get("autoscalerOptions", {}).get("version") == "v2")


def _ray_is_from(spec: Spec, version: str) -> bool:
    return "rayVersion" in spec and Version(spec["rayVersion"]) >= Version(version)
