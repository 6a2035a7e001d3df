"""The script that starts Ray on a machine: its ports, and that it insists on a token."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ray.scripts.scripts import start

from tests.cluster.files import CLUSTER, VERSIONS
from tests.cluster.stand_ins import Programs

SCRIPT = CLUSTER / "start-ray.sh"


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    programs = Programs(tmp_path)
    programs.add("ray")
    return programs


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("secret")
    return home


def run(programs: Programs, home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env=programs.environment(HOME=str(home), **environment),
        capture_output=True,
        text=True,
        timeout=20,
    )


def started(programs: Programs) -> dict[str, object]:
    """Return the options with which `ray start` was called, as Ray's own command line reads them."""
    (words,) = programs.words("ray")
    assert words[0] == "start"
    return dict(start.make_context("start", words[1:]).params)


#: Options of `ray start`, and the port that each must be.
PORTS = {
    "node_manager_port": "PORT_NODE_MANAGER",
    "object_manager_port": "PORT_OBJECT_MANAGER",
    "runtime_env_agent_port": "PORT_RUNTIME_ENV_AGENT",
    "dashboard_agent_grpc_port": "PORT_AGENT_GRPC",
    "dashboard_agent_listen_port": "PORT_AGENT_HTTP",
    "metrics_export_port": "PORT_METRICS",
    "min_worker_port": "PORT_WORKER_MIN",
    "max_worker_port": "PORT_WORKER_MAX",
}


@pytest.mark.parametrize(
    "words", [pytest.param(["head"], id="head"), pytest.param(["worker", "10.0.0.1"], id="worker")]
)
def test_every_port_is_the_one_that_a_firewall_may_name(programs: Programs, home: Path, words: list[str]) -> None:
    assert run(programs, home, *words).returncode == 0
    options = started(programs)
    assert {name: options[name] for name in PORTS} == {name: int(VERSIONS[port]) for name, port in PORTS.items()}


def test_the_head_shows_its_dashboard_to_this_machine_only(programs: Programs, home: Path) -> None:
    assert run(programs, home, "head", "--autoscaling-config=a.yaml").returncode == 0
    options = started(programs)
    assert options["head"] is True
    assert (options["port"], options["dashboard_port"]) == (int(VERSIONS["PORT_GCS"]), int(VERSIONS["PORT_DASHBOARD"]))
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["autoscaling_config"] == "a.yaml"


def test_a_worker_joins_the_head(programs: Programs, home: Path) -> None:
    assert run(programs, home, "worker", "10.0.0.1", "--num-gpus=2").returncode == 0
    options = started(programs)
    assert options["address"] == f"10.0.0.1:{VERSIONS['PORT_GCS']}"
    assert (options["head"], options["num_gpus"]) == (False, 2)


def test_ray_asks_for_the_token_and_others_cannot_read_it(programs: Programs, home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.chmod(0o644)
    assert run(programs, home, "head", RAY_AUTH_MODE="disabled").returncode == 0
    (call,) = programs.calls("ray")
    assert call["environment"]["RAY_AUTH_MODE"] == "token"
    assert token.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [pytest.param(None, id="missing"), pytest.param("", id="empty")])
def test_without_a_token_nothing_starts(programs: Programs, home: Path, content: str | None) -> None:
    token = home / ".ray" / "auth_token"
    token.unlink()
    if content is not None:
        token.write_text(content)
    done = run(programs, home, "head")
    assert done.returncode == 2
    assert f"no token in {token}: run 'ray get-auth-token --generate'" in done.stderr
    assert programs.calls("ray") == []


def test_a_token_in_the_environment_is_enough(programs: Programs, home: Path) -> None:
    (home / ".ray" / "auth_token").unlink()
    assert run(programs, home, "worker", "10.0.0.1", RAY_AUTH_TOKEN="secret").returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param([], "'' is no role; it is 'head' or 'worker HEAD_IP'", id="nothing"),
        pytest.param(["haed"], "'haed' is no role", id="misspelt"),
        pytest.param(["worker"], "worker needs the head's address", id="nowhere"),
    ],
)
def test_a_wrong_role_is_told(programs: Programs, home: Path, words: list[str], message: str) -> None:
    done = run(programs, home, *words)
    assert (done.returncode, message in done.stderr) == (2, True)
    assert programs.calls("ray") == []
