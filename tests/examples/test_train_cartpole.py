"""train_cartpole.py: training improves, and the committed weights are those of its module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from examples import train_cartpole
from tests.examples.commands import EXAMPLES, run_python


def test_training_improves() -> None:
    _, mean_returns = train_cartpole.train(num_updates=12, seed=0)
    assert len(mean_returns) == 12
    assert np.mean(mean_returns[-3:]) > 2 * mean_returns[0]


def test_training_is_reproducible() -> None:
    (first, first_returns), (second, second_returns) = (train_cartpole.train(num_updates=2, seed=3) for _ in range(2))
    assert first_returns == second_returns
    observations = torch.ones(1, 4)
    assert torch.equal(first(observations), second(observations))


def test_training_stops_when_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_cartpole, "SOLVED_RETURN", 5.0)
    _, mean_returns = train_cartpole.train(num_updates=12, seed=0)
    assert len(mean_returns) == 1


def test_returns_to_go_count_the_steps_left() -> None:
    expected = [1 + 0.99 + 0.99**2, 1 + 0.99, 1]
    np.testing.assert_allclose(train_cartpole.returns_to_go(3, truncated=False), expected, rtol=1e-6)


def test_truncation_counts_as_if_the_episode_went_on() -> None:
    np.testing.assert_allclose(train_cartpole.returns_to_go(3, truncated=True), [100.0, 100.0, 100.0], rtol=1e-6)


def test_committed_weights_fit_the_module() -> None:
    weights = torch.load(EXAMPLES / "cartpole_policy.pt", weights_only=True)
    policy = train_cartpole.CartPolePolicy()
    policy.load_state_dict(weights, strict=True)
    assert policy(torch.zeros(3, 4)).shape == (3, 2)


def test_command_writes_weights_that_fit_the_module(tmp_path: Path) -> None:
    (line,) = run_python("examples/train_cartpole.py", "--num_updates", "1", "--output", tmp_path / "policy.pt")
    assert line.startswith("mean return ")
    assert line.endswith(str(tmp_path / "policy.pt"))
    weights = torch.load(tmp_path / "policy.pt", weights_only=True)
    train_cartpole.CartPolePolicy().load_state_dict(weights, strict=True)
