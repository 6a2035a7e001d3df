"""What comes from outside cannot lead out of the run directory, run code, or carry secrets."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import arena_ray
from arena_ray import ConfigError, RunResult, evaluate, run_dir
from arena_ray.config import load_plan
from arena_ray.errors import RunDirError
from tests.worlds import Walk, walk_job

PACKAGE = Path(arena_ray.__file__).parent

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=label)
        for label, name in {
            "parent": "..",
            "up": "../../etc",
            "absolute": "/etc/passwd",
            "hidden": ".ssh",
            "backslash": "..\\up",
            "newline": "a\nb",
            "nul": "a\0b",
            "empty": "",
            "long": "a" * 101,
            "summary": "summary.json",
            "tag": EVIL,
        }.items()
    ],
)
def test_no_job_name_leaves_the_run_directory(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        load_plan({"jobs": [walk_job(name)]})


class BadlyNamedCameras(Walk):
    """A walk whose cameras are named as an attacker would."""

    NAMES = ("../../escaped", "/tmp/escaped", "..", "a/b", EVIL, "a" * 300)

    def __init__(self) -> None:
        super().__init__(cameras=self.NAMES, max_length=3)


def test_no_camera_name_leaves_the_run_directory(tmp_path: Path) -> None:
    job = walk_job(num_episodes=1, video={"record_camera_video": True})
    job["env"] = {"entry_point": "tests.test_security:BadlyNamedCameras"}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path / "runs"))
    paths = result.video_paths()
    assert len(set(paths)) == len(BadlyNamedCameras.NAMES)
    for path in paths:
        assert path.is_file()
        assert path.parent == result.run_dir / "walk"
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(result.run_dir) for path in written)


class Raises(Walk):
    def step(self, action: Any) -> Any:
        raise RuntimeError(EVIL)


def test_error_texts_are_escaped_in_html(tmp_path: Path) -> None:
    job = walk_job(num_episodes=1, tags={"suite": EVIL})
    job["env"] = {"entry_point": "tests.test_security:Raises"}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path / "runs"))
    html = RunResult.load(result.run_dir)._repr_html_()
    assert EVIL not in html
    assert EVIL in str(result).replace("\n", "")


def test_values_of_environment_variables_stand_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2-hunter2"
    for name in ("RAY_AUTH_TOKEN", "HF_TOKEN", "ARENA_SECRET", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    result = evaluate({"jobs": [walk_job()]}, inline=True, video_base_dir=str(tmp_path / "runs"))
    for path in result.run_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    names = json.loads((result.run_dir / "run.json").read_text())["environment"]
    assert {"RAY_AUTH_TOKEN", "HF_TOKEN", "ARENA_SECRET"} <= set(names)


def test_nothing_of_a_run_directory_is_unpickled() -> None:
    """Only `sb3` reads a pickle: its own file format, named by the user. The others hear children of this process."""
    users = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if {module, *names} & {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}:
                users.add(path.relative_to(PACKAGE).as_posix())
    assert users <= {"policies/sb3.py", "video/sub_env_recorders.py", "envs/child_vector_env.py"}


def test_yaml_that_names_python_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(f"jobs: !!python/object/apply:os.mkdir ['{tmp_path}/owned']\n")
    with pytest.raises(ConfigError):
        load_plan(path)
    assert not (tmp_path / "owned").exists()


def test_weights_that_hold_code_are_refused(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.mkdir, (tmp_path / "owned",))

    torch.save({"weight": Evil()}, tmp_path / "weights.pt")
    job = walk_job(num_episodes=1)
    kwargs = {"entry_point": "torch.nn:Linear", "state_dict": str(tmp_path / "weights.pt")}
    job["policy"] = {"type": "torch", "kwargs": kwargs}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path / "runs"))
    assert result.status == "failed"
    assert not (tmp_path / "owned").exists()


def test_an_environment_cannot_name_a_video_outside_by_a_link(tmp_path: Path) -> None:
    """A job folder that became a link is refused before a resumed run writes."""
    from arena_ray import resume

    result = evaluate({"jobs": [walk_job(num_episodes=2)]}, inline=True, video_base_dir=str(tmp_path / "runs"))
    elsewhere = tmp_path / "elsewhere"
    (result.run_dir / "walk").rename(elsewhere)
    (result.run_dir / "walk").symlink_to(elsewhere)
    with pytest.raises(RunDirError, match="walk"):
        resume(result.run_dir, ["walk:num_episodes=4"])
    assert run_dir.RunDir.open(result.run_dir).read_run()["status"] == "completed"


def test_spaces_are_real() -> None:
    """The environment above offers what it says."""
    space = BadlyNamedCameras().observation_space
    assert isinstance(space, gymnasium.spaces.Dict)
    assert np.shape(space.sample()["camera_obs"][EVIL]) == (32, 48, 3)
