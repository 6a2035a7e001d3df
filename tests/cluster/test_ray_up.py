"""The files of `ray up`, by Ray's own validator and by what must hold."""

from __future__ import annotations

from typing import Any

import botocore.session  # type: ignore[import-untyped]
import botocore.validate  # type: ignore[import-untyped]
import jsonschema  # type: ignore[import-untyped]
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import VERSIONS, load

FILES = [pytest.param(f"{place}/ray-cluster.yaml", id=place) for place in ("onprem", "aws", "gcp")]
CLOUDS = FILES[1:]


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = config["available_node_types"]
    return {name: kind for name, kind in types.items() if name != config["head_node_type"]}


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("key", ["initial_workers", "autoscaling_mode", "target_utilization_fraction"])
def test_ray_refuses_a_key_of_older_examples(name: str, key: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**load(name), key: 1}))


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_installed_while_a_node_starts(name: str) -> None:
    config = prepare_config(load(name))
    for step in ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert config[step] == []


@pytest.mark.parametrize("name", FILES)
def test_ray_is_started_by_the_script_that_asks_for_a_token(name: str) -> None:
    config = load(name)
    head = ["ray stop", "start-ray head --autoscaling-config=$HOME/ray_bootstrap_config.yaml"]
    assert config["head_start_ray_commands"] == head
    assert config["worker_start_ray_commands"] == ["ray stop", "start-ray worker $RAY_HEAD_IP"]
    assert list(config["file_mounts"]) == [VERSIONS["TOKEN_FILE"]]


@pytest.mark.parametrize("name", FILES)
def test_containers_have_shared_memory_and_files_enough(name: str) -> None:
    docker = load(name)["docker"]
    assert docker["image"] == VERSIONS["IMAGE"]
    assert f"--shm-size={VERSIONS['SHM_GIB']}g" in docker["run_options"]
    assert "--ulimit=nofile=65536:65536" in docker["run_options"]


def test_machines_mount_the_shared_directory() -> None:
    config = load("onprem/ray-cluster.yaml")
    shared = VERSIONS["SHARED_DIR"]
    assert f"--volume={shared}:{shared}" in config["docker"]["run_options"]
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("name", CLOUDS)
def test_idle_nodes_go_and_the_head_runs_no_worker(name: str) -> None:
    config = load(name)
    assert config["idle_timeout_minutes"] * 60 == int(VERSIONS["IDLE_S"])
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    for kind in workers(config).values():
        assert kind["min_workers"] == 0
        assert kind["max_workers"] <= config["max_workers"]


@pytest.mark.parametrize("name", CLOUDS)
def test_there_are_workers_with_and_without_gpu_on_spot(name: str) -> None:
    spot = [kind for kind in workers(load(name)).values() if kind["labels"]["arena-market"] == "spot"]
    assert sorted(kind["resources"].get("GPU", 0) for kind in spot) == [0, 1]
    for kind in spot:
        config = kind["node_config"]
        market = config.get("InstanceMarketOptions", {}).get("MarketType")
        assert market == "spot" or config["scheduling"]["provisioningModel"] == "SPOT"


def test_aws_nodes_have_a_security_group_of_ours() -> None:
    for kind in load("aws/ray-cluster.yaml")["available_node_types"].values():
        # Where one is missing, Ray makes a group with ssh open to 0.0.0.0/0 (autoscaler/_private/aws/config.py).
        assert kind["node_config"]["SecurityGroupIds"]
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_ec2_takes_the_nodes() -> None:
    # Ray passes node_config on as it is, but for the subnets, of which it takes one (_private/aws/node_provider.py).
    request = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in load("aws/ray-cluster.yaml")["available_node_types"].values():
        node = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        node["SubnetId"] = node.pop("SubnetIds")[0]
        assert botocore.validate.ParamValidator().validate(node, request).generate_report() == ""
        assert node["InstanceType"] in request.members["InstanceType"].enum


def test_gcp_nodes_have_no_public_address() -> None:
    config = load("gcp/ray-cluster.yaml")
    assert config["provider"]["use_internal_ips"] is True
    for kind in config["available_node_types"].values():
        # Where the interface is missing, Ray gives the node a public address (autoscaler/_private/gcp/config.py).
        (interface,) = kind["node_config"]["networkInterfaces"]
        assert "accessConfigs" not in interface
        if kind["resources"].get("GPU"):
            assert kind["node_config"]["scheduling"]["onHostMaintenance"] == "TERMINATE"
