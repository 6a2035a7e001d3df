"""Trains the policy of cartpole.yaml with REINFORCE; about 30 s on one core.

Run it with ``python examples/train_cartpole.py``; it writes ``cartpole_policy.pt`` beside itself.
`CartPolePolicy` is what the job file names under `policy.kwargs.entry_point`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

DISCOUNT = 0.99
EPISODES_PER_UPDATE = 16
LEARNING_RATE = 0.01
SOLVED_RETURN = 495.0


class CartPolePolicy(nn.Module):
    """Scores the two actions of CartPole-v1: ``float32[k, 4]`` observations to ``float32[k, 2]`` logits.

    An evaluation takes the action with the higher score.
    """

    def __init__(self, num_hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, num_hidden), nn.Tanh(), nn.Linear(num_hidden, 2))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return one row of logits per observation."""
        logits: torch.Tensor = self.layers(observations)
        return logits


def train(num_updates: int = 80, seed: int = 0) -> tuple[CartPolePolicy, list[float]]:
    """Train until three updates in a row average `SOLVED_RETURN`, or `num_updates` have been made.

    Args:
        num_updates: Gradient steps, each on `EPISODES_PER_UPDATE` fresh episodes.
        seed: Of weights, actions and environment.

    Returns:
        The policy, and the mean return of each update's episodes.
    """
    torch.manual_seed(seed)
    policy = CartPolePolicy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=seed)
    mean_returns: list[float] = []
    while len(mean_returns) < num_updates and np.mean(mean_returns[-3:] or [0.0]) < SOLVED_RETURN:
        episodes = [play(env, policy) for _ in range(EPISODES_PER_UPDATE)]
        update(policy, optimizer, episodes)
        mean_returns.append(float(np.mean([len(actions) for _, actions, _ in episodes])))
    env.close()
    return policy, mean_returns


Episode = tuple[list[npt.NDArray[np.float32]], list[int], npt.NDArray[np.float32]]


def play(env: gymnasium.Env[npt.NDArray[np.float32], np.int64], policy: CartPolePolicy) -> Episode:
    """Play one episode with sampled actions; return observations, actions and the return from each step on."""
    observations, actions = [], []
    observation, _ = env.reset()
    terminated = truncated = False
    while not (terminated or truncated):
        with torch.no_grad():
            probabilities = policy(torch.from_numpy(observation)).softmax(dim=-1)
        action = int(torch.multinomial(probabilities, 1))
        observations.append(observation)
        actions.append(action)
        observation, _, terminated, truncated, _ = env.step(np.int64(action))
    return observations, actions, returns_to_go(len(actions), truncated)


def returns_to_go(length: int, truncated: bool) -> npt.NDArray[np.float32]:
    """Return the discounted sum of the rewards (1 per step) from each step on, as if a truncated episode went on."""
    steps_left = np.full(length, np.inf) if truncated else np.arange(length, 0, -1)
    return ((1 - DISCOUNT**steps_left) / (1 - DISCOUNT)).astype(np.float32)


def update(policy: CartPolePolicy, optimizer: torch.optim.Optimizer, episodes: list[Episode]) -> None:
    """Make actions that were followed by more than the mean return likelier, the others less likely."""
    observations = torch.from_numpy(np.concatenate([observations for observations, _, _ in episodes]))
    actions = torch.tensor([action for _, actions, _ in episodes for action in actions])
    returns = torch.from_numpy(np.concatenate([returns for _, _, returns in episodes]))
    advantages = (returns - returns.mean()) / (returns.std() + 1e-6)
    log_probabilities = policy(observations).log_softmax(dim=-1)[torch.arange(len(actions)), actions]
    loss = -(log_probabilities * advantages).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description="Train the policy of examples/cartpole.yaml.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("cartpole_policy.pt"))
    parser.add_argument("--num_updates", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy, mean_returns = train(args.num_updates, args.seed)
    torch.save(policy.state_dict(), args.output)
    print(f"mean return {mean_returns[0]:.0f} -> {mean_returns[-1]:.0f} in {len(mean_returns)} updates: {args.output}")


if __name__ == "__main__":
    main()
