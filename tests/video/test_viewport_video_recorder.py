from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from arena_ray.records import VideoFile
from arena_ray.specs import VideoRecordingCfg
from arena_ray.video import ViewportVideoRecorder
from tests.video.envs import (
    MODES,
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


def run_recorder(env: Any, folder: Path, **keywords: Any) -> Any:
    """A recorder as runs use it."""
    return ViewportVideoRecorder(env, folder, name_prefix="viewport", cfg=VideoRecordingCfg(), **keywords)


def viewport(slot: int, episode: int) -> str:
    return f"viewport-env{slot}-episode-{episode}.mp4"


def test_an_episode_has_its_reset_frame_and_its_terminal_frame(tmp_path: Path) -> None:
    env = run_recorder(StepEnv(length=4), tmp_path)
    run_episode(env)
    assert steps_shown(tmp_path / viewport(0, 0)) == [20, 21, 22, 23, 24]
    assert [(video.kind, video.camera, video.frames, video.partial) for video in env.take_videos(0)] == [
        ("viewport", None, 5, False)
    ]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", ["sync", "async"], ids=str)
def test_vector_environments_give_whole_episodes_per_slot(tmp_path: Path, kind: str, mode: AutoresetMode) -> None:
    env = run_recorder(vector_env(kind, mode), tmp_path)
    roll(env, mode, 8)
    env.close()
    episodes = {AutoresetMode.NEXT_STEP: (2, 3)}.get(mode, (2, 4))
    assert names(tmp_path) == [viewport(slot, episode) for slot in (0, 1) for episode in range(episodes[slot])]
    for slot, length in ((0, 3), (1, 2)):
        for episode in range(episodes[slot]):
            assert steps_shown(tmp_path / viewport(slot, episode)) == list(range(20, 21 + length))
        assert [video.frames for video in env.take_videos(slot)] == [length + 1] * episodes[slot]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param(AutoresetMode.NEXT_STEP, [0, 1, 2], id="NEXT_STEP"),
        pytest.param(AutoresetMode.DISABLED, [0, 1, 2], id="DISABLED"),
        pytest.param(AutoresetMode.SAME_STEP, [0, 1], id="SAME_STEP-hides-the-terminal-frame"),
    ],
)
def test_a_native_batched_environment_with_a_frame_per_slot(
    tmp_path: Path, mode: AutoresetMode, expected: list[int]
) -> None:
    env = run_recorder(BatchEnv(mode), tmp_path)
    roll(env, mode, 6)
    env.close()
    assert steps_shown(tmp_path / viewport(1, 1)) == expected


@pytest.mark.parametrize("kind", ["vector", "isaac"], ids=str)
def test_one_frame_for_all_slots_gives_one_clip(tmp_path: Path, kind: str) -> None:
    inner: Any = IsaacEnv((3, 2)) if kind == "isaac" else BatchEnv(AutoresetMode.NEXT_STEP, frame_per_slot=False)
    env = run_recorder(inner, tmp_path, chunk_index=7)
    env.assign_episodes({0: 3, 1: 4}, attempt=2)
    env.reset()
    for _ in range(6):
        env.step(None)
    assert names(tmp_path) == ["viewport-chunk7.2.partial.mp4"]
    env.close()
    assert steps_shown(tmp_path / "viewport-chunk7.mp4") == list(range(7))
    assert [(video.frames, video.partial) for video in env.take_videos(0)] == [(7, False)]


def test_a_clip_ends_with_its_budget(tmp_path: Path) -> None:
    env = run_recorder(IsaacEnv((3, 2)), tmp_path, max_clip_steps=4)
    env.reset()
    for _ in range(6):
        env.step(None)
    assert steps_shown(tmp_path / "viewport-chunk0.mp4") == [0, 1, 2, 3, 4]
    env.close()
    assert names(tmp_path) == ["viewport-chunk0.mp4"]


