"""Slots that are measured and chosen: the model by itself, and what becomes of a choice in real runs."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arena_ray import RunResult, evaluate
from arena_ray.config import load_plan
from arena_ray.errors import ConfigError
from arena_ray.policy_runner import run_rank
from arena_ray.replay_runner import replay
from arena_ray.resume_runner import resume
from arena_ray.specs import SlotChoice
from arena_ray.tuning import Limits, Measured, choose, steps_per_s
from tests.comparing import outcome
from tests.interrupted import Watcher, assert_whole, document, events, torn
from tests.worlds import Leaner, Walk, walk_job


def flat(call_s: float) -> dict[int, float]:
    """A policy that answers 64 rows in the time of one."""
    return dict.fromkeys((1, 2, 4, 8, 16, 32, 64), call_s)


CHEAP = Measured(step_s=[5e-6] * 10, policy_s=flat(1e-4), round_s=2e-5)
SLOW = Measured(step_s=[0.02] * 10, policy_s=flat(0.005), environment_mb=100, child_mb=250)
ROW_BY_ROW = Measured(step_s=[1e-3] * 10, policy_s={1: 0.01})
WAITING = Measured(step_s=[0.02] * 10, policy_s=flat(0.001), cpu_share=0.0)


def test_a_cheap_environment_is_stepped_in_many_slots_of_one_process() -> None:
    choice = choose(CHEAP, Limits(cores=16))
    assert (choice.vectorization, choice.num_groups) == ("sync", 1)
    assert choice.num_envs >= 32


def test_a_slow_environment_beside_a_batched_policy_is_stepped_in_groups_of_processes() -> None:
    choice = choose(SLOW, Limits(cores=16))
    assert (choice.vectorization, choice.num_groups) == ("async", 2)
    assert choice.num_envs >= 12


def test_an_environment_that_only_waits_is_given_processes_on_one_core() -> None:
    choice = choose(WAITING, Limits(cores=1))
    assert choice.vectorization == "async"
    assert choice.num_envs >= 16


def test_nothing_helps_a_policy_that_answers_row_by_row() -> None:
    assert choose(ROW_BY_ROW, Limits(cores=16)) == SlotChoice(num_envs=1, vectorization="sync")


@pytest.mark.parametrize(
    ("measured", "limits", "most"),
    [
        pytest.param(CHEAP, {"most_slots": 5}, 5, id="episodes"),
        pytest.param(SLOW, {"memory_mb": 1000.0}, 4, id="memory"),
        pytest.param(SLOW, {"memory_mb": 0.0}, 1, id="no-memory"),
        pytest.param(SLOW, {"memory_mb": 0.0, "vectorization": "async"}, 1, id="no-memory-for-a-process"),
    ],
)
def test_limits_are_kept(measured: Measured, limits: dict[str, Any], most: int) -> None:
    assert 1 <= choose(measured, Limits(cores=16, **limits)).num_envs <= most


@pytest.mark.parametrize("num_envs", [1, 3, 4, 100])
@pytest.mark.parametrize("measured", [pytest.param(CHEAP, id="cheap"), pytest.param(SLOW, id="slow")])
def test_a_fixed_number_of_slots_is_kept(measured: Measured, num_envs: int) -> None:
    choice = choose(measured, Limits(cores=16, num_envs=num_envs, memory_mb=1.0, most_slots=2))
    assert choice.num_envs == num_envs


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("measured", [pytest.param(CHEAP, id="cheap"), pytest.param(SLOW, id="slow")])
def test_a_fixed_place_is_kept(measured: Measured, vectorization: str) -> None:
    assert choose(measured, Limits(cores=16, vectorization=vectorization)).vectorization == vectorization


def test_slots_that_must_step_together_are_one_group() -> None:
    choice = choose(SLOW, Limits(cores=16, one_group=True))
    assert (choice.vectorization, choice.num_groups) == ("async", 1)


def test_the_rate_of_one_process_is_its_slots_over_the_time_of_a_round() -> None:
    measured = Measured(step_s=[0.01], policy_s={1: 0.02, 4: 0.02}, round_s=0.04)
    rate = steps_per_s(measured, SlotChoice(num_envs=4, vectorization="sync"), cores=1)
    assert rate == pytest.approx(4 / (0.04 + 4 * 0.01 + 0.02), rel=0.01)


@pytest.mark.parametrize("cores", [2.0, 8.0])
@pytest.mark.parametrize("num_groups", [1, 2])
def test_no_setting_is_expected_to_beat_its_bounds(cores: float, num_groups: int) -> None:
    setting = SlotChoice(num_envs=8, vectorization="async", num_groups=num_groups)
    rate = steps_per_s(SLOW, setting, cores)
    assert 0 < rate <= min(cores / 0.02, 8 / num_groups / 0.005)


def test_the_slowest_of_one_is_the_mean_and_of_many_the_largest() -> None:
    measured = Measured(step_s=[1.0, 2.0, 6.0], policy_s={1: 1.0})
    assert measured.slowest_of(1) == pytest.approx(measured.mean_step_s)
    assert measured.slowest_of(2) == pytest.approx((1 * 1 + 3 * 2 + 5 * 6) / 9)
    assert measured.slowest_of(1000) == pytest.approx(6.0)


def test_the_time_of_a_batch_is_measured_between_two_measured_or_row_by_row_beyond() -> None:
    measured = Measured(step_s=[1.0], policy_s={1: 1.0, 2: 1.2, 4: 2.0})
    assert [measured.policy_batch_s(rows) for rows in (1, 2, 3, 4, 6)] == pytest.approx([1.0, 1.2, 1.6, 2.0, 3.0])


@pytest.fixture
def trial_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where trials write; they are short."""
    folder = tmp_path / "trials"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "TemporaryDirectory", functools.partial(tempfile.TemporaryDirectory, dir=folder))
    monkeypatch.setattr("arena_ray.tuning.trial.TRIAL_S", 0.05)
    return folder


