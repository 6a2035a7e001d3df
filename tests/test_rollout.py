"""Faults of environments and policies: what an episode comes to does not depend on what ran beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from tests.comparing import outcome
from tests.worlds import walk_job

SLOTS = [
    pytest.param(1, "sync", id="one-slot"),
    pytest.param(3, "sync", id="three-slots"),
    pytest.param(3, "async", id="three-processes", marks=pytest.mark.heavy),
]


def run(tmp_path: Path, job: dict[str, Any], **flags: Any) -> RunResult:
    return evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path), **flags)


def healthy(tmp_path: Path) -> list[dict[str, Any]]:
    return outcome(run(tmp_path, walk_job()))


@pytest.mark.parametrize(("num_envs", "vectorization"), SLOTS)
@pytest.mark.parametrize("deed", [pytest.param("raise", id="step"), pytest.param("reset", id="reset")])
def test_an_environment_that_raises_fails_that_episode_only(
    tmp_path: Path, num_envs: int, vectorization: str, deed: str
) -> None:
    job = walk_job(env_kwargs={"poison": [2, 5], "deed": deed}, num_envs=num_envs, vectorization=vectorization)
    result = run(tmp_path, job, continue_on_error=True, record_viewport_video=True)
    records = result.jobs["walk"].episodes
    assert result.status == "failed"
    assert [record.status for record in records] == ["error" if e in (2, 5) else "completed" for e in range(8)]
    assert records[2].error is not None
    assert records[2].error.message == ("poisoned step" if deed == "raise" else "poisoned reset")
    assert "RuntimeError" in str(records[2].error.traceback)
    assert (records[2].success, records[2].episode_return) == (None, None)
    expected = healthy(tmp_path)
    assert [row for row in outcome(result) if row["status"] == "completed"] == [
        row for row in expected if row["episode"] not in (2, 5)
    ]
    if deed == "raise":
        assert [video.partial for video in records[2].videos] == [True]
        assert (
            result.run_dir / records[2].videos[0].path
        ).name == f"viewport-env{records[2].slot}-episode-2.1.partial.mp4"


@pytest.mark.parametrize(("num_envs", "vectorization"), SLOTS[:2])
def test_a_policy_that_raises_fails_the_episode_that_makes_it_raise(
    tmp_path: Path, num_envs: int, vectorization: str
) -> None:
    job = walk_job(num_envs=num_envs, policy={"entry_point": "tests.worlds:Choker", "kwargs": {"poison": [1, 4]}})
    result = run(tmp_path, job, continue_on_error=True, record_viewport_video=True)
    records = result.jobs["walk"].episodes
    assert [record.status for record in records] == ["error" if e in (1, 4) else "completed" for e in range(8)]
    assert all(not video.partial for record in records if record.status == "completed" for video in record.videos)
    assert sum(len(record.videos) for record in records if record.status == "completed") == 6


@pytest.mark.heavy
def test_a_child_process_that_dies_fails_the_episode_that_kills_it(tmp_path: Path) -> None:
    job = walk_job(env_kwargs={"poison": [3], "deed": "exit"}, num_envs=3, vectorization="async")
    result = run(tmp_path, job, continue_on_error=True)
    assert [record.status for record in result.jobs["walk"].episodes] == [
        "error" if episode == 3 else "completed" for episode in range(8)
    ]


def test_by_default_no_further_episode_starts_after_an_error(tmp_path: Path) -> None:
    job = walk_job(env_kwargs={"poison": [2]}, num_episodes=20)
    result = run(tmp_path, job)
    assert [record.episode for record in result.jobs["walk"].episodes] == [0, 1, 2]
    assert result.status == "failed"
    assert result.jobs["walk"].status == "failed"


@pytest.mark.parametrize("num_envs", [pytest.param(1, id="one-slot"), pytest.param(3, id="three-slots")])
@pytest.mark.parametrize("num_steps", [pytest.param(1, id="1"), pytest.param(50, id="50"), pytest.param(101, id="101")])
def test_a_step_budget_is_met_exactly(tmp_path: Path, num_envs: int, num_steps: int) -> None:
    job = walk_job(env_kwargs={"marker": None}, num_envs=num_envs, num_steps=num_steps)
    job["env"]["entry_point"] = "tests.test_rollout:make_counting_walk"
    job["env"]["kwargs"] = {"log": str(tmp_path / "steps")}
    del job["num_episodes"]
    result = run(tmp_path, job)
    assert result.status == "completed"
    assert len((tmp_path / "steps").read_text()) == num_steps
    records = result.jobs["walk"].episodes
    assert sum(record.length or 0 for record in records) <= num_steps
    assert all(record.status == "completed" for record in records)


def make_counting_walk(log: str) -> Any:
    from tests.worlds import Walk

    class Counting(Walk):
        def step(self, action: Any) -> Any:
            with open(log, "a") as file:
                file.write(".")
            return super().step(action)

    return Counting()


def test_eight_slots_and_heavy_tails_favour_nobody(tmp_path: Path) -> None:
    job = walk_job(num_envs=8, num_episodes=100, env_kwargs={"max_length": 500})
    records = run(tmp_path, job).jobs["walk"].episodes
    assert [record.episode for record in records] == list(range(100))
    alone = run(tmp_path, walk_job(num_episodes=100, env_kwargs={"max_length": 500})).jobs["walk"].episodes
    assert [record.length for record in records] == [record.length for record in alone]
    assert max(record.length or 0 for record in records) > 100


def test_a_resting_slot_is_not_stepped(tmp_path: Path) -> None:
    job = walk_job(num_envs=8, num_episodes=2)
    job["env"] = {"entry_point": "tests.test_rollout:make_counting_walk", "kwargs": {"log": str(tmp_path / "steps")}}
    records = run(tmp_path, job).jobs["walk"].episodes
    assert len((tmp_path / "steps").read_text()) == sum(record.length or 0 for record in records)


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        pytest.param({}, "last", id="default"),
        pytest.param({"key": "won"}, "last", id="last"),
        pytest.param({"key": "won", "when": "any"}, "any", id="any"),
        pytest.param({"key": "nothing"}, None, id="missing"),
    ],
)
def test_success_is_read_where_the_job_says(tmp_path: Path, success: dict[str, Any], expected: str | None) -> None:
    job = walk_job(
        num_episodes=1, success=success, metrics=[{"key": "score", "reduce": "sum"}, {"key": "top", "reduce": "max"}]
    )
    job["env"] = {"entry_point": "tests.test_rollout:make_scripted"}
    job["policy"] = {"type": "zero"}
    record = run(tmp_path, job).jobs["walk"].episodes[0]
    assert record.success is {"last": False, "any": True, None: None}[expected]
    assert record.metrics == {"score": 6.0, "top": 3.0}


def make_scripted() -> Any:
    from tests.worlds import Walk

    class Scripted(Walk):
        def step(self, action: Any) -> Any:
            self._t += 1
            info = {"won": self._t == 1, "is_success": False, "success": True, "score": self._t, "top": self._t % 4}
            return self._observation(), 0.0, self._t == 3, False, info

    return Scripted()


def make_two() -> Any:
    """Every episode has two steps."""
    from tests.worlds import Walk

    class Two(Walk):
        def step(self, action: Any) -> Any:
            self._t += 1
            return self._observation(), 1.0, self._t == 2, False, {}

    return Two()


@pytest.mark.parametrize(
    ("num_envs", "num_steps", "episodes"),
    [
        pytest.param(1, 7, [0, 1, 2], id="one-slot-cut-off"),
        pytest.param(1, 6, [0, 1, 2], id="one-slot-even"),
        pytest.param(2, 7, [0, 1, 2], id="two-slots"),
        pytest.param(3, 5, [0, 1], id="three-slots"),
    ],
)
def test_a_step_budget_keeps_every_episode_that_ended_within_it(
    tmp_path: Path, num_envs: int, num_steps: int, episodes: list[int]
) -> None:
    job = walk_job(num_envs=num_envs, num_steps=num_steps)
    job["env"] = {"entry_point": "tests.test_rollout:make_two"}
    del job["num_episodes"]
    assert [record.episode for record in run(tmp_path, job).jobs["walk"].episodes] == episodes
