"""A saved Stable-Baselines3 model as a policy."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arena_ray.errors import EntryPointError, nearest
from arena_ray.policies.base import PolicyContext, row

ALGORITHMS = ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")


class Sb3Policy:
    """Asks a Stable-Baselines3 model: on a CPU row by row, so that an answer does not depend on the other slots.

    On a GPU it asks for whole batches of one shape instead, unless it samples.

    Args:
        model: The model.
        normalize: Normalises observations with the statistics of training; ``None``: as they are.
        deterministic: Whether to take the mode of the action distribution instead of a sample.
        pad_batches: Whether to answer whole batches.
    """

    def __init__(self, model: Any, normalize: Any, deterministic: bool, pad_batches: bool = False) -> None:
        self._model = model
        self._normalize = normalize
        self._deterministic = deterministic
        self.pad_batches = pad_batches
        self._random_states: dict[int, Any] = {}

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> Any:
        """Return one action per row."""
        if self.pad_batches:
            return self._predict(observations, 0)
        predict = self._predict if self._deterministic else self._sample
        return np.stack([predict(row(observations, at), slot) for at, slot in enumerate(slots.tolist())])

    def _predict(self, observation: Any, slot: int) -> Any:
        if self._normalize is not None:
            observation = self._normalize.normalize_obs(observation)
        return self._model.predict(observation, deterministic=self._deterministic)[0]

    def _sample(self, observation: Any, slot: int) -> Any:
        """Predict with the slot's own state of torch's generator, so that slots do not share a stream."""
        import torch

        torch.set_rng_state(self._random_states[slot])
        action = self._predict(observation, slot)
        self._random_states[slot] = torch.get_rng_state()
        return action

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Seed the sampling of these slots."""
        if self._deterministic:
            return
        import torch

        for slot, seed in zip(slots.tolist(), seeds, strict=True):
            self._random_states[slot] = torch.Generator().manual_seed(seed).get_state()


def open_sb3(
    context: PolicyContext,
    path: str,
    algorithm: str | None = None,
    vec_normalize: str | None = None,
    deterministic: bool = True,
) -> Sb3Policy:
    """Build the policy of type ``sb3``.

    Args:
        context: Device.
        path: What ``model.save()`` wrote.
        algorithm: ``PPO``, ``SAC`` ...; ``None``: the first whose parameters fit.
        vec_normalize: What ``VecNormalize.save()`` wrote. It is a pickle: load only files that you trust.
        deterministic: As in ``model.predict``.

    Raises:
        EntryPointError: If Stable-Baselines3 is missing, a file is, or no algorithm fits.
    """
    try:
        stable_baselines3 = importlib.import_module("stable_baselines3")
    except ModuleNotFoundError as error:
        raise EntryPointError(
            "policy type 'sb3' needs Stable-Baselines3; run: pip install \"arena-ray[sb3]\""
        ) from error
    # Sampling is seeded per slot through the CPU's generator.
    device = context.device if deterministic else "cpu"
    model = _load_model(stable_baselines3, str(context.find(path)), algorithm, device)
    normalize = None if vec_normalize is None else _load_normalize(str(context.find(vec_normalize)))
    return Sb3Policy(model, normalize, deterministic, pad_batches=device != "cpu")


def _load_model(stable_baselines3: Any, path: str, algorithm: str | None, device: str) -> Any:
    if algorithm is not None:
        if algorithm.upper() not in ALGORITHMS:
            raise EntryPointError(f"there is no algorithm {algorithm!r}; {nearest(algorithm.upper(), ALGORITHMS)}")
        return getattr(stable_baselines3, algorithm.upper()).load(path, device=device)
    tried = []
    for name in ALGORITHMS:
        try:
            return getattr(stable_baselines3, name).load(path, device=device)
        except Exception as error:
            tried.append(f"{name}: {type(error).__name__}")
    raise EntryPointError(
        f"{path!r} fits none of Stable-Baselines3's algorithms ({'; '.join(tried)}); give 'algorithm'"
    )


def _load_normalize(path: str) -> Any:
    import pickle

    with open(path, "rb") as file:
        normalize = pickle.load(file)
    normalize.training = False
    return normalize