def run(tmp_path: Path, **changes: Any) -> RunResult:
    names = {"num_workers", "max_attempts", "chunk_size"}
    flags: dict[str, Any] = {name: changes.pop(name) for name in names & changes.keys()}
    flags["inline"] = "num_workers" not in flags
    base = str(tmp_path / "runs")
    return evaluate({"jobs": [walk_job(**changes)]}, video_base_dir=base, continue_on_error=True, **flags)


def tuning_of(result: RunResult) -> dict[str, Any]:
    content: dict[str, Any] = document(result.run_dir)["tuning"]["walk"]
    return content


OPEN = [
    pytest.param({"num_envs": "auto"}, id="num-envs"),
    pytest.param({"num_envs": 3, "vectorization": "auto"}, id="vectorization"),
    pytest.param({"num_envs": "auto", "vectorization": "auto"}, id="both", marks=pytest.mark.heavy),
    pytest.param({"num_envs": "auto", "vectorization": "async"}, id="async", marks=pytest.mark.heavy),
    pytest.param({"num_envs": "auto", "num_rebuilds": 3}, id="rebuilds"),
    pytest.param({"num_envs": "auto", "num_groups": 1, "vectorization": "async"}, id="group", marks=pytest.mark.heavy),
]


@pytest.mark.parametrize("changes", OPEN)
def test_a_choice_is_written_down_and_changes_no_record(
    tmp_path: Path, trial_folder: Path, changes: dict[str, Any]
) -> None:
    video = {"video": {"record_viewport_video": True}}
    result = run(tmp_path, **video, **changes)
    tuned = tuning_of(result)
    (event,) = events(result.run_dir, "tuned")
    assert {key: event[key] for key in tuned} == tuned
    assert event["job"] == "walk"
    assert tuned["environment_supply"] > 0
    assert tuned["policy_supply"]["1"] > 0
    for key, value in changes.items():
        assert key == "num_rebuilds" or value in ("auto", tuned[key])
    assert document(result.run_dir)["jobs"][0]["num_envs"] == changes["num_envs"]
    assert {record.slot for record in result.records()} <= set(range(tuned["num_envs"]))
    assert outcome(result) == outcome(run(tmp_path, **video))
    assert_whole(result)  # And nothing of the trial stands beside it.
    assert list(trial_folder.iterdir()) == []


