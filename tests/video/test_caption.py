from __future__ import annotations

import builtins
import functools
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arena_ray.video import VideoRecordingCfg, ViewportVideoRecorder
from arena_ray.video.caption import Caption, check_overlay, draw, success_in
from arena_ray.video.encoder import EncoderError
from tests.video.envs import StepEnv, decode, names, run_episode

LINES = Caption(3, step=12, reward=0.5, episode_return=7.25, success=True).lines()


def changed(frame: npt.NDArray[np.uint8], lines: list[str] = LINES) -> npt.NDArray[np.bool_]:
    """Which pixels the text changes."""
    return np.asarray((draw(frame, lines) != frame).any(axis=2))


@pytest.mark.parametrize("tint", [0, 128, 255], ids=["on-black", "on-gray", "on-white"])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 640), (720, 1280), (1080, 1920)], ids=str)
def test_text_is_in_the_upper_left(height: int, width: int, tint: int) -> None:
    pixels = changed(np.full((height, width, 3), tint, np.uint8))
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    assert pixels[: height // 8, : width // 4].any()
    assert rows[-1] < height / 4
    assert columns[0] < width / 20
    assert columns[-1] < 0.8 * width


@pytest.mark.parametrize("tint", [0, 128, 255], ids=["on-black", "on-gray", "on-white"])
def test_text_stands_out(tint: int) -> None:
    drawn = draw(np.full((480, 640, 3), tint, np.uint8), LINES)
    assert drawn.max() - drawn.min() > 100


def test_the_frame_itself_stays_as_it_was() -> None:
    frame = np.full((240, 320, 3), 90, np.uint8)
    drawn = draw(frame, LINES)
    assert (frame == 90).all()
    assert drawn.dtype == np.uint8
    assert drawn.shape == frame.shape


def test_the_text_is_what_counts() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    assert np.array_equal(draw(frame, LINES), draw(frame, list(LINES)))
    assert not np.array_equal(draw(frame, ["step 1"]), draw(frame, ["step 2"]))
    assert np.array_equal(draw(frame, []), frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(np.zeros((240, 640, 3), np.uint8)[:, ::2], id="strided"),
        pytest.param(np.zeros((3, 240, 320), np.uint8).transpose(1, 2, 0), id="transposed"),
        pytest.param(np.broadcast_to(np.zeros(3, np.uint8), (240, 320, 3)), id="read-only"),
    ],
)
def test_frames_as_environments_give_them(frame: npt.NDArray[np.uint8]) -> None:
    assert np.array_equal(draw(frame, LINES), draw(np.zeros((240, 320, 3), np.uint8), LINES))


def test_a_picture_smaller_than_its_text_is_left_whole() -> None:
    assert draw(np.zeros((4, 4, 3), np.uint8), LINES).shape == (4, 4, 3)


def test_a_caption_counts() -> None:
    caption = Caption(7)
    assert caption.lines() == ["episode 7  step 0", ""]
    caption.add_step(0.5, None)
    assert caption.lines() == ["episode 7  step 1", "reward 0.5  return 0.5"]
    caption.add_step(-2.0, False)
    assert caption.lines() == ["episode 7  step 2", "reward -2  return -1.5  success no"]
    caption.add_step(0.0, True)
    assert caption.lines() == ["episode 7  step 3", "reward 0  return -1.5  success yes"]


def test_without_opencv_the_overlay_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ordinary = builtins.__import__

    def no_cv2(name: str, *rest: Any, **keywords: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1 is missing")
        return ordinary(name, *rest, **keywords)

    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_cv2)
    with pytest.raises(EncoderError, match=r"libGL\.so\.1 is missing.*pip install opencv-python-headless"):
        check_overlay()


class Paid(StepEnv):
    """Pays 1 per step and succeeds at the end. The picture stays black."""

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, _ = super().step(action)
        return observation, 1.0, terminated, truncated, {"is_success": terminated}

    def render(self) -> Any:
        return np.zeros((240, 320, 3), np.uint8)


def assert_captions(path: Path, *captions: Caption) -> None:
    """Compare what is in a video with what these captions look like."""
    frames = decode(path)
    black = np.zeros((240, 320, 3), np.uint8)
    distances = np.array(
        [
            [np.abs(draw(black, caption.lines()) - frame.astype(float)).mean() for caption in captions]
            for frame in frames
        ]
    )
    assert distances.shape[0] == len(captions)
    assert distances.argmin(axis=1).tolist() == list(range(len(captions)))


def test_the_overlay_tells_step_reward_and_success(tmp_path: Path) -> None:
    env = ViewportVideoRecorder(Paid(length=3), tmp_path, cfg=VideoRecordingCfg(overlay=True))
    for _ in range(2):
        run_episode(env)
    for episode in range(2):
        steps = [Caption(episode, step, 1.0, float(step), step == 3) for step in (1, 2, 3)]
        assert_captions(tmp_path / f"rl-video-env0-episode-{episode}.mp4", Caption(episode), *steps)


def test_without_the_overlay_the_picture_is_untouched(tmp_path: Path) -> None:
    run_episode(ViewportVideoRecorder(Paid(length=3), tmp_path, cfg=VideoRecordingCfg()))
    assert {int(frame.max()) for frame in decode(tmp_path / names(tmp_path)[0])} == {0}


