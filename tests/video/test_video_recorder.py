from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode

from arena_ray.specs import EncoderName, VideoRecordingCfg
from arena_ray.video import CameraObsVideoRecorder, VideoRecorder, ViewportVideoRecorder, pyav_encoder, video_recorders
from tests.video.envs import BatchEnv, StepEnv, names, run_episode, steps_shown

Recorder = Callable[..., VideoRecorder]


def camera_recorder(
    env: Any, folder: Path, save_partial_episodes: bool = False, encoder: EncoderName = "auto", **keywords: Any
) -> VideoRecorder:
    cfg = VideoRecordingCfg(save_partial_episodes=save_partial_episodes, encoder=encoder)
    return CameraObsVideoRecorder(env, folder, cfg=cfg, **keywords)


def viewport_recorder(
    env: Any, folder: Path, save_partial_episodes: bool = False, encoder: EncoderName = "auto", **keywords: Any
) -> VideoRecorder:
    cfg = VideoRecordingCfg(save_partial_episodes=save_partial_episodes, encoder=encoder)
    return ViewportVideoRecorder(env, folder, name_prefix="viewport", cfg=cfg, **keywords)


RECORDERS = [pytest.param(camera_recorder, id="camera"), pytest.param(viewport_recorder, id="viewport")]


@pytest.mark.parametrize("recorder", RECORDERS)
def test_an_encoder_failure_does_not_end_the_rollout(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: pyav_encoder.PyAvEncoder, frame: Any) -> None:
        raise OSError(28, "No space left on device")

    env = recorder(StepEnv(length=4), tmp_path, encoder="inline")
    with monkeypatch.context() as patch:
        patch.setattr(pyav_encoder.PyAvEncoder, "write", refuse)
        run_episode(env)
    assert names(tmp_path) == []
    assert {(video.error, video.frames, video.partial) for video in env.take_videos(0)} == {
        ("OSError: [Errno 28] No space left on device", 0, True)
    }
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    run_episode(env)
    assert {video.frames for video in env.take_videos(0)} == {5}


@pytest.mark.parametrize("recorder", RECORDERS)
def test_close_happens_once(tmp_path: Path, recorder: Recorder) -> None:
    inner = StepEnv()
    env = recorder(inner, tmp_path)
    env.reset()
    env.close()
    env.close()
    assert inner.closes == 1


@pytest.mark.parametrize("recorder", RECORDERS)
def test_recording_ends_even_if_the_environment_cannot_be_closed(tmp_path: Path, recorder: Recorder) -> None:
    class StuckEnv(StepEnv):
        def close(self) -> None:
            raise RuntimeError("stuck")

    env = recorder(StuckEnv(length=9), tmp_path, save_partial_episodes=True)
    env.reset()
    env.step(0)
    with pytest.raises(RuntimeError, match="stuck"):
        env.close()
    assert {video.frames for video in env.take_videos(0)} == {2}
    assert not [name for name in names(tmp_path) if "partial" in name]


