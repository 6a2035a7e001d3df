"""Factories, what they are given, and every shape of policy."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from tests.contract.conftest import Run
from tests.contract.outside import corridor, records, statuses, summary, tape

STAGE = "tests.contract.stage:"


def test_an_env_factory_gets_render_mode_only_if_it_takes_it(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    plain = {"entry_point": STAGE + "corridor_without_render_mode", "kwargs": {"length": 2, "tape": str(notes)}}
    result = run(
        corridor("plain", env=plain),
        corridor("anything", env={"entry_point": STAGE + "corridor_from_anything", "kwargs": {"tape": str(notes)}}),
        corridor("silent", {"tape": str(notes)}),
        corridor("filmed", {"tape": str(notes)}, video={"record_viewport_video": True}),
    )
    assert result.status == "completed"
    facts = tape(notes)
    assert [fact["render_mode"] for fact in facts if fact["what"] == "env"] == [None, "rgb_array"]
    assert Counter(fact["what"] for fact in facts)["factory"] == 2
    assert [fact["given"] for fact in facts if "given" in fact] == [["tape"]]


def test_a_policy_factory_is_given_what_its_signature_names(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    policy = {"entry_point": STAGE + "everything", "kwargs": {"tape": str(notes), "gain": 2.5}}
    result = run(corridor(policy=policy, num_envs=3, num_episodes=6, language_instruction="walk to the red ball"))
    assert result.status == "completed"
    (given,) = tape(notes, "given")
    assert given["observation_shape"] == [2]
    assert given["action_shape"] == [2]
    assert given["num_slots"] == 3
    assert given["device"] == "cpu"
    assert given["language_instruction"] == "walk to the red ball"
    assert given["gain"] == 2.5


def test_a_factory_that_takes_anything_is_given_its_kwargs_only(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    policy = {"entry_point": STAGE + "anything", "kwargs": {"tape": str(notes), "x": 1}}
    assert run(corridor(policy=policy, language_instruction="hop")).status == "completed"
    assert [given["names"] for given in tape(notes, "given")] == [["tape", "x"]]


def test_batched_policy(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    policy = {"entry_point": STAGE + "Batched", "kwargs": {"tape": str(notes)}}
    job = corridor(kwargs={"length": 0}, policy=policy, num_envs=3, num_episodes=7, language_instruction="go")
    result = run(job)
    rows = records(result.run_dir)
    assert len(rows) == 7
    (built,) = tape(notes, "policy")
    assert (built["num_slots"], built["language_instruction"]) == (3, "go")
    resets = tape(notes, "policy-reset")
    seeds = [seed for reset in resets for seed in reset["seeds"]]
    assert sorted(seeds) == sorted(row["seed"] for row in rows)
    assert all(len(reset["slots"]) == len(reset["seeds"]) for reset in resets)
    slot_of = {seed: slot for reset in resets for slot, seed in zip(reset["slots"], reset["seeds"], strict=True)}
    assert slot_of == {row["seed"]: row["slot"] for row in rows}
    acts = tape(notes, "act")
    assert all(act["shape"] == [len(act["slots"]), 2] for act in acts)
    # Whatever is in flight, the batch has one shape.
    assert {tuple(act["slots"]) for act in acts} == {(0, 1, 2)}
    assert len(tape(notes, "policy-close")) == 1


def test_actions_reach_the_slot_they_are_for(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    job = corridor(kwargs={"length": 0, "tape": str(notes)}, policy={"entry_point": STAGE + "Batched"}, num_envs=3)
    rows = records(run(job | {"num_episodes": 7}).run_dir)
    slots = {row["seed"]: row["slot"] for row in rows}
    assert {(step["seed"], round(step["action"][0], 3)) for step in tape(notes, "step")} == {
        (seed, round(0.1 * slot, 3)) for seed, slot in slots.items()
    }


@pytest.mark.parametrize("num_envs", [1, 3], ids=["one-slot", "three-slots"])
def test_plain_callable(num_envs: int, run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    job = corridor(kwargs={"tape": str(notes)}, policy={"entry_point": STAGE + "echo"}, num_envs=num_envs)
    rows = records(run(job | {"metrics": ["mark"]}).run_dir)
    marks = {row["seed"]: row["metrics"]["mark"] for row in rows}
    assert len(rows) == 3
    assert all(step["action"][0] == pytest.approx(marks[step["seed"]] / 2) for step in tape(notes, "step"))


def test_stateful_callable_is_built_once_per_slot(run: Run, tmp_path: Path) -> None:
    notes, policy_notes = tmp_path / "tape", tmp_path / "policy-tape"
    policy = {"entry_point": STAGE + "Stateful", "kwargs": {"tape": str(policy_notes)}}
    job = corridor(kwargs={"tape": str(notes), "length": 0}, policy=policy, num_envs=3, num_episodes=7)
    result = run(job)
    assert result.status == "completed"
    assert len(tape(policy_notes, "policy")) == 3
    seeds = [reset["seed"] for reset in tape(policy_notes, "policy-reset")]
    assert sorted(seeds) == sorted(row["seed"] for row in records(result.run_dir))
    assert all(step["action"][0] == pytest.approx(0.01 * step["t"]) for step in tape(notes, "step"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torch_policies(run: Run, tmp_path: Path) -> None:
    import torch

    from tests.contract.stage_torch import Halver

    module = Halver()
    module.gain.data.fill_(0.25)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    traced: Any = torch.jit.trace(module, torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, tmp_path / "policy.pt")
    kwargs = [
        {"path": str(tmp_path / "policy.pt")},
        {"entry_point": "tests.contract.stage_torch:Halver", "state_dict": str(tmp_path / "weights.pt")},
    ]
    for number, given in enumerate(kwargs):
        notes = tmp_path / f"tape-{number}"
        policy = {"type": "torch", "kwargs": given}
        job = corridor(kwargs={"tape": str(notes)}, policy=policy, num_envs=2, metrics=["mark"])
        rows = records(run(job).run_dir)
        assert [row["status"] for row in rows] == ["completed"] * 3
        marks = {row["seed"]: row["metrics"]["mark"] for row in rows}
        for step in tape(notes, "step"):
            expected = [0.25 * (step["t"] - 1), 0.25 * marks[step["seed"]]]
            # A Box action outside its bounds is clipped or passed on; these are inside.
            assert step["action"] == pytest.approx(expected, abs=1e-5)


class Evil:
    """Its pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (self.folder,)


