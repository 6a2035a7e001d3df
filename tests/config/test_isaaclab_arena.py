"""Jobs in IsaacLab-Arena's form: what is translated, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from arena_ray.config import load_plan
from arena_ray.specs import EnvRef, EvalJob, PolicyRef
from tests.config.documents import document, job, lines, only_job, refusal


def arena_job(name: str = "a", **changes: Any) -> dict[str, Any]:
    base = {
        "name": name,
        "arena_env_args": {"environment": "FetchReach-v4"},
        "policy_type": "zero_action",
        "num_steps": 10,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def env_args(**arguments: Any) -> dict[str, Any]:
    return {"environment": "FetchReach-v4", **arguments}


def test_everything_that_has_a_counterpart_is_translated() -> None:
    found = only_job(
        document(
            arena_job(
                arena_env_args=env_args(num_envs=4, seed=7, enable_cameras=False, object=None, embodiment=[]),
                policy_config_dict={"gain": 2},
                num_steps=None,
                num_episodes=9,
                num_rebuilds=3,
                language_instruction="pick",
                variations={},
                status="pending",
            )
        )
    )
    assert found == EvalJob(
        name="a",
        env=EnvRef(id="FetchReach-v4"),
        policy=PolicyRef(type="zero", kwargs={"gain": 2}),
        num_envs=4,
        seed=7,
        num_episodes=9,
        num_rebuilds=3,
        language_instruction="pick",
    )


@pytest.mark.parametrize("environment", ["CartPole-v1", "my_pkg.envs:Reach-v0", "ALE/Pong-v5", "pkg:space/Name-v12"])
def test_gymnasium_ids(environment: str) -> None:
    assert only_job(document(arena_job(arena_env_args={"environment": environment}))).env == EnvRef(id=environment)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("zero_action", PolicyRef(type="zero"), id="zero_action"),
        pytest.param("zero", PolicyRef(type="zero"), id="zero"),
        pytest.param("random", PolicyRef(type="random"), id="random"),
        pytest.param("torch", PolicyRef(type="torch"), id="torch"),
        pytest.param("sb3", PolicyRef(type="sb3"), id="sb3"),
        pytest.param("pkg.module.Class", PolicyRef(entry_point="pkg.module:Class"), id="dotted class"),
        pytest.param("module.Class", PolicyRef(entry_point="module:Class"), id="class of a top-level module"),
        pytest.param("pkg.module:Class", PolicyRef(entry_point="pkg.module:Class"), id="entry point"),
    ],
)
def test_policy_types(name: str, expected: PolicyRef) -> None:
    assert only_job(document(arena_job(policy_type=name))).policy == expected


def test_forms_can_be_mixed_and_defaults_and_overrides_work() -> None:
    source = document(
        arena_job(num_steps=..., policy_type=..., policy_config_dict={"x": 1}),
        job("b", num_episodes=...),
        defaults={"num_episodes": 4, "policy": {"type": "random", "kwargs": {"y": 2}}},
        run={"max_attempts": 1},
    )
    plan = load_plan(source, ["a:env.kwargs.k=1"])
    assert plan.jobs[0].policy == PolicyRef(type="random", kwargs={"x": 1, "y": 2})
    assert plan.jobs[0].env.kwargs == {"k": 1}
    assert [found.num_episodes for found in plan.jobs] == [4, 4]
    assert plan.settings.max_attempts == 1


def test_only_pending_jobs_are_run_as_in_arena() -> None:
    jobs = [arena_job(status, status=status) for status in ("completed", "pending", "failed")]
    plan = load_plan(document(*jobs, arena_job("none", status=None), arena_job("Pending", status="running")))
    assert [found.name for found in plan.jobs] == ["pending", "none"]


def test_nothing_pending_is_an_error() -> None:
    assert lines(refusal(document(arena_job(status="completed")))) == [
        "jobs: every job has a 'status' other than 'pending', so none is left to run; set it to 'pending'"
    ]


NATIVE = "write the job with 'env: {entry_point: package.module:attribute}', a factory that builds it"
OWN = "it belongs to IsaacLab-Arena's own builder"
VALID = (
    "Valid: arena_env_args, language_instruction, name, num_episodes, num_rebuilds, num_steps, policy_config_dict, "
    "policy_type, status, variations"
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"arena_env_args": {"environment": "kitchen_pick_and_place"}},
            [
                "arena_env_args.environment: found 'kitchen_pick_and_place'; it is not a Gymnasium id (such as "
                f"FetchReach-v4), and IsaacLab-Arena's own environments are built by its builder; {NATIVE}"
            ],
            id="registered environment",
        ),
        pytest.param(
            {"arena_env_args": {"environment": "scenes/graph.yaml"}},
            [
                "arena_env_args.environment: found 'scenes/graph.yaml'; it is a graph spec, and IsaacLab-Arena's own "
                f"environments are built by its builder; {NATIVE}"
            ],
            id="graph spec",
        ),
        pytest.param(
            {"arena_env_args": env_args(enable_cameras=True, device="cuda:0", embodiment="franka", env_spacing=30.0)},
            [
                f"arena_env_args.enable_cameras: found True; {OWN}; write the job with 'env' and "
                "'video: {record_camera_video: true}'",
                f"arena_env_args.device: found 'cuda:0'; {OWN}; write the job with 'env' and "
                "'resources: {num_gpus: 1}'; each worker sees only its own GPUs",
                f"arena_env_args.embodiment: found 'franka'; {OWN}; {NATIVE}, and put 'embodiment' in 'env.kwargs'",
                f"arena_env_args.env_spacing: found 30.0; {OWN}; {NATIVE}, and put 'env_spacing' in 'env.kwargs'",
            ],
            id="arguments of its builder",
        ),
        pytest.param(
            {"arena_env_args": env_args(placement_seed=0)},
            [
                f"arena_env_args.placement_seed: found 0; {OWN}; every random choice follows 'seed' here; leave it "
                "out, or hand it to your own factory"
            ],
            id="zero is not omitted",
        ),
        pytest.param(
            {"arena_env_args": ["--num_envs", "4"]},
            [
                "arena_env_args: found ['--num_envs', '4']; must be a mapping",
                "arena_env_args.environment: missing; write the environment's Gymnasium id there",
            ],
            id="older list form",
        ),
        pytest.param(
            {"policy_type": "rsl_rl"},
            [
                "policy_type: found 'rsl_rl'; IsaacLab-Arena's registered policies are not here; write the class as "
                "package.module.Class, or a built-in type. Valid: random, sb3, torch, zero, zero_action"
            ],
            id="registered policy",
        ),
        pytest.param(
            {"policy_config_dict": "x"}, ["policy_config_dict: found 'x'; must be a mapping"], id="policy config"
        ),
        pytest.param(
            {"variations": {"light": {"intensity": [1, 2]}}},
            [
                f"variations: found {{'light': {{'intensity': [1, 2]}}}}; {OWN}; leave it out and write a job for each "
                "variation"
            ],
            id="variations",
        ),
        pytest.param(
            {"num_stepz": 5},
            [f"unknown key 'num_stepz' in a job of IsaacLab-Arena's form (found 5); did you mean 'num_steps'? {VALID}"],
            id="unknown key",
        ),
        pytest.param(
            {"num_episodes": 5}, ["give exactly one of 'num_episodes' and 'num_steps'; found both"], id="two budgets"
        ),
        pytest.param(
            {"num_steps": ...}, ["give exactly one of 'num_episodes' and 'num_steps'; found neither"], id="no budget"
        ),
        pytest.param(
            {"arena_env_args": env_args(num_envs=0)}, ["num_envs: found 0; must be at least 1 or 'auto'"], id="no slots"
        ),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(changes: dict[str, Any], expected: list[str]) -> None:
    assert lines(refusal(document(arena_job(**changes)))) == [f"job 'a': {line}" for line in expected]