@pytest.mark.parametrize("recorder", RECORDERS)
def test_an_exception_from_reset_keeps_the_running_videos(tmp_path: Path, recorder: Recorder) -> None:
    class FailsToReset(StepEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if self.step_number:
                raise KeyboardInterrupt
            return super().reset(seed=seed, options=options)

    env = recorder(FailsToReset(length=9), tmp_path)
    env.reset()
    env.step(0)
    with pytest.raises(KeyboardInterrupt):
        env.reset()
    env.close()
    assert {(video.partial, video.frames) for video in env.take_videos(0)} == {(True, 2)}


@pytest.mark.parametrize("recorder", RECORDERS)
def test_videos_can_be_kept_when_something_else_broke(tmp_path: Path, recorder: Recorder) -> None:
    env = recorder(StepEnv(length=9), tmp_path)
    env.reset()
    env.keep_running_videos()
    env.step(0)
    env.close()
    assert {(video.partial, video.frames) for video in env.take_videos(0)} == {(True, 1)}
    assert all(name.endswith(".1.partial.mp4") for name in names(tmp_path))


@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_close_because_of_an_exception_keeps_the_running_videos(tmp_path: Path, recorder: Recorder) -> None:
    env = recorder(StepEnv(length=9), tmp_path)
    with pytest.raises(ZeroDivisionError):
        break_while_an_episode_runs(env)
    assert {(video.partial, video.frames) for video in env.take_videos(0)} == {(True, 1)}
    assert all(name.endswith(".1.partial.mp4") for name in names(tmp_path))


def break_while_an_episode_runs(env: VideoRecorder) -> None:
    try:
        env.reset()
        raise ZeroDivisionError
    finally:
        env.close()


@pytest.mark.parametrize("recorder", RECORDERS)
def test_an_aborted_episode_is_kept_and_reported(tmp_path: Path, recorder: Recorder) -> None:
    env = recorder(StepEnv(length=9), tmp_path)
    env.reset()
    env.abort_episode(0)
    assert {(video.partial, video.frames) for video in env.take_videos(0)} == {(True, 1)}
    env.step(0)
    env.close()
    assert all(name.endswith(".1.partial.mp4") for name in names(tmp_path))


@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_discarded_episode_leaves_nothing(tmp_path: Path, recorder: Recorder) -> None:
    env = recorder(StepEnv(length=3), tmp_path)
    env.reset()
    env.step(0)
    env.discard_episode(0)
    env.step(0)
    env.step(0)
    assert (names(tmp_path), env.take_videos(0)) == ([], ())


@pytest.mark.parametrize("recorder", RECORDERS)
def test_assigned_episodes_name_the_files(tmp_path: Path, recorder: Recorder) -> None:
    env = recorder(StepEnv(length=2), tmp_path, slot=4)
    for episode in (12, 40):
        env.assign_episodes({4: episode})
        run_episode(env)
    run_episode(env)
    assert {name.rpartition("-episode-")[2] for name in names(tmp_path)} == {"12.mp4", "40.mp4"}
    assert all("env4" in name for name in names(tmp_path))


@pytest.mark.parametrize("recorder", RECORDERS)
def test_nothing_is_rendered_or_written_for_episodes_that_are_not_assigned(tmp_path: Path, recorder: Recorder) -> None:
    class CountsRenders(StepEnv):
        renders = 0

        def render(self) -> Any:
            self.renders += 1
            return super().render()

    inner = CountsRenders(length=2)
    env = recorder(inner, tmp_path)
    env.assign_episodes({0: 1})
    run_episode(env)
    before = inner.renders
    run_episode(env)
    assert inner.renders == before


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=lambda mode: mode.name)
def test_slots_that_reset_themselves_take_their_next_assignment(tmp_path: Path, mode: AutoresetMode) -> None:
    env = CameraObsVideoRecorder(BatchEnv(mode, (2, 2)), tmp_path)
    env.assign_episodes({0: 0, 1: 1})
    env.reset()
    env.assign_episodes({0: 2})
    for _ in range(8):
        env.step(None)
    env.close()
    assert names(tmp_path) == [
        f"robot-cam-env{slot}-front-episode-{episode}.mp4" for slot, episode in ((0, 0), (0, 2), (1, 1))
    ]
    assert steps_shown(tmp_path / "robot-cam-env0-front-episode-2.mp4") == [0, 1, 2]


def test_recorders_are_listed_innermost_first(tmp_path: Path) -> None:
    viewport = ViewportVideoRecorder(StepEnv(), tmp_path)
    camera = CameraObsVideoRecorder(gymnasium.wrappers.TimeLimit(viewport, 5), tmp_path)  # type: ignore[arg-type]
    assert video_recorders(gymnasium.Wrapper(camera)) == [viewport, camera]  # type: ignore[arg-type]
    assert video_recorders(StepEnv()) == []
