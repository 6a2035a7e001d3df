"""What an episode is: its seed, its success, its metrics, and how many there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Run
from tests.contract.outside import (
    REPOSITORY,
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

SLOTS = [
    pytest.param({}, id="one-slot"),
    pytest.param({"num_envs": 3}, id="three-slots-sync"),
    pytest.param({"num_envs": 2, "vectorization": "async"}, id="two-slots-async", marks=[pytest.mark.heavy]),
]


@pytest.mark.parametrize("slots", SLOTS)
def test_the_recorded_seed_is_what_reset_received(slots: dict[str, Any], run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    result = run(corridor(kwargs={"tape": str(notes), "length": 0}, num_episodes=7, seed=11, **slots))
    rows = records(result.run_dir)
    assert [row["episode"] for row in rows] == list(range(7))
    seeds = [row["seed"] for row in rows]
    assert len(set(seeds)) == 7
    resets = tape(notes, "reset")
    assert {reset["kind"] for reset in resets} == {"int"}
    stepped = Counter(step["seed"] for step in tape(notes, "step"))
    assert stepped == {row["seed"]: row["length"] for row in rows}
    # Beyond one reset per episode only the comparison of two resets with one seed.
    assert {reset["seed"] for reset in resets} == set(seeds)
    assert len(resets) <= 7 + 2


def test_seeds_follow_from_the_job_seed_and_the_episode_alone(run: Run) -> None:
    result = run(
        corridor("a", seed=3, num_episodes=5),
        corridor("b", seed=3, num_episodes=8, num_envs=2),
        corridor("c", seed=4, num_episodes=5),
        corridor("d", num_episodes=5),
        corridor("e", seed=0, num_episodes=5),
        chunk_size=2,
    )
    seeds = {name: [row["seed"] for row in records(result.run_dir, name)] for name in "abcde"}
    assert seeds["a"] == seeds["b"][:5]
    assert not set(seeds["a"]) & set(seeds["c"])
    assert seeds["d"] == seeds["e"]


def test_the_action_space_of_the_environment_is_seeded_per_episode(run: Run, tmp_path: Path) -> None:
    samples = []
    layouts: list[dict[str, Any]] = [{}, {"num_envs": 3}, {"chunk_size": 1}]
    for number, layout in enumerate(layouts):
        notes = tmp_path / f"tape-{number}"
        slots = {key: value for key, value in layout.items() if key == "num_envs"}
        flags = {key: value for key, value in layout.items() if key == "chunk_size"}
        run(corridor(kwargs={"tape": str(notes)}, num_episodes=5, **slots), **flags)
        samples.append(sorted((step["seed"], step["t"], step["sample"]) for step in tape(notes, "step")))
    assert samples[0] == samples[1] == samples[2]
    assert len({sample for _, _, sample in samples[0]}) == 15


@pytest.mark.parametrize("policy", ["random", "zero"], ids=["random", "zero"])
def test_built_in_actions_are_the_same_in_any_layout(policy: str, run: Run, tmp_path: Path) -> None:
    actions = []
    for number, slots in enumerate((1, 3)):
        notes = tmp_path / f"tape-{number}"
        run(corridor(kwargs={"tape": str(notes)}, num_episodes=5, num_envs=slots, policy={"type": policy}))
        actions.append(sorted((step["seed"], step["t"], tuple(step["action"])) for step in tape(notes, "step")))
    assert actions[0] == actions[1]
    distinct = {action for _, _, action in actions[0]}
    assert distinct == {(0.0, 0.0)} if policy == "zero" else len(distinct) == 15


def _given(success: dict[str, str]) -> dict[str, Any]:
    return {"success": success} if success else {}


@pytest.mark.parametrize(
    ("script", "success", "expected"),
    [
        pytest.param({}, {}, None, id="no-data"),
        pytest.param({"is_success": [0, 0, 1]}, {}, True, id="is_success-as-a-number"),
        pytest.param({"is_success": [1.0, 1.0, 0.0]}, {}, False, id="last-by-default"),
        pytest.param({"success": [False, False, True]}, {}, True, id="success"),
        pytest.param({"is_success": [0, 0, 0], "success": [1, 1, 1]}, {}, False, id="is_success-before-success"),
        pytest.param({"is_success": [0, 1, 0]}, {"when": "any"}, True, id="any"),
        pytest.param({"is_success": [0, 0, 0]}, {"when": "any"}, False, id="any-never"),
        pytest.param({"success": [0, 1, 0]}, {"when": "any"}, True, id="any-of-success"),
        pytest.param({"goal": [0, 0, 1], "is_success": [0, 0, 0]}, {"key": "goal"}, True, id="named-key"),
        pytest.param({"is_success": [1, 1, 1]}, {"key": "goal"}, None, id="named-key-missing"),
        pytest.param({"goal": [1, 1, 0]}, {"key": "goal", "when": "last"}, False, id="named-last"),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 2], ids=["one-slot", "two-slots"])
def test_success(
    script: dict[str, list[Any]], success: dict[str, str], expected: bool | None, num_envs: int, run: Run
) -> None:
    result = run(corridor(kwargs={"script": script}, num_envs=num_envs, **_given(success)))
    assert [row["success"] for row in records(result.run_dir)] == [expected] * 3
    rate = summary(result.run_dir)["jobs"]["corridor"]["metrics"]["success_rate"]
    assert rate["value"] == (None if expected is None else float(expected))


@pytest.mark.parametrize("num_envs", [1, 3], ids=["one-slot", "three-slots"])
def test_metrics_reduce(num_envs: int, run: Run) -> None:
    script = {"d": [4.0, 1.0, 2.5], "late": [None, 7, 3], "early": [5, None, None], "flag": [True, True, False]}
    reductions = ("last", "sum", "mean", "max")
    metrics: list[Any] = ["d", "absent", "late", "early", "flag"]
    values = {}
    for reduce in reductions:
        named = [{"key": metric, "reduce": reduce} for metric in metrics]
        job = corridor(kwargs={"script": script}, num_envs=num_envs, num_episodes=4, metrics=named)
        rows = records(run(job).run_dir)
        assert len(rows) == 4
        assert all(row["metrics"] == rows[0]["metrics"] for row in rows)
        values[reduce] = rows[0]["metrics"]
    default = records(run(corridor(kwargs={"script": script}, metrics=["d"])).run_dir)[0]["metrics"]
    assert default == {"d": 2.5}
    assert {reduce: values[reduce]["d"] for reduce in reductions} == {"last": 2.5, "sum": 7.5, "mean": 2.5, "max": 4.0}
    assert {reduce: values[reduce]["late"] for reduce in reductions} == {"last": 3, "sum": 10, "mean": 5, "max": 7}
    assert {values[reduce]["early"] for reduce in ("sum", "mean", "max")} == {5}
    assert {reduce: values[reduce]["flag"] for reduce in ("last", "sum")} == {"last": 0, "sum": 2}
    assert all(values[reduce].get("absent") is None for reduce in reductions)


@pytest.mark.parametrize(
    ("num_steps", "num_envs", "length", "expected"),
    [
        pytest.param(10, 1, 4, 2, id="cut-in-mid-episode"),
        pytest.param(8, 1, 4, 2, id="ends-with-an-episode"),
        pytest.param(3, 1, 4, 0, id="shorter-than-an-episode"),
        pytest.param(25, 2, 4, 6, id="two-slots"),
        pytest.param(24, 2, 4, 6, id="two-slots-even"),
        pytest.param(23, 2, 4, 5, id="two-slots-odd"),
        pytest.param(2, 3, 4, 0, id="fewer-steps-than-slots"),
    ],
)
def test_num_steps(num_steps: int, num_envs: int, length: int, expected: int, run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    result = run(corridor(kwargs={"tape": str(notes), "length": length}, num_steps=num_steps, num_envs=num_envs))
    assert result.status == "completed"
    assert len(tape(notes, "step")) == num_steps
    assert statuses(result.run_dir, "corridor") == [(episode, "completed") for episode in range(expected)]
    assert {event["chunk"] for event in events(result.run_dir, "chunk_started")} == {0}


def test_the_cut_episode_leaves_no_video(run: Run) -> None:
    result = run(corridor(num_steps=5), record_viewport_video=True)
    names = [path.name for path in (result.run_dir / "corridor").glob("**/*.mp4")]
    assert names == ["viewport-env0-episode-0.mp4"]


def test_heavy_tails_favour_no_episode(run: Run) -> None:
    job = corridor(kwargs={"length": 0}, num_episodes=40, num_envs=8)
    rows = records(run(job).run_dir)
    assert [row["episode"] for row in rows] == list(range(40))
    alone = records(run(corridor(kwargs={"length": 0}, num_episodes=40)).run_dir)
    assert [row["length"] for row in rows] == [row["length"] for row in alone]


@pytest.mark.parametrize("num_envs", [1, 3], ids=["one-slot", "three-slots"])
def test_an_environment_that_ignores_its_seed_is_told_on(num_envs: int, run: Run) -> None:
    deaf = {"deaf": True}
    job = corridor("deaf", deaf, num_envs=num_envs)
    cured = corridor("cured", deaf, num_envs=num_envs, num_episodes=5)
    cured["env"]["seed_hook"] = "tests.contract.stage:tell_seed"
    result = run(job, cured, corridor("good"))
    warnings = [event for event in events(result.run_dir, "warning") if "seed" in str(event)]
    assert {event["job"] for event in warnings} == {"deaf"}
    notes = str(read_json(result.run_dir / "run.json")["notes"])
    assert "deaf" in notes
    assert "seed" in notes
    assert "cured" not in notes
    assert "seed_hook" in notes


def test_the_final_table_tells_on_it_too(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", corridor("deaf", {"deaf": True}), corridor("good"))
    done = arena_ray_here("run", jobs, "--inline", "--video_base_dir", tmp_path / "base", cwd=REPOSITORY)
    assert done.code == 0
    assert "seed_hook" in done.said
    assert "seed_hook" in done.stdout


def test_the_seed_hook_gets_every_seed_before_every_reset(run: Run, tmp_path: Path) -> None:
    marks = []
    for number, flags in enumerate(({}, {"chunk_size": 1})):
        notes = tmp_path / f"tape-{number}"
        job = corridor(kwargs={"deaf": True, "tape": str(notes)}, num_episodes=5, metrics=["mark"])
        job["env"]["seed_hook"] = "tests.contract.stage:tell_seed"
        rows = records(run(job, **flags).run_dir)
        assert {row["seed"] for row in rows} <= {reset["seed"] for reset in tape(notes, "reset")}
        marks.append([row["metrics"]["mark"] for row in rows])
    assert marks[0] == marks[1]
    assert len(set(marks[0])) == 5
