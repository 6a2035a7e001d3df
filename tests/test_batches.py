"""Batches of one shape: what a policy is shown, and that nobody's episode depends on who fills a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from arena_ray import RunResult, evaluate
from arena_ray.chunking import episode_seed
from tests.comparing import outcome
from tests.worlds import Leaner, walk_job

LAYOUTS = [
    pytest.param({"num_envs": 3}, id="sync"),
    pytest.param({"num_envs": 4, "vectorization": "async"}, id="two-groups", marks=pytest.mark.heavy),
]


class Noted(Leaner):
    """Writes down what it is asked."""

    def __init__(self, num_slots: int, notes: str, pad_batches: bool = True) -> None:
        super().__init__(num_slots)
        self._notes = Path(notes)
        self.pad_batches = pad_batches

    def _note(self, **what: Any) -> None:
        with self._notes.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        super().reset(slots, seeds)
        self._note(reset=slots.tolist(), seeds=list(seeds))

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        assert len(observations["state"]) == len(slots)
        self._note(act=slots.tolist(), times=observations["state"][:, 0].tolist())
        return super().act(observations, slots)


class Crowded(Leaner):
    """Answers otherwise in a batch of another size, as the kernels of a GPU do, only more so."""

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return super().act(observations, slots) * (1 + 0.1 * len(slots))


class Frail:
    """Raises on an observation, whoever made it."""

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if (observations["state"][:, 1] > 2).any():
            raise ValueError("more than it can bear")
        return np.zeros((len(slots), 1), np.float32)


class Misshapen:
    """Answers with two numbers where one is asked for, once it has seen a poisoned episode's seed."""

    def __init__(self, num_slots: int, poison: Sequence[int]) -> None:
        self._poison = {episode_seed(0, episode) for episode in poison}
        self._seeds = np.zeros(num_slots, np.int64)

    def reset(self, slots: npt.NDArray[np.int64], seeds: Sequence[int]) -> None:
        self._seeds[slots] = seeds

    def act(self, observations: dict[str, Any], slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        poisoned = bool(self._poison & set(self._seeds[slots].tolist()))
        return np.zeros((len(slots), 2 if poisoned else 1), np.float32)


def run(tmp_path: Path, policy: str, policy_kwargs: dict[str, Any] | None = None, **changes: Any) -> RunResult:
    flags = {key: changes.pop(key) for key in ("chunk_size",) if key in changes}
    reference = {"entry_point": f"tests.test_batches:{policy}", "kwargs": policy_kwargs or {}}
    job = walk_job(policy=reference, **changes)
    base = str(tmp_path / "runs")
    return evaluate({"jobs": [job]}, inline=True, continue_on_error=True, video_base_dir=base, **flags)


def noted(tmp_path: Path, **changes: Any) -> list[dict[str, Any]]:
    notes = tmp_path / "notes"
    pads = changes.pop("pad_batches", True)
    result = run(tmp_path, "Noted", {"notes": str(notes), "pad_batches": pads}, **changes)
    assert result.status == "completed", result.jobs["walk"].error
    return [json.loads(line) for line in notes.read_text().splitlines()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_policy_always_sees_the_whole_group(tmp_path: Path, layout: dict[str, Any]) -> None:
    notes = noted(tmp_path, num_episodes=7, **layout)
    groups = {(0, 1, 2)} if layout["num_envs"] == 3 else {(0, 1), (2, 3)}
    assert {tuple(note["act"]) for note in notes if "act" in note} == groups


def test_slots_that_never_began_are_reset_before_they_fill_a_batch(tmp_path: Path) -> None:
    notes = noted(tmp_path, num_episodes=1, num_envs=3)
    assert notes[0] == {"reset": [0], "seeds": [episode_seed(0, 0)]}
    assert notes[1] == {"reset": [1, 2], "seeds": [0, 0]}
    acts = notes[2:]
    # Who fills a batch sees what the first of the others sees.
    assert acts == [{"act": [0, 1, 2], "times": [step] * 3} for step in range(len(acts))]


def test_a_policy_that_wants_no_padding_is_asked_for_live_slots_only(tmp_path: Path) -> None:
    notes = noted(tmp_path, num_episodes=7, num_envs=3, pad_batches=False)
    known: set[int] = set()
    for note in notes:
        known |= set(note.get("reset", ()))
        assert set(note.get("act", ())) <= known
    assert {len(note["act"]) for note in notes if "act" in note} > {1}
    seeds = [seed for note in notes for seed in note.get("seeds", ())]
    assert sorted(seeds) == sorted(episode_seed(0, episode) for episode in range(7))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_depends_on_the_size_of_a_batch_is_equal_for_any_chunks(tmp_path: Path, layout: dict[str, Any]) -> None:
    whole = outcome(run(tmp_path, "Crowded", **layout))
    assert outcome(run(tmp_path, "Crowded", chunk_size=1, **layout)) == whole
    assert outcome(run(tmp_path, "Crowded", chunk_size=3, **layout)) == whole
    assert outcome(run(tmp_path, "Crowded", num_episodes=2, **layout)) == whole[:2]
    assert outcome(run(tmp_path, "Crowded")) != whole  # It does depend on it.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_policy_that_raises_blames_its_episode_although_batches_are_full(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    job = walk_job(policy={"entry_point": "tests.worlds:Choker", "kwargs": {"poison": [1, 4]}}, **layout)
    result = evaluate({"jobs": [job]}, inline=True, continue_on_error=True, video_base_dir=str(tmp_path))
    statuses = [record.status for record in result.jobs["walk"].episodes]
    assert statuses == ["error" if episode in (1, 4) else "completed" for episode in range(8)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_resting_slot_saw_last_blames_nobody_else(tmp_path: Path, layout: dict[str, Any]) -> None:
    alone = run(tmp_path, "Frail", num_episodes=20)
    assert 0 < alone.jobs["walk"].counts["error"] < 20
    assert outcome(run(tmp_path, "Frail", num_episodes=20, **layout)) == outcome(alone)


@pytest.mark.parametrize("layout", [pytest.param({}, id="one-slot"), *LAYOUTS])
@pytest.mark.parametrize("num_episodes", [pytest.param(1, id="padded"), pytest.param(8, id="full")])
def test_an_answer_that_is_no_batch_of_actions_is_an_error_of_the_episode(
    tmp_path: Path, layout: dict[str, Any], num_episodes: int
) -> None:
    result = run(tmp_path, "Misshapen", {"poison": [0, 5]}, num_episodes=num_episodes, **layout)
    records = result.jobs["walk"].episodes
    expected = ["error" if episode in (0, 5) else "completed" for episode in range(num_episodes)]
    assert [record.status for record in records] == expected
    assert records[0].error is not None
    assert records[0].error.type == "PolicyError"
    assert "act() returns one action per row" in records[0].error.message
