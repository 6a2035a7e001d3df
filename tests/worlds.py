"""Environments and policies that the tests name as entry points."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from arena_ray.chunking import episode_seed


class Walk(gymnasium.Env[dict[str, Any], npt.NDArray[np.float32]]):
    """Everything that happens in an episode follows from its seed and the actions.

    Lengths are heavy-tailed. A frame is gray at ``4 * step``, so that a decoded video tells which steps it shows.

    Args:
        poison: Episodes of job seed 0 in which something happens at step `poison_step`.
        deed: What happens: ``raise``, ``exit``, ``kill``, ``hang``, or ``reset`` (raise at reset).
        marker: A folder; with it the deed is done once only.
        frame_shape: Height and width of frames.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium has it

    def __init__(
        self,
        render_mode: str | None = None,
        max_length: int = 40,
        cameras: Sequence[str] = (),
        poison: Sequence[int] = (),
        deed: str = "raise",
        poison_step: int = 1,
        step_s: float = 0.0,
        marker: str | None = None,
        frame_shape: Sequence[int] = (32, 48),
    ) -> None:
        self.render_mode = render_mode
        self._frame_shape = (*frame_shape, 3)
        spaces: dict[str, gymnasium.Space[Any]] = {"state": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)}
        if cameras:
            frame = gymnasium.spaces.Box(0, 255, self._frame_shape, np.uint8)
            spaces["camera_obs"] = gymnasium.spaces.Dict(dict.fromkeys(cameras, frame))
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self._cameras = cameras
        self._max_length = max_length
        self._poison = {episode_seed(0, episode) for episode in poison}
        self._deed, self._poison_step, self._marker = deed, poison_step, marker
        self._step_s = step_s
        self._poisoned = False
        self._t = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        self._length = min(1 + int(3 * self.np_random.pareto(0.8)), self._max_length)
        self._energy = 0.0
        self._poisoned = seed in self._poison
        if self._poisoned and self._deed == "reset":
            raise RuntimeError("poisoned reset")
        return self._observation(), {}

    def _observation(self) -> dict[str, Any]:
        state = np.array([self._t, self.np_random.normal()], dtype=np.float32)
        frames = {"camera_obs": {name: self._frame() for name in self._cameras}} if self._cameras else {}
        return {"state": state, **frames}

    def _frame(self) -> npt.NDArray[np.uint8]:
        return np.full(self._frame_shape, min(4 * self._t, 255), dtype=np.uint8)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._t += 1
        time.sleep(self._step_s)
        if self._poisoned and self._t == self._poison_step:
            self._do_deed()
        reward = float(self.np_random.normal() + action[0])
        self._energy += abs(float(action[0]))
        done = self._t >= self._length
        info = {
            "is_success": bool(done and self._length % 2),
            "distance": float(self._length - self._t),
            "energy": reward,
        }
        return (
            self._observation(),
            reward,
            done and self._length < self._max_length,
            done and self._length >= self._max_length,
            info,
        )

    def _do_deed(self) -> None:
        if self._marker is not None:
            done_before = os.path.join(self._marker, "done")
            if os.path.exists(done_before):
                return
            with open(done_before, "w"):
                pass
        if self._deed == "raise":
            raise RuntimeError("poisoned step")
        if self._deed == "exit":
            os._exit(3)
        if self._deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._deed == "hang":
            time.sleep(1000)

    def render(self) -> Any:
        return self._frame()


