"""Job files of IsaacLab-Arena run unchanged, or say what cannot be mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.outside import arena_ray_here, events, records, tape, write_jobs


def arena_job(**changes: Any) -> dict[str, Any]:
    job = {
        "name": "cart",
        "arena_env_args": {"environment": "CartPole-v1", "num_envs": 2},
        "policy_type": "zero_action",
        "policy_config_dict": {},
        "num_episodes": 5,
    } | changes
    return {key: value for key, value in job.items() if value is not None}


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "tape"
    monkeypatch.setenv("CORRIDOR_TAPE", str(notes))
    dotted = arena_job(
        name="dotted",
        policy_type="tests.contract.stage.echo",
        policy_config_dict={},
        arena_env_args={"environment": "tests.contract.registered:Corridor-v0"},
        num_rebuilds=2,
        language_instruction="go",
        status="pending",
    )
    path = write_jobs(tmp_path / "jobs.json", arena_job(), dotted)
    done = arena_ray_here("run", "--eval_jobs_config", path, "--inline", "--chunk_size", "10", cwd=tmp_path)
    assert done.code == 0, done.said
    run_dir = tmp_path / done.run_dir
    rows = records(run_dir, "cart")
    assert [row["episode"] for row in rows] == list(range(5))
    assert {row["slot"] for row in rows} == {0, 1}
    # Rebuilds are separate chunks, each with a fresh environment; the total is divided evenly.
    assert [(row["episode"], row["chunk"]) for row in records(run_dir, "dotted")] == [
        *((episode, 0) for episode in range(3)),
        *((episode, 1) for episode in (3, 4)),
    ]
    assert len(tape(notes, "env")) == 2
    assert len(events(run_dir, "run_started")) == 1


def test_num_steps(tmp_path: Path) -> None:
    path = write_jobs(tmp_path / "jobs.json", arena_job(num_episodes=None, num_steps=40))
    done = arena_ray_here("run", path, "--inline", cwd=tmp_path)
    assert done.code == 0, done.said
    assert sum(row["length"] for row in records(tmp_path / done.run_dir)) <= 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"variations": {"light": {"intensity": 3}}}, ["variations"], id="variations"),
        pytest.param({"arena_env_args": {"environment": "kitchen.yaml"}}, ["environment", "kitchen.yaml"], id="graph"),
        pytest.param({"arena_env_args": {"num_envs": 2}}, ["arena_env_args", "environment"], id="no-environment"),
        pytest.param({"policy_type": "gr00t_closedloop"}, ["policy_type", "gr00t_closedloop"], id="policy-type"),
        pytest.param({"policy_type": None}, ["policy_type"], id="no-policy"),
        pytest.param({"num_episodes": None}, ["num_episodes", "num_steps"], id="no-budget"),
        pytest.param({"num_steps": 3}, ["num_episodes", "num_steps"], id="both-budgets"),
        pytest.param({"num_rebuilds": 6}, ["num_rebuilds", "6"], id="more-rebuilds-than-episodes"),
        pytest.param({"num_rebuilds": 0}, ["num_rebuilds", "0"], id="no-rebuilds"),
        pytest.param({"policy_config": {}}, ["policy_config", "policy_config_dict"], id="unknown-key"),
        pytest.param({"name": "../x"}, ["../x", "name"], id="unsafe-name"),
    ],
)
def test_what_cannot_be_mapped_is_an_error(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = write_jobs(tmp_path / "jobs.json", arena_job(**changes))
    done = arena_ray_here("run", path, "--inline", cwd=tmp_path)
    assert done.code == 2, done.said
    for word in words:
        assert word in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.json"]
