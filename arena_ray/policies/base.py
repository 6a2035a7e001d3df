"""What the rollout sees of a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from arena_ray.errors import EntryPointError


class Policy(Protocol):
    """Answers observations with actions, batched over slots.

    An implementation needs `act` alone; `reset` and `close` are called where they exist.

    Batches have one shape: beside the slots whose episodes wait for an action, `act` is asked for slots of the same
    group that rest. They are shown the observation of the first slot that waits, and what it answers for them is
    passed over. A slot that has had no episode yet is `reset` with seed 0 before. A policy whose rows do not depend on
    each other's number says so with ``pad_batches = False``, and is only asked for slots that wait.
    """

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> Any:
        """Return one action per row.

        Args:
            observations: The observations of these slots, stacked: ``[k, ...]``, or a dict or tuple of such arrays.
            slots: ``int64[k]``, ascending; index per-slot state with it.

        Returns:
            ``[k, ...]`` actions: NumPy or torch.
        """
        ...

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        """Be told that these slots are about to begin an episode with these seeds."""
        ...

    def close(self) -> None:
        """Release what the policy holds."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """What a policy factory is offered; it gets those that its signature names.

    Attributes:
        observation_space: Of one slot.
        action_space: Of one slot.
        num_slots: Slots of the worker.
        device: ``cpu`` or ``cuda:N``, as torch names it, within what the worker may see.
        language_instruction: The job's instruction, or ``None``.
        folders: Where relative paths of files are looked for, in this order.
        batch_rows: Rows of a full batch: the slots of a group.
    """

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    num_slots: int
    device: str
    language_instruction: str | None
    folders: tuple[str, ...] = ("",)
    batch_rows: int = 1

    def find(self, path: str) -> Path:
        """Return a file, looked for in `folders` if the path is relative.

        Raises:
            EntryPointError: If there is no such file.
        """
        for folder in self.folders:
            if Path(folder, path).is_file():
                return Path(folder, path)
        searched = ", ".join(repr(str(Path(folder).absolute())) for folder in self.folders)
        raise EntryPointError(f"there is no file {path!r} in {searched}; give its path as the worker sees it")


def row(batch: Any, index: int, space: gymnasium.Space[Any] | None = None) -> Any:
    """Return one row of a batch of observations.

    Args:
        batch: The observations.
        index: Which row.
        space: Of one row: a batch of a space without arrays (`Text`) is a tuple as that of a `Tuple` is, but of rows.
    """
    if isinstance(batch, dict):
        spaces = space if isinstance(space, gymnasium.spaces.Dict) else {}
        return {key: row(part, index, spaces.get(key)) for key, part in batch.items()}
    if isinstance(batch, tuple) and isinstance(space, gymnasium.spaces.Tuple | None):
        parts = [None] * len(batch) if space is None else space.spaces
        return tuple(row(part, index, one) for part, one in zip(batch, parts, strict=True))
    return batch[index]


def stack_actions(actions: Sequence[Any], space: gymnasium.Space[Any]) -> Any:
    """Return single actions of `space` as one batch, ``[k, ...]``."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: stack_actions([action[key] for action in actions], part) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(stack_actions([action[at] for action in actions], part) for at, part in enumerate(space.spaces))
    if space.shape is None:
        return tuple(actions)
    arrays = [action.detach().cpu().numpy() if hasattr(action, "detach") else np.asarray(action) for action in actions]
    return np.stack([array.reshape(space.shape) if array.size == np.prod(space.shape) else array for array in arrays])
