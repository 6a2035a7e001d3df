from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from arena_ray.video import (
    CameraObsVideoRecorder,
    VideoRecordingCfg,
    ViewportVideoRecorder,
    timestamped_run_dir,
    video_recorders,
    wrap_env_for_video,
)
from tests.video.envs import MODES, IsaacEnv, StepEnv, names, roll, run_episode, steps_shown, vector_env

# From Python 3.12 on, forking a process that has threads (torch's) warns; AsyncVectorEnv does that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def both(folder: Path, **changes: Any) -> VideoRecordingCfg:
    return VideoRecordingCfg(
        record_viewport_video=True, record_camera_video=True, video_base_dir=str(folder), **changes
    )


def test_two_run_directories_in_one_second_are_two(tmp_path: Path) -> None:
    now = datetime(2026, 6, 16, 14, 42, 54)
    made = [timestamped_run_dir(tmp_path / "a" / "b", now) for _ in range(3)]
    assert [path.name for path in made] == ["2026-06-16_14-42-54", "2026-06-16_14-42-54_1", "2026-06-16_14-42-54_2"]
    assert all(path.is_dir() and path.parent == tmp_path / "a" / "b" for path in made)


def test_the_run_directory_has_the_local_time(tmp_path: Path) -> None:
    before = datetime.now().replace(microsecond=0)
    made = timestamped_run_dir(str(tmp_path))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", made.name)
    assert before <= datetime.strptime(made.name, "%Y-%m-%d_%H-%M-%S") <= datetime.now()


def test_with_recording_off_the_environment_is_returned_and_nothing_created(tmp_path: Path) -> None:
    env = StepEnv()
    assert wrap_env_for_video(env, VideoRecordingCfg(video_base_dir=str(tmp_path / "videos"))) is env
    assert names(tmp_path) == []


def test_without_a_length_both_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_steps and num_episodes"):
        wrap_env_for_video(StepEnv(), both(tmp_path / "videos"))
    assert names(tmp_path) == []


def test_the_viewport_is_inside_and_the_camera_outside(tmp_path: Path) -> None:
    env = wrap_env_for_video(StepEnv(), both(tmp_path / "a" / "videos"), num_episodes=1)
    assert (tmp_path / "a" / "videos").is_dir()
    assert isinstance(env, CameraObsVideoRecorder)
    assert [type(recorder).__mro__[1] for recorder in video_recorders(env)] == [
        ViewportVideoRecorder,
        CameraObsVideoRecorder,
    ]


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        pytest.param("record_viewport_video", ["viewport-env2-episode-0.mp4"], id="viewport"),
        pytest.param(
            "record_camera_video",
            ["arm-env2-front-episode-0.mp4", "arm-env2-wrist-episode-0.mp4"],
            id="camera",
        ),
    ],
)
def test_only_what_is_asked_for_is_recorded(tmp_path: Path, switch: str, expected: list[str]) -> None:
    settings: dict[str, Any] = {switch: True, "video_base_dir": str(tmp_path), "camera_name_prefix": "arm"}
    cfg = VideoRecordingCfg(**settings)
    env = wrap_env_for_video(StepEnv(length=2), cfg, num_episodes=1, slot=2)
    run_episode(env)
    assert names(tmp_path) == expected


def test_the_settings_reach_the_recorders(tmp_path: Path) -> None:
    cfg = both(tmp_path, fps=8.0, save_partial_episodes=True, encoder="imageio-ffmpeg")
    env = wrap_env_for_video(StepEnv(length=9), cfg, num_steps=2)
    env.reset()
    env.step(0)
    env.close()
    reports = [video for recorder in video_recorders(env) for video in recorder.take_videos(0)]
    assert [(video.kind, video.fps, video.partial, video.frames) for video in reports] == [
        ("viewport", 8.0, True, 2),
        ("camera", 8.0, True, 2),
        ("camera", 8.0, True, 2),
    ]


def test_num_steps_cuts_no_episode_off(tmp_path: Path) -> None:
    env = wrap_env_for_video(StepEnv(length=5), both(tmp_path), num_steps=2)
    run_episode(env)
    assert {video.frames for recorder in video_recorders(env) for video in recorder.take_videos(0)} == {6}


def test_num_steps_is_the_length_of_a_clip_of_all_slots(tmp_path: Path) -> None:
    cfg = VideoRecordingCfg(record_viewport_video=True, video_base_dir=str(tmp_path))
    env = wrap_env_for_video(IsaacEnv((9, 9)), cfg, num_steps=3, chunk_index=5)
    env.reset()
    for _ in range(6):
        env.step(None)
    env.close()
    assert steps_shown(tmp_path / "viewport-chunk5.mp4") == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", ["sync", "async"], ids=str)
def test_both_recorders_together(tmp_path: Path, kind: str, mode: AutoresetMode) -> None:
    env = wrap_env_for_video(vector_env(kind, mode), both(tmp_path), num_episodes=4)
    roll(env, mode, 6)
    env.close()
    for slot, length in ((0, 3), (1, 2)):
        assert steps_shown(tmp_path / f"viewport-env{slot}-episode-0.mp4") == list(range(20, 21 + length))
        assert steps_shown(tmp_path / f"robot-cam-env{slot}-front-episode-0.mp4") == list(range(length + 1))
        assert steps_shown(tmp_path / f"robot-cam-env{slot}-wrist-episode-0.mp4") == list(range(10, 11 + length))
    assert not [name for name in names(tmp_path) if "partial" in name]


@pytest.mark.parametrize("kind", ["sync", "async"], ids=str)
def test_recording_changes_nothing_for_the_rollout(tmp_path: Path, kind: str) -> None:
    plain = vector_env(kind, AutoresetMode.SAME_STEP)
    recorded = wrap_env_for_video(vector_env(kind, AutoresetMode.SAME_STEP), both(tmp_path), num_episodes=4)
    for env in (plain, recorded):
        env.reset(seed=3)
    for _ in range(4):
        left, right = (env.step(np.zeros(2, np.int64)) for env in (plain, recorded))
        np.testing.assert_array_equal(left[0]["camera_obs"]["front"], right[0]["camera_obs"]["front"])
        for before, after in zip(left[1:4], right[1:4], strict=True):
            np.testing.assert_array_equal(before, after)
        assert left[4].keys() == right[4].keys()
    plain.close()
    recorded.close()