def test_each_chunk_has_its_own_clip(tmp_path: Path) -> None:
    env = run_recorder(IsaacEnv((3, 2)), tmp_path)
    reported: list[VideoFile] = []
    for chunk in (4, 6):
        env.begin_chunk(chunk)
        env.reset()
        env.step(None)
        reported += env.end_chunk()
        env.step(None)
    env.close()
    assert names(tmp_path) == ["viewport-chunk4.mp4", "viewport-chunk6.mp4"]
    assert [Path(video.path).name for video in reported] == names(tmp_path)
    assert {video.frames for video in reported} == {2}
    assert env.take_videos(0) == ()


def test_an_exception_keeps_the_clip_as_partial(tmp_path: Path) -> None:
    env = run_recorder(IsaacEnv((3, 2)), tmp_path)
    env.reset()
    env.keep_running_videos()
    env.step(None)
    env.close()
    assert [(video.frames, video.partial) for video in env.take_videos(0)] == [(1, True)]
    assert names(tmp_path) == ["viewport-chunk0.1.partial.mp4"]


def test_an_isaac_environment_with_one_slot_has_files_per_episode(tmp_path: Path) -> None:
    env = run_recorder(IsaacEnv((2,)), tmp_path)
    env.reset()
    for _ in range(4):
        env.step(None)
    env.close()
    assert names(tmp_path) == [viewport(0, 0), viewport(0, 1)]


