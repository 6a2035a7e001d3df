"""Plain callables ``observation -> action`` as policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from arena_ray.policies.base import row, stack_actions


class CallablePolicy:
    """Calls a function slot by slot; one that has ``reset(seed)`` is stateful, and each slot has its own.

    Args:
        functions: One per slot, or one that serves all slots because it keeps no state.
        action_space: Of one slot.
        observation_space: Of one slot.
    """

    pad_batches = False

    def __init__(
        self,
        functions: Sequence[Callable[[Any], Any]],
        action_space: gymnasium.Space[Any],
        observation_space: gymnasium.Space[Any],
    ) -> None:
        self._functions = list(functions)
        self._action_space, self._observation_space = action_space, observation_space

    def _of(self, slot: int) -> Any:
        return self._functions[slot if len(self._functions) > 1 else 0]

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> Any:
        """Call the function of each slot."""
        rows = (row(observations, at, self._observation_space) for at in range(len(slots)))
        actions = [self._of(slot)(one) for slot, one in zip(slots.tolist(), rows, strict=True)]
        return stack_actions(actions, self._action_space)

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Reset the functions that have a ``reset``."""
        for slot, seed in zip(slots.tolist(), seeds, strict=True):
            if hasattr(self._of(slot), "reset"):
                self._of(slot).reset(seed)

    def close(self) -> None:
        """Close the functions that have a ``close``."""
        for function in self._functions:
            if hasattr(function, "close"):
                function.close()
