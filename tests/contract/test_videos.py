"""Section 5 of interface.md: names and frames of videos."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arena_ray import CameraObsVideoRecorder, VideoRecordingCfg, timestamped_run_dir, wrap_env_for_video
from tests.comparing import decode, shown_steps
from tests.contract.conftest import Run
from tests.contract.outside import corridor, records
from tests.contract.stage import Corridor

STILL = np.zeros(2, dtype=np.float32)


def test_configuration() -> None:
    nothing = VideoRecordingCfg()
    assert (nothing.record_viewport_video, nothing.record_camera_video) == (False, False)
    assert (nothing.video_base_dir, nothing.camera_name_prefix) == ("videos", "robot-cam")
    assert (nothing.enabled, nothing.render_mode) == (False, None)
    viewport = VideoRecordingCfg(record_viewport_video=True)
    assert (viewport.enabled, viewport.render_mode) == (True, "rgb_array")
    camera = VideoRecordingCfg(record_camera_video=True)
    assert (camera.enabled, camera.render_mode) == (True, None)


def test_timestamped_run_dir(tmp_path: Path) -> None:
    made = [Path(timestamped_run_dir(tmp_path / "base")) for _ in range(4)]
    assert len(set(made)) == 4
    assert all(path.is_dir() and path.parent == tmp_path / "base" for path in made)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?", path.name) for path in made)
    assert any(path.name.endswith("_1") for path in made)


def test_wrap_env_for_video(tmp_path: Path) -> None:
    env = Corridor(render_mode="rgb_array", cameras=["front"])
    assert wrap_env_for_video(env, VideoRecordingCfg(video_base_dir=str(tmp_path / "no")), None, None) is env
    cfg = VideoRecordingCfg(True, True, str(tmp_path / "videos"))
    with pytest.raises(ValueError, match=r"(?s)num_steps.*num_episodes"):
        wrap_env_for_video(env, cfg, None, None)
    assert not list(tmp_path.iterdir())
    wrapped: Any = wrap_env_for_video(env, cfg, None, 2)
    assert isinstance(wrapped, CameraObsVideoRecorder)
    for seed in range(2):
        wrapped.reset(seed=seed)
        for _ in range(3):
            wrapped.step(STILL)
    wrapped.close()
    files = sorted((tmp_path / "videos").glob("**/*.mp4"))
    assert [path.name for path in files] == [
        *(f"robot-cam-env0-front-episode-{episode}.mp4" for episode in range(2)),
        *(f"viewport-env0-episode-{episode}.mp4" for episode in range(2)),
    ]
    assert [shown_steps(decode(path)) for path in files] == [[0, 1, 2, 3]] * 4


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=[mode.value for mode in AutoresetMode])
def test_recorder_alone_on_a_vector_env(mode: AutoresetMode, tmp_path: Path) -> None:
    lengths = (2, 3)
    envs = SyncVectorEnv(
        [functools.partial(Corridor, length=length, cameras=["a/b", "front"]) for length in lengths],
        autoreset_mode=mode,
    )
    recorder: Any = CameraObsVideoRecorder(envs, str(tmp_path), name_prefix="cam")
    recorder.reset(seed=0)
    for _ in range(8):
        *_, terminated, truncated, _ = recorder.step(np.zeros((2, 2), np.float32))
        done = terminated | truncated
        if mode is AutoresetMode.DISABLED and done.any():
            recorder.reset(options={"reset_mask": done})
    recorder.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert not [name for name in names if "partial" in name]
    for slot, length in enumerate(lengths):
        for episode in range(2):
            path = tmp_path / f"cam-env{slot}-front-episode-{episode}.mp4"
            assert shown_steps(decode(path)) == list(range(length + 1)), path.name
    assert len([name for name in names if "front" in name]) * 2 == len(names)


def test_partial_files(tmp_path: Path) -> None:
    recorder: Any = CameraObsVideoRecorder(Corridor(cameras=["front"]), str(tmp_path / "a"))
    recorder.reset(seed=0)
    recorder.step(STILL)
    (partial,) = (tmp_path / "a").iterdir()
    assert re.fullmatch(r"robot-cam-env0-front-episode-0\.\w+\.partial\.mp4", partial.name)
    recorder.close()
    assert list((tmp_path / "a").iterdir()) == []
    recorder = CameraObsVideoRecorder(Corridor(cameras=["front"]), str(tmp_path / "b"), save_partial_episodes=True)
    recorder.reset(seed=0)
    recorder.step(STILL)
    recorder.close()
    (saved,) = (tmp_path / "b").iterdir()
    assert saved.name == "robot-cam-env0-front-episode-0.mp4"
    assert shown_steps(decode(saved)) == [0, 1]


class Views(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The frame of a corridor in another dtype, container or size."""

    def __init__(self, view: str) -> None:
        super().__init__(Corridor(cameras=["front"], height=31 if view == "odd" else 32))
        self._view = view
        top = 1 if "float" in view else 255
        dtype: Any = np.float32 if "float" in view else np.uint8
        frame = gymnasium.spaces.Box(0, top, (32, 48, 3), dtype)
        self.observation_space = gymnasium.spaces.Dict({"camera_obs": gymnasium.spaces.Dict({"front": frame})})

    def observation(self, observation: Any) -> Any:
        frame = observation["camera_obs"]["front"]
        views = {
            "float": (frame / 255).astype(np.float32),
            "torch": torch.from_numpy(frame),
            "torch-float": torch.from_numpy(frame).float() / 255,
            "odd": frame[:, :47],
            "batched": frame[None],
        }
        depth = np.zeros((32, 48, 1), dtype=np.float32)
        return {"camera_obs": {"front": views[self._view], "depth": depth[None] if self._view == "batched" else depth}}


