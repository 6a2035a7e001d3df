"""`ViewportVideoRecorder` in the place of Gymnasium's `RecordVideo` (1.4.0).

Where moviepy is installed, the real one runs beside ours on the same environment.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
from av.video.stream import VideoStream
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo, RenderCollection
from gymnasium.wrappers.vector import RecordVideo as VectorRecordVideo

from arena_ray.video import VideoRecordingCfg, ViewportVideoRecorder
from tests.video.envs import (
    LEVEL,
    OFFSET,
    BatchEnv,
    IsaacEnv,
    StepEnv,
    gray,
    names,
    roll,
    run_episode,
    steps_shown,
    vector_env,
)

# From Python 3.12 on, forking a process that has threads (torch's) warns; AsyncVectorEnv does that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SLOT_0 = 20
"""`StepEnv` shows its step as 20 + step in the viewport."""


class Episodes(StepEnv):
    """Episodes of the given lengths, one after the other and over again."""

    def __init__(self, *lengths: int, render_mode: str | None = "rgb_array") -> None:
        super().__init__(render_mode=render_mode)
        self.lengths = lengths
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.length = self.lengths[self.resets % len(self.lengths)]
        self.resets += 1
        return super().reset(seed=seed, options=options)


class CapturingRecordVideo(RecordVideo[Any, Any]):
    """The real one, which also says what it had captured for each file: moviepy drops some of the frames."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.captured: dict[str, list[int]] = {}
        super().__init__(*arguments, **keywords)

    def stop_recording(self) -> None:
        if self.recorded_frames:
            self.captured[f"{self._video_name}.mp4"] = captured_steps(self.recorded_frames)
        super().stop_recording()  # type: ignore[no-untyped-call]


