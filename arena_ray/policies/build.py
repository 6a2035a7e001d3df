"""From a job to its policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arena_ray import entry_points
from arena_ray.errors import EntryPointError
from arena_ray.policies.base import Policy, PolicyContext
from arena_ray.policies.callables import CallablePolicy
from arena_ray.policies.random import RandomPolicy
from arena_ray.policies.sb3 import open_sb3
from arena_ray.policies.torch_policy import open_torch
from arena_ray.policies.zero import ZeroPolicy
from arena_ray.specs import EvalJob

_BUILT_IN: dict[str, Callable[..., Any]] = {
    "zero": lambda context: ZeroPolicy(context.action_space),
    "random": lambda context: RandomPolicy(context.action_space, context.num_slots),
    "torch": open_torch,
    "sb3": open_sb3,
}


def open_policy(job: EvalJob, context: PolicyContext, *, one_copy: bool = False) -> Policy:
    """Build a job's policy; what it lacks of `reset` and `close` is filled in.

    Args:
        job: The job.
        context: What its factory is offered.
        one_copy: Whether a callable with a `reset` is only built for slot 0.

    Raises:
        EntryPointError: If it cannot be found, or what is built is not a policy.
    """
    build = _builder(job, context)
    built = build()
    if hasattr(built, "act"):
        return _Complete(built)
    if not callable(built):
        raise EntryPointError(
            f"job {job.name!r}: policy {_name(job)} gave {type(built).__name__}, which has no act(observations, slots) "
            "and cannot be called as observation -> action; return one of them"
        )
    others = [build() for _ in range(context.num_slots - 1)] if hasattr(built, "reset") and not one_copy else []
    return CallablePolicy([built, *others], context.action_space, context.observation_space)


def _builder(job: EvalJob, context: PolicyContext) -> Callable[[], Any]:
    if job.policy.type is not None:
        return lambda: _call_built_in(job, context)
    offered = {
        "observation_space": context.observation_space,
        "action_space": context.action_space,
        "num_slots": context.num_slots,
        "device": context.device,
        "language_instruction": context.language_instruction,
    }
    return lambda: entry_points.call_factory(str(job.policy.entry_point), job.policy.kwargs, offered)


def _call_built_in(job: EvalJob, context: PolicyContext) -> Any:
    try:
        return _BUILT_IN[str(job.policy.type)](context, **job.policy.kwargs)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise EntryPointError(f"job {job.name!r}: policy type {job.policy.type!r}: {error}; see the README") from error


def _name(job: EvalJob) -> str:
    return repr(job.policy.type or job.policy.entry_point)


class _Complete:
    """A policy with the optional methods filled in."""

    def __init__(self, policy: Any) -> None:
        self.act = policy.act
        self.reset = getattr(policy, "reset", _nothing)
        self.close = getattr(policy, "close", _nothing)
        self.pad_batches = getattr(policy, "pad_batches", True)


def _nothing(*_: Any) -> None:
    """Stand in for an optional method."""
