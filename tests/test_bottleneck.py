"""What is said of a job's speed, figure by figure; and what is not said because the figures do not support it."""

from __future__ import annotations

from typing import Any

import pytest

from arena_ray.results.bottleneck import MIN_WALL_S, bottleneck
from arena_ray.results.usage import JobUsage
from arena_ray.specs import EvalJob
from tests.worlds import walk_job


def usage(**changes: Any) -> JobUsage:
    """100 s of a worker with 4 slots, of which nothing is told but what `changes` say (seconds are shares)."""
    seconds = {f"{part}_s": 0.0 for part in ("environment", "policy", "recording", "waiting", "other")}
    counts = {"chunks": 1, "wall_s": 100.0, "steps": 4000, "policy_calls": 1000, "slots": 4}
    return JobUsage(**{**seconds, **counts, **changes})


def job(**changes: Any) -> EvalJob:
    return EvalJob.model_validate(walk_job(**{"num_envs": 4, **changes}))


POLICY = {"policy_s": 71.0, "environment_s": 22.0, "recording_s": 5.0, "other_s": 2.0}
POLICY_TEXT = "policy-bound: 71 % of the time in act(), 22 % in the environment, 5 % for video, 2 % in arena_ray itself"
STEPS = {"environment_s": 88.0, "policy_s": 12.0}
STEPS_TEXT = "environment-bound: 88 % of the time in the environment, 12 % in act()"
BATCH_64 = {"steps": 64_000, "slots": 64}
SB3 = {"policy": {"type": "sb3", "kwargs": {"path": "model.zip"}}}

CASES = [
    pytest.param(usage(**POLICY), job(), POLICY_TEXT, id="policy-on-a-cpu-only-the-share"),
    pytest.param(
        usage(**POLICY, **BATCH_64, gpu_utilization=0.96),
        job(num_envs=64),
        f"{POLICY_TEXT}; the GPU 96 % busy at 64 per call; a larger batch would hardly help",
        id="policy-fills-the-gpu",
    ),
    pytest.param(
        usage(**POLICY, gpu_utilization=0.96),
        job(),
        f"{POLICY_TEXT}; the GPU 96 % busy at 4 per call; whether a larger batch helps, only a trial with more slots "
        "(num_envs) can tell",
        id="policy-busy-with-small-batches",
    ),
    pytest.param(
        usage(**POLICY, gpu_utilization=0.7), job(), f"{POLICY_TEXT}; the GPU 70 % busy at 4 per call", id="policy-half"
    ),
    pytest.param(
        usage(**POLICY, gpu_utilization=0.22),
        job(**SB3),
        f"{POLICY_TEXT}; the GPU 22 % busy at 4 per call; more slots (num_envs) would help",
        id="policy-leaves-the-gpu-idle",
    ),
    pytest.param(
        usage(**POLICY, gpu_utilization=0.22),
        job(),
        f"{POLICY_TEXT}; the GPU 22 % busy at 4 per call; more slots (num_envs) would help if act() answers them at "
        "once",
        id="policy-of-ones-own-leaves-the-gpu-idle",
    ),
    pytest.param(
        usage(**POLICY, **BATCH_64, gpu_utilization=0.22),
        job(num_envs=64),
        f"{POLICY_TEXT}; the GPU 22 % busy at 64 per call; act() spends its time elsewhere than on the GPU",
        id="policy-does-not-use-the-gpu",
    ),
    pytest.param(
        usage(**POLICY, policy_calls=0, gpu_utilization=0.22), job(), POLICY_TEXT, id="policy-that-was-never-asked"
    ),
    pytest.param(
        usage(**STEPS, slots=1),
        job(num_envs=1),
        f"{STEPS_TEXT}; 1 slot; more workers, or slots with vectorization: async and num_cpus for them, would help "
        "where cores are free",
        id="environment-one-slot",
    ),
    pytest.param(
        usage(**STEPS),
        job(),
        f"{STEPS_TEXT}; 4 slots in the worker's process; vectorization: async and more num_cpus would help, unless the "
        "environment is batched by itself",
        id="environment-in-process",
    ),
    pytest.param(
        usage(**STEPS),
        job(vectorization="async"),
        f"{STEPS_TEXT}; 4 slots in processes of their own; more slots, and num_cpus for them, would help where cores "
        "are free",
        id="environment-in-children",
    ),
    pytest.param(
        usage(**STEPS, slots=16),
        job(num_envs=1),
        f"{STEPS_TEXT}; 16 slots, batched by the environment itself",
        id="environment-batched",
    ),
    pytest.param(
        usage(**STEPS),
        job(num_envs="auto"),
        f"{STEPS_TEXT}; 4 slots, as measuring chose; more workers or num_cpus would help where cores are free",
        id="environment-tuned",
    ),
    pytest.param(
        usage(**STEPS, gpu_utilization=0.95),
        job(),
        f"{STEPS_TEXT}; the GPU 95 % busy; more workers on it would hardly help",
        id="environment-fills-the-gpu",
    ),
    pytest.param(
        usage(recording_s=60.0, environment_s=39.0, policy_s=1.0),
        job(),
        "recording-bound: 60 % of the time for video, 39 % in the environment; fewer videos (video.record) or smaller "
        "ones (video.max_resolution) would help",
        id="recording",
    ),
    pytest.param(
        usage(waiting_s=64.0, policy_s=36.0),
        job(),
        "waiting-bound: 64 % of the time waiting for the driver or for episodes, 36 % in act(); environment and policy "
        "are not what bounds it",
        id="waiting",
    ),
    pytest.param(
        usage(other_s=55.0, policy_s=45.0, steps=1_000_000),
        job(),
        "overhead-bound: 55 % of the time in arena_ray itself, 45 % in act(); 55 µs per step",
        id="overhead",
    ),
    pytest.param(
        usage(environment_s=46.0, policy_s=44.0, recording_s=9.0, waiting_s=1.0),
        job(),
        "balanced: 46 % of the time in the environment, 44 % in act(), 9 % for video",
        id="balanced",
    ),
    pytest.param(usage(**{**POLICY, "wall_s": MIN_WALL_S - 0.1}), job(), None, id="too-short"),
]


@pytest.mark.parametrize(("spent", "of_job", "expected"), CASES)
def test_it_says_what_the_figures_support(spent: JobUsage, of_job: EvalJob, expected: str | None) -> None:
    assert bottleneck(spent, of_job) == expected
