"""Drivers that are killed, interrupted and started twice: each run is resumed until it is whole."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult
from tests.chaos.scenes import hold_to_promise, note_row, nothing_lives, undisturbed, wait_until
from tests.worlds import walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

REPOSITORY = Path(__file__).parents[2]

EPISODES = 120
SLOW = {"step_s": 0.02, "max_length": 12}
VIDEO = {"record_viewport_video": True}

#: A driver is imported, joins Ray and starts its workers, on two busy cores.
START_S = 18.0

#: Signals and locks are answered within so long.
ANSWER_S = 40.0


@pytest.fixture
def address(local_ray: None) -> str:
    """A Ray that outlives the drivers, as on a cluster."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture
def drivers() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts command lines; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "arena_ray.cli", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=REPOSITORY, **pipes))
        return started[-1]

    yield start
    for driver in started:
        driver.kill()
        driver.communicate(timeout=10)


def job_file(folder: Path) -> str:
    path = folder / "jobs.json"
    path.write_text(json.dumps({"jobs": [walk_job(num_episodes=EPISODES, env_kwargs=SLOW, video=VIDEO)]}))
    return str(path)


def the_run_dir(base: Path) -> Path | None:
    return next((path.parent for path in base.glob("*/run.json")), None)


def calm(tmp_path: Path) -> RunResult:
    return undisturbed(tmp_path, walk_job(num_episodes=EPISODES, env_kwargs={"max_length": 12}))


def num_records(base: Path) -> int:
    run_dir = the_run_dir(base)
    return 0 if run_dir is None else (run_dir / "episodes.jsonl").read_bytes().count(b"\n")


def first_or_resume(tmp_path: Path, address: str) -> list[str]:
    run_dir = the_run_dir(tmp_path / "runs")
    if run_dir is not None:
        return ["resume", str(run_dir), "--address", address]
    return ["run", job_file(tmp_path), "--video_base_dir", str(tmp_path / "runs"), "--address", address]


def test_a_driver_is_killed_at_ten_random_moments(
    request: pytest.FixtureRequest, tmp_path: Path, address: str, drivers: Any
) -> None:
    """Some moments are before the first record, some in the middle of the work."""
    dice = random.Random(11)
    begun = time.monotonic()
    for kill in range(10):
        driver = drivers(*first_or_resume(tmp_path, address))
        wanted = num_records(tmp_path / "runs") + dice.randint(1, 8)
        if kill % 3 == 2:
            time.sleep(dice.uniform(0.1, 3.0))
        else:
            assert wait_until(lambda: num_records(tmp_path / "runs") >= wanted, 60), driver.communicate()[0]  # noqa: B023
        assert driver.poll() is None, "it was through before it was killed: give it more episodes"
        driver.kill()
        driver.wait(10)
    driver = drivers(*first_or_resume(tmp_path, address))
    output, _ = driver.communicate(timeout=120)
    took = time.monotonic() - begun
    assert driver.returncode == 0, output
    run_dir = the_run_dir(tmp_path / "runs")
    assert run_dir is not None
    result = RunResult.load(run_dir)
    assert result.status == "completed"
    hold_to_promise(
        result, "walk", undisturbed(tmp_path, walk_job(num_episodes=EPISODES, env_kwargs={"max_length": 12}))
    )
    assert list(run_dir.rglob("*.partial.mp4")) == []
    nothing_lives(result)
    bound_s = 11 * START_S
    note_row(
        request, "SIGKILL of the driver, then resume", injected=10, episodes=EPISODES, extra_s=took, bound_s=bound_s
    )


def test_a_dead_driver_leaves_nothing_alive(
    request: pytest.FixtureRequest, tmp_path: Path, address: str, drivers: Any
) -> None:
    """Its workers are in the middle of a hang that holds the interpreter's lock."""
    marker = tmp_path / "marker"
    marker.mkdir()
    job = walk_job(num_episodes=4)
    kwargs = {"deed": "gil", "marker": str(marker), "episodes": [0, 1, 2, 3], "always": True}
    job["env"] = {"entry_point": "tests.chaos.disasters:Disaster", "kwargs": kwargs}
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": [job]}))
    words = ["--video_base_dir", str(tmp_path / "runs"), "--address", address]
    driver = drivers("run", str(tmp_path / "jobs.json"), *words)
    assert wait_until(lambda: len(list(marker.glob("gil-*"))) == 2, 60)
    driver.kill()
    driver.wait(10)
    killed = time.monotonic()
    run_dir = the_run_dir(tmp_path / "runs")
    assert run_dir is not None
    nothing_lives(RunResult.load(run_dir), ANSWER_S)
    gone_s = time.monotonic() - killed
    note_row(
        request, "SIGKILL of the driver, workers hang in C", injected=1, episodes=4, extra_s=gone_s, bound_s=ANSWER_S
    )


@pytest.mark.parametrize("times", [pytest.param(1, id="once"), pytest.param(2, id="twice")])
def test_ctrl_c_and_resume(
    request: pytest.FixtureRequest, tmp_path: Path, address: str, drivers: Any, times: int
) -> None:
    driver = drivers(*first_or_resume(tmp_path, address))
    assert wait_until(lambda: num_records(tmp_path / "runs") >= 5, 60)
    begun = time.monotonic()
    for _ in range(times):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.1)
    output, _ = driver.communicate(timeout=ANSWER_S)
    assert driver.returncode == 130, output
    assert 5 <= num_records(tmp_path / "runs") < EPISODES
    resumed = drivers(*first_or_resume(tmp_path, address))
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    run_dir = the_run_dir(tmp_path / "runs")
    assert run_dir is not None
    took = time.monotonic() - begun
    result = RunResult.load(run_dir)
    hold_to_promise(
        result, "walk", undisturbed(tmp_path, walk_job(num_episodes=EPISODES, env_kwargs={"max_length": 12}))
    )
    nothing_lives(result)
    fault = f"SIGINT {'once' if times == 1 else 'twice'}, then resume"
    note_row(request, fault, injected=1, episodes=EPISODES, extra_s=took, bound_s=3 * START_S)


def test_two_drivers_at_once(request: pytest.FixtureRequest, tmp_path: Path, address: str, drivers: Any) -> None:
    first = drivers(*first_or_resume(tmp_path, address))
    assert wait_until(lambda: num_records(tmp_path / "runs") >= 1, 60)
    begun = time.monotonic()
    second = drivers(*first_or_resume(tmp_path, address))
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2, output
    assert str(first.pid) in output
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    took = time.monotonic() - begun
    run_dir = the_run_dir(tmp_path / "runs")
    assert run_dir is not None
    result = RunResult.load(run_dir)
    hold_to_promise(
        result, "walk", undisturbed(tmp_path, walk_job(num_episodes=EPISODES, env_kwargs={"max_length": 12}))
    )
    note_row(request, "a second driver, refused", injected=1, episodes=EPISODES, extra_s=took, bound_s=3 * START_S)
