"""The Kubernetes files: by the schemas of KubeRay and Kubernetes, by the operator's rules and by what must hold."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.cluster.files import CLUSTER, VERSIONS, load
from tests.cluster.kuberay_operator import refusals
from tests.cluster.ray_io_v1 import admitted

RAY_CLUSTER = load("kuberay/raycluster.yaml")
RAY_JOB = load("kuberay/rayjob.yaml")
POLICY = load("kuberay/networkpolicy.yaml")
VOLUME = load("kuberay/storage.yaml")

HEAD = RAY_CLUSTER["spec"]["headGroupSpec"]
GROUPS = {group["groupName"]: group for group in RAY_CLUSTER["spec"]["workerGroupSpecs"]}
TEMPLATES: dict[str, dict[str, Any]] = {
    "head": HEAD["template"],
    **{name: group["template"] for name, group in GROUPS.items()},
    "submitter": RAY_JOB["spec"]["submitterPodTemplate"],
}
POD = pytest.mark.parametrize("template", [pytest.param(value, id=key) for key, value in TEMPLATES.items()])


def container(template: dict[str, Any]) -> dict[str, Any]:
    """Return the container of a pod that has one, as KubeRay takes the first for Ray's."""
    (only,) = template["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("document", [pytest.param(RAY_CLUSTER, id="cluster"), pytest.param(RAY_JOB, id="job")])
def test_the_api_server_and_the_operator_take_the_objects_of_ray(document: dict[str, Any]) -> None:
    assert refusals(admitted(document)) == []


@pytest.mark.parametrize("document", [pytest.param(POLICY, id="policy"), pytest.param(VOLUME, id="volume")])
def test_the_objects_of_kubernetes_are_valid(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSIONS["KUBERNETES_VERSION"], strict=True)


def test_the_job_brings_the_same_cluster() -> None:
    assert RAY_JOB["spec"]["rayClusterSpec"] == RAY_CLUSTER["spec"]


@POD
def test_pods_run_the_image_without_rights(template: dict[str, Any]) -> None:
    assert container(template)["image"] == VERSIONS["IMAGE"]
    assert container(template)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["securityContext"]["runAsUser"] == 1000  # the Dockerfile's user


def test_the_operators_own_container_has_no_rights_either() -> None:
    # It copies those of Ray's container to the one that waits for the head, but not to the autoscaler's.
    ours = container(HEAD["template"])["securityContext"]
    assert RAY_CLUSTER["spec"]["autoscalerOptions"]["securityContext"] == ours


@POD
def test_every_container_has_limits(template: dict[str, Any]) -> None:
    resources = container(template)["resources"]
    assert {"cpu", "memory"} <= set(resources["limits"])
    if template is not TEMPLATES["submitter"]:
        # KubeRay tells Ray the limits, Kubernetes schedules by the requests.
        assert resources["requests"] == resources["limits"]


def test_only_the_gpu_group_asks_for_gpus_and_tolerates_their_taint() -> None:
    gpus = {
        name: container(template)["resources"]["limits"].get("nvidia.com/gpu") for name, template in TEMPLATES.items()
    }
    assert gpus == {"head": None, "gpu": "1", "cpu": None, "submitter": None}
    assert [taint["key"] for taint in TEMPLATES["gpu"]["spec"]["tolerations"]] == ["nvidia.com/gpu"]


def test_tokens_are_on_and_versions_agree() -> None:
    spec = RAY_CLUSTER["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == VERSIONS["RAY_VERSION"]
    assert spec["autoscalerOptions"]["version"] == "v2"  # v1 knows no labels


@pytest.mark.parametrize("name", ["head", "gpu", "cpu"])
def test_pods_of_ray_share_volume_memory_and_processes(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container(TEMPLATES[name])["volumeMounts"]}
    assert mounts == {"shared": VERSIONS["SHARED_DIR"], "shm": "/dev/shm", "jobs": VERSIONS["JOBS_DIR"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == VOLUME["metadata"]["name"]
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{VERSIONS['SHM_GIB']}Gi"}
    assert spec["shareProcessNamespace"] is True  # something must reap
    assert spec["terminationGracePeriodSeconds"] == int(VERSIONS["GRACE_S"]) > int(VERSIONS["DRAIN_S"])


def test_the_volume_can_be_mounted_by_many() -> None:
    assert VOLUME["spec"]["accessModes"] == ["ReadWriteMany"]


def test_workers_come_with_the_work_and_go() -> None:
    options = RAY_CLUSTER["spec"]["autoscalerOptions"]
    assert RAY_CLUSTER["spec"]["enableInTreeAutoscaling"] is True
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    for group in GROUPS.values():
        assert group["idleTimeoutSeconds"] == options["idleTimeoutSeconds"] == int(VERSIONS["IDLE_S"])
        assert group["minReplicas"] == 0 < group["maxReplicas"]


def test_the_network_policy_covers_every_pod_and_opens_one_port_to_the_operator() -> None:
    labels = POLICY["spec"]["podSelector"]["matchLabels"]
    for template in TEMPLATES.values():
        assert labels.items() <= template["metadata"]["labels"].items()
    among_pods, from_operator = POLICY["spec"]["ingress"]
    assert among_pods == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert from_operator["ports"] == [{"protocol": "TCP", "port": int(VERSIONS["PORT_DASHBOARD"])}]
    (peer,) = from_operator["from"]
    assert {"namespaceSelector", "podSelector"} == set(peer)  # both at once, not one or the other
    assert POLICY["spec"]["policyTypes"] == ["Ingress"]


def test_the_head_is_reached_through_its_service_only() -> None:
    ports = {port["name"]: port["containerPort"] for port in container(HEAD["template"])["ports"]}
    assert ports == {
        "gcs-server": int(VERSIONS["PORT_GCS"]),
        "dashboard": int(VERSIONS["PORT_DASHBOARD"]),
        "metrics": int(VERSIONS["PORT_METRICS"]),
    }
    assert HEAD["serviceType"] == "ClusterIP"


def test_the_job_runs_the_command_line_once_and_cleans_up() -> None:
    spec = RAY_JOB["spec"]
    jobs, runs = VERSIONS["JOBS_DIR"], VERSIONS["RUNS_DIR"]
    assert spec["entrypoint"] == f"arena-ray run {jobs}/jobs.yaml --address auto --video_base_dir {runs}"
    assert spec["backoffLimit"] == 0
    assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"PYTHONPATH": f"{VERSIONS['SHARED_DIR']}/code"}}


def test_files_are_the_ones_that_the_commands_name() -> None:
    names = {path.name for path in (CLUSTER / "kuberay").iterdir()}
    assert names == {"raycluster.yaml", "rayjob.yaml", "networkpolicy.yaml", "storage.yaml"}
