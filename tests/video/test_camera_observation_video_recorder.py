from __future__ import annotations

import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from arena_ray.specs import EncoderName, VideoRecordingCfg
from arena_ray.video import CameraObsVideoRecorder, encoder_process
from tests.video.envs import (
    LEVEL,
    MODES,
    OFFSET,
    BatchEnv,
    FrameEnv,
    IsaacEnv,
    StepEnv,
    decode,
    gray,
    names,
    roll,
    run_episode,
    steps_shown,
    vector_env,
)

# From Python 3.12 on, forking a process that has threads (torch's) warns; AsyncVectorEnv does that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def front(slot: int, episode: int) -> str:
    return f"robot-cam-env{slot}-front-episode-{episode}.mp4"


def test_an_episode_has_its_reset_frame_and_its_terminal_frame(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=4), tmp_path)
    run_episode(env)
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2, 3, 4]
    assert steps_shown(tmp_path / "robot-cam-env0-wrist-episode-0.mp4") == [10, 11, 12, 13, 14]


def test_files_are_complete_and_reported_when_the_step_returns(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=4), tmp_path, slot=3)
    run_episode(env)
    assert env.take_videos(0) == ()
    reports = env.take_videos(3)
    assert [(video.kind, video.camera, video.frames, video.fps, video.partial) for video in reports] == [
        ("camera", "front", 5, 20.0, False),
        ("camera", "wrist", 5, 20.0, False),
    ]
    assert [Path(video.path).stat().st_size for video in reports] == [video.bytes for video in reports]
    assert all(Path(video.path).is_absolute() for video in reports)
    assert env.take_videos(3) == ()


def test_episodes_of_a_single_environment_count_on(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=2), tmp_path, slot=5)
    for _ in range(3):
        run_episode(env)
    assert [name for name in names(tmp_path) if "front" in name] == [front(5, episode) for episode in range(3)]


def test_the_name_prefix_and_the_frame_rate_are_taken(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=2), tmp_path, "arm", 12.5)
    run_episode(env)
    assert names(tmp_path) == ["arm-env0-front-episode-0.mp4", "arm-env0-wrist-episode-0.mp4"]
    assert {video.fps for video in env.take_videos(0)} == {12.5}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", ["sync", "async"], ids=str)
def test_vector_environments_give_whole_episodes_per_slot(tmp_path: Path, kind: str, mode: AutoresetMode) -> None:
    env = CameraObsVideoRecorder(vector_env(kind, mode, render_mode=None), tmp_path)
    roll(env, mode, 8)
    env.close()
    episodes = {AutoresetMode.NEXT_STEP: (2, 3)}.get(mode, (2, 4))
    fronts = [name for name in names(tmp_path) if "front" in name]
    assert fronts == [front(slot, episode) for slot in (0, 1) for episode in range(episodes[slot])]
    for slot, length in ((0, 3), (1, 2)):
        for episode in range(episodes[slot]):
            assert steps_shown(tmp_path / front(slot, episode)) == list(range(length + 1))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_native_batched_environments_give_whole_episodes(tmp_path: Path, mode: AutoresetMode) -> None:
    env = CameraObsVideoRecorder(BatchEnv(mode), tmp_path)
    roll(env, mode, 8)
    env.close()
    assert steps_shown(tmp_path / front(0, 1)) == [0, 1, 2, 3]
    assert steps_shown(tmp_path / front(1, 2)) == [0, 1, 2]


@pytest.mark.parametrize("lengths", [pytest.param((3, 2), id="two"), pytest.param((3,), id="one")])
def test_isaac_environments_give_whole_episodes(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    env = CameraObsVideoRecorder(IsaacEnv(lengths), tmp_path)
    env.reset()
    for _ in range(6):
        env.step(None)
    assert [video.frames for video in env.take_videos(0)] == [4, 4]
    assert steps_shown(tmp_path / front(0, 1)) == [0, 1, 2, 3]
    env.close()


def test_without_final_obs_only_the_terminal_frame_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = CameraObsVideoRecorder(IsaacEnv((3, 2), final_obs=False), tmp_path)
    env.reset()
    for _ in range(6):
        env.step(None)
    env.close()
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2]
    assert steps_shown(tmp_path / front(0, 1)) == [0, 1, 2]
    assert caplog.text.count("final_obs") == 1


def test_a_batched_environment_that_does_not_say_how_many_slots_it_has(tmp_path: Path) -> None:
    inner = IsaacEnv((3, 2))
    env = CameraObsVideoRecorder(gymnasium.Wrapper(inner), tmp_path)
    number, inner.num_envs = inner.num_envs, None  # type: ignore[assignment]
    assert number == 2
    env = CameraObsVideoRecorder(inner, tmp_path)
    inner.num_envs = number
    env.reset()
    for _ in range(3):
        env.step(None)
    env.close()
    assert names(tmp_path) == [front(0, 0), front(1, 0)]


