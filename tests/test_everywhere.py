"""One job file, unchanged, in this process, on this machine, on three machines, and sent to a job server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from arena_ray import RunResult
from tests.cluster_nodes import NodeCluster, why_not
from tests.comparing import outcome, videos_by_episode
from tests.ray_head import REPOSITORY, ray_head

pytestmark = [pytest.mark.ray, pytest.mark.heavy, pytest.mark.timeout(400)]

PROBLEM = why_not()

#: Lies beside the job file, and nowhere else.
SCENE = """
from tests.worlds import Leaner, Walk


def make_env(cameras, render_mode=None):
    return Walk(render_mode, max_length=12, cameras=cameras)


class Policy(Leaner):
    pass
"""


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "scene.py").write_text(SCENE)
    job = {
        **{"name": "walk", "env": {"entry_point": "scene:make_env", "kwargs": {"cameras": ["wrist"]}}, "seed": 3},
        **{"policy": {"entry_point": "scene:Policy"}, "num_episodes": 6, "num_envs": 2},
        "video": {"record_viewport_video": True, "record_camera_video": True},
    }
    (folder / "jobs.yaml").write_text(yaml.safe_dump({"jobs": [job], "run": {"chunk_size": 2}}))
    return folder / "jobs.yaml"


def command(what: str, job_file: Path, base: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "arena_ray.cli", what, str(job_file), "--video_base_dir", str(base), *flags]


def loaded(done: subprocess.CompletedProcess[str]) -> RunResult:
    assert done.returncode == 0, done.stderr
    return RunResult.load(done.stdout.splitlines()[-1])


def run_here(job_file: Path, base: Path, *flags: str) -> RunResult:
    words = command("run", job_file, base, *flags)
    return loaded(subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120))


def num_frames(result: RunResult) -> dict[tuple[str, int, str, str | None], int]:
    return {video: len(frames) for video, frames in videos_by_episode(result).items()}


@pytest.fixture(scope="module")
def inline(job_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """What it comes to in one process."""
    result = run_here(job_file, tmp_path_factory.mktemp("inline"), "--inline")
    lengths = {(record.job, record.episode): record.length or 0 for record in result.records()}
    kinds = (("viewport", None), ("camera", "wrist"))
    expected = {(*episode, *kind): length + 1 for episode, length in lengths.items() for kind in kinds}
    assert len(expected) == 12
    assert num_frames(result) == expected
    return result


def hold_equal(result: RunResult, inline: RunResult) -> None:
    assert result.status == "completed"
    assert outcome(result) == outcome(inline)
    assert num_frames(result) == num_frames(inline)


def test_on_ray_on_this_machine(job_file: Path, inline: RunResult, tmp_path: Path) -> None:
    hold_equal(run_here(job_file, tmp_path, "--num_workers", "2"), inline)


@pytest.fixture(scope="module")
def three_machines() -> Iterator[NodeCluster]:
    with NodeCluster() as cluster:
        cluster.add_head(num_cpus=0)
        cluster.add_node()
        cluster.add_node()
        yield cluster


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_on_three_machines(job_file: Path, inline: RunResult, tmp_path: Path, three_machines: NodeCluster) -> None:
    words = command("run", job_file, tmp_path, "--num_workers", "2", "--address", three_machines.address)
    result = loaded(three_machines.run_driver(words, capture_output=True, text=True, cwd=REPOSITORY))
    hold_equal(result, inline)
    hosts = {record.worker.host for record in result.records() if record.worker}
    assert hosts == {machine.name for machine in three_machines.machines[1:]}


def test_sent_to_a_job_server(job_file: Path, inline: RunResult, tmp_path: Path) -> None:
    with ray_head(tmp_path) as head:
        words = command("submit", job_file, tmp_path / "runs", "--address", head.dashboard)
        hold_equal(loaded(head.run(*words[3:])), inline)
