"""sb3_cartpole.py: what Stable-Baselines3 saved is what is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_ray import RunResult
from tests.examples.commands import run_python

pytestmark = pytest.mark.heavy


def test_saved_model_is_evaluated(tmp_path: Path) -> None:
    lines = run_python(
        "examples/sb3_cartpole.py", "--inline", "--num_steps", "6000", "--num_episodes", "4", "--output_dir", tmp_path
    )
    (run_dir,) = (path.parent for path in tmp_path.glob("*/run.json"))
    result = RunResult.load(run_dir)
    assert result.status == "completed"
    assert {name: job.counts["completed"] for name, job in result.jobs.items()} == {"ppo": 4, "ppo-sampled": 4}
    trained = result.jobs["ppo"].metrics["return"].value
    assert trained is not None
    assert trained >= 80  # Random actions reach about 22.
    assert sum("completed" in line for line in lines) >= 2
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip", "vec_normalize.pkl", run_dir.name}