def test_an_episode_of_one_step_has_two_frames(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(BatchEnv(AutoresetMode.SAME_STEP, (1, 5)), tmp_path)
    roll(env, AutoresetMode.SAME_STEP, 2)
    env.close()
    assert names(tmp_path) == [front(0, 0), front(0, 1)]
    assert steps_shown(tmp_path / front(0, 1)) == [0, 1]


def test_a_slot_that_ended_records_nothing_until_it_is_reset(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(BatchEnv(AutoresetMode.DISABLED, (1, 4)), tmp_path)
    env.reset()
    for _ in range(3):
        env.step(None)
    env.reset(options={"reset_mask": np.array([True, False])})
    env.step(None)
    env.close()
    assert [video.frames for slot in (0, 1) for video in env.take_videos(slot)] == [2, 2, 5]


def test_copy_false_does_not_mix_frames(tmp_path: Path) -> None:
    fns = [lambda: StepEnv(3), lambda: StepEnv(3)]
    env = CameraObsVideoRecorder(gymnasium.vector.SyncVectorEnv(fns, copy=False), tmp_path)
    roll(env, AutoresetMode.NEXT_STEP, 4)
    env.close()
    assert steps_shown(tmp_path / front(1, 0)) == [0, 1, 2, 3]


def test_a_clean_close_drops_unfinished_episodes(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=9), tmp_path)
    env.reset()
    env.step(0)
    assert names(tmp_path) == [
        "robot-cam-env0-front-episode-0.1.partial.mp4",
        "robot-cam-env0-wrist-episode-0.1.partial.mp4",
    ]
    env.close()
    assert (names(tmp_path), env.take_videos(0)) == ([], ())


def test_a_clean_close_saves_unfinished_episodes_on_request(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=9), tmp_path, save_partial_episodes=True)
    env.reset()
    env.step(0)
    env.close()
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1]
    assert [video.partial for video in env.take_videos(0)] == [True, True]


def test_a_reset_in_mid_episode_starts_the_video_again(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=3), tmp_path)
    run_episode(env)
    env.reset()
    env.step(0)
    run_episode(env)
    env.close()
    assert [name for name in names(tmp_path) if "front" in name] == [front(0, 0), front(0, 1)]
    assert steps_shown(tmp_path / front(0, 1)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "env_ids",
    [
        pytest.param([0], id="list"),
        pytest.param((0,), id="tuple"),
        pytest.param(torch.tensor([0]), id="tensor"),
    ],
)
def test_a_reset_of_some_slots_leaves_the_others_alone(tmp_path: Path, env_ids: Any) -> None:
    inner = IsaacEnv((4, 4))
    env = CameraObsVideoRecorder(inner, tmp_path)
    env.reset()
    env.step(None)
    env.reset(env_ids=env_ids)
    for _ in range(4):
        env.step(None)
    env.close()
    assert inner.reset_arguments[-1] is env_ids
    assert steps_shown(tmp_path / front(1, 0)) == [0, 1, 2, 3, 4]
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2, 3, 4]


def test_a_reset_of_no_slot_changes_nothing(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(IsaacEnv((2, 2)), tmp_path)
    env.reset()
    env.step(None)
    env.reset(env_ids=[])
    env.step(None)
    env.close()
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2]


def test_an_exception_keeps_the_running_videos(tmp_path: Path) -> None:
    env = CameraObsVideoRecorder(StepEnv(length=9, fail_at=3), tmp_path)
    env.assign_episodes({0: 17}, attempt=2)
    with pytest.raises(RuntimeError, match="fell over"):
        run_episode(env)
    env.close()
    kept = {video.camera: video for video in env.take_videos(0)}
    assert [(name, video.partial, video.frames) for name, video in kept.items()] == [
        ("front", True, 3),
        ("wrist", True, 3),
    ]
    assert Path(kept["front"].path).name == "robot-cam-env0-front-episode-17.2.partial.mp4"
    assert steps_shown(kept["front"].path) == [0, 1, 2]


def test_the_environments_own_episode_index_is_used(tmp_path: Path) -> None:
    inner = IsaacEnv((2, 2))
    inner.get_episode_index = lambda slot: 50 + slot  # type: ignore[attr-defined]
    env = CameraObsVideoRecorder(inner, tmp_path)
    env.reset()
    env.step(None)
    env.step(None)
    env.close()
    assert names(tmp_path) == [front(0, 50), front(1, 51)]


