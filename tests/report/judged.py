"""A world in which the policy decides whether an episode succeeds, and how long it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.worlds import Walk


class Judged(Walk):
    """Succeeds where the action is larger than a number that the seed decides; then ends in half the time."""

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, cameras=("front",), frame_shape=(60, 80), **kwargs)

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        told = super().reset(**kwargs)
        self._bar = float(self.np_random.uniform(-1, 1))
        self._length = 20
        return told

    def step(self, action: npt.NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        good = bool(action[0] > self._bar)
        if good:
            self._length = 10
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": good}


class Level:
    """A policy that always does the same."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, observation: Any) -> npt.NDArray[np.float32]:
        return np.array([self.level], dtype=np.float32)