class CapturingVectorRecordVideo(VectorRecordVideo[Any, Any]):
    """The real one for vector environments; it shows all slots side by side."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.captured: dict[str, int] = {}
        super().__init__(*arguments, **keywords)

    def stop_recording(self) -> None:
        self.captured[f"{self._video_name}.mp4"] = len(self.recorded_frames)
        super().stop_recording()


def captured_steps(frames: list[Any]) -> list[int]:
    return [round((float(frame.mean()) - OFFSET) / LEVEL) - SLOT_0 for frame in frames]


def shown(folder: Path, base: int = SLOT_0) -> dict[str, list[int]]:
    """Which steps each file shows."""
    return {name: [step - base for step in steps_shown(folder / name)] for name in names(folder)}


def play(env: Any, script: str) -> list[tuple[Any, ...]]:
    """Do what the script says, then close; return what the attributes were on the way, except after an episode's end.

    ``reset``, ``step``, ``episode`` (steps to its end, after a reset), ``start:NAME``, ``stop``; ``*N`` repeats.
    """
    trace: list[tuple[Any, ...]] = []
    for word in words(script):
        command, _, name = word.partition(":")
        ended = False
        if command == "reset":
            env.reset()
        elif command == "step":
            _, _, ended, _, _ = env.step(0)
        elif command == "episode":
            run_episode(env)
            ended = True
        elif command == "start":
            env.start_recording(name)
        elif command == "stop":
            env.stop_recording()
        if ended:
            trace.append((env.episode_id, env.step_id))
        else:
            trace.append((env.episode_id, env.step_id, env.recording, len(env.recorded_frames)))
    env.close()
    return trace


def words(script: str) -> Iterator[str]:
    for word in script.split():
        command, _, count = word.partition("*")
        yield from [command] * int(count or 1)


def every(period: int) -> Callable[[int], bool]:
    return lambda index: index % period == 0


def video(folder: Path) -> Path:
    """A folder that is not there yet: `RecordVideo` warns of one that is."""
    return folder / "videos"


EPISODE_ENDS: list[Any] = [
    pytest.param({}, "episode*10", id="default-schedule"),
    pytest.param({"episode_trigger": every(2)}, "episode*5", id="episode-trigger"),
    pytest.param({"episode_trigger": lambda _: False}, "episode*2", id="episode-trigger-that-never-fires"),
    pytest.param({"episode_trigger": every(1)}, "reset step*2 reset step reset episode", id="resets-in-mid-episode"),
    pytest.param({"episode_trigger": every(1)}, "episode reset step*2", id="closed-in-mid-episode"),
    pytest.param({}, "", id="closed-before-any-reset"),
    pytest.param({}, "reset", id="closed-after-the-first-reset"),
    pytest.param({"name_prefix": "agent-7_a.b", "fps": 12}, "episode*2", id="prefix-and-rate"),
]

STEPS: list[Any] = [
    pytest.param({"step_trigger": every(5)}, "episode*4", id="step-trigger"),
    pytest.param({"step_trigger": lambda step: step == 3}, "episode reset step reset", id="step-trigger-at-the-end"),
    pytest.param({"step_trigger": every(6), "video_length": 3}, "episode*4", id="step-trigger-with-a-length"),
    pytest.param({"step_trigger": every(2), "video_length": 9}, "episode*2", id="step-trigger-before-the-length"),
]

LENGTHS: list[Any] = [
    pytest.param({"video_length": 9}, "episode*5", id="over-several-episodes"),
    pytest.param({"video_length": 4}, "episode*2", id="exactly-an-episode"),
    pytest.param({"video_length": 1}, "reset step*2", id="one-step"),
    pytest.param({"video_length": 100}, "episode*3", id="longer-than-everything"),
    pytest.param({"video_length": 6, "episode_trigger": every(3)}, "episode*6 reset step", id="with-episode-trigger"),
]

BOTH: list[Any] = [
    pytest.param({"episode_trigger": every(2), "step_trigger": every(7)}, "episode*5", id="whole-episodes"),
    pytest.param({"episode_trigger": every(1), "step_trigger": every(4)}, "episode*2", id="at-the-last-step"),
    pytest.param(
        {"episode_trigger": every(3), "step_trigger": every(8), "video_length": 5}, "episode*6", id="with-a-length"
    ),
]

NEVER = {"episode_trigger": lambda _: False}
BY_HAND: list[Any] = [
    pytest.param(NEVER, "reset start:mine step*3 stop step reset step", id="start-and-stop"),
    pytest.param(NEVER, "reset start:a step*2 start:b step stop", id="a-start-ends-what-goes-on"),
    pytest.param(NEVER, "reset start:mine step*2 reset step*2", id="a-reset-ends-it"),
    pytest.param(NEVER, "start:mine reset step*2", id="a-reset-comes-first"),
    pytest.param(NEVER, "reset start:mine", id="nothing-shown"),
    pytest.param(NEVER, "reset start:mine stop step", id="stopped-before-a-frame"),
    pytest.param(NEVER, "reset start:mine step*2", id="close-ends-it"),
    pytest.param({"episode_trigger": every(1)}, "reset step stop step*2 reset step", id="stops-an-episode"),
    pytest.param({"episode_trigger": every(1)}, "reset step start:mine step*2 reset step", id="within-an-episode"),
    pytest.param({**NEVER, "video_length": 4}, "start:mine reset step*2 reset step*5", id="with-a-length"),
]


@pytest.mark.filterwarnings("ignore:.*zero frames to save.*:UserWarning")
@pytest.mark.parametrize(("keywords", "script"), [*EPISODE_ENDS, *STEPS, *LENGTHS, *BOTH, *BY_HAND])
def test_the_same_files_and_frames_as_record_video(tmp_path: Path, keywords: dict[str, Any], script: str) -> None:
    pytest.importorskip("moviepy")
    real = CapturingRecordVideo(Episodes(4, 3, 6), str(tmp_path / "real"), **keywords)
    ours = ViewportVideoRecorder(Episodes(4, 3, 6), str(tmp_path / "ours"), **keywords)
    assert play(ours, script) == play(real, script)
    assert names(tmp_path / "ours") == names(tmp_path / "real")
    assert shown(tmp_path / "ours") == real.captured


@pytest.mark.parametrize(
    ("keywords", "script", "expected"),
    [
        pytest.param(
            {},
            "episode*10",
            {"episode-0": [0, 1, 2, 3, 4], "episode-1": [0, 1, 2, 3], "episode-8": [0, 1, 2, 3, 4, 5, 6]},
            id="default-schedule",
        ),
        pytest.param(
            {"step_trigger": every(5)},
            "episode*3",
            {"step-0": [1, 2, 3, 4], "step-5": [2, 3], "step-10": [4, 5, 6]},
            id="step-trigger-alone",
        ),
        pytest.param(
            {"video_length": 6},
            "episode*3",
            {"episode-0": [0, 1, 2, 3, 4], "episode-1": [0, 1, 2, 3, 0, 1, 2]},
            id="lengths-span-episodes",
        ),
        pytest.param(
            {"episode_trigger": every(2), "step_trigger": every(10)},
            "episode*3",
            {"step-0": [1, 2, 3, 4], "episode-0": [0], "episode-2": [0, 1, 2, 3], "step-10": [4, 5, 6]},
            id="both",
        ),
    ],
)
def test_what_is_written(tmp_path: Path, keywords: dict[str, Any], script: str, expected: dict[str, list[int]]) -> None:
    """The same without moviepy, worked out by hand: the episodes have 4, 3 and 6 steps."""
    play(ViewportVideoRecorder(Episodes(4, 3, 6), tmp_path, **keywords), script)
    assert shown(tmp_path) == {f"rl-video-{name}.mp4": steps for name, steps in expected.items()}


def test_the_arguments_are_those_of_record_video() -> None:
    theirs = list(inspect.signature(RecordVideo.__init__).parameters.values())
    ours = list(inspect.signature(ViewportVideoRecorder.__init__).parameters.values())[: len(theirs)]
    assert [(argument.name, argument.kind) for argument in ours] == [(one.name, one.kind) for one in theirs]
    optional = [(one.name, one.default) for one in theirs if one.name != "gc_trigger"]
    assert [(argument.name, argument.default) for argument in ours if argument.name != "gc_trigger"] == optional


def test_every_argument_by_position(tmp_path: Path) -> None:
    never, always = (lambda _: False), (lambda _: True)
    env = ViewportVideoRecorder(StepEnv(length=9), str(tmp_path / "v"), never, every(4), 2, "mine", 15, False, always)
    assert (env.video_folder, env.name_prefix, env.frames_per_sec) == (str(tmp_path / "v"), "mine", 15)
    assert (env.episode_trigger, env.video_length) == (never, 2)
    assert (env.disable_logger, env.gc_trigger) == (False, always)
    play(env, "episode")
    assert shown(tmp_path / "v") == {
        "mine-step-0.mp4": [1, 2, 3],
        "mine-step-4.mp4": [5, 6, 7],
        "mine-step-8.mp4": [9],
    }


def test_the_attributes_before_anything_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moviepy")
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"step_trigger": every(3), "episode_trigger": every(2)}
    real: Any = RecordVideo(StepEnv(), "real", **given)
    ours: Any = ViewportVideoRecorder(StepEnv(), "ours", **given)
    names_of_attributes = ["name_prefix", "frames_per_sec", "video_length", "episode_trigger", "step_trigger"]
    for name in [*names_of_attributes, "recording", "episode_id", "step_id", "render_history", "render_mode"]:
        assert getattr(ours, name) == getattr(real, name), name
    assert len(ours.recorded_frames) == len(real.recorded_frames) == 0
    assert (real.video_folder, ours.video_folder) == (str(tmp_path / "real"), str(tmp_path / "ours"))
    real.close()
    ours.close()


def test_the_default_schedule(tmp_path: Path) -> None:
    trigger = ViewportVideoRecorder(StepEnv(), tmp_path).episode_trigger
    assert trigger is not None
    cubes = [0, 1, 8, 27, 64, 125, 216, 343, 512, 729]
    assert [episode for episode in range(4001) if trigger(episode)] == [*cubes, 1000, 2000, 3000, 4000]


def test_the_default_schedule_is_gymnasiums(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    from gymnasium.utils.save_video import capped_cubic_video_schedule

    trigger = ViewportVideoRecorder(StepEnv(), tmp_path).episode_trigger
    assert trigger is not None
    assert [trigger(episode) for episode in range(3001)] == [capped_cubic_video_schedule(e) for e in range(3001)]


def test_with_a_step_trigger_there_is_no_default_schedule(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(StepEnv(), tmp_path, step_trigger=lambda _: False)
    assert env.episode_trigger is None
    play(env, "episode*2")
    assert names(tmp_path) == []


@pytest.mark.parametrize("render_mode", [None, "human", "ansi"], ids=str)
@pytest.mark.parametrize("kind", ["single", "vector"], ids=str)
def test_an_unusable_render_mode_is_refused(tmp_path: Path, kind: str, render_mode: str | None) -> None:
    env: Any = StepEnv(render_mode=render_mode)
    if kind == "vector":
        env = vector_env("sync", AutoresetMode.NEXT_STEP, render_mode=render_mode)
    theirs: Any = RecordVideo if kind == "single" else VectorRecordVideo
    for wrapper in (theirs, ViewportVideoRecorder):
        with pytest.raises(ValueError, match=str(render_mode)):
            wrapper(env, str(video(tmp_path)))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("fps", "metadata", "expected"),
    [
        pytest.param(7, {"render_fps": 20}, 7, id="given"),
        pytest.param(None, {"render_fps": 24}, 24, id="the-environments"),
        pytest.param(None, {}, 30, id="neither"),
    ],
)
def test_the_rate_of_the_file(tmp_path: Path, fps: int | None, metadata: dict[str, Any], expected: int) -> None:
    env = StepEnv(length=6)
    env.metadata = metadata
    recorder = ViewportVideoRecorder(env, tmp_path, fps=fps)
    assert recorder.frames_per_sec == expected
    play(recorder, "episode")
    with av.open(str(tmp_path / "rl-video-episode-0.mp4")) as container:
        stream = container.streams.video[0]
        assert isinstance(stream, VideoStream)
        assert stream.average_rate == expected


def test_stop_recording_without_a_recording_is_an_error(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(StepEnv(), tmp_path, episode_trigger=lambda _: False)
    env.reset()
    with pytest.raises(RuntimeError, match="no recording was started"):
        env.stop_recording()


@pytest.mark.parametrize(
    "keywords",
    [
        pytest.param({}, id="episodes"),
        pytest.param({"video_length": 5}, id="lengths"),
        pytest.param({"step_trigger": every(3)}, id="steps"),
    ],
)
def test_a_list_of_frames(tmp_path: Path, keywords: dict[str, Any]) -> None:
    """`RenderCollection` is what ``rgb_array_list`` makes of an environment."""
    pytest.importorskip("moviepy")
    real = CapturingRecordVideo(RenderCollection(Episodes(4, 3)), str(tmp_path / "real"), **keywords)
    ours: Any = ViewportVideoRecorder(RenderCollection(Episodes(4, 3)), str(tmp_path / "ours"), **keywords)
    assert ours.render_mode == "rgb_array_list"
    assert play(ours, "episode*2 reset step") == play(real, "episode*2 reset step")
    assert shown(tmp_path / "ours") == real.captured


def test_recording_takes_no_frame_away_from_render(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(RenderCollection(StepEnv(length=4)), tmp_path)
    env.reset()
    for _ in range(2):
        env.step(0)
    assert captured_steps(env.render()) == [0, 1, 2]
    env.step(0)
    assert captured_steps(env.render()) == [3]
    env.close()
    assert shown(tmp_path) == {"rl-video-episode-0.mp4": [0, 1, 2, 3]}


def test_a_run_holds_no_frames_for_a_render_that_nobody_calls(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(RenderCollection(StepEnv(length=4)), tmp_path, cfg=VideoRecordingCfg())
    run_episode(env)
    assert env.render_history == []
    assert shown(tmp_path) == {"rl-video-env0-episode-0.mp4": [0, 1, 2, 3, 4]}


def test_what_is_there_is_overwritten(tmp_path: Path) -> None:
    for length in (5, 2):
        play(ViewportVideoRecorder(StepEnv(length), tmp_path), "episode")
    assert shown(tmp_path) == {"rl-video-episode-0.mp4": [0, 1, 2]}


class TestDifferencesThatWeMean:
    @pytest.mark.parametrize(
        ("keywords", "name"),
        [
            pytest.param({"episode_trigger": every(1)}, "rl-video-episode-0.mp4", id="episode"),
            pytest.param({"step_trigger": lambda step: step == 0}, "rl-video-step-0.mp4", id="step"),
        ],
    )
    def test_a_file_is_complete_when_its_episode_ends(self, tmp_path: Path, keywords: Any, name: str) -> None:
        env = ViewportVideoRecorder(StepEnv(length=3), tmp_path, **keywords)
        env.reset()
        for _ in range(2):
            env.step(0)
            assert name not in names(tmp_path)
        env.step(0)
        assert names(tmp_path) == [name]
        assert steps_shown(tmp_path / name)[-1] == SLOT_0 + 3
        assert not env.recording
        env.close()

    def test_record_video_needs_another_reset(self, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        env: Any = RecordVideo(StepEnv(length=3), str(video(tmp_path)))
        run_episode(env)
        assert names(video(tmp_path)) == []
        env.close()

    def test_an_environment_may_reuse_its_picture(self, tmp_path: Path) -> None:
        class OnePicture(StepEnv):
            picture = gray(0)

            def render(self) -> Any:
                self.picture[:] = gray(SLOT_0 + self.step_number)
                return self.picture

        play(ViewportVideoRecorder(OnePicture(length=3), tmp_path), "episode")
        assert shown(tmp_path) == {"rl-video-episode-0.mp4": [0, 1, 2, 3]}

    def test_what_a_killed_process_leaves_can_be_played(self, tmp_path: Path) -> None:
        env = ViewportVideoRecorder(StepEnv(length=5), tmp_path)
        env.reset()
        for _ in range(3):
            env.step(0)
        env.keep_running_videos()
        assert shown(tmp_path) == {"rl-video-episode-0.1.partial.mp4": [0, 1, 2, 3]}

    def test_an_environment_that_resets_itself_has_files_per_episode(self, tmp_path: Path) -> None:
        env = ViewportVideoRecorder(gymnasium.wrappers.Autoreset(StepEnv(length=2)), tmp_path)
        env.reset()
        for _ in range(5):
            env.step(0)
        env.close()
        assert shown(tmp_path) == {"rl-video-episode-0.mp4": [0, 1, 2], "rl-video-episode-1.mp4": [0, 1, 2]}

    def test_every_slot_has_its_own_file(self, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        mode = AutoresetMode.NEXT_STEP
        real = CapturingVectorRecordVideo(vector_env("sync", mode), str(tmp_path / "real"), episode_trigger=every(2))
        ours = ViewportVideoRecorder(vector_env("sync", mode), str(tmp_path / "ours"), episode_trigger=every(2))
        for env in (real, ours):
            roll(env, mode, 12)
            assert (env.episode_id, env.step_id) == (3, 11)
            env.close()
        ours_of_slot_0 = {
            name.replace("-env0", ""): len(steps)
            for name, steps in shown(tmp_path / "ours").items()
            if "-env0-" in name
        }
        assert ours_of_slot_0 == real.captured
        assert sorted(real.captured) == names(tmp_path / "real")


KINDS = ["sync", "async", "native"]


def batch(kind: str, mode: AutoresetMode, lengths: tuple[int, ...] = (3, 2)) -> tuple[Any, int]:
    """A vector environment, and what its frames show at step 0."""
    return (BatchEnv(mode, lengths), 0) if kind == "native" else (vector_env(kind, mode, lengths), SLOT_0)


def whole(length: int) -> list[int]:
    return list(range(length + 1))


@pytest.mark.parametrize("kind", KINDS, ids=str)
class TestVectorEnvironments:
    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
    def test_the_default_schedule_in_every_slot(self, tmp_path: Path, kind: str, mode: AutoresetMode) -> None:
        inner, base = batch(kind, mode)
        env = ViewportVideoRecorder(inner, tmp_path)
        roll(env, mode, 12)
        env.close()
        expected = {f"rl-video-env0-episode-{episode}.mp4": whole(3) for episode in (0, 1)}
        expected |= {f"rl-video-env1-episode-{episode}.mp4": whole(2) for episode in (0, 1)}
        assert shown(tmp_path, base) == expected

    def test_same_step_resets(self, tmp_path: Path, kind: str) -> None:
        inner, base = batch(kind, AutoresetMode.SAME_STEP)
        env = ViewportVideoRecorder(inner, tmp_path, episode_trigger=every(2))
        roll(env, AutoresetMode.SAME_STEP, 9)
        env.close()
        seen = 0 if kind != "native" else 1  # From outside, the terminal frame cannot be seen.
        expected = {f"rl-video-env0-episode-{episode}.mp4": whole(3 - seen) for episode in (0, 2)}
        expected |= {f"rl-video-env1-episode-{episode}.mp4": whole(2 - seen) for episode in (0, 2)}
        expected["rl-video-env1-episode-4.mp4"] = [0, 1]
        assert shown(tmp_path, base) == expected

    def test_close_saves_what_runs(self, tmp_path: Path, kind: str) -> None:
        inner, base = batch(kind, AutoresetMode.NEXT_STEP, (5, 2))
        env = ViewportVideoRecorder(inner, tmp_path, name_prefix="mine")
        roll(env, AutoresetMode.NEXT_STEP, 4)
        env.close()
        assert shown(tmp_path, base) == {
            "mine-env0-episode-0.mp4": [0, 1, 2, 3, 4],
            "mine-env1-episode-0.mp4": [0, 1, 2],
            "mine-env1-episode-1.mp4": [0, 1],
        }

    def test_clips_of_steps(self, tmp_path: Path, kind: str) -> None:
        inner, base = batch(kind, AutoresetMode.DISABLED, (5, 2))
        env = ViewportVideoRecorder(inner, tmp_path, step_trigger=every(4), video_length=2)
        roll(env, AutoresetMode.DISABLED, 6)
        assert env.step_id == 5
        env.close()
        assert shown(tmp_path, base) == {
            "rl-video-env0-step-0.mp4": [1, 2, 3],
            "rl-video-env1-step-0.mp4": [1, 2, 0],
            "rl-video-env0-step-4.mp4": [5, 0, 1],
            "rl-video-env1-step-4.mp4": [1, 2, 0],
        }

    def test_clips_that_end_with_the_episode(self, tmp_path: Path, kind: str) -> None:
        inner, base = batch(kind, AutoresetMode.DISABLED, (5, 2))
        env = ViewportVideoRecorder(inner, tmp_path, step_trigger=lambda step: step == 1)
        roll(env, AutoresetMode.DISABLED, 3)
        assert [name for name in names(tmp_path) if "partial" not in name] == ["rl-video-env1-step-1.mp4"]
        env.close()
        assert shown(tmp_path, base) == {"rl-video-env0-step-1.mp4": [2, 3], "rl-video-env1-step-1.mp4": [2]}

    def test_lengths_over_episodes_count_in_every_slot(self, tmp_path: Path, kind: str) -> None:
        inner, base = batch(kind, AutoresetMode.DISABLED, (5, 2))
        env = ViewportVideoRecorder(inner, tmp_path, episode_trigger=every(2), video_length=4)
        roll(env, AutoresetMode.DISABLED, 5)
        env.close()
        assert shown(tmp_path, base) == {
            "rl-video-env0-episode-0.mp4": [0, 1, 2, 3, 4],
            "rl-video-env1-episode-0.mp4": [0, 1, 2, 0, 1],
            "rl-video-env1-episode-2.mp4": [0, 1],
        }

    def test_start_and_stop(self, tmp_path: Path, kind: str) -> None:
        inner, base = batch(kind, AutoresetMode.DISABLED, (5, 2))
        env = ViewportVideoRecorder(inner, tmp_path, episode_trigger=lambda _: False)
        env.reset()
        assert (env.recording, len(env.recorded_frames), env.episode_id, env.step_id) == (False, 0, 0, -1)
        env.start_recording("mine")
        env.step(np.zeros(2, np.int64))
        assert (env.recording, len(env.recorded_frames), env.episode_id, env.step_id) == (True, 1, 0, 0)
        env.step(np.zeros(2, np.int64))
        assert shown(tmp_path, base)["mine-env1.mp4"] == [1, 2]
        assert (env.recording, len(env.recorded_frames)) == (True, 2)
        env.stop_recording()
        assert not env.recording
        with pytest.raises(RuntimeError, match="no recording was started"):
            env.stop_recording()
        env.close()
        assert shown(tmp_path, base) == {"mine-env0.mp4": [1, 2], "mine-env1.mp4": [1, 2]}


def test_a_step_trigger_takes_over_where_a_slot_resets_itself(tmp_path: Path) -> None:
    """As in `RecordVideo`. Slot 0 resets itself in step 3; slot 1 is within its second episode."""
    env = ViewportVideoRecorder(
        BatchEnv(AutoresetMode.NEXT_STEP, (3, 2)),
        tmp_path,
        episode_trigger=every(1),
        step_trigger=lambda step: step == 3,
    )
    roll(env, AutoresetMode.NEXT_STEP, 8)
    env.close()
    assert shown(tmp_path, 0) == {
        "rl-video-env0-episode-0.mp4": [0, 1, 2, 3],
        "rl-video-env0-step-3.mp4": [0, 1, 2, 3],
        "rl-video-env0-episode-2.mp4": [0],
        "rl-video-env1-episode-0.mp4": [0, 1, 2],
        "rl-video-env1-episode-1.mp4": [0],
        "rl-video-env1-step-3.mp4": [1, 2],
        "rl-video-env1-episode-2.mp4": [0, 1, 2],
    }


@pytest.mark.parametrize("kind", ["sync", "native"], ids=str)
def test_long_prefixes_leave_room_for_the_slot(tmp_path: Path, kind: str) -> None:
    inner, _ = batch(kind, AutoresetMode.DISABLED)
    play_once = ViewportVideoRecorder(inner, tmp_path, name_prefix="p" * 120)
    roll(play_once, AutoresetMode.DISABLED, 1)
    play_once.close()
    assert [name.lstrip("p") for name in names(tmp_path)] == ["-env0-episode-0.mp4", "-env1-episode-0.mp4"]


class FramePerSlot(IsaacEnv):
    """Not a `VectorEnv`, but with a frame of each slot."""

    def render(self) -> Any:
        return np.stack([gray(int(step)) for step in self.steps])


def test_a_batched_env_that_is_no_vector_env(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(FramePerSlot((3, 2)), tmp_path)
    env.reset()
    for _ in range(6):
        env.step(None)
    env.close()
    assert shown(tmp_path, 0) == {
        "rl-video-env0-episode-0.mp4": [0, 1, 2],
        "rl-video-env0-episode-1.mp4": [0, 1, 2],
        "rl-video-env1-episode-0.mp4": [0, 1],
        "rl-video-env1-episode-1.mp4": [0, 1],
    }


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        # In Isaac Lab's manner the step that ends an episode shows the next one already.
        pytest.param(IsaacEnv((3, 2)), {"episode-0": [0, 1, 2], "episode-2": [6, 7, 8]}, id="same-step"),
        pytest.param(
            BatchEnv(AutoresetMode.NEXT_STEP, (3, 2), frame_per_slot=False),
            {"episode-0": [0, 1, 2, 3], "episode-2": [8, 9]},
            id="next-step",
        ),
    ],
)
def test_one_frame_for_all_slots_follows_the_first(tmp_path: Path, inner: Any, expected: dict[str, list[int]]) -> None:
    env = ViewportVideoRecorder(inner, tmp_path, episode_trigger=every(2))
    env.reset()
    for _ in range(9):
        env.step(None)
    env.close()
    assert shown(tmp_path, 0) == {f"rl-video-{name}.mp4": steps for name, steps in expected.items()}


class OneStepMore(StepEnv):
    """Every episode is one step longer than the one before. A tiny picture, always the same."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    picture = np.zeros((16, 16, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.step_number, self.length = 0, self.length + 1
        return {}, {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return {}, 0.0, self.step_number >= self.length, False, {}

    def render(self) -> Any:
        return self.picture


def count_packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.dts is not None for packet in container.demux(video=0))


@pytest.mark.heavy
@pytest.mark.parametrize(("fps", "first"), [(25, 1), (30, 2), (50, 3), (60, 4)], ids=str)
def test_every_length_is_exact(tmp_path: Path, fps: int, first: int) -> None:
    """Each length from 1 to 600 frames at one of the rates; the benchmark of recording does all at all.

    moviepy loses the last frame of two thirds of these.
    """
    lengths = range(first, 601, 4)
    assert frame_counts(tmp_path, fps, lengths) == {length: length for length in lengths}


def frame_counts(folder: Path, fps: int, lengths: Iterable[int]) -> dict[int, int]:
    """Record an episode of each of these lengths, in frames; return how many frames its file holds."""
    cfg = VideoRecordingCfg(encoder="inline", save_partial_episodes=True)
    inner = OneStepMore()
    env = ViewportVideoRecorder(inner, folder, fps=fps, cfg=cfg)
    found = {}
    for episode, length in enumerate(lengths):
        inner.length = length - 2  # Its reset makes it a step longer.
        if length == 1:
            env.reset()
            env.end_recording()
        else:
            run_episode(env)
        found[length] = count_packets(folder / f"rl-video-env0-episode-{episode}.mp4")
    env.close()
    return found
