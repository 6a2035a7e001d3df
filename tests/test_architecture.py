"""A module imports only from rows above its own; ray and torch stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import arena_ray

PACKAGE = Path(arena_ray.__file__).parent

#: Rows, from the bottom of the building to the top. A room that is a package may import its own modules.
ROWS: list[set[str]] = [
    {"errors", "labels"},
    {"specs"},
    {"records", "dispatch", "json_files", "provenance", "run_lock", "nvml"},
    {"worker_events"},
    {"statistics"},
    {"stopping"},
    {"config", "chunking", "index_ranges", "ledger", "run_dir", "entry_points", "storage"},
    {"results"},
    {"comparison", "export", "run_status"},
    {"report"},
    {"narration"},
    {"video", "devices", "processes", "memory"},
    {"envs", "policies"},
    {"activity_clock"},
    {"rollout"},
    {"tuning"},
    {"worker"},
    {"pools"},
    {"trackers"},
    {"journal", "deadlines", "hand_out", "run_history"},
    {"eval_runner"},
    {"policy_runner", "replay_runner", "resume_runner"},
    {"extension_runner"},
    {"doctor", "submission"},
    {"command"},
    {"analysis_commands", "cluster_commands", "report_commands"},
    {"cli"},
]

#: What only some rooms may import.
RESERVED = {
    "ray": {
        "pools/autoscaler.py",
        "pools/ray_actors.py",
        "pools/ray_cluster.py",
        "pools/ray_worker.py",
        "pools/burials.py",
        "pools/node_proofs.py",
        "pools/losses.py",
        "pools/node_survey.py",
        "pools/ray_access.py",
        "pools/ray_jobs.py",
        "pools/ray_metrics.py",
    },
    "torch": {"devices", "policies/torch_policy.py", "policies/sb3.py", "envs/native.py", "policy_runner.py"},
    "yaml": {"config"},
    "av": {"video"},
    "imageio_ffmpeg": {"video"},
    "fsspec": {"storage"},
    "s3fs": {"storage"},
    "gcsfs": {"storage"},
    "paramiko": {"storage"},
    "tensorboard": {"trackers/tensorboard.py"},
    "mlflow": {"trackers/mlflow.py"},
    "wandb": {"trackers/wandb.py"},
    "pyarrow": {"export.py"},
    "click": {"cli.py", "command.py", "analysis_commands.py", "cluster_commands.py", "report_commands.py"},
    "jinja2": {"report/assets.py"},
    "aiohttp": {"report/server.py"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the imported modules, also inside functions, but not under ``if __name__`` or ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).split(" ")[0] in ("__name__", "TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "arena_ray":
            yield from (f"arena_ray.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        yield from imports(node)


def row_of(name: str) -> int:
    return next(index for index, row in enumerate(ROWS) if name in row)


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(PACKAGE))) for path in modules()])
def test_imports_point_downwards(path: Path) -> None:
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    own = room(path)
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "arena_ray" and len(parts) > 1 and parts[1] not in (own, "__version__"):
            assert row_of(parts[1]) < row_of(own), f"{own} imports {name}"


@pytest.mark.parametrize("library", [pytest.param(library, id=library) for library in RESERVED])
def test_a_library_stays_in_its_rooms(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name.split(".")[0] == library for name in imports(ast.parse(path.read_text())))
    }
    strangers = {
        user for user in users if user not in RESERVED[library] and user.split("/")[0] not in RESERVED[library]
    }
    assert users
    assert not strangers


def test_every_module_stands_in_a_row() -> None:
    assert {room(path) for path in modules()} - {"__init__"} == set().union(*ROWS)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import arena_ray", id="package"),
        pytest.param("from arena_ray.cli import run_command; run_command(['--help'])", id="help"),
        pytest.param("import arena_ray; arena_ray.RunResult; arena_ray.EvalJob", id="reading"),
        pytest.param("import arena_ray; arena_ray.compare", id="comparing"),
    ],
)
def test_light_uses_import_nothing_heavy(code: str) -> None:
    heavy = "sorted({'ray', 'torch', 'gymnasium', 'av', 'scipy', 'mujoco'} & set(sys.modules))"
    script = f"import sys\n{code}\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "command",
    [pytest.param(["-c", "import arena_ray"], id="import"), pytest.param(["-m", "arena_ray.cli", "--help"], id="help")],
)
def test_light_uses_are_quick(command: list[str]) -> None:
    def seconds() -> float:
        started = time.monotonic()
        subprocess.run([sys.executable, *command], check=True, timeout=60, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    assert min(seconds() for _ in range(5)) < 1  # Alone it takes 0.2 to 0.35 s.


def test_public_names_exist_and_are_listed() -> None:
    for name in arena_ray.__all__:
        assert getattr(arena_ray, name) is not None
    assert set(arena_ray._HOMES) | {"__version__"} == set(arena_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = arena_ray.evalute


def test_the_installed_version_is_the_packages() -> None:
    from importlib import metadata

    assert metadata.version("arena-ray") == arena_ray.__version__
