"""Environments whose frames say which step they show, and the reader that gets the steps back out of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

SIZE = 32
LEVEL = 6
"""Gray levels per step; far above what the codec changes."""
OFFSET = 20
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def gray(step: int, height: int = SIZE, width: int = SIZE) -> npt.NDArray[np.uint8]:
    """A frame that shows `step`."""
    return np.full((height, width, 3), OFFSET + LEVEL * step, np.uint8)


def decode(path: Path | str) -> list[npt.NDArray[np.uint8]]:
    """All frames of a video."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def steps_shown(path: Path | str) -> list[int]:
    """Which step each frame of a video shows."""
    return [round((float(frame.mean()) - OFFSET) / LEVEL) for frame in decode(path)]


class StepEnv(gymnasium.Env[dict[str, Any], Any]):
    """Every frame shows the number of steps since the reset; episodes last `length` steps.

    Cameras count on from 0 ("front") and from 10 ("wrist"), the viewport from 20, so that mix-ups show.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, length: int = 3, render_mode: str | None = "rgb_array", fail_at: int | None = None) -> None:
        self.render_mode = render_mode
        self.length = length
        self.fail_at = fail_at
        self.step_number = 0
        self.closes = 0
        image = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        cameras = gymnasium.spaces.Dict({"front": image, "wrist": image})
        self.observation_space = gymnasium.spaces.Dict({"camera_obs": cameras})
        self.action_space = gymnasium.spaces.Discrete(2)

    def _observation(self) -> dict[str, Any]:
        return {"camera_obs": {"front": gray(self.step_number), "wrist": gray(10 + self.step_number)}}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        if self.step_number == self.fail_at:
            raise RuntimeError("the simulator fell over")
        return self._observation(), 0.0, self.step_number >= self.length, False, {}

    def render(self) -> Any:
        return gray(20 + self.step_number)

    def close(self) -> None:
        self.closes += 1


class FrameEnv(gymnasium.Env[dict[str, Any], Any]):
    """Shows the given frames, one per step; the last one ends the episode."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, frames: list[Any], camera: Any = "front", space: gymnasium.Space[Any] | None = None) -> None:
        self.render_mode = "rgb_array"
        self.frames = frames
        self.camera = camera
        self.position = 0
        image = space or gymnasium.spaces.Box(-np.inf, np.inf, np.shape(frames[0]), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"camera_obs": gymnasium.spaces.Dict({str(camera): image})})
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.position = 0
        return {"camera_obs": {self.camera: self.frames[0]}}, {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.position += 1
        ended = self.position == len(self.frames) - 1
        return {"camera_obs": {self.camera: self.frames[self.position]}}, 0.0, False, ended, {}

    def render(self) -> Any:
        return self.frames[self.position]


class IsaacEnv(gymnasium.Env[dict[str, Any], Any]):
    """Batched `Env` in the manner of Isaac Lab: tensors, reset in the same step, batched `final_obs`.

    Slot i's episodes last `lengths[i]` steps.
    """

    metadata = {"render_fps": 20}  # noqa: RUF012

    def __init__(self, lengths: tuple[int, ...] = (3, 2), final_obs: bool = True) -> None:
        self.render_mode = "rgb_array"
        self.num_envs = len(lengths)
        self.lengths = torch.tensor(lengths)
        self.final_obs = final_obs
        self.steps = torch.zeros(self.num_envs, dtype=torch.int64)
        self.vector_steps = 0
        self.reset_arguments: list[Any] = []

    def _observation(self) -> dict[str, Any]:
        level = (OFFSET + LEVEL * self.steps).to(torch.uint8)
        return {"camera_obs": {"front": level[:, None, None, None].expand(-1, SIZE, SIZE, 3)}}

    def reset(self, *, seed: Any = None, env_ids: Any = None, options: Any = None) -> Any:
        self.reset_arguments.append(env_ids)
        self.steps[slice(None) if env_ids is None else torch.as_tensor(env_ids, dtype=torch.int64)] = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.vector_steps += 1
        done = self.steps >= self.lengths
        info = {"final_obs": self._observation()} if self.final_obs and bool(done.any()) else {}
        self.steps[done] = 0
        return self._observation(), torch.zeros(self.num_envs), done, torch.zeros_like(done), info

    def render(self) -> Any:
        return gray(self.vector_steps)


class BatchEnv(VectorEnv[dict[str, Any], Any, Any]):
    """A vector environment that is not made of `Env`s; slot i's episodes last `lengths[i]` steps."""

    def __init__(self, mode: AutoresetMode, lengths: tuple[int, ...] = (3, 2), frame_per_slot: bool = True) -> None:
        self.metadata = {"autoreset_mode": mode, "render_fps": 20}
        self.render_mode = "rgb_array"
        self.num_envs = len(lengths)
        self.mode = mode
        self.lengths = np.array(lengths)
        self.frame_per_slot = frame_per_slot
        self.steps: npt.NDArray[np.int64] = np.zeros(self.num_envs, np.int64)
        self.ended: npt.NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self.vector_steps = 0

    def _observation(self) -> dict[str, Any]:
        return {"camera_obs": {"front": np.stack([gray(int(step)) for step in self.steps])}}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        self.steps[mask] = 0
        self.ended[mask] = False
        return self._observation(), {}

    def step(self, actions: Any) -> Any:
        self.vector_steps += 1
        again = self.ended if self.mode is AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, np.bool_)
        self.steps = np.where(again, 0, self.steps + 1)
        self.ended = self.steps >= self.lengths
        info: dict[str, Any] = {}
        if self.mode is AutoresetMode.SAME_STEP and self.ended.any():
            shown = self._observation()["camera_obs"]["front"]
            final = np.full(self.num_envs, None, dtype=object)
            for slot in np.flatnonzero(self.ended):
                final[slot] = {"camera_obs": {"front": shown[slot]}}
            info["final_obs"] = final
            self.steps = np.where(self.ended, 0, self.steps)
        return self._observation(), np.zeros(self.num_envs), self.ended.copy(), np.zeros(self.num_envs, np.bool_), info

    def render(self) -> Any:
        return tuple(gray(int(step)) for step in self.steps) if self.frame_per_slot else gray(self.vector_steps)


def vector_env(kind: str, mode: AutoresetMode, lengths: tuple[int, ...] = (3, 2), **keywords: Any) -> Any:
    """A `SyncVectorEnv` or `AsyncVectorEnv` of `StepEnv`s."""
    fns = [lambda length=length: StepEnv(length, **keywords) for length in lengths]
    return (SyncVectorEnv if kind == "sync" else AsyncVectorEnv)(fns, autoreset_mode=mode)


def roll(env: Any, mode: AutoresetMode, num_steps: int, num_envs: int = 2) -> None:
    """Reset, then step; where the environment does not reset itself, reset the slots that ended."""
    env.reset(seed=0)
    for _ in range(num_steps):
        _, _, terminated, truncated, _ = env.step(np.zeros(num_envs, np.int64))
        ended = np.logical_or(terminated, truncated)
        if mode is AutoresetMode.DISABLED and ended.any():
            env.reset(seed=[None] * num_envs, options={"reset_mask": ended})


def run_episode(env: Any) -> None:
    """Reset a single environment and step it until the episode ends."""
    env.reset(seed=0)
    ended = False
    while not ended:
        _, _, terminated, truncated, _ = env.step(0)
        ended = terminated or truncated


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())
