"""From a job to its slots: by Gymnasium id or by factory, single or natively batched, recorded or not."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from arena_ray import devices, entry_points
from arena_ray.envs.base import Slots
from arena_ray.envs.child_vector_env import ChildVectorEnv
from arena_ray.envs.episode_slot import EpisodeSlot
from arena_ray.envs.native import NativeSlots
from arena_ray.envs.vectorized import VectorizedSlots
from arena_ray.errors import EntryPointError
from arena_ray.specs import EncoderName, EvalJob
from arena_ray.video import wrap_env_for_video

#: Gymnasium names the children of a vector environment so.
_CHILD_NAMES = tuple(f"Worker<{kind.__name__}>" for kind in (AsyncVectorEnv, ChildVectorEnv))


def open_slots(job: EvalJob, folder: Path, encoder: EncoderName = "auto") -> Slots:
    """Build a job's environments as slots.

    A factory that returns a batched environment (a `VectorEnv`, or Isaac Lab's `Env` with `num_envs`) brings its own
    slots; any other is built once per slot.

    Args:
        job: The job.
        folder: Where its videos go.
        encoder: What encodes them if the job leaves it open.

    Raises:
        EntryPointError: If the environment cannot be found, or what is built is not one.
    """
    job = _with_encoder(job, encoder)
    first = make_env(job)
    make = functools.partial(_reuse_first, [first], job)
    if is_batched(first):
        return NativeSlots(make, job, functools.partial(record, job=job, folder=folder))
    observation_space = first.observation_space
    spaces = None
    if job.vectorization == "async":
        spaces = (observation_space, first.action_space, first.metadata)
        first.close()
        make = functools.partial(make_env, job)
    factories = [functools.partial(make_slot, job, folder, slot, make, spaces) for slot in range(job.num_slots)]
    return VectorizedSlots(factories, job.vectorization, observation_space, job.slot_groups, job.video.enabled)


def _with_encoder(job: EvalJob, encoder: EncoderName) -> EvalJob:
    if job.video.encoder != "auto":
        return job
    return job.model_copy(update={"video": dataclasses.replace(job.video, encoder=encoder)})


class _SpacesOnly(gymnasium.Env[Any, Any]):
    """Stands in where `AsyncVectorEnv` builds an environment in the worker, only to ask for its spaces."""

    def __init__(self, observation_space: Any, action_space: Any, metadata: dict[str, Any]) -> None:
        self.observation_space, self.action_space, self.metadata = observation_space, action_space, metadata


def make_slot(
    job: EvalJob, folder: Path, slot: int, make: Any, spaces: tuple[Any, Any, dict[str, Any]] | None = None
) -> gymnasium.Env[Any, Any]:
    """Build one slot, in the process that steps it.

    Args:
        job: The job.
        folder: Where its videos go.
        slot: Index of the slot.
        make: Builds the environment.
        spaces: Spaces and metadata of slots in child processes; ``None``: slots are stepped in this process.
    """
    if spaces is not None:
        if not multiprocessing.current_process().name.startswith(_CHILD_NAMES):
            return _SpacesOnly(*spaces)
        devices.follow_parent()
    hook = None if job.env.seed_hook is None else entry_points.resolve(job.env.seed_hook)
    return EpisodeSlot(
        make, functools.partial(record, job=job, folder=folder, slot=slot), slot, job.success, job.metrics, hook
    )


def record(env: Any, *, job: EvalJob, folder: Path, slot: int = 0) -> Any:
    """Wrap an environment in the recorders that the job asks for."""
    cfg = dataclasses.replace(job.video, video_base_dir=str(folder))
    return wrap_env_for_video(env, cfg, job.num_steps, job.num_episodes, slot=slot, success_key=job.success.key)


def make_env(job: EvalJob) -> Any:
    """Build one environment.

    Raises:
        EntryPointError: If it cannot be found, or what is built is not an environment.
    """
    env = _make_by_id(job) if job.env.id is not None else _make_by_factory(job)
    if not isinstance(env, (gymnasium.Env, VectorEnv)):
        raise EntryPointError(
            f"job {job.name!r}: {job.env.id or job.env.entry_point} gave {type(env).__name__}, which is neither a "
            "gymnasium.Env nor a gymnasium.vector.VectorEnv; return one of them"
        )
    return env


def is_batched(env: Any) -> bool:
    """Return whether an environment steps several sub-environments at once (Isaac Lab's are `Env` with `num_envs`)."""
    return isinstance(env, VectorEnv) or getattr(env.unwrapped, "num_envs", None) is not None


def _make_by_id(job: EvalJob) -> Any:
    assert job.env.id is not None
    kwargs = dict(job.env.kwargs)
    if job.video.render_mode is not None:
        kwargs.setdefault("render_mode", job.video.render_mode)
    try:
        return gymnasium.make(job.env.id, disable_env_checker=True, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        raise EntryPointError(
            f"job {job.name!r}: Gymnasium knows no environment {job.env.id!r} ({error}); if a package registers it, "
            "write 'package:Name-v0'"
        ) from error


def _make_by_factory(job: EvalJob) -> Any:
    assert job.env.entry_point is not None
    offered: dict[str, Any] = {"num_envs": job.num_slots} if job.num_slots > 1 else {}
    if job.video.render_mode is not None:
        offered["render_mode"] = job.video.render_mode
    names, _ = entry_points.named_parameters(entry_points.resolve(job.env.entry_point))
    offered |= devices.env_offers(names)
    return entry_points.call_factory(job.env.entry_point, job.env.kwargs, offered)


def _reuse_first(ready: list[Any], job: EvalJob) -> Any:
    """Return the environment that was built to look at, then new ones."""
    return ready.pop() if ready else make_env(job)
