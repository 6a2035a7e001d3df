"""Reads from an environment how many slots it has, which of them a call resets, and which episodes ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from arena_ray.video.frames import to_numpy

_DEFAULT_FPS = 30.0


def declared_num_slots(env: Any) -> int | None:
    """Return the number of sub-environments; ``None`` for an environment that has no such number.

    An Isaac Lab environment is a `gymnasium.Env` with ``unwrapped.num_envs``, and batched even if that is 1.
    """
    owner = env if isinstance(env, VectorEnv) else env.unwrapped
    number = getattr(owner, "num_envs", None)
    return int(number) if isinstance(number, (int, np.integer)) and number > 0 else None


def frames_per_second(env: Any, fps: float | None) -> float:
    """Return `fps`, else the environment's ``render_fps``, else 30."""
    found = fps or (env.metadata or {}).get("render_fps")
    return float(found) if isinstance(found, (int, float, np.number)) and found > 0 else _DEFAULT_FPS


def autoreset_mode(env: Any, terminated: Any) -> AutoresetMode:
    """Return when the environment resets a slot whose episode ended.

    ``metadata["autoreset_mode"]`` says it. Where that is missing: a `VectorEnv` resets in the next step (Gymnasium's
    default), and so does an `Env` in Gymnasium's `Autoreset` wrapper; an Isaac Lab environment, which gives an array
    of dones, resets in the same step; any other `Env` never.
    """
    declared = (env.metadata or {}).get("autoreset_mode")
    if declared is not None:
        return AutoresetMode(declared)
    if isinstance(env, VectorEnv) or _in_autoreset_wrapper(env):
        return AutoresetMode.NEXT_STEP
    return AutoresetMode.SAME_STEP if getattr(terminated, "ndim", 0) else AutoresetMode.DISABLED


def _in_autoreset_wrapper(env: Any) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.Autoreset):
            return True
        env = env.env
    return False


def done_flags(terminated: Any, truncated: Any) -> npt.NDArray[np.bool_] | tuple[bool]:
    """Return which slots' episodes ended, ``bool[N]``; one flag for a single environment."""
    if isinstance(terminated, (bool, np.bool_)) and isinstance(truncated, (bool, np.bool_)):
        return (bool(terminated or truncated),)
    if hasattr(terminated, "logical_or"):  # Tensors: one copy from the device instead of two.
        done = to_numpy(terminated.logical_or(truncated))
    else:
        done = np.logical_or(to_numpy(terminated), to_numpy(truncated))
    return np.atleast_1d(done).astype(np.bool_)


def chosen_slots(options: Any, keywords: Mapping[str, Any]) -> frozenset[int] | None:
    """Return the slots that ``reset(options=options, **keywords)`` resets; ``None`` for all.

    To be called before the reset: Gymnasium takes ``reset_mask`` out of the options. ``options["env_idx"]`` is
    ManiSkill's way to say it, ``env_ids`` Isaac Lab's.
    """
    options = options if isinstance(options, Mapping) else {}
    if options.get("reset_mask") is not None:
        return frozenset(np.flatnonzero(to_numpy(options["reset_mask"])).tolist())
    indices = keywords.get("env_ids")
    indices = options.get("env_idx") if indices is None else indices
    if indices is None:
        return None
    return frozenset(np.atleast_1d(to_numpy(indices)).astype(int).reshape(-1).tolist())