def test_a_policy_is_tried_with_as_many_slots_as_it_is_asked_for(
    tmp_path: Path, trial_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arena_ray.tuning.trial.TRIAL_S", 0.5)
    tuned = tuning_of(run(tmp_path, num_envs=16, vectorization="auto", num_episodes=2))
    assert {"1", "2", "4"} <= tuned["policy_supply"].keys()
    assert tuned["num_envs"] == 16


def test_a_budget_of_steps_is_met_exactly_in_one_group(tmp_path: Path, trial_folder: Path) -> None:
    job = walk_job(num_envs=4, vectorization="auto", num_steps=50)
    del job["num_episodes"]
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    assert result.status == "completed"
    assert (tuning_of(result)["num_envs"], tuning_of(result)["num_groups"]) == (4, 1)
    assert sum(line["usage"]["steps"] for line in events(result.run_dir, "chunk_finished")) == 50


def test_a_resumed_run_keeps_the_choice(tmp_path: Path, trial_folder: Path) -> None:
    whole = run(tmp_path, num_envs="auto")
    torn(whole.run_dir, records=3)
    path = whole.run_dir / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rewritten = [{**line, "num_envs": 3} if line["kind"] == "tuned" else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in rewritten))
    result = resume(whole.run_dir)
    assert outcome(result) == outcome(whole)
    assert len(events(result.run_dir, "tuned")) == 1
    assert tuning_of(result) == tuning_of(whole)
    assert [line["usage"]["slots"] for line in events(result.run_dir, "chunk_finished")][-1] == 3


def test_a_run_that_ended_before_the_choice_makes_it_when_resumed(tmp_path: Path, trial_folder: Path) -> None:
    whole = run(tmp_path, num_envs="auto")
    torn(whole.run_dir, records=0, num_events=2)
    run_file = whole.run_dir / "run.json"
    run_file.write_text(json.dumps({**document(whole.run_dir), "tuning": {}}))
    result = resume(whole.run_dir)
    assert outcome(result) == outcome(whole)
    assert len(events(result.run_dir, "tuned")) == 1
    assert tuning_of(result)["num_envs"] >= 1


def test_a_replay_uses_the_choice(tmp_path: Path, trial_folder: Path) -> None:
    result = run(tmp_path, num_envs="auto", vectorization="auto")
    watcher = Watcher()
    replayed = replay(result.run_dir, "walk", "2,5", inline=True, observer=watcher)
    assert replayed.equal
    assert "tuned" not in watcher.told
    (chunk,) = [line for line in watcher.events if line["kind"] == "chunk_finished"]
    assert chunk["usage"]["slots"] == tuning_of(result)["num_envs"]


class Bursting(Leaner):
    """Cannot be closed."""

    def close(self) -> None:
        raise RuntimeError("the policy bursts")


class Gone(Leaner):
    """Ends its process at its first answer."""

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        raise SystemExit(3)


class Narrow(Leaner):
    """Cannot be built for more than four slots."""

    def __init__(self, num_slots: int) -> None:
        if num_slots > 4:
            raise MemoryError("no room for so many")
        super().__init__(num_slots)


BROKEN: list[tuple[str, dict[str, Any], list[int]]] = [
    ("step", {"env_kwargs": {"poison": [0, 3]}}, [0, 3]),
    ("reset", {"env_kwargs": {"poison": [0, 3], "deed": "reset"}}, [0, 3]),
    ("act", {"policy": {"entry_point": "tests.worlds:Choker", "kwargs": {"poison": [0, 3]}}}, [0, 3]),
    ("close", {"policy": {"entry_point": "tests.test_tuning:Bursting"}}, []),
    ("many-slots", {"policy": {"entry_point": "tests.test_tuning:Narrow"}}, []),
]


@pytest.mark.parametrize(("changes", "poisoned"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN])
def test_what_breaks_in_the_trial_is_told_by_the_episodes(
    tmp_path: Path, trial_folder: Path, changes: dict[str, Any], poisoned: Sequence[int]
) -> None:
    result = run(tmp_path, num_envs="auto", **changes)
    statuses = [record.status for record in result.jobs["walk"].episodes]
    assert statuses == ["error" if episode in poisoned else "completed" for episode in range(8)]
    assert tuning_of(result)["num_envs"] >= 1


