"""Slots in groups: what one group waits for, or loses, is no other group's matter."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import signal
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest

from arena_ray import evaluate
from arena_ray.chunking import episode_seed
from arena_ray.envs import Slots, Ticket, open_slots
from arena_ray.envs.base import SlotsError
from arena_ray.specs import EvalJob
from tests.comparing import outcome
from tests.contract.outside import corridor, tape

#: How long anything may take on a busy machine, seconds.
PATIENCE_S = 30.0


class Gated(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Does not step while there is a file ``hold-SEED``; writes ``stepping-SEED`` when it is asked to."""

    observation_space = gymnasium.spaces.Box(0, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._seed, self._t = seed, 0
        return self._observation(), {}

    def _observation(self) -> npt.NDArray[np.float32]:
        return np.array([self._seed, self._t], dtype=np.float32)

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        (self._folder / f"stepping-{self._seed}").touch()
        _wait_while((self._folder / f"hold-{self._seed}").exists)
        self._t += 1
        return self._observation(), float(action), self._t >= 4, False, {}


def _wait_while(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it goes on")
        time.sleep(0.002)


@contextmanager
def opened(
    tmp_path: Path, num_envs: int = 4, num_groups: int | None = 2, vectorization: str = "async"
) -> Iterator[Any]:
    """Slots of gated environments in which an episode runs, whose seed is the slot; nothing is under way."""
    job = EvalJob.model_validate(
        {
            "name": "gated",
            "env": {"entry_point": "tests.test_vectorized:Gated", "kwargs": {"folder": str(tmp_path)}},
            "policy": {"type": "zero"},
            "num_episodes": 100,
            "num_envs": num_envs,
            "vectorization": vectorization,
            "num_groups": num_groups,
        }
    )
    slots = open_slots(job, tmp_path)
    try:
        slots.begin({slot: Ticket(episode=slot, seed=slot) for slot in range(num_envs)})
        for _ in range(slots.num_groups):
            assert slots.receive() == {}
        yield slots
    finally:
        slots.close()


def send(slots: Slots, group: int) -> None:
    live = slots.live(group)
    slots.send(live, np.zeros(len(live), np.int64))


def steps_made(slots: Slots, group: int) -> list[int]:
    seen: list[int] = slots.observe(slots.live(group))[:, 1].astype(int).tolist()
    return seen


def step_over_and_over(slots: Slots, group: int) -> None:
    while len(slots.live(group)):
        send(slots, group)
        slots.receive()


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.mark.heavy
def test_while_one_group_steps_another_is_received_and_answered(tmp_path: Path) -> None:
    with opened(tmp_path) as slots:
        held = tmp_path / "hold-0"
        held.touch()
        send(slots, 0)
        _wait_while(lambda: not (tmp_path / "stepping-0").exists())
        for step in (1, 2, 3):
            send(slots, 1)
            assert list(slots.settled()) == []
            assert slots.receive() == {}
            assert list(slots.settled()) == [1]
            assert steps_made(slots, 1) == [step, step]
        held.unlink()
        assert slots.receive() == {}
        assert list(slots.settled()) == [0, 1]
        assert steps_made(slots, 0) == [1, 1]


@pytest.mark.heavy
def test_of_groups_that_are_all_done_each_has_its_turn(tmp_path: Path) -> None:
    with opened(tmp_path, num_envs=6, num_groups=3) as slots:
        for group in (0, 1, 2):
            send(slots, group)
        received = []
        for _ in range(6):
            _wait_while(lambda: not all(group.done(0) for group in slots._groups))
            slots.receive()
            (group,) = slots.settled()
            received.append(group)
            send(slots, group)
        assert Counter(received) == {0: 2, 1: 2, 2: 2}


@pytest.mark.heavy
def test_a_child_that_died_while_nobody_asked_is_met_at_the_next_call(tmp_path: Path) -> None:
    with opened(tmp_path) as slots:
        before = children()
        victim = slots._groups[1].env.processes[0]
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        slots.discard(3)  # As after a policy that raised: it must not hide what happened.
        send(slots, 1)
        with pytest.raises(SlotsError) as caught:
            step_over_and_over(slots, 0)
        assert (caught.value.slots, caught.value.culprits) == ((2, 3), (2,))
        assert str(caught.value.__cause__) == "the environment's process ended with signal 9"
        slots.reopen(caught.value.slots)
        assert len(children() & before) == 2  # The other group's.
        assert len(children()) == 4
        slots.begin({3: Ticket(episode=7, seed=7)})
        while 1 not in slots.settled():
            slots.receive()
        assert slots.live(1).tolist() == [3]
        assert slots.observe(np.array([3])).tolist() == [[7.0, 0.0]]


@pytest.mark.heavy
@pytest.mark.parametrize("num_groups", [pytest.param(1, id="one-group"), pytest.param(2, id="two-groups")])
def test_closing_while_calls_are_under_way_leaves_no_process(tmp_path: Path, num_groups: int) -> None:
    before = children()
    with opened(tmp_path, num_groups=num_groups) as slots:
        (tmp_path / "hold-3").touch()
        for group in range(num_groups):
            send(slots, group)
        _wait_while(lambda: not (tmp_path / "stepping-3").exists())
        started = time.monotonic()
        slots.close()
        assert time.monotonic() - started < PATIENCE_S / 2  # It does not wait for what is held.
        assert children() <= before
        slots.close()


@pytest.mark.heavy
@pytest.mark.parametrize("num_groups", [pytest.param(1, id="one-group"), pytest.param(2, id="two-groups")])
def test_closed_slots_go_without_the_garbage_collector(tmp_path: Path, num_groups: int) -> None:
    """It would free their semaphores at any time: while others are made, `multiprocessing` cannot, and warns."""
    gc.collect()
    gc.disable()
    try:
        with opened(tmp_path, num_groups=num_groups) as slots:
            seen = weakref.ref(slots)
        del slots
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "vectorization", [pytest.param("sync", id="sync"), pytest.param("async", id="async", marks=pytest.mark.heavy)]
)
def test_observations_are_copies(tmp_path: Path, vectorization: str) -> None:
    with opened(tmp_path, num_envs=2, num_groups=None, vectorization=vectorization) as slots:
        whole, part, other = slots.observe(np.arange(2)), slots.observe(np.array([1])), slots.observe(np.array([1, 1]))
        send(slots, 0)
        slots.receive()
        assert whole.tolist() == [[0, 0], [1, 0]]
        assert part.tolist() == [[1, 0]]
        assert other.tolist() == [[1, 0], [1, 0]]


class Rendezvous:
    """Once group 1 has been answered, answers group 0 only while the environments of group 1 make their first step."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._calls = Counter[int]()

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        self._calls[int(slots[0])] += 1
        held = self._folder / f"hold-{episode_seed(0, 2)}"
        if slots[0] == 0 and self._calls[2] and held.exists():
            _wait_while(lambda: not (self._folder / f"stepping-{episode_seed(0, 2)}").exists())
            held.unlink()
        return np.zeros(len(slots), np.int64)


@pytest.mark.heavy
def test_a_rollout_answers_one_group_while_another_steps(tmp_path: Path) -> None:
    (tmp_path / f"hold-{episode_seed(0, 2)}").touch()
    job = {
        "name": "gated",
        "env": {"entry_point": "tests.test_vectorized:Gated", "kwargs": {"folder": str(tmp_path)}},
        "policy": {"entry_point": "tests.test_vectorized:Rendezvous", "kwargs": {"folder": str(tmp_path)}},
        "num_episodes": 8,
        "num_envs": 4,
        "vectorization": "async",
    }
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path / "runs"))
    assert result.status == "completed", result.jobs["gated"].error  # In lockstep one waits for the other for ever.
    assert [record.length for record in result.jobs["gated"].episodes] == [4] * 8


@pytest.mark.heavy
def test_a_killed_child_costs_its_own_episode_and_its_group_is_run_again_together(tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    seeds = [episode_seed(0, episode) for episode in range(6)]
    kwargs = {"length": 6, "tape": str(notes), "poison": [seeds[1]], "deed": "kill", "step_s": 0.01}
    job = corridor(kwargs=kwargs, num_envs=6, num_groups=2, vectorization="async", num_episodes=6)
    result = evaluate({"jobs": [job]}, inline=True, continue_on_error=True, video_base_dir=str(tmp_path / "runs"))
    records = result.jobs["corridor"].episodes
    assert [record.status for record in records] == ["completed", "error", *["completed"] * 4]
    assert records[1].error is not None
    assert records[1].error.message == "the environment's process ended with signal 9"
    rows = [row for row in tape(notes) if row["what"] in ("reset", "step")]
    resets = Counter(row["seed"] for row in rows if row["what"] == "reset")
    # Twice more for episode 0, in which it is probed whether seeds are honoured.
    assert [resets[seed] for seed in seeds] == [4, 1, 2, 1, 1, 1]
    steps = Counter(row["seed"] for row in rows if row["what"] == "step")
    assert [steps[seed] for seed in seeds[3:]] == [6, 6, 6]  # The other group goes on as if nothing had happened.
    assert len({row["pid"] for row in rows if row.get("seed") in seeds[3:]}) == 3
    again = [row for row in rows if row["seed"] in (seeds[0], seeds[2])]
    last_resets = [index for index, row in enumerate(again) if row["what"] == "reset"][-2:]
    assert {again[index]["seed"] for index in last_resets} == {seeds[0], seeds[2]}
    assert [row["what"] for row in again[last_resets[0] : last_resets[0] + 2]] == ["reset", "reset"]  # Side by side.


class Unfit(Gated):
    """Observes something else than it said from its second step on."""

    def _observation(self) -> npt.NDArray[np.float32]:
        return np.zeros(2 if self._t < 2 else 5, np.float32)


@pytest.mark.filterwarnings("ignore::UserWarning")  # So Gymnasium tells of errors in child processes.
@pytest.mark.parametrize(
    ("num_envs", "vectorization"),
    [
        pytest.param(1, "sync", id="one-slot"),
        pytest.param(3, "sync", id="three-slots"),
        pytest.param(4, "async", id="two-groups-of-processes", marks=pytest.mark.heavy),
    ],
)
def test_an_observation_that_does_not_fit_is_an_error_that_says_so(
    tmp_path: Path, num_envs: int, vectorization: str
) -> None:
    job = {
        "name": "unfit",
        "env": {"entry_point": "tests.test_vectorized:Unfit", "kwargs": {"folder": str(tmp_path)}},
        "policy": {"type": "zero"},
        "num_episodes": 4,
        "num_envs": num_envs,
        "vectorization": vectorization,
    }
    result = evaluate({"jobs": [job]}, inline=True, continue_on_error=True, video_base_dir=str(tmp_path / "runs"))
    errors = [record.error for record in result.jobs["unfit"].episodes]
    assert [error and error.type for error in errors] == ["ValueError"] * 4
    assert all("shape" in error.message for error in errors if error is not None)


#: Everything that an environment may observe or be told, with shapes and types of its own.
SPACES: dict[str, gymnasium.Space[Any]] = {
    "box": gymnasium.spaces.Box(-1, 1, (2, 3), np.float64),
    "discrete": gymnasium.spaces.Discrete(5, start=2),
    "multi-discrete": gymnasium.spaces.MultiDiscrete([3, 4]),
    "dict": gymnasium.spaces.Dict(
        {"far": gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(3)}), "b": gymnasium.spaces.Box(0, 9, (2,))}
    ),
    "tuple": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(4), gymnasium.spaces.Box(0, 1, (1,)))),
    "text": gymnasium.spaces.Text(8),
    "dict-of-text": gymnasium.spaces.Dict({"t": gymnasium.spaces.Text(5), "n": gymnasium.spaces.Discrete(7)}),
}


class Spacious(gymnasium.Env[Any, Any]):
    """Observes samples of one space, is told elements of another, and rewards both."""

    def __init__(self, observes: str, acts: str) -> None:
        self.observation_space, self.action_space = copy.deepcopy((SPACES[observes], SPACES[acts]))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        assert self.action_space.contains(action), (self.action_space, action)
        flat = np.asarray(gymnasium.spaces.flatten(self.action_space, action))
        reward = float(np.dot(flat, np.arange(1, len(flat) + 1)))
        done = self._t >= 2 + int(self.np_random.integers(5))
        return self.observation_space.sample(), reward, done, False, {"n": self._t}


class Replier:
    """Answers each row with an element that its observation determines."""

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        self._observations, self._actions = copy.deepcopy((observation_space, action_space))

    def __call__(self, observation: Any) -> Any:
        assert self._observations.contains(observation), (self._observations, observation)
        parts = sorted(observation.items()) if isinstance(observation, dict) else observation
        self._actions.seed(sum(repr(parts).encode()))
        return self._actions.sample()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("observes", "acts"),
    [
        pytest.param("dict", "dict", id="dict"),
        pytest.param("tuple", "tuple", id="tuple"),
        pytest.param("multi-discrete", "discrete", id="discrete"),
        pytest.param("text", "box", id="text"),
        pytest.param("dict-of-text", "dict", id="dict-of-text"),
    ],
)
def test_groups_of_processes_agree_with_one_slot_in_every_space(tmp_path: Path, observes: str, acts: str) -> None:
    jobs = [
        {
            "name": "spacious",
            "env": {"entry_point": "tests.test_vectorized:Spacious", "kwargs": {"observes": observes, "acts": acts}},
            "policy": {"entry_point": "tests.test_vectorized:Replier"},
            "metrics": ["n"],
            "num_episodes": 6,
            **layout,
        }
        for layout in ({}, {"num_envs": 3}, {"num_envs": 4, "vectorization": "async"})
    ]
    results = [evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path)) for job in jobs]
    assert [result.status for result in results] == ["completed"] * 3, results[2].jobs["spacious"].error
    assert outcome(results[0]) == outcome(results[1]) == outcome(results[2])