def frames(dtype: Any, scale: float = 1.0) -> list[Any]:
    return [(gray(step) * scale).astype(dtype) for step in range(4)]


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(frames(np.uint8), id="uint8"),
        pytest.param(frames(np.int32), id="int32"),
        pytest.param(frames(np.float32, 1 / 255), id="unit-float"),
        pytest.param(frames(np.float64), id="float-to-255"),
        pytest.param([torch.as_tensor(frame) for frame in frames(np.uint8)], id="torch-uint8"),
        pytest.param([torch.as_tensor(frame) for frame in frames(np.float32, 1 / 255)], id="torch-float"),
        pytest.param([np.dstack([frame, frame[..., :1]]) for frame in frames(np.uint8)], id="rgba"),
        pytest.param([frame[::-1] for frame in frames(np.uint8)], id="flipped-view"),
    ],
)
def test_every_kind_of_rgb_is_recorded(tmp_path: Path, shown: list[Any]) -> None:
    run_episode(CameraObsVideoRecorder(FrameEnv(shown), tmp_path))
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [pytest.param((33, 31), id="odd"), pytest.param((255, 255), id="large-odd")])
def test_odd_sizes_are_recorded(tmp_path: Path, size: tuple[int, int]) -> None:
    run_episode(CameraObsVideoRecorder(FrameEnv([gray(step, *size) for step in range(3)]), tmp_path))
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2]
    assert decode(tmp_path / front(0, 0))[0].shape == (size[0] + 1, size[1] + 1, 3)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((32, 32), id="depth"),
        pytest.param((32, 32, 1), id="depth-1"),
        pytest.param((1, 32, 32), id="1-depth"),
    ],
)
def test_a_depth_camera_is_skipped_with_one_line(
    tmp_path: Path, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    env = CameraObsVideoRecorder(FrameEnv([np.zeros(shape, np.float32)] * 3, camera="depth"), tmp_path)
    run_episode(env)
    run_episode(env)
    assert names(tmp_path) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"camera 'depth' is not recorded: float32{list(shape)} has one channel and looks like a depth, not like RGB"
    ]


@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(lambda frame: frame.transpose(2, 0, 1), id="channels-first"),
        pytest.param(lambda frame: frame[:, :, 0], id="gray"),
        pytest.param(lambda frame: np.dstack([frame, frame[:, :, :1]]), id="rgba"),
        pytest.param(lambda frame: frame / np.float32(255), id="float"),
        pytest.param(lambda frame: frame.astype(np.uint16) * 257, id="uint16"),
        pytest.param(torch.as_tensor, id="torch"),
        pytest.param(lambda frame: frame[::-1], id="flipped"),
    ],
)
@pytest.mark.parametrize("encoder", ["inline", "process"])
def test_every_kind_of_picture_is_recorded(
    tmp_path: Path, turn: Any, encoder: EncoderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_process, "SMALLEST_FRAME", 0)
    env = FrameEnv([turn(gray(step)) for step in range(3)])
    run_episode(CameraObsVideoRecorder(env, tmp_path, cfg=VideoRecordingCfg(encoder=encoder)))
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2]


def test_a_camera_that_gives_nothing_is_skipped_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = CameraObsVideoRecorder(FrameEnv([None] * 3), tmp_path)
    run_episode(env)
    assert [record.getMessage() for record in caplog.records] == ["camera 'front' is not recorded: it gives nothing"]
    assert names(tmp_path) == []


def test_a_subset_of_the_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = VideoRecordingCfg(cameras=("front", "wrist-cam"))
    run_episode(CameraObsVideoRecorder(StepEnv(length=2), tmp_path, cfg=cfg))
    assert names(tmp_path) == [front(0, 0)]
    assert "no camera is called 'wrist-cam', so it is not recorded; there are: 'front'" in caplog.text


def test_a_batched_depth_camera_is_skipped_and_the_others_are_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class WithDepth(IsaacEnv):
        def _observation(self) -> dict[str, Any]:
            observation = super()._observation()
            observation["camera_obs"]["depth"] = torch.zeros(self.num_envs, 32, 32, 1)
            return observation

    env = CameraObsVideoRecorder(WithDepth((2, 2)), tmp_path)
    env.reset()
    env.step(None)
    env.step(None)
    env.close()
    assert names(tmp_path) == [front(0, 0), front(1, 0)]
    assert len(caplog.records) == 1


