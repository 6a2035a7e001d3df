"""Environments and policies that the benchmarks run: real work of a known size."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

WORKLOADS = "tests.benchmarks.workloads:"


class Working(gymnasium.Env[Any, Any]):
    """Computes (or sleeps) for a known time a step, in episodes of a fixed or heavy-tailed length.

    Args:
        step_s: Time of a step, seconds.
        mean_length: Mean length of episodes.
        heavy_tail: Whether lengths are drawn from a log-normal distribution (sigma 1.2) by the seed, or all equal.
        sleeps: Whether a step sleeps instead of computing.
        pixels: Side of the image that it observes; 0: four numbers.
    """

    action_space = gymnasium.spaces.Discrete(4)

    def __init__(
        self,
        step_s: float,
        mean_length: int = 50,
        heavy_tail: bool = False,
        sleeps: bool = False,
        pixels: int = 0,
    ) -> None:
        self._step_s, self._mean, self._heavy_tail, self._sleeps = step_s, mean_length, heavy_tail, sleeps
        shape, dtype = ((pixels, pixels, 3), np.uint8) if pixels else ((4,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, dtype)
        self._observation = np.zeros(shape, dtype)
        self._left = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        length: float = self._mean
        if self._heavy_tail:
            length = self.np_random.lognormal(np.log(self._mean) - 1.2**2 / 2, 1.2)
        self._left = max(1, int(length))
        self._observation[...] = self.np_random.integers(0, 255, self._observation.shape)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._step_s == 0:
            pass
        elif self._sleeps:
            time.sleep(self._step_s)
        else:
            end = time.thread_time() + self._step_s
            while time.thread_time() < end:
                self._observation.sum()
        self._observation.flat[0] = (int(self._observation.flat[0]) + int(action) + 1) % 256
        self._left -= 1
        return self._observation, float(action), self._left <= 0, False, {}


class Balance:
    """Keeps CartPole's pole up, for 500 steps an episode, at the cost of three products."""

    def act(self, observations: npt.NDArray[np.float32], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        lean = observations[:, 2] + 0.5 * observations[:, 3] + 0.05 * observations[:, 1]
        return np.asarray(lean > 0, dtype=np.int64)


class Timed:
    """Answers at once, or after a fixed and a per-row time, as a remote or a batched policy does."""

    def __init__(self, call_s: float = 0.0, row_s: float = 0.0) -> None:
        self._call_s, self._row_s = call_s, row_s

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self._call_s or self._row_s:
            time.sleep(self._call_s + self._row_s * len(slots))
        return np.zeros(len(slots), dtype=np.int64)


def vit_b(num_actions: int = 4, patch: int = 8) -> Any:
    """Return a module of the size of ViT-B/16 (12 layers, width 768, 86 M parameters) in bf16, of fixed weights.

    A 112x112 image in patches of 8 gives the 196 tokens of a 224x224 image in patches of 16.
    """
    import torch
    from torch import nn

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 768, patch, patch)
            layer = nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
            self.head = nn.Linear(768, num_actions)
            self.bfloat16()

        def forward(self, images: Any) -> Any:
            pixels = images.permute(0, 3, 1, 2).to(torch.bfloat16) / 255
            tokens = self.patches(pixels).flatten(2).transpose(1, 2)
            return self.head(self.layers(tokens).mean(dim=1)).float()

    torch.manual_seed(0)
    return ViT()


class OneCallEach:
    """The ViT asked once per environment, as harnesses with one policy per environment do."""

    def __init__(self, device: str) -> None:
        self._device, self._module = device, vit_b().to(device).eval()

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        import torch

        with torch.inference_mode():
            rows = [torch.as_tensor(observations[at : at + 1]).to(self._device) for at in range(len(slots))]
            return np.concatenate([self._module(row).argmax(1).cpu().numpy() for row in rows])


def camera_cheetah(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Return MuJoCo's HalfCheetah with what `render()` shows, 640x480, as a camera of its observation."""
    env = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array", width=640, height=480, **kwargs)

    class WithCamera(gymnasium.Wrapper[Any, Any, Any, Any]):
        def __init__(self) -> None:
            super().__init__(env)
            image = gymnasium.spaces.Box(0, 255, (480, 640, 3), np.uint8)
            cameras = gymnasium.spaces.Dict({"track": image})
            spaces = {"state": env.observation_space, "camera_obs": cameras}
            self.observation_space = gymnasium.spaces.Dict(spaces)

        def _seen(self, state: Any) -> dict[str, Any]:
            return {"state": state, "camera_obs": {"track": self.env.render()}}

        def reset(self, **keywords: Any) -> tuple[Any, dict[str, Any]]:
            state, info = self.env.reset(**keywords)
            return self._seen(state), info

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            state, reward, terminated, truncated, info = self.env.step(action)
            return self._seen(state), reward, terminated, truncated, info

    return WithCamera()


def median_s(call: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of a call, seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))