@pytest.mark.parametrize(
    "render",
    [
        pytest.param(lambda steps: np.stack([gray(int(step)) for step in steps]), id="array"),
        pytest.param(lambda steps: torch.stack([torch.as_tensor(gray(int(step))) for step in steps]), id="tensor"),
        pytest.param(lambda steps: [gray(int(step)) for step in steps], id="list"),
        pytest.param(lambda steps: [[gray(0), gray(int(step))] for step in steps], id="histories"),
    ],
)
def test_every_form_of_a_frame_per_slot(tmp_path: Path, render: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = BatchEnv(AutoresetMode.NEXT_STEP)
    monkeypatch.setattr(inner, "render", lambda: render(inner.steps))
    env = run_recorder(inner, tmp_path)
    roll(env, AutoresetMode.NEXT_STEP, 4)
    env.close()
    assert steps_shown(tmp_path / viewport(0, 0)) == [0, 1, 2, 3]
    assert steps_shown(tmp_path / viewport(1, 0)) == [0, 1, 2]


def test_of_a_list_of_frames_the_last_is_taken(tmp_path: Path) -> None:
    class History(StepEnv):
        def render(self) -> Any:
            return [gray(step) for step in range(self.step_number + 1)]

    run_episode(run_recorder(History(length=3, render_mode="rgb_array_list"), tmp_path))
    assert steps_shown(tmp_path / viewport(0, 0)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rendered", "complaint"),
    [
        pytest.param(None, "render() gave NoneType, which is not an image", id="none"),
        pytest.param("|..|", "render() gave str, which is not an image", id="text"),
        pytest.param([], "render() gave list, which is not an image", id="empty-list"),
        pytest.param(np.zeros((5, 32, 32)), "[5, 32, 32] is not RGB", id="five-channels"),
    ],
)
def test_what_is_not_an_image_is_told_once(
    tmp_path: Path, rendered: Any, complaint: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = StepEnv()
    monkeypatch.setattr(inner, "render", lambda: rendered)
    run_episode(run_recorder(inner, tmp_path))
    assert names(tmp_path) == []
    assert len(caplog.records) == 1
    assert complaint in caplog.text


def test_a_renderer_that_breaks_costs_the_viewport_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(StepEnv):
        def render(self) -> Any:
            if self.step_number == 2:
                raise RuntimeError("lost the GL context")
            return super().render()

    env = run_recorder(Breaks(length=4), tmp_path)
    run_episode(env)
    assert "lost the GL context" in caplog.text
    assert [(video.frames, video.partial) for video in env.take_videos(0)] == [(2, True)]


@pytest.mark.parametrize("render_mode", [None, "human", "ansi"], ids=str)
def test_a_render_mode_without_arrays_is_refused(tmp_path: Path, render_mode: str | None) -> None:
    with pytest.raises(ValueError, match=r"render_mode is .*build it with render_mode='rgb_array'"):
        run_recorder(StepEnv(render_mode=render_mode), tmp_path / "videos")
    assert names(tmp_path) == []


def test_odd_sizes_are_recorded(tmp_path: Path) -> None:
    run_episode(run_recorder(FrameEnv([gray(step, 33, 31) for step in range(3)]), tmp_path))
    assert decode(tmp_path / viewport(0, 0))[0].shape == (34, 32, 3)


@pytest.mark.parametrize("kind", ["sync", "async"], ids=str)
def test_a_reset_of_some_slots_starts_only_their_videos_again(tmp_path: Path, kind: str) -> None:
    env = run_recorder(vector_env(kind, AutoresetMode.DISABLED, (3, 4)), tmp_path)
    env.reset(seed=0)
    env.step(np.zeros(2, np.int64))
    env.reset(seed=[None, None], options={"reset_mask": np.array([True, False])})
    for _ in range(3):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert steps_shown(tmp_path / viewport(0, 0)) == [20, 21, 22, 23]
    assert steps_shown(tmp_path / viewport(1, 0)) == [20, 21, 22, 23, 24]


def test_the_recorder_is_a_wrapper_of_the_environments_kind(tmp_path: Path) -> None:
    vector = run_recorder(vector_env("sync", AutoresetMode.DISABLED), tmp_path)
    native = run_recorder(BatchEnv(AutoresetMode.DISABLED), tmp_path)
    single = run_recorder(StepEnv(), tmp_path)
    assert all(isinstance(env, ViewportVideoRecorder) for env in (vector, native, single))
    assert all(isinstance(env, VectorEnv) for env in (vector, native))
    assert isinstance(single, gymnasium.Env)
    vector.close()


@pytest.mark.parametrize("render_mode", ["rgb_array", "rgb_array_list"], ids=str)
def test_cartpole(tmp_path: Path, render_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SDL_NO_SIGNAL_HANDLERS", "1")
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    env = run_recorder(gymnasium.make("CartPole-v1", render_mode=render_mode), tmp_path)
    env.reset(seed=0)
    steps, ended = 0, False
    while not ended:
        _, _, terminated, truncated, _ = env.step(steps % 2)
        steps, ended = steps + 1, terminated or truncated
    env.close()
    shown = decode(tmp_path / viewport(0, 0))
    assert (len(shown), shown[0].shape) == (steps + 1, (400, 600, 3))


@pytest.mark.parametrize("kind", ["sync", "async", "native"], ids=str)
@pytest.mark.parametrize("how", ["episodes", "manual"])
def test_the_first_slot_only(tmp_path: Path, kind: str, how: str) -> None:
    mode = AutoresetMode.DISABLED
    inner = BatchEnv(mode) if kind == "native" else vector_env(kind, mode)
    env: Any = ViewportVideoRecorder(
        inner,
        tmp_path,
        episode_trigger=lambda episode: how == "episodes",
        video_aspect_ratio=(16, 9),
        record_first_only=True,
    )
    env.reset(seed=0)
    if how == "manual":
        env.start_recording("mine")
    for _ in range(2):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert names(tmp_path) == ["rl-video-env0-episode-0.mp4" if how == "episodes" else "mine-env0.mp4"]


def test_names_stay_as_they_are_but_for_what_would_leave_the_folder(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(StepEnv(length=1), tmp_path / "videos", name_prefix="käse mit ../brot")
    run_episode(env)
    env.close()
    assert names(tmp_path / "videos") == ["käse mit .._brot-episode-0.mp4"]
