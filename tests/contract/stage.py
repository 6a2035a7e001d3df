"""Environments and policies that write down what they were given."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]


def note(tape: str | None, what: str, **facts: Any) -> None:
    if tape is not None:
        with Path(tape).open("a") as file:
            file.write(json.dumps({"what": what, "pid": os.getpid(), **facts}) + "\n")


class Corridor(gymnasium.Env[Any, Any]):
    """Ends after `length` steps; does what its arguments say, and writes a tape.

    Args:
        length: Steps of an episode; ``0`` takes 1 to 9 from the seed.
        script: Info key -> its value at step 1, 2, ...; `None` leaves the key out.
        rewards: Reward at step 1, 2, ...; 1.0 after its end.
        poison: Seeds of the episodes in which `deed` happens at step 2.
        marker: A file; with it the deed happens only while the file does not exist.
        deaf: Ignores the seed of `reset`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        length: int = 3,
        tape: str | None = None,
        script: Mapping[str, Sequence[Any]] | None = None,
        rewards: Sequence[Any] = (),
        poison: Sequence[int] = (),
        deed: str = "raise",
        marker: str | None = None,
        step_s: float = 0.0,
        cameras: Sequence[str] = (),
        deaf: bool = False,
        height: int = 32,
    ) -> None:
        note(tape, "env", render_mode=render_mode, rewards=[str(reward) for reward in rewards])
        self.render_mode = render_mode
        self._length, self._tape, self._script, self._rewards = length, tape, script or {}, rewards
        self._poison, self._deed, self._marker, self._step_s = set(poison), deed, marker, step_s
        self._cameras, self._deaf, self._height = cameras, deaf, height
        box = gymnasium.spaces.Box(-10, 1000, (2,), np.float32)
        if cameras:
            frame = gymnasium.spaces.Box(0, 255, (height, 48, 3), np.uint8)
            views = gymnasium.spaces.Dict(dict.fromkeys(cameras, frame))
            self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Dict({"state": box, "camera_obs": views})
        else:
            self.observation_space = box
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        note(self._tape, "reset", seed=seed, kind=type(seed).__name__)
        super().reset(seed=self.__dict__.pop("told", None) if self._deaf else seed)
        self._seed, self._t = seed, 0
        self._mark = float(self.np_random.uniform())
        self._end = self._length or 1 + int(9 * self._mark)
        if self._deed == "raise-in-reset" and seed in self._poison:
            raise RuntimeError("poisoned reset")
        return self._observation(), {}

    def _observation(self) -> Any:
        state = np.array([self._t, self._mark], dtype=np.float32)
        return {"state": state, "camera_obs": dict.fromkeys(self._cameras, self._frame())} if self._cameras else state

    def _frame(self) -> Frame:
        return np.full((self._height, 48, 3), min(4 * self._t, 255), dtype=np.uint8)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        sample = float(self.action_space.sample()[0])
        action = np.asarray(action).tolist()
        note(self._tape, "step", seed=self._seed, t=self._t, action=action, sample=sample)
        time.sleep(self._step_s)
        if self._t == 2 and self._seed in self._poison:
            self._do_deed()
        reward = float(self._rewards[self._t - 1]) if self._t <= len(self._rewards) else 1.0
        scripted = {key: values[self._t - 1] for key, values in self._script.items() if self._t <= len(values)}
        info = {"mark": self._mark, **{key: _number(value) for key, value in scripted.items() if value is not None}}
        return self._observation(), reward, self._t >= self._end, False, info

    def _do_deed(self) -> None:
        if self._marker is not None:
            if Path(self._marker).exists():
                return
            Path(self._marker).touch()
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

    def close(self) -> None:
        note(self._tape, "close")


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def tell_seed(env: gymnasium.Env[Any, Any], seed: int) -> None:
    """The cure of a deaf corridor."""
    env.unwrapped.__dict__["told"] = seed


def corridor_without_render_mode(length: int, tape: str) -> Corridor:
    note(tape, "factory")
    return Corridor(length=length)


def corridor_from_anything(**given: Any) -> Corridor:
    note(given["tape"], "factory", given=sorted(given))
    return Corridor(length=2)


def broken_factory(**given: Any) -> Any:
    note(given.get("tape"), "factory")
    raise RuntimeError("the factory is on fire")


def factory_that_kills(deaths: str, times: int) -> Corridor:
    """Ends its process, as often as it is told to over all processes."""
    for number in range(times):
        try:
            Path(deaths, str(number)).mkdir()
        except FileExistsError:
            continue
        os._exit(5)
    return Corridor()


def slow_factory(**given: Any) -> Any:
    note(given.get("tape"), "factory")
    time.sleep(1000)


class Batched:
    """A batched policy that writes down every call."""

    def __init__(
        self,
        num_slots: int,
        tape: str | None = None,
        poison: Sequence[int] = (),
        language_instruction: str | None = None,
    ) -> None:
        note(tape, "policy", num_slots=num_slots, language_instruction=language_instruction)
        self._tape, self._poison = tape, set(poison)
        self._seeds: dict[int, int] = {}

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self._seeds.update(zip(map(int, slots), map(int, seeds), strict=True))
        note(self._tape, "policy-reset", slots=[int(slot) for slot in slots], seeds=[int(seed) for seed in seeds])

    def act(self, observations: npt.NDArray[np.float32], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        note(self._tape, "act", shape=list(observations.shape), slots=[int(slot) for slot in slots])
        if any(self._seeds[int(slot)] in self._poison for slot in slots):
            raise ValueError("the policy choked")
        return np.stack([np.full(2, 0.1 * int(slot), dtype=np.float32) for slot in slots])

    def close(self) -> None:
        note(self._tape, "policy-close")


def everything(
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
    num_slots: int,
    device: Any,
    language_instruction: str | None,
    tape: str,
    gain: float,
) -> Batched:
    note(
        tape,
        "given",
        observation_shape=list(observation_space.shape or ()),
        action_shape=list(action_space.shape or ()),
        num_slots=num_slots,
        device=str(device),
        language_instruction=language_instruction,
        gain=gain,
    )
    return Batched(num_slots)


def anything(**given: Any) -> Any:
    note(given["tape"], "given", names=sorted(given))
    return echo()


def echo() -> Any:
    """A plain callable: half of the observation's second number, twice."""

    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        assert observation.shape == (2,)
        return np.full(2, observation[1] / 2, dtype=np.float32)

    return act


class Stateful:
    """A stateful callable: counts its own steps, so that sharing one between slots would show."""

    def __init__(self, tape: str) -> None:
        note(tape, "policy")
        self._tape = tape

    def reset(self, seed: int) -> None:
        note(self._tape, "policy-reset", seed=int(seed))
        self._steps = 0

    def __call__(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        assert self._steps == int(observation[0])
        self._steps += 1
        return np.full(2, 0.01 * self._steps, dtype=np.float32)
