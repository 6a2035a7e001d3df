"""Measures environment and policy of a job on an episode that is thrown away, and has slots chosen."""

from __future__ import annotations

import dataclasses
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from arena_ray import memory
from arena_ray.chunking import episode_seed
from arena_ray.envs import Slots, Ticket
from arena_ray.envs.base import take_rows
from arena_ray.envs.episode_slot import EpisodeSlot
from arena_ray.envs.vectorized import VectorizedSlots
from arena_ray.policies import Policy
from arena_ray.specs import EvalJob, SlotChoice, SuccessSpec
from arena_ray.tuning.choice import Limits, Measured, choose, steps_per_s
from arena_ray.worker_events import Tuned

logger = logging.getLogger("arena_ray")

#: How long environment and policy are tried, seconds; one step and one answer take as long as they take.
TRIAL_S = 1.0

#: Largest batches that a policy is tried with.
BATCHES = (1, 2, 4, 8, 16, 32, 64)

#: First calls compile, load and warm up: so many are not counted.
WARM_UP_CALLS = 2

#: No step is taken to be shorter, seconds.
SHORTEST_STEP_S = 1e-6

#: Share of the machine's free memory that environments may take, over all workers that it has room for.
MEMORY_SHARE = 0.5

#: What a Python process with Gymnasium and an environment's libraries takes at least, MB.
CHILD_BASE_MB = 150.0

#: Builds slots of a job, recording into a folder.
OpenSlots = Callable[[EvalJob, Path], Slots]

#: Builds the job's policy for so many slots; it is only asked for the first if it answers row by row.
OpenPolicy = Callable[[EvalJob, Slots, int], Policy]


def tune(job: EvalJob, open_slots: OpenSlots, open_policy: OpenPolicy, cores: float, most_slots: int) -> Tuned:
    """Measure a job's environment and policy, and choose its slots.

    One environment runs the job's first episode, without a record, in a folder that is removed.

    Args:
        job: A job that leaves `num_envs` or `vectorization` open.
        open_slots: Builds environments.
        open_policy: Builds the policy.
        cores: Cores of this worker.
        most_slots: Most slots that make sense.

    Returns:
        What was chosen and measured. Where the environment is batched by itself, its own slots.
    """
    started = time.perf_counter()
    before_mb = memory.resident_gb() * 1e3
    single = job.model_copy(update={"num_envs": 1, "vectorization": "sync", "num_groups": None})
    limits = _limits(job, cores, most_slots)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        slots = open_slots(single, Path(folder))
        try:
            if not isinstance(slots, VectorizedSlots):
                return _native(job, slots, started)
            environment_mb = max(0.0, memory.resident_gb() * 1e3 - before_mb)
            measured = _measure_with_policy(job, slots, open_policy, limits)
        except Exception as error:
            # The episodes themselves will meet it, and report it.
            logger.warning("slots are not tuned: environment or policy broke: %r", error)
            return Tuned(choice=job.untuned_slots, trial_s=time.perf_counter() - started)
        finally:
            slots.close()
    measured = dataclasses.replace(measured, environment_mb=environment_mb, child_mb=environment_mb + CHILD_BASE_MB)
    setting = choose(measured, limits)
    return Tuned(
        choice=setting,
        environment_s=measured.mean_step_s,
        policy_s=dict(measured.policy_s),
        environment_mb=environment_mb,
        expected_steps_per_s=steps_per_s(measured, setting, cores),
        cores=cores,
        trial_s=time.perf_counter() - started,
    )


def _native(job: EvalJob, slots: Slots, started: float) -> Tuned:
    num_envs = slots.num_slots if job.num_envs == "auto" else job.num_envs
    choice = SlotChoice(num_envs=num_envs, vectorization="sync")
    return Tuned(choice=choice, trial_s=time.perf_counter() - started)


def _limits(job: EvalJob, cores: float, most_slots: int) -> Limits:
    return Limits(
        cores=cores,
        memory_mb=_free_memory_mb(job, cores),
        most_slots=most_slots,
        num_envs=None if job.num_envs == "auto" else job.num_envs,
        vectorization=None if job.vectorization == "auto" else job.vectorization,
        one_group=job.num_steps is not None or job.num_groups == 1,
    )


def _free_memory_mb(job: EvalJob, cores: float) -> float | None:
    """Return what this worker's environments may take: of its own limit, or its share of what the machine has free."""
    own_mb = job.resources.memory_gb
    if own_mb is not None:
        return max(0.0, MEMORY_SHARE * (own_mb * 1e3))
    free_mb = memory.available_mb()
    workers = max(1.0, (os.cpu_count() or 1) / max(cores, 1e-3))
    return None if free_mb is None else MEMORY_SHARE * free_mb / workers