@pytest.mark.parametrize("view", ["float", "torch", "torch-float", "odd", "batched"], ids=str)
def test_frames_of_every_kind(view: str, tmp_path: Path) -> None:
    recorder: Any = CameraObsVideoRecorder(Views(view), str(tmp_path), fps=7)
    recorder.reset(seed=0)
    for _ in range(3):
        recorder.step(STILL)
    recorder.close()
    (path,) = tmp_path.iterdir()
    frames = decode(path)
    assert frames.shape == (4, 32, 48, 3)
    assert shown_steps(frames[:, :31, :47]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "slots",
    [
        pytest.param({"num_envs": 1}, id="one-slot"),
        pytest.param({"num_envs": 3}, id="three-slots-sync"),
        pytest.param({"num_envs": 2, "vectorization": "async"}, id="two-slots-async", marks=pytest.mark.heavy),
    ],
)
def test_an_episode_of_t_steps_has_t_plus_1_frames(slots: dict[str, Any], run: Run) -> None:
    job = corridor(kwargs={"length": 0, "cameras": ["front", "wrist"]}, num_episodes=6, **slots)
    result = run(job, record_viewport_video=True, record_camera_video=True, chunk_size=4)
    rows = records(result.run_dir)
    assert [row["episode"] for row in rows] == list(range(6))
    paths = []
    for row in rows:
        stem = f"env{row['slot']}"
        names = {Path(video["path"]).name for video in row["videos"]}
        assert names == {
            f"viewport-{stem}-episode-{row['episode']}.mp4",
            f"robot-cam-{stem}-front-episode-{row['episode']}.mp4",
            f"robot-cam-{stem}-wrist-episode-{row['episode']}.mp4",
        }
        for video in row["videos"]:
            assert video["frames"] == row["length"] + 1
            assert shown_steps(decode(result.run_dir / video["path"])) == list(range(row["length"] + 1))
            paths.append(result.run_dir / video["path"])
    assert sorted((result.run_dir / "corridor").glob("**/*.mp4")) == sorted(paths)


def test_video_settings_of_one_job(run: Run) -> None:
    video = {"record_camera_video": True, "camera_name_prefix": "cam"}
    result = run(
        corridor("filmed", {"cameras": ["front"]}, video=video, num_episodes=1),
        corridor("dark", {"cameras": ["front"]}, num_episodes=1),
    )
    names = [path.name for path in result.run_dir.glob("**/*.mp4")]
    assert names == ["cam-env0-front-episode-0.mp4"]


def test_cameras_that_are_not_there_end_no_rollout(run: Run) -> None:
    result = run(corridor(), record_camera_video=True)
    assert result.status == "completed"
    assert result.video_paths() == []
