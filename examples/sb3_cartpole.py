"""Trains PPO with Stable-Baselines3 for some seconds, saves it, and evaluates what it saved.

It needs ``pip install "arena-ray[sb3]"``. Run it with ``python examples/sb3_cartpole.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from arena_ray import RunResult, evaluate


def train(folder: Path, num_steps: int) -> None:
    """Train, and write ``model.zip`` and ``vec_normalize.pkl`` into a folder."""
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=4, seed=0))
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=128, learning_rate=1e-3, seed=0, device="cpu")
    model.learn(num_steps)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    env.save(str(folder / "vec_normalize.pkl"))
    env.close()


def jobs(folder: Path, num_episodes: int) -> dict[str, Any]:
    """Return what a job file would hold: the saved model, as it is used and with sampled actions."""
    saved = {"path": str(folder / "model.zip"), "algorithm": "PPO", "vec_normalize": str(folder / "vec_normalize.pkl")}
    return {
        "jobs": [
            {"name": "ppo", "policy": {"type": "sb3", "kwargs": saved}},
            {"name": "ppo-sampled", "policy": {"type": "sb3", "kwargs": {**saved, "deterministic": False}}},
        ],
        "defaults": {"env": {"id": "CartPole-v1"}, "num_episodes": num_episodes},
    }


def main() -> RunResult:
    """Train, evaluate, print the table."""
    parser = argparse.ArgumentParser(description="Train PPO on CartPole-v1 and evaluate it.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/sb3_cartpole"))
    parser.add_argument("--num_steps", type=int, default=15_000, help="steps of training")
    parser.add_argument("--num_episodes", type=int, default=20, help="episodes of evaluation, per job")
    parser.add_argument("--inline", action="store_true", help="evaluate in this process, without Ray")
    args = parser.parse_args()
    folder = args.output_dir.absolute()  # Workers may have another current folder.
    train(folder, args.num_steps)
    result = evaluate(jobs(folder, args.num_episodes), video_base_dir=folder, inline=args.inline)
    print(result)
    return result


if __name__ == "__main__":
    main()