def test_a_camera_that_isaac_lab_declares_as_normals_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = FrameEnv([gray(step) for step in range(3)], camera="robot_rgb")
    term = SimpleNamespace(params={"data_type": "normals"})
    cameras = SimpleNamespace(robot_rgb=term)
    env.cfg = SimpleNamespace(observations=SimpleNamespace(camera_obs=cameras))  # type: ignore[attr-defined]
    run_episode(CameraObsVideoRecorder(env, tmp_path))
    assert names(tmp_path) == []
    assert "camera 'robot_rgb' is not recorded: its data_type is 'normals', not rgb" in caplog.text


def test_an_observation_without_cameras_is_told_once_with_its_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class WithoutCameras(StepEnv):
        def _observation(self) -> dict[str, Any]:
            return {"policy": np.zeros(3), "wrist": np.zeros(3)}

    run_episode(CameraObsVideoRecorder(WithoutCameras(), tmp_path))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'camera_obs'; its keys: 'policy', 'wrist'" in caplog.text


def test_an_observation_that_is_no_dict_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Array(StepEnv):
        def _observation(self) -> Any:
            return np.zeros(3)

    run_episode(CameraObsVideoRecorder(Array(), tmp_path))
    assert "the observation is a ndarray, not a dict with 'camera_obs'" in caplog.text


@pytest.mark.parametrize(
    ("camera", "expected"),
    [
        pytest.param("../../escape", "______escape", id="upwards"),
        pytest.param("/etc/cron", "_etc_cron", id="absolute"),
        pytest.param("..", "__", id="dots"),
        pytest.param(7, "7", id="not-a-string"),
    ],
)
def test_camera_names_cannot_leave_the_folder(tmp_path: Path, camera: Any, expected: str) -> None:
    folder = tmp_path / "videos"
    run_episode(CameraObsVideoRecorder(FrameEnv([gray(0), gray(1)], camera=camera), folder))
    assert names(tmp_path) == ["videos"]
    assert names(folder) == [f"robot-cam-env0-{expected}-episode-0.mp4"]


def test_the_prefix_cannot_leave_the_folder(tmp_path: Path) -> None:
    run_episode(CameraObsVideoRecorder(FrameEnv([gray(0), gray(1)]), tmp_path / "videos", "../x"))
    assert names(tmp_path) == ["videos"]


def test_camera_names_that_collide_stay_apart(tmp_path: Path) -> None:
    class Colliding(StepEnv):
        def _observation(self) -> dict[str, Any]:
            return {"camera_obs": {"a/b": gray(self.step_number), "a_b": gray(10 + self.step_number)}}

    env = CameraObsVideoRecorder(Colliding(length=2), tmp_path)
    run_episode(env)
    assert steps_shown(tmp_path / "robot-cam-env0-a_b-episode-0.mp4") == [0, 1, 2]
    assert steps_shown(tmp_path / "robot-cam-env0-a_b-2-episode-0.mp4") == [10, 11, 12]
    assert [video.camera for video in env.take_videos(0)] == ["a/b", "a_b"]


def test_the_bound_of_the_space_decides_how_floats_are_scaled(tmp_path: Path) -> None:
    dark = [np.full((32, 32, 3), 1.0, np.float32)] * 2
    space = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.float32)
    run_episode(CameraObsVideoRecorder(FrameEnv(dark, space=space), tmp_path))
    assert decode(tmp_path / front(0, 0))[0].mean() < 5


def test_ffmpeg_can_be_chosen(tmp_path: Path) -> None:
    run_episode(CameraObsVideoRecorder(StepEnv(length=3), tmp_path, cfg=VideoRecordingCfg(encoder="imageio-ffmpeg")))
    assert steps_shown(tmp_path / front(0, 0)) == [0, 1, 2, 3]


def test_the_recorder_is_a_wrapper_of_the_environments_kind(tmp_path: Path) -> None:
    single = CameraObsVideoRecorder(StepEnv(), tmp_path)
    batched = CameraObsVideoRecorder(BatchEnv(AutoresetMode.DISABLED), tmp_path)
    assert isinstance(single, CameraObsVideoRecorder)
    assert isinstance(batched, CameraObsVideoRecorder)
    assert isinstance(single, gymnasium.Env)
    assert isinstance(batched, VectorEnv)
    assert isinstance(single.unwrapped, StepEnv)


@pytest.mark.parametrize("pickler", [pytest.param(pickle, id="pickle"), pytest.param(cloudpickle, id="cloudpickle")])
def test_a_recorder_that_has_not_begun_can_be_pickled(tmp_path: Path, pickler: Any) -> None:
    env = pickler.loads(pickler.dumps(CameraObsVideoRecorder(StepEnv(length=2), tmp_path)))
    run_episode(env)
    assert len(names(tmp_path)) == 2


def test_gray_levels_tell_the_steps_apart() -> None:
    assert OFFSET + LEVEL * 35 < 255
