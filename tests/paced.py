"""Environments and a policy that take known times, so that it is known where the time of a run must have gone."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv


class Paced(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Each call takes a known time; an episode has `length` steps.

    Args:
        length: Steps of an episode.
        step_s: What `step` takes, seconds.
        reset_s: What `reset` takes, seconds.
        render_s: What `render` takes, seconds.
        fail_at: Step at which every episode raises.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium has it
    observation_space = gymnasium.spaces.Box(0, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(
        self,
        render_mode: str | None = None,
        length: int = 10,
        step_s: float = 0.0,
        reset_s: float = 0.0,
        render_s: float = 0.0,
        fail_at: int | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._length, self._fail_at = length, fail_at
        self._step_s, self._reset_s, self._render_s = step_s, reset_s, render_s
        self._t = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        _sleep(self._reset_s)
        self._t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        _sleep(self._step_s)
        self._t += 1
        if self._t == self._fail_at:
            raise RuntimeError("as asked")
        return np.full(1, self._t, np.float32), 1.0, self._t >= self._length, False, {}

    def render(self) -> Any:
        _sleep(self._render_s)
        return np.full((32, 32, 3), self._t, np.uint8)


def make_vector(
    render_mode: str | None = None, num_slots: int = 2, mode: str = "SameStep", parallel: bool = False, **kwargs: Any
) -> VectorEnv:
    """A natively batched environment, for our purposes."""
    factories = [lambda: Paced(render_mode, **kwargs) for _ in range(num_slots)]
    if parallel:
        return AsyncVectorEnv(factories, autoreset_mode=AutoresetMode(mode), context="forkserver")
    return SyncVectorEnv(factories, autoreset_mode=AutoresetMode(mode))


class Pensive:
    """A batched policy; each answer takes `act_s` seconds."""

    def __init__(self, act_s: float = 0.0) -> None:
        self._act_s = act_s

    def act(self, observations: npt.NDArray[np.float32], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        _sleep(self._act_s)
        return np.zeros(len(slots), dtype=np.int64)


def _sleep(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


def paced_job(name: str = "paced", act_s: float = 0.0, env: str = "Paced", **changes: Any) -> dict[str, Any]:
    """A job of a job file; `env_kwargs` are those of the environment."""
    return {
        "name": name,
        "env": {"entry_point": f"tests.paced:{env}", "kwargs": changes.pop("env_kwargs", {})},
        "policy": {"entry_point": "tests.paced:Pensive", "kwargs": {"act_s": act_s}},
        "num_episodes": 4,
        **changes,
    }