def test_a_state_dict_runs_no_code(run: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "pwned")))
    kwargs = {"entry_point": "tests.contract.stage_torch:Halver", "state_dict": str(tmp_path / "evil.pt")}
    result = run(corridor(policy={"type": "torch", "kwargs": kwargs}))
    assert result.status == "failed"
    assert statuses(result.run_dir, "corridor") == []
    assert not (tmp_path / "pwned").exists()


@pytest.mark.heavy
def test_sb3_policy(run: Run, tmp_path: Path) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=1, device="cpu")
    model.save(tmp_path / "model.zip")
    policy = {"type": "sb3", "kwargs": {"path": str(tmp_path / "model.zip"), "algorithm": "PPO"}}
    job = {"name": "cart", "env": {"id": "CartPole-v1"}, "policy": policy, "num_episodes": 3, "num_envs": 2}
    rows = records(run(job).run_dir)
    env = gymnasium.make("CartPole-v1")
    for row in rows:
        observation, _ = env.reset(seed=row["seed"])
        done, total = False, 0.0
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            total += float(reward)
            done = terminated or truncated
        assert row["return"] == total
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        pytest.param({"type": "torch", "kwargs": {}}, "path", id="torch-without-path"),
        pytest.param({"type": "torch", "kwargs": {"path": "/nowhere.pt"}}, "/nowhere.pt", id="torch-file-missing"),
        pytest.param({"type": "sb3", "kwargs": {"path": "/nowhere.zip"}}, "/nowhere.zip", id="sb3-file-missing"),
        pytest.param({"type": "zero", "kwargs": {"gain": 1}}, "gain", id="unexpected-kwarg"),
        pytest.param({"entry_point": STAGE + "tell_seed"}, "", id="signature-does-not-fit"),
        pytest.param({"entry_point": "os:curdir"}, "", id="no-callable"),
    ],
)
def test_a_policy_that_cannot_be_built_fails_its_job(policy: dict[str, Any], reason: str, run: Run) -> None:
    result = run(corridor(policy=policy))
    job = summary(result.run_dir)["jobs"]["corridor"]
    assert job["status"] == "failed"
    assert reason in str(job["error"])
    assert records(result.run_dir) == []
