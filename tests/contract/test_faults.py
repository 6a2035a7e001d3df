"""What goes wrong in environments, policies, factories and workers, and what is left afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult
from tests.contract.conftest import Run
from tests.contract.outside import (
    REPOSITORY,
    Invocation,
    arena_ray,
    arena_ray_here,
    corridor,
    events,
    read_json,
    records,
    statuses,
    summary,
    tape,
    write_jobs,
)

STAGE = "tests.contract.stage:"


def job_statuses(run_dir: Path) -> dict[str, str]:
    return {name: job["status"] for name, job in summary(run_dir)["jobs"].items()}


@pytest.mark.parametrize("deed", ["raise", "raise-in-reset"], ids=["in-step", "in-reset"])
def test_an_environment_that_raises_ends_the_run(deed: str, run: Run, seeds: list[int], tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    bad = corridor("bad", {"poison": seeds[1:2], "deed": deed, "tape": str(notes)}, num_episodes=6)
    result = run(bad, corridor("later"), chunk_size=2)
    assert statuses(result.run_dir, "bad") == [(0, "completed"), (1, "error")]
    assert {reset["seed"] for reset in tape(notes, "reset")} == set(seeds[:2])
    assert job_statuses(result.run_dir) == {"bad": "failed", "later": "incomplete"}
    assert records(result.run_dir, "later") == []
    assert result.status == read_json(result.run_dir / "run.json")["status"] == "failed"
    assert "poisoned" in str(summary(result.run_dir)["jobs"]["bad"]["error"])
    row = records(result.run_dir, "bad")[1]
    assert (row["success"], row["attempt"]) == (None, 1)


@pytest.mark.parametrize("deed", ["raise", "raise-in-reset"], ids=["in-step", "in-reset"])
@pytest.mark.parametrize(
    "slots",
    [
        pytest.param({}, id="one-slot"),
        pytest.param({"num_envs": 3}, id="three-slots-sync"),
        pytest.param({"num_envs": 3, "vectorization": "async"}, id="three-slots-async", marks=pytest.mark.heavy),
    ],
)
def test_with_continue_on_error_only_the_episodes_that_raise_are_errors(
    deed: str, slots: dict[str, Any], run: Run, seeds: list[int]
) -> None:
    poison = [seeds[1], seeds[4]]
    bad = corridor("bad", {"poison": poison, "deed": deed}, num_episodes=8, **slots)
    result = run(bad, corridor("later"), continue_on_error=True)
    assert statuses(result.run_dir, "bad") == [
        (episode, "error" if episode in (1, 4) else "completed") for episode in range(8)
    ]
    for row in records(result.run_dir, "bad"):
        if row["status"] == "error":
            assert row["error"]["type"].split(".")[-1] == "RuntimeError"
            assert "poisoned" in row["error"]["message"]
        else:
            assert (row["length"], row["return"]) == (3, 3.0)
    assert job_statuses(result.run_dir) == {"bad": "failed", "later": "completed"}
    rate = summary(result.run_dir)["jobs"]["bad"]["metrics"]["length"]
    assert rate["n"] == 6


@pytest.mark.parametrize("num_envs", [1, 3], ids=["one-slot", "three-slots"])
def test_a_policy_that_raises_spoils_only_the_episode_it_choked_on(num_envs: int, run: Run, seeds: list[int]) -> None:
    policy = {"entry_point": STAGE + "Batched", "kwargs": {"poison": [seeds[2]]}}
    result = run(corridor(policy=policy, num_envs=num_envs, num_episodes=7), continue_on_error=True)
    assert statuses(result.run_dir, "corridor") == [
        (episode, "error" if episode == 2 else "completed") for episode in range(7)
    ]
    error = records(result.run_dir, "corridor")[2]["error"]
    assert error["message"] == "the policy choked"
    assert error["type"].split(".")[-1] == "ValueError"
    assert {row["length"] for row in records(result.run_dir) if row["status"] == "completed"} == {3}


def test_without_continue_on_error_a_choking_policy_lets_no_episode_start(
    run: Run, seeds: list[int], tmp_path: Path
) -> None:
    notes = tmp_path / "tape"
    policy = {"entry_point": STAGE + "Batched", "kwargs": {"poison": [seeds[0]]}}
    job = corridor(kwargs={"tape": str(notes)}, policy=policy, num_envs=3, num_episodes=9)
    result = run(job)
    assert result.status == "failed"
    assert statuses(result.run_dir, "corridor")[0] == (0, "error")
    assert {status for _, status in statuses(result.run_dir, "corridor")[1:]} <= {"completed"}
    assert {reset["seed"] for reset in tape(notes, "reset")} <= set(seeds[:3])


@pytest.mark.parametrize("part", ["env", "policy"], ids=["env", "policy"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["stop", "continue_on_error"])
def test_a_factory_that_raises_fails_its_job_at_once(part: str, goes_on: bool, run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    broken = {part: {"entry_point": STAGE + "broken_factory", "kwargs": {"tape": str(notes)}}}
    result = run(corridor("bad", num_episodes=9, **broken), corridor("later"), continue_on_error=goes_on, chunk_size=1)
    assert len(tape(notes, "factory")) == 1
    assert records(result.run_dir, "bad") == []
    job = summary(result.run_dir)["jobs"]["bad"]
    assert job["status"] == "failed"
    assert "the factory is on fire" in str(job["error"])
    assert job["episodes"] == {"requested": 9, "completed": 0, "error": 0, "timeout": 0}
    assert summary(result.run_dir)["jobs"]["later"]["status"] == ("completed" if goes_on else "incomplete")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"env": {"entry_point": "no_such_module:make"}}, "no_such_module", id="env-module"),
        pytest.param({"env": {"entry_point": STAGE + "Corridr"}}, "Corridr", id="env-name"),
        pytest.param({"policy": {"entry_point": "no_such_module:make"}}, "no_such_module", id="policy-module"),
        pytest.param({"env": {"id": "CartPool-v1"}}, "CartPool-v1", id="env-id"),
        pytest.param({"env": {"id": "no_such_module:X-v0"}}, "no_such_module", id="env-id-module"),
    ],
)
def test_what_cannot_be_imported_is_exit_code_1(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", corridor("bad", **changes))
    done = arena_ray_here("run", jobs, "--inline", "--video_base_dir", tmp_path / "base", cwd=REPOSITORY)
    assert done.code == 1, done.said
    assert word in str(summary(done.run_dir)["jobs"]["bad"]["error"])
    assert word in done.said
    assert records(done.run_dir) == []


@pytest.mark.ray
@pytest.mark.heavy
def test_workers_that_die(run: Run, seeds: list[int], local_ray: None, tmp_path: Path) -> None:
    once = {"poison": seeds[2:3], "marker": str(tmp_path / "once"), "deed": "kill", "cameras": ["front"]}
    deaths = {"deaths": str(tmp_path), "times": 99}
    twin = {"poison": seeds[1:2], "marker": str(tmp_path / "twin"), "deed": "exit"}
    result = run(
        corridor("once", once, num_episodes=5, video={"record_camera_video": True}),
        corridor("twin", twin, num_envs=2, num_episodes=4),
        corridor("always", {"poison": seeds[1:2], "deed": "exit"}, num_episodes=4),
        corridor("stillborn", env={"entry_point": STAGE + "factory_that_kills", "kwargs": deaths}),
        corridor("healthy", num_episodes=6),
        inline=False,
        max_attempts=2,
        chunk_size=4,
    )
    run_dir = result.run_dir
    assert result.status == "failed"
    completed = dict.fromkeys(("once", "twin", "healthy"), "completed")
    assert job_statuses(run_dir) == {**completed, "always": "failed", "stillborn": "failed"}
    assert records(run_dir, "stillborn") == []
    assert summary(run_dir)["jobs"]["stillborn"]["error"]
    assert statuses(run_dir, "once") == [(episode, "completed") for episode in range(5)]
    assert statuses(run_dir, "twin") == [(episode, "completed") for episode in range(4)]
    # Only the episode in flight is charged, not those that had ended or waited.
    assert [row["attempt"] for row in records(run_dir, "once")] == [1, 1, 2, 1, 1]
    attempts = [row["attempt"] for row in records(run_dir, "twin")]
    assert attempts[1] == 2
    assert attempts[2:] == [1, 1]
    always = records(run_dir, "always")
    assert (always[1]["episode"], always[1]["status"], always[1]["attempt"]) == (1, "error", 2)
    assert always[1]["success"] is None
    assert set(always[1]["error"]) == {"type", "message", "traceback"}
    assert {row["status"] for row in always if row["episode"] != 1} == {"completed"}
    assert str(summary(run_dir)["jobs"]["always"]["error"])
    assert summary(run_dir)["jobs"]["always"]["error"] is not None
    lost = events(run_dir, "worker_lost")
    assert {event["job"] for event in lost} == {"once", "twin", "always", "stillborn"}
    assert all(event["cause"] for event in lost)
    assert {event["job"] for event in events(run_dir, "requeued")} >= {"once", "twin"}
    # What the first attempt filmed is superseded by the completed one.
    assert sorted(path.name for path in (run_dir / "once").glob("**/*.mp4")) == [
        f"robot-cam-env0-front-episode-{episode}.mp4" for episode in range(5)
    ]
    assert RunResult.load(run_dir).status == "failed"


@pytest.mark.ray
@pytest.mark.heavy
def test_an_episode_out_of_time(run: Run, seeds: list[int], local_ray: None, tmp_path: Path) -> None:
    once = {"poison": seeds[1:2], "marker": str(tmp_path / "once"), "deed": "hang"}
    result = run(
        corridor("once", once),
        corridor("always", {"poison": seeds[1:2], "deed": "hang"}),
        inline=False,
        max_attempts=2,
        episode_timeout=1.0,
        continue_on_error=True,
    )
    assert statuses(result.run_dir, "once") == [(0, "completed"), (1, "completed"), (2, "completed")]
    assert statuses(result.run_dir, "always") == [(0, "completed"), (1, "timeout"), (2, "completed")]
    row = records(result.run_dir, "always")[1]
    assert (row["attempt"], row["success"]) == (2, None)
    assert summary(result.run_dir)["jobs"]["always"]["episodes"] == {
        **{"requested": 3, "completed": 2, "error": 0, "timeout": 1}
    }
    assert {event["job"] for event in events(result.run_dir, "episode_timeout")} == {"once", "always"}


@pytest.mark.ray
@pytest.mark.heavy
def test_a_stall_and_a_factory_out_of_time(run: Run, seeds: list[int], local_ray: None, tmp_path: Path) -> None:
    once = {"poison": seeds[1:2], "marker": str(tmp_path / "once"), "deed": "hang"}
    slow = {"entry_point": STAGE + "slow_factory", "kwargs": {"tape": str(tmp_path / "slow")}}
    result = run(
        corridor("once", once),
        corridor("slow", env=slow),
        inline=False,
        max_attempts=2,
        stall_timeout=1.0,
        num_workers=1,
        start_timeout=14.0,
        continue_on_error=True,
    )
    assert statuses(result.run_dir, "once") == [(0, "completed"), (1, "completed"), (2, "completed")]
    assert [row["attempt"] for row in records(result.run_dir, "once")] == [1, 2, 1]
    assert events(result.run_dir, "episode_timeout")
    assert job_statuses(result.run_dir) == {"once": "completed", "slow": "failed"}
    assert records(result.run_dir, "slow") == []
    assert "start" in str(summary(result.run_dir)["jobs"]["slow"]["error"])
    assert len(tape(tmp_path / "slow", "factory")) == 2


@pytest.mark.ray
@pytest.mark.heavy
def test_workers_that_die_once_each_while_building_are_tried_again(run: Run, local_ray: None, tmp_path: Path) -> None:
    """Two workers that each lose their first try have had one failure each, not two of one."""
    env = {"entry_point": STAGE + "factory_that_kills", "kwargs": {"deaths": str(tmp_path), "times": 2}}
    result = run(corridor(env=env, num_episodes=2), inline=False, max_attempts=2, chunk_size=1, num_workers=2)
    assert statuses(result.run_dir, "corridor") == [(0, "completed"), (1, "completed")]
    assert result.status == "completed"


def _cluster_command(jobs: Path, base: Path) -> Invocation:
    import ray

    address = ray.get_runtime_context().gcs_address
    return arena_ray("run", jobs, "--address", address, "--video_base_dir", base)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("resources", "words"),
    [
        pytest.param({"num_gpus": 1}, ["greedy", "num_gpus", "1", "0"], id="a-gpu"),
        pytest.param({"num_cpus": 1000}, ["greedy", "num_cpus", "1000", "2"], id="many-cpus"),
    ],
)
def test_what_no_node_can_give_is_exit_code_3(
    resources: dict[str, Any], words: list[str], local_ray: None, tmp_path: Path
) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", corridor("modest"), corridor("greedy", resources=resources))
    done = _cluster_command(jobs, tmp_path / "base")
    assert done.code == 3, done.said
    assert done.wall_s < 15
    for word in words:
        assert word.lower().replace("num_", "") in done.said.lower(), word
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("base/*/episodes.jsonl"))


@pytest.mark.ray
@pytest.mark.heavy
def test_a_whole_run_on_its_own_ray(tmp_path: Path) -> None:
    """No `--address`, modules beside the job file, fractions of a core, a record from a real worker process."""
    stage = Path(__file__).with_name("stage.py")
    (tmp_path / "beside.py").write_text(stage.read_text())
    job = corridor("filmed", env={"entry_point": "beside:Corridor"}, resources={"num_cpus": 0.5}, num_episodes=4)
    jobs = write_jobs(tmp_path / "jobs.yaml", job, corridor("broken", env={"entry_point": "beside:broken_factory"}))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = arena_ray(
        "run", jobs, "--record_viewport_video", "--chunk_size", "2", "--continue_on_error", cwd=elsewhere, timeout_s=120
    )
    assert done.code == 1, done.said
    run_dir = elsewhere / done.run_dir
    assert statuses(run_dir, "filmed") == [(episode, "completed") for episode in range(4)]
    assert [row["chunk"] for row in records(run_dir, "filmed")] == [0, 0, 1, 1]
    assert len(list((run_dir / "filmed").glob("**/viewport-env0-episode-*.mp4"))) == 4
    assert job_statuses(run_dir) == {"filmed": "completed", "broken": "failed"}
    assert "the factory is on fire" in json.dumps(summary(run_dir)["jobs"]["broken"]["error"])
    lines = done.stdout.splitlines()
    assert not [line for line in lines if "(raylet" in line or "pid=" in line]