def masked(values: list[Any], mask: list[bool]) -> dict[str, Any]:
    """An info of Gymnasium's vector environments."""
    return {"is_success": np.array(values), "_is_success": np.array(mask)}


SINGLE: list[Any] = [
    pytest.param({"is_success": True}, True, id="is_success"),
    pytest.param({"is_success": False}, False, id="no-is_success"),
    pytest.param({"success": True}, True, id="success"),
    pytest.param({"success": False, "is_success": True}, True, id="is_success-comes-first"),
    pytest.param({"is_success": 1.0}, True, id="number"),
    pytest.param({"is_success": 0}, False, id="zero"),
    pytest.param({"is_success": np.bool_(True)}, True, id="numpy-bool"),
    pytest.param({"is_success": np.array([True])}, True, id="array-of-one"),
    pytest.param({"is_success": np.array(0.0)}, False, id="array-without-dimension"),
    pytest.param({"success": torch.tensor(True)}, True, id="tensor"),
    pytest.param({"success": torch.tensor([False])}, False, id="tensor-of-one"),
    pytest.param({"is_success": None, "distance": 1.0}, None, id="none"),
    pytest.param({"is_success": "yes"}, None, id="text"),
    pytest.param({"distance": 1.0}, None, id="missing"),
    pytest.param({}, None, id="empty"),
    pytest.param(None, None, id="no-info"),
    pytest.param([{"is_success": True}], None, id="list"),
]


@pytest.mark.parametrize(("info", "expected"), SINGLE)
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "goes-on"])
def test_success_of_a_single_environment(info: Any, expected: bool | None, ended: bool) -> None:
    assert success_in(info, 0, None, ended=ended) is expected


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param({"solved": True, "is_success": False}, True, id="the-key-counts"),
        pytest.param({"is_success": True, "success": True}, None, id="no-other-key-stands-in"),
        pytest.param({"solved": np.array([True]), "_solved": np.array([False])}, None, id="with-its-own-mask"),
    ],
)
def test_a_custom_key(info: dict[str, Any], expected: bool | None) -> None:
    assert success_in(info, 0, "solved", ended=True) is expected


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param(masked([True, False, True], [True, True, True]), [True, False, True], id="all-say"),
        pytest.param(masked([True, False, True], [False, True, True]), [None, False, True], id="some-say"),
        pytest.param({"is_success": np.array([True, False, True])}, [True, False, True], id="no-mask"),
        pytest.param({"success": torch.tensor([True, False, True])}, [True, False, True], id="tensors"),
        pytest.param({"success": torch.tensor([[1.0], [0.0], [1.0]])}, [True, False, True], id="tensor-of-columns"),
        pytest.param({"success": torch.tensor([1, 0, 1], dtype=torch.bfloat16)}, [True, False, True], id="bfloat16"),
        pytest.param({"success": [True, False, True]}, [True, False, True], id="list"),
        pytest.param({"success": True}, [True, True, True], id="one-for-all"),
        pytest.param({"success": np.array([True, False])}, [True, False, None], id="too-few"),
        pytest.param(
            {**masked([False, False, False], [False, False, False]), "success": np.array([True, False, True])},
            [True, False, True],
            id="the-second-key-where-the-first-is-masked",
        ),
    ],
)
def test_success_in_a_batch(info: dict[str, Any], expected: list[bool | None]) -> None:
    assert [success_in(info, index, None, ended=True) for index in range(3)] == expected


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        pytest.param(masked([True, False], [True, False]), [True, None], id="masked"),
        pytest.param({"is_success": np.array([True, False])}, [True, False], id="no-mask"),
        pytest.param({"success": torch.tensor([True, False])}, [True, False], id="tensors"),
    ],
)
def test_the_final_info_is_about_the_episode_that_ended(final: dict[str, Any], expected: list[bool | None]) -> None:
    info = {**masked([False, True], [True, True]), "final_info": final}
    assert [success_in(info, index, None, ended=True) for index in range(2)] == expected
    assert [success_in(info, index, None, ended=False) for index in range(2)] == [False, True]


class Tells(gymnasium.Env[Any, Any]):
    """Tells of success at the end of an episode only, where told to."""

    observation_space = gymnasium.spaces.Discrete(9)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int, success: bool | None) -> None:
        self.length, self.success = length, success

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.steps = 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps == self.length
        return self.steps, 0.0, ended, False, {"is_success": self.success} if ended and self.success is not None else {}


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_the_infos_that_gymnasium_makes(mode: AutoresetMode) -> None:
    episodes: list[tuple[int, bool | None]] = [(2, True), (2, False), (2, None), (1, True)]
    env = SyncVectorEnv([functools.partial(Tells, *episode) for episode in episodes], autoreset_mode=mode)
    env.reset()
    seen: dict[int, bool | None] = {}
    for _ in range(2):
        _, _, terminated, _, info = env.step(np.zeros(4, np.int64))
        for index in np.flatnonzero(terminated).tolist():
            seen.setdefault(index, success_in(info, index, None, ended=True))
        if mode is AutoresetMode.DISABLED and terminated.any():
            env.reset(options={"reset_mask": terminated})
    env.close()
    assert [seen[index] for index in range(4)] == [success for _, success in episodes]
