"""The policy that samples the action space."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from arena_ray.policies.base import stack_actions


class RandomPolicy:
    """Samples the action space uniformly, seeded per episode: what it does in an episode depends on that seed alone.

    Args:
        action_space: Of one slot.
        num_slots: Slots of the worker.
    """

    pad_batches = False

    def __init__(self, action_space: gymnasium.Space[Any], num_slots: int) -> None:
        self._action_space = action_space
        self._spaces = [copy.deepcopy(action_space) for _ in range(num_slots)]

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> Any:
        """Return one sample per slot."""
        return stack_actions([self._spaces[slot].sample() for slot in slots.tolist()], self._action_space)

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Seed the samples of these slots."""
        for slot, seed in zip(slots.tolist(), seeds, strict=True):
            self._spaces[slot].seed(seed)
