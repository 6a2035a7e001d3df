from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import arena_ray.video
from tests.video.envs import StepEnv, names, steps_shown, vector_env
from tests.video.test_video_recorder import viewport_recorder

# From Python 3.12 on, forking a process that has threads (torch's) warns; AsyncVectorEnv does that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ACTIONS = np.zeros(2, np.int64)
KINDS = pytest.mark.parametrize("kind", ["sync", "async"], ids=str)


def failing_env(kind: str) -> Any:
    """Slot 1 breaks in its third step."""
    fns = [lambda: StepEnv(9), lambda: StepEnv(9, fail_at=3)]
    return (SyncVectorEnv if kind == "sync" else AsyncVectorEnv)(fns, autoreset_mode=AutoresetMode.DISABLED)


@KINDS
def test_assignments_reach_the_sub_environments(tmp_path: Path, kind: str) -> None:
    env = viewport_recorder(vector_env(kind, AutoresetMode.DISABLED, (2, 2)), tmp_path)
    env.assign_episodes({0: 30, 1: 31}, attempt=4)
    env.reset(seed=0)
    assert names(tmp_path) == [f"viewport-env{slot}-episode-{30 + slot}.4.partial.mp4" for slot in (0, 1)]
    env.step(ACTIONS)
    env.step(ACTIONS)
    assert [Path(video.path).name for video in env.take_videos(1)] == ["viewport-env1-episode-31.mp4"]
    assert env.take_videos(1) == ()
    env.close()
    assert [Path(video.path).name for video in env.take_videos(0)] == ["viewport-env0-episode-30.mp4"]


@KINDS
def test_a_discarded_episode_is_removed(tmp_path: Path, kind: str) -> None:
    env = viewport_recorder(vector_env(kind, AutoresetMode.DISABLED, (9, 9)), tmp_path)
    env.reset(seed=0)
    env.discard_episode(0)
    assert names(tmp_path) == ["viewport-env1-episode-0.1.partial.mp4"]
    env.close()
    assert names(tmp_path) == []


@KINDS
def test_an_aborted_episode_is_kept(tmp_path: Path, kind: str) -> None:
    env = viewport_recorder(vector_env(kind, AutoresetMode.DISABLED, (9, 9)), tmp_path)
    env.reset(seed=0)
    env.abort_episode(0)
    assert [video.partial for video in env.take_videos(0)] == [True]
    assert env.take_videos(1) == ()
    env.close()
    assert names(tmp_path) == ["viewport-env0-episode-0.1.partial.mp4"]


@KINDS
def test_unfinished_episodes_are_saved_on_request(tmp_path: Path, kind: str) -> None:
    inner = vector_env(kind, AutoresetMode.DISABLED, (9, 9))
    env = viewport_recorder(inner, tmp_path, save_partial_episodes=True)
    env.reset(seed=0)
    env.step(ACTIONS)
    env.close()
    env.close()
    assert [(video.frames, video.partial) for video in env.take_videos(1)] == [(2, True)]
    assert steps_shown(tmp_path / "viewport-env1-episode-0.mp4") == [20, 21]


@KINDS
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium logs the child's traceback as a warning
def test_an_exception_in_one_slot_keeps_and_reports_the_videos_of_all(tmp_path: Path, kind: str) -> None:
    env = viewport_recorder(failing_env(kind), tmp_path)
    env.reset(seed=0)
    env.step(ACTIONS)
    env.step(ACTIONS)
    with pytest.raises(RuntimeError, match="fell over"):
        env.step(ACTIONS)
    for slot, frames in ((0, 4), (1, 3)):
        reports = env.take_videos(slot)
        assert [(video.frames, video.partial) for video in reports] == [(frames, True)]
        assert steps_shown(reports[0].path) == list(range(20, 20 + frames))
    env.close()
    assert names(tmp_path) == ["viewport-env0-episode-0.1.partial.mp4", "viewport-env1-episode-0.1.partial.mp4"]


def test_the_async_vector_environment_stays_the_same_object_with_its_settings(tmp_path: Path) -> None:
    inner = vector_env("async", AutoresetMode.SAME_STEP, (2, 2))
    old = [process.pid for process in inner.processes]
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(inner)
    env = viewport_recorder(wrapped, tmp_path)
    assert cast(Any, env).unwrapped is inner
    assert (inner.autoreset_mode, inner.shared_memory, inner.closed) == (AutoresetMode.SAME_STEP, True, False)
    assert not set(old) & {process.pid for process in inner.processes}
    env.reset(seed=0)
    env.step(ACTIONS)
    env.step(ACTIONS)
    env.close()
    assert all(not process.is_alive() for process in inner.processes)


def test_a_child_that_was_killed_does_not_break_the_recorder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner = vector_env("async", AutoresetMode.DISABLED, (9, 9))
    env = viewport_recorder(inner, tmp_path)
    env.reset(seed=0)
    for _ in range(5):
        env.step(ACTIONS)
    os.kill(inner.processes[1].pid, signal.SIGKILL)
    inner.processes[1].join()
    assert env.take_videos(1) == ()
    assert env.take_videos(1) == ()
    assert caplog.text.count("process of sub-environment 1 is gone") == 1
    env.keep_running_videos()
    assert [video.partial for video in env.take_videos(0)] == [True]
    inner.close(terminate=True)
    env.close()
    assert len(steps_shown(tmp_path / "viewport-env1-episode-0.1.partial.mp4")) >= 4


def test_children_keep_their_videos_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, signal
import numpy as np
from gymnasium.vector import AutoresetMode
from tests.video.envs import vector_env
from tests.video.test_video_recorder import viewport_recorder
env = viewport_recorder(vector_env("async", AutoresetMode.DISABLED, (99, 99)), {str(tmp_path)!r})
env.reset(seed=0)
for _ in range(10):
    env.step(np.zeros(2, np.int64))
print(*[process.pid for process in env.unwrapped.processes], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(arena_ray.video.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, capture_output=True, text=True)
    for pid in result.stdout.split():
        wait_for_end(int(pid))
    assert len(names(tmp_path)) == 2
    for name in names(tmp_path):
        assert name.endswith(".1.partial.mp4")
        shown = steps_shown(tmp_path / name)
        assert shown == list(range(20, 20 + len(shown)))
        assert len(shown) >= 10


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