def test_a_factory_that_raises_fails_the_job_at_once(tmp_path: Path, trial_folder: Path) -> None:
    result = run(tmp_path, num_envs="auto", policy={"entry_point": "tests.worlds:raise_while_building"})
    assert result.jobs["walk"].status == "failed"
    assert "this factory always raises" in str(result.jobs["walk"].error)
    assert result.jobs["walk"].episodes == ()


def test_a_worker_that_ends_itself_in_the_trial_is_given_no_other(tmp_path: Path, trial_folder: Path) -> None:
    result = run(tmp_path, num_envs="auto", max_attempts=1, policy={"entry_point": "tests.test_tuning:Gone"})
    assert [record.status for record in result.jobs["walk"].episodes] == ["error"] * 8
    assert tuning_of(result)["environment_supply"] is None
    assert len(events(result.run_dir, "tuned")) == 1


def make_pair(num_envs: int = 2) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """A batched environment of as many slots as it is asked for."""
    return SyncVectorEnv([Walk] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def make_single() -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    return make_pair(1)


@pytest.mark.parametrize(
    ("factory", "num_envs", "expected"),
    [
        pytest.param("make_pair", "auto", 2, id="its-own"),
        pytest.param("make_pair", 5, 5, id="as-asked-for"),
        pytest.param("make_single", "auto", 1, id="of-one"),
    ],
)
def test_a_batched_environment_brings_its_slots(
    tmp_path: Path, trial_folder: Path, factory: str, num_envs: int | str, expected: int
) -> None:
    env = {"entry_point": f"tests.test_tuning:{factory}"}
    result = run(tmp_path, env=env, num_envs=num_envs, vectorization="auto")
    assert result.status == "completed", result.jobs["walk"].error
    assert (tuning_of(result)["num_envs"], tuning_of(result)["vectorization"]) == (expected, "sync")
    assert outcome(result) == outcome(run(tmp_path))


def test_torchrun_refuses_what_only_one_worker_could_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the ranks of torchrun begin at once; give --num_envs a number"):
        run_rank(load_plan({"jobs": [walk_job(num_envs="auto")]}))


@pytest.mark.ray
@pytest.mark.heavy
def test_on_ray_one_worker_chooses_for_all(tmp_path: Path, local_ray: None) -> None:
    slow = {"env_kwargs": {"step_s": 0.01, "max_length": 6}, "num_episodes": 16}
    result = run(tmp_path, num_workers=2, num_envs="auto", chunk_size=4, **slow)
    assert outcome(result) == outcome(run(tmp_path, **slow))
    told = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in told]
    assert kinds.count("tuned") == 1
    assert kinds[: kinds.index("tuned")].count("chunk_started") == 1
    slots = {line["usage"]["slots"] for line in told if line["kind"] == "chunk_finished"}
    assert slots == {tuning_of(result)["num_envs"]}
    assert len({line["worker"]["pid"] for line in told if line["kind"] == "worker_started"}) == 2


@pytest.mark.ray
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("deed", "flags"),
    [pytest.param("kill", {}, id="dies"), pytest.param("hang", {"start_timeout": 15, "stall_timeout": 2}, id="hangs")],
)
def test_an_episode_that_ends_the_trial_is_blamed_and_no_other(
    tmp_path: Path, local_ray: None, deed: str, flags: dict[str, Any]
) -> None:
    job = walk_job(num_envs="auto", env_kwargs={"poison": [0], "deed": deed}, num_episodes=4)
    base = str(tmp_path)
    result = evaluate(
        {"jobs": [job]}, num_workers=1, max_attempts=1, continue_on_error=True, video_base_dir=base, **flags
    )
    statuses = [record.status for record in result.jobs["walk"].episodes]
    assert statuses == ["error" if deed == "kill" else "timeout", *["completed"] * 3], result.jobs["walk"].error
    assert tuning_of(result)["num_envs"] == 1
    assert len(events(result.run_dir, "tuned")) == 1
