"""What bounds the speed of a job, in words: which part of the time is the largest, and what follows from it.

It says only what the figures support. That a GPU is busy means that some kernel runs on it (NVML), not that it is full:
a ViT-B on an H100 takes 2.1 to 2.4 ms for 1 observation as for 15. So nothing is said of larger batches unless those
that were measured are large already, or the GPU is idle.
"""

from __future__ import annotations

from arena_ray.results.usage import JobUsage
from arena_ray.specs import EvalJob

#: Runs of less wall time, seconds, spend most of it on things that happen once.
MIN_WALL_S = 5.0

#: A part bounds the job if it takes more than this share of the time.
BOUND = 0.5

#: Shares below are not named.
NAMED = 0.02

#: A GPU is at its limit above, and idle below these shares of the time.
GPU_BUSY, GPU_IDLE = 0.9, 0.5

#: From so many observations per call on, larger batches gain little (ViT-B on an H100: 3 % from 64 to 256).
LARGE_BATCH = 64

_WHERE = {
    "environment": "in the environment",
    "policy": "in act()",
    "recording": "for video",
    "waiting": "waiting for the driver or for episodes",
    "other": "in arena_ray itself",
}

_BOUND_BY = {"other": "overhead"}

_WITH_CORES = "would help where cores are free"


def bottleneck(usage: JobUsage, job: EvalJob) -> str | None:
    """Return a line that says what bounds a job's speed; ``None`` where it ran too short to tell.

    Args:
        usage: Where its time went.
        job: The job.
    """
    if usage.wall_s < MIN_WALL_S:
        return None
    shares = {part: share or 0.0 for part, share in usage.shares.items()}
    parts = sorted(shares, key=lambda part: -shares[part])
    named = [f"{_percent(shares[part])} {_WHERE[part]}" for part in parts if shares[part] >= NAMED]
    named[0] = named[0].replace(" % ", " % of the time ", 1)
    figures = ", ".join(named)
    largest = parts[0]
    if shares[largest] <= BOUND:
        return f"balanced: {figures}"
    follows = {
        "environment": _environment,
        "policy": _policy,
        "recording": lambda *_: "fewer videos (video.record) or smaller ones (video.max_resolution) would help",
        "waiting": lambda *_: "environment and policy are not what bounds it",
        "other": lambda *_: f"{1e6 * usage.other_s / max(1, usage.steps):.0f} µs per step",
    }[largest](usage, job)
    return "; ".join(filter(None, [f"{_BOUND_BY.get(largest, largest)}-bound: {figures}", follows]))


def _policy(usage: JobUsage, job: EvalJob) -> str:
    busy, batch = usage.gpu_utilization, usage.batch
    if busy is None or batch is None:
        return ""  # On a CPU nobody has measured whether larger batches help.
    at = f"the GPU {_percent(busy)} busy at {_number(batch)} per call"
    if busy >= GPU_BUSY and batch >= LARGE_BATCH:
        return f"{at}; a larger batch would hardly help"
    if busy >= GPU_BUSY:
        return f"{at}; whether a larger batch helps, only a trial with more slots (num_envs) can tell"
    if busy >= GPU_IDLE:
        return at
    if batch >= LARGE_BATCH:
        return f"{at}; act() spends its time elsewhere than on the GPU"
    condition = "" if job.policy.type in ("torch", "sb3") else " if act() answers them at once"
    return f"{at}; more slots (num_envs) would help{condition}"


def _environment(usage: JobUsage, job: EvalJob) -> str:
    busy = usage.gpu_utilization
    if busy is not None and busy >= GPU_BUSY:
        return f"the GPU {_percent(busy)} busy; more workers on it would hardly help"
    slots = f"{usage.slots} slot{'s' if usage.slots > 1 else ''}"
    if job.needs_tuning:
        return f"{slots}, as measuring chose; more workers or num_cpus {_WITH_CORES}"
    if usage.slots != job.num_slots:
        return f"{slots}, batched by the environment itself"
    if job.vectorization == "async":
        return f"{slots} in processes of their own; more slots, and num_cpus for them, {_WITH_CORES}"
    if usage.slots == 1:
        return f"{slots}; more workers, or slots with vectorization: async and num_cpus for them, {_WITH_CORES}"
    condition = "unless the environment is batched by itself"
    return f"{slots} in the worker's process; vectorization: async and more num_cpus would help, {condition}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
