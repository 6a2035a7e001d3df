"""Versions, ports and paths are the same in all files, and nothing is open to everybody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import arena_ray
from tests.cluster.files import CLUSTER, REPOSITORY, VERSIONS, load, without_comments, written

PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()
README = (CLUSTER / "README.md").read_text()
FILES = [pytest.param(path, id=str(path.relative_to(CLUSTER))) for path in written()]


def found(pattern: str) -> set[str]:
    """Return what a pattern's group matches in all files of `cluster/`."""
    return {match for path in written() for match in re.findall(pattern, path.read_text())}


def test_the_table_has_this_package_and_what_it_supports() -> None:
    assert VERSIONS["ARENA_VERSION"] == arena_ray.__version__
    (needed,) = re.findall(r'"(ray>=[^"]+)"', PYPROJECT)
    assert Requirement(needed).specifier.contains(VERSIONS["RAY_VERSION"])
    (python,) = re.findall(r'requires-python = "([^"]+)"', PYPROJECT)
    assert SpecifierSet(python).contains(VERSIONS["PYTHON_VERSION"])


def test_torch_is_the_one_that_the_main_readme_installs() -> None:
    assert set(re.findall(r"torch==([\d.]+)", (REPOSITORY / "README.md").read_text())) == {VERSIONS["TORCH_VERSION"]}


def test_the_images_tag_names_all_versions() -> None:
    name, tag = VERSIONS["IMAGE"].rsplit(":", 1)
    names = ("ARENA_VERSION", "RAY_VERSION", "PYTHON_VERSION", "TORCH_VERSION")
    arena, ray_version, python, torch = (VERSIONS[name] for name in names)
    assert tag == f"{arena}-ray{ray_version}-py{python}-torch{torch}"
    assert found(rf"({re.escape(name)}[^\s\"']*)") == {VERSIONS["IMAGE"]}


@pytest.mark.parametrize(
    ("pattern", "version"),
    [
        pytest.param(r"ray(?:\[[a-z,]+\])?==([\d.]+)", "RAY_VERSION", id="ray"),
        pytest.param(r"rayVersion: \"([\d.]+)\"", "RAY_VERSION", id="rayVersion"),
        pytest.param(r"torch==([\d.]+\d)", "TORCH_VERSION", id="torch"),
        pytest.param(r"KubeRay (\d+\.\d+\.\d+)", "KUBERAY_VERSION", id="kuberay"),
        pytest.param(r"--version (\d+\.\d+\.\d+)", "KUBERAY_VERSION", id="helm"),
        pytest.param(r"python:(3\.\d+)\.\d", "PYTHON_VERSION", id="python"),
        pytest.param(r"127\.0\.0\.1:(\d+)", "PORT_DASHBOARD", id="dashboard"),
        pytest.param(r"HEAD:(\d+)", "PORT_GCS", id="gcs"),
        pytest.param(r"--video_base_dir (/[\w/]+)", "RUNS_DIR", id="runs"),
        pytest.param(r"--shm-size=(\d+)g", "SHM_GIB", id="shm"),
    ],
)
def test_a_version_is_the_same_wherever_it_stands(pattern: str, version: str) -> None:
    assert found(pattern) == {VERSIONS[version]}


def test_ports_do_not_collide() -> None:
    ports = {name: int(value) for name, value in VERSIONS.items() if name.startswith("PORT_")}
    single = [port for name, port in ports.items() if not name.startswith("PORT_WORKER")]
    assert len(set(single)) == len(single)
    assert not [port for port in single if ports["PORT_WORKER_MIN"] <= port <= ports["PORT_WORKER_MAX"]]


def test_the_readme_names_every_port() -> None:
    ports = {value for name, value in VERSIONS.items() if name.startswith("PORT_")}
    (table,) = re.findall(r"\| port .*?\n\n", README, flags=re.DOTALL)
    assert set(re.findall(r"\d{4,5}", table)) == ports


def test_paths_lie_in_the_shared_directory() -> None:
    assert Path(VERSIONS["RUNS_DIR"]).parent == Path(VERSIONS["SHARED_DIR"])


@pytest.mark.parametrize("path", FILES)
def test_nothing_is_open_to_everybody(path: Path) -> None:
    text = without_comments(path)
    assert "0.0.0.0/0" not in text
    assert "::/0" not in text
    if path.parent.name == "kuberay":  # within the pod's own network, behind the policy
        text = text.replace("dashboard-host: 0.0.0.0", "")
    if path.suffix != ".md":
        assert "0.0.0.0" not in text


@pytest.mark.parametrize("path", FILES)
def test_tokens_are_never_turned_off(path: Path) -> None:
    assert not re.search(r"RAY_AUTH_MODE[=:\s\"']+disabled|mode: disabled", path.read_text())


def test_the_package_imports_nothing_from_here() -> None:
    assert [path.name for path in written() if path.suffix == ".py"] == []


def test_the_readme_names_every_file() -> None:
    missing = [str(path.relative_to(CLUSTER)) for path in written() if path.name not in README]
    assert missing == ["README.md"]


@pytest.mark.parametrize("name", ["aws", "gcp", "onprem"])
def test_one_token_file_for_every_launcher(name: str) -> None:
    assert load(f"{name}/ray-cluster.yaml")["file_mounts"] == {VERSIONS["TOKEN_FILE"]: "~/.ray/auth_token"}