def _largest_batch(limits: Limits) -> int:
    return min(limits.num_envs or limits.most_slots, BATCHES[-1])


def _measure_with_policy(job: EvalJob, slots: Slots, open_policy: OpenPolicy, limits: Limits) -> Measured:
    policy = open_policy(job, slots, _largest_batch(limits))
    try:
        return _measure(job, slots, policy, limits)
    finally:
        policy.close()


def _measure(job: EvalJob, slots: Slots, policy: Policy, limits: Limits) -> Measured:
    """Run the first episode, over and over, until enough steps were seen; then ask the policy with larger batches."""
    seed = episode_seed(job.seed, 0)
    first = np.zeros(1, dtype=np.int64)
    steps_s: list[float] = []
    cpu_s: list[float] = []
    resets_s: list[float] = []
    answers_s: list[float] = []
    slots.begin_chunk(0, [])
    give_up = time.perf_counter() + TRIAL_S
    while not steps_s or time.perf_counter() < give_up:
        if not len(slots.live(0)):
            policy.reset(first, [seed])
            resets_s.append(_seconds(lambda: _begin(slots, seed)))
            if not len(slots.live(0)):
                break  # Its reset broke.
        observations = slots.observe(first)
        answer_s, actions = _timed(lambda: policy.act(observations, first))  # noqa: B023  # called at once
        answers_s.append(answer_s)
        slots.send(first, actions)
        cpu_before = time.process_time()
        steps_s.append(_seconds(slots.receive))
        cpu_s.append(time.process_time() - cpu_before)
    if not steps_s:
        raise RuntimeError("the first episode's reset broke")
    reset_s = sum(resets_s) / len(steps_s)
    round_s = _round_s()
    return Measured(
        cpu_share=sum(cpu_s) / sum(steps_s),
        step_s=[max(step_s - round_s, SHORTEST_STEP_S) + reset_s for step_s in steps_s],
        round_s=round_s,
        policy_s=_policy_times(slots, policy, limits, statistics.median(answers_s[WARM_UP_CALLS:] or answers_s)),
        observation_bytes=_size(slots.observe(first)),
    )


def _round_s() -> float:
    """Return what a round of a slot takes whose environment does nothing, seconds."""
    still = EpisodeSlot(_Still, lambda env: env, 0, SuccessSpec(), ())
    slots = VectorizedSlots([lambda: still], "sync", still.observation_space)
    try:
        _begin(slots, 0)
        first, action = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)

        def go_round() -> None:
            slots.observe(slots.live(0))
            slots.send(first, action)
            slots.receive()

        return _median_s(go_round, at_most_s=0.005)
    finally:
        slots.close()


class _Still(gymnasium.Env[Any, Any]):
    """Does nothing, for ever."""

    observation_space = gymnasium.spaces.Discrete(1)
    action_space = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 0.0, False, False, {}


def _begin(slots: Slots, seed: int) -> None:
    slots.begin({0: Ticket(episode=0, seed=seed)})
    slots.receive()


def _policy_times(slots: Slots, policy: Policy, limits: Limits, single_s: float) -> dict[int, float]:
    """Return how long the policy takes for batches of the same observation."""
    times = {1: single_s}
    if not getattr(policy, "pad_batches", True):
        return times
    give_up = time.perf_counter() + TRIAL_S
    first = np.zeros(1, dtype=np.int64)
    row, space = slots.observe(first), slots.observation_space
    for size in BATCHES[1:]:
        if size > _largest_batch(limits) or time.perf_counter() > give_up:
            break
        rows = np.arange(size)
        policy.reset(rows, [0] * size)
        batch = take_rows(row, space, np.zeros(size, dtype=np.int64))
        for _ in range(WARM_UP_CALLS):
            policy.act(batch, rows)
        times[size] = _median_s(lambda: policy.act(batch, rows))  # noqa: B023  # called at once
    return times


def _median_s(call: Callable[[], Any], least: int = 3, at_most_s: float = 0.1) -> float:
    times: list[float] = []
    enough = time.perf_counter() + at_most_s
    while len(times) < least or time.perf_counter() < enough:
        times.append(_seconds(call))
    return statistics.median(times)


def _seconds(call: Callable[[], Any]) -> float:
    return _timed(call)[0]


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _size(batch: Any) -> int:
    if isinstance(batch, dict):
        return sum(_size(part) for part in batch.values())
    if isinstance(batch, tuple):
        return sum(_size(part) for part in batch)
    return int(getattr(batch, "nbytes", 0))
