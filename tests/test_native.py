"""Environments that are batched by themselves: fixed quotas under autoreset, pulling without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arena_ray import RunResult, evaluate
from tests.comparing import outcome, shown_steps, videos_by_episode
from tests.worlds import Walk, walk_job

MODES = [pytest.param(mode, id=mode) for mode in ("SameStep", "NextStep", "Disabled")]


def run(tmp_path: Path, mode: str, num_episodes: int = 10, **kwargs: Any) -> RunResult:
    job = walk_job("native", num_episodes=num_episodes, metrics=["distance"])
    job["env"] = {
        "entry_point": "tests.worlds:make_vector_walk",
        "kwargs": {"mode": mode, "cameras": ["front"], **kwargs},
    }
    job["policy"] = {"type": "zero"}
    return evaluate({"jobs": [job]}, inline=True, record_camera_video=True, video_base_dir=str(tmp_path), chunk_size=5)


@pytest.mark.parametrize("mode", MODES)
def test_every_episode_has_a_record_and_every_video_t_plus_1_frames(tmp_path: Path, mode: str) -> None:
    result = run(tmp_path, mode)
    records = result.jobs["native"].episodes
    assert [record.episode for record in records] == list(range(10))
    videos = videos_by_episode(result)
    assert len(videos) == 10
    for record in records:
        assert record.length is not None
        assert shown_steps(videos["native", record.episode, "camera", "front"]) == list(range(record.length + 1))
        assert record.metrics["distance"] == 0.0
        assert record.success is (record.length % 2 == 1)
    assert len(list((result.run_dir / "native").glob("*.mp4"))) == 10


@pytest.mark.parametrize("mode", MODES[:2])
def test_slots_have_fixed_quotas_and_say_which_seed_was_used(tmp_path: Path, mode: str) -> None:
    records = run(tmp_path, mode).jobs["native"].episodes
    assert [record.slot for record in records[:5]] == [0, 1, 2, 0, 1]
    assert [record.seed is not None for record in records[:5]] == [True, True, True, False, False]


def test_without_autoreset_results_are_those_of_single_environments(tmp_path: Path) -> None:
    native = run(tmp_path, "Disabled")
    job = walk_job("native", num_episodes=10, metrics=["distance"], env_kwargs={"cameras": ["front"]})
    job["policy"] = {"type": "zero"}
    single = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    assert outcome(native) == outcome(single)


def test_a_step_budget_ends_a_native_rollout(tmp_path: Path) -> None:
    job = walk_job("native", num_episodes=None, num_steps=50)
    job["env"] = {"entry_point": "tests.worlds:make_vector_walk", "kwargs": {}}
    del job["num_episodes"]
    job["policy"] = {"type": "zero"}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    assert result.status == "completed"
    assert 0 < sum(record.length or 0 for record in result.jobs["native"].episodes) <= 50


class IsaacStyle(gymnasium.Env[Any, Any]):
    """As Isaac Lab has it: an `Env` with `num_envs`, tensors, same-step autoreset, final observation in info."""

    metadata = {"render_fps": 10}  # noqa: RUF012

    def __init__(self, num_envs: int = 4) -> None:
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Dict({"policy": gymnasium.spaces.Box(-9, 9, (1,), np.float32)})
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = self.single_observation_space
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.lengths = torch.arange(2, 2 + num_envs)

    def _observe(self) -> dict[str, Any]:
        frames = (4 * self.t).to(torch.uint8)[:, None, None, None].expand(-1, 32, 48, 3)
        return {"policy": self.t[:, None].float(), "camera_obs": {"front": frames.clone()}}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = torch.zeros(self.num_envs, dtype=torch.int64)
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        assert torch.is_tensor(action)
        assert action.shape == (self.num_envs, 2)
        self.t += 1
        done = self.t >= self.lengths
        info = {"success": done & (self.lengths % 2 == 0), "final_obs": self._observe()}
        self.t = torch.where(done, 0, self.t)
        return self._observe(), torch.ones(self.num_envs), done, torch.zeros_like(done), info


def make_isaac_style(num_envs: int) -> IsaacStyle:
    return IsaacStyle(num_envs)


def test_isaac_style_environments_run_and_record(tmp_path: Path) -> None:
    job = walk_job("isaac", num_episodes=10, num_envs=4)
    job["env"] = {"entry_point": "tests.test_native:make_isaac_style"}
    job["policy"] = {"type": "zero"}
    result = evaluate({"jobs": [job]}, inline=True, record_camera_video=True, video_base_dir=str(tmp_path))
    records = result.jobs["isaac"].episodes
    assert [record.length for record in records] == [2, 3, 4, 5, 2, 3, 4, 5, 2, 3]
    assert [record.success for record in records[:4]] == [True, False, True, False]
    videos = videos_by_episode(result)
    for record in records:
        assert record.length is not None
        assert shown_steps(videos["isaac", record.episode, "camera", "front"]) == list(range(record.length + 1))


def test_num_envs_must_agree(tmp_path: Path) -> None:
    job = walk_job("native", num_envs=2)
    job["env"] = {"entry_point": "tests.worlds:make_vector_walk", "kwargs": {"num_slots": 3}}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    assert result.jobs["native"].status == "failed"
    assert "num_envs is 2, but the environment steps 3" in str(result.jobs["native"].error)


class ChokesOnce:
    """Raises in its third answer."""

    def __init__(self) -> None:
        self.answers = 0

    def act(self, observations: Any, slots: Any) -> Any:
        self.answers += 1
        if self.answers == 3:
            raise ValueError("the policy choked")
        return np.zeros((len(slots), 1), np.float32)


@pytest.mark.parametrize("mode", MODES[:2])
def test_after_a_policy_broke_native_episodes_begin_anew(tmp_path: Path, mode: str) -> None:
    job = walk_job("native", num_episodes=12)
    job["env"] = {"entry_point": "tests.worlds:make_vector_walk", "kwargs": {"mode": mode, "cameras": ["front"]}}
    job["policy"] = {"entry_point": "tests.test_native:ChokesOnce"}
    result = evaluate(
        {"jobs": [job]},
        inline=True,
        continue_on_error=True,
        record_camera_video=True,
        video_base_dir=str(tmp_path),
        chunk_size=12,
    )
    records = result.jobs["native"].episodes
    assert [record.episode for record in records] == list(range(12))
    assert 0 < result.jobs["native"].counts["error"] <= 3
    videos = videos_by_episode(result)
    for record in records:
        if record.status == "completed":
            assert record.length is not None
            assert shown_steps(videos["native", record.episode, "camera", "front"]) == list(range(record.length + 1))


class Grudging(SyncVectorEnv):
    """Its third reset raises, the first after those that probe its seeding; writes down what is asked of it."""

    def __init__(self, notes: str, mode: str) -> None:
        super().__init__([Walk, Walk], autoreset_mode=AutoresetMode(mode))
        self._notes = Path(notes)
        self._note("build")

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(f"{what}\n")

    def reset(self, **keywords: Any) -> Any:
        self._note("reset")
        if self._notes.read_text().count("reset") == 3:
            raise RuntimeError("not now")
        return super().reset(**keywords)

    def step(self, actions: Any) -> Any:
        self._note("step")
        return super().step(actions)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_built_anew_is_not_stepped_before_it_is_reset(tmp_path: Path, mode: str) -> None:
    kwargs = {"notes": str(tmp_path / "notes"), "mode": mode}
    job = walk_job("native", num_episodes=6, env={"entry_point": "tests.test_native:Grudging", "kwargs": kwargs})
    result = evaluate({"jobs": [job]}, inline=True, continue_on_error=True, video_base_dir=str(tmp_path))
    records = result.jobs["native"].episodes
    assert [record.episode for record in records] == list(range(6))
    assert all(record.status == "completed" or "not now" in str(record.error) for record in records)
    assert (tmp_path / "notes").read_text().split()[:6] == ["build", "reset", "reset", "reset", "build", "reset"]
