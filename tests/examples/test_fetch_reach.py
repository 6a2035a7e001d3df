"""fetch_reach.yaml: an environment with cameras and success, rendered offscreen.

All of it runs in processes of its own: MuJoCo picks its renderer once, when it is first imported.
"""

from __future__ import annotations

import pytest

from arena_ray import RunResult
from tests.examples.commands import count_frames, run_job_file, run_python

CONTROLLER_EPISODES = 8
ZERO_EPISODES = 2
STEPS = 25

LOOK_AT_ENVIRONMENT = """
import sys
sys.path.insert(0, "examples")
from arena_ray.devices import prepare_process
prepare_process()
import numpy, fetch_reach
env = fetch_reach.make_env(max_episode_steps=2, camera_size=64)
assert env._renderer is None
first, _ = env.reset(seed=0)
assert env.observation_space.contains(first)
second, _, terminated, truncated, info = env.step(numpy.ones(4, numpy.float32))
assert env.observation_space.contains(second)
assert not terminated and not truncated
for camera in ("front", "side"):
    before, after = first["camera_obs"][camera], second["camera_obs"][camera]
    print(camera, before.shape, before.dtype, before.std() > 10, (before != after).any())
print("distance", info["distance"] > 0)
env.close()
"""

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("runs")
    budgets = [f"reach-controller:num_episodes={CONTROLLER_EPISODES}", f"reach-zero:num_episodes={ZERO_EPISODES}"]
    return RunResult.load(run_job_file("fetch_reach.yaml", "--inline", "--video_base_dir", folder, *budgets))


def test_every_episode_is_completed(result: RunResult) -> None:
    assert result.status == "completed"
    assert [job.counts["completed"] for job in result.jobs.values()] == [CONTROLLER_EPISODES, ZERO_EPISODES]


def test_controller_succeeds(result: RunResult) -> None:
    rate = result.jobs["reach-controller"].metrics["success_rate"]
    assert rate.value is not None
    assert rate.value >= 0.95
    assert rate.n == CONTROLLER_EPISODES


def test_controller_ends_nearer_to_the_goal_than_the_baseline(result: RunResult) -> None:
    controller, zero = (job.metrics["distance"].value for job in result.jobs.values())
    assert controller is not None
    assert zero is not None
    assert controller < 0.05 < zero


@pytest.mark.parametrize("camera", ["front", "side"])
def test_every_episode_has_its_whole_video_of_the_camera(result: RunResult, camera: str) -> None:
    paths = result.video_paths(camera=camera, kind="camera")
    assert len(paths) == CONTROLLER_EPISODES + ZERO_EPISODES
    assert {count_frames(path) for path in paths} == {STEPS + 1}


def test_videos_can_be_chosen_by_success(result: RunResult) -> None:
    assert len(result.video_paths(job="reach-controller", success=True)) == 2 * CONTROLLER_EPISODES


def test_cameras_give_rgb_frames_that_follow_the_robot() -> None:
    assert run_python("-c", LOOK_AT_ENVIRONMENT) == [
        "front (64, 64, 3) uint8 True True",
        "side (64, 64, 3) uint8 True True",
        "distance True",
    ]