class Leisurely(Walk):
    """Takes its time for each step, until there is a file that says that it is enough.

    Args:
        hurry: The file.
    """

    def __init__(self, hurry: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hurry = hurry

    def step(self, action: npt.NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if not os.path.exists(self._hurry):
            time.sleep(0.2)
        return super().step(action)


class Unseeded(Walk):
    """Ignores `reset(seed)`, as Meta-World does."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return super().reset(seed=self.__dict__.pop("forced_seed", None))


class Weathered(Walk):
    """Not reproducible: every reward of the episodes `touchy` of job seed 0 is higher by what stands in a file."""

    def __init__(self, weather: str, touchy: Sequence[int] = (), render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, **kwargs)
        self._weather = weather
        self._touchy = {episode_seed(0, episode) for episode in touchy}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        with open(self._weather) as file:
            self._bonus = float(file.read()) if seed in self._touchy else 0.0
        return super().reset(seed=seed)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + self._bonus, terminated, truncated, info


class Toss(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """One step; it succeeds where the luck of the seed, uniform in [0, 1), is less than the action.

    Args:
        poison: Episodes of job seed 0 whose step raises.
        untold: Episodes of job seed 0 that do not say whether they succeeded.
        step_s: How long the step takes, seconds.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium has it

    def __init__(
        self,
        render_mode: str | None = None,
        poison: Sequence[int] = (),
        untold: Sequence[int] = (),
        step_s: float = 0.0,
    ) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self._poison = {episode_seed(0, episode) for episode in poison}
        self._untold = {episode_seed(0, episode) for episode in untold}
        self._step_s = step_s

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._seed = seed
        self._luck = float(self.np_random.uniform())
        return np.zeros(1, np.float32), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        time.sleep(self._step_s)
        if self._seed in self._poison:
            raise RuntimeError("poisoned toss")
        info = {} if self._seed in self._untold else {"is_success": self._luck < float(action[0])}
        return np.zeros(1, np.float32), float(action[0]), True, False, info

    def render(self) -> Any:
        return np.full((32, 48, 3), int(255 * self._luck), np.uint8)


class Skilled:
    """A policy whose success rate in `Toss` is its skill."""

    def __init__(self, skill: float) -> None:
        self.skill = skill

    def act(self, observations: npt.NDArray[np.float32], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.full((len(slots), 1), self.skill, np.float32)


def toss_job(name: str = "toss", skill: float = 0.8, **changes: Any) -> dict[str, Any]:
    """A job of a job file that succeeds as often as `skill` says."""
    return {
        "name": name,
        "env": {"entry_point": "tests.worlds:Toss", "kwargs": changes.pop("env_kwargs", {})},
        "policy": {"entry_point": "tests.worlds:Skilled", "kwargs": {"skill": skill}},
        "num_episodes": 400,
        **changes,
    }


def seed_unseeded(env: gymnasium.Env[Any, Any], seed: int) -> None:
    """The cure: a seed hook."""
    env.unwrapped.__dict__["forced_seed"] = seed


def make_walk(**kwargs: Any) -> Walk:
    return Walk(**kwargs)


def make_vector_walk(num_slots: int = 3, mode: str = "SameStep", **kwargs: Any) -> VectorEnv:
    """A natively batched environment, for our purposes."""
    return SyncVectorEnv([lambda: Walk(**kwargs) for _ in range(num_slots)], autoreset_mode=AutoresetMode(mode))


class Leaner:
    """A batched policy with state per slot: leans on its seed, and counts its steps."""

    def __init__(self, num_slots: int, fail_on: float | None = None, gain: float = 0.5) -> None:
        self.steps = np.zeros(num_slots)
        self.lean = np.zeros(num_slots)
        self.gain = gain

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self.steps[slots] = 0
        self.lean[slots] = [np.random.default_rng(seed).uniform(-0.5, 0.5) for seed in seeds]

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        self.steps[slots] += 1
        wave: npt.NDArray[np.float64] = np.tanh(
            self.gain * observations["state"][:, 1] + self.lean[slots] + 0.1 * self.steps[slots]
        )
        return wave[:, None]


class Choker:
    """A batched policy that raises when a slot's episode is a poisoned one."""

    def __init__(self, num_slots: int, poison: Sequence[int]) -> None:
        self.poison = {episode_seed(0, episode) for episode in poison}
        self.seeds = [0] * num_slots

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        for slot, seed in zip(slots.tolist(), seeds, strict=True):
            self.seeds[slot] = seed

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if any(self.seeds[slot] in self.poison for slot in slots.tolist()):
            raise ValueError("the policy choked")
        return np.zeros((len(slots), 1), dtype=np.float32)


class Follower:
    """A stateful callable: one per slot."""

    def __init__(self, language_instruction: str | None = None) -> None:
        self.level = 0.1 * len(language_instruction or "")

    def reset(self, seed: int) -> None:
        self.seen = 0

    def __call__(self, observation: dict[str, Any]) -> npt.NDArray[np.float32]:
        self.seen += 1
        return np.array([np.clip(self.level + 0.01 * self.seen, -1, 1)], dtype=np.float32)


def raise_while_building(**_: Any) -> Any:
    raise RuntimeError("this factory always raises")


def die_while_building(**_: Any) -> Any:
    os._exit(7)


def hang_while_building(**_: Any) -> Any:
    time.sleep(1000)


NOT_CALLABLE = 3


def walk_job(name: str = "walk", **changes: Any) -> dict[str, Any]:
    """A job of a job file."""
    return {
        "name": name,
        "env": {"entry_point": "tests.worlds:Walk", "kwargs": changes.pop("env_kwargs", {})},
        "policy": {"entry_point": "tests.worlds:Leaner"},
        "num_episodes": 8,
        **changes,
    }
