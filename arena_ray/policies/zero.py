"""The policy that does nothing."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector.utils import create_empty_array


class ZeroPolicy:
    """Answers with zeros, clipped into the bounds of a `Box` (IsaacLab-Arena's ``zero_action``).

    Args:
        action_space: Of one slot.
    """

    pad_batches = False

    def __init__(self, action_space: gymnasium.Space[Any]) -> None:
        self._action_space = action_space

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> Any:
        """Return zeros, one row per slot; of a `Discrete` space its first element."""
        return _lowest_legal(self._action_space, len(slots))


def _lowest_legal(space: gymnasium.Space[Any], rows: int) -> Any:
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _lowest_legal(part, rows) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_lowest_legal(part, rows) for part in space.spaces)
    zeros = create_empty_array(space, n=rows, fn=np.zeros)
    if isinstance(space, gymnasium.spaces.Box):
        return np.clip(np.asarray(zeros), space.low, space.high)
    if isinstance(space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)):
        return zeros + space.start
    return zeros
