from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from tests.contract.outside import corridor

Run = Callable[..., RunResult]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Evaluate these jobs in this process; the run directory is below `tmp_path/runs`."""

    def run_jobs(*jobs: dict[str, Any], **flags: Any) -> RunResult:
        settings = {"inline": True, "video_base_dir": str(tmp_path / "runs"), **flags}
        return evaluate({"jobs": list(jobs)}, **settings)

    return run_jobs


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The seeds of the first ten episodes of a job with seed 0, as the records tell them."""
    base = tmp_path_factory.mktemp("seeds")
    result = evaluate({"jobs": [corridor(num_episodes=10, seed=0)]}, inline=True, video_base_dir=str(base))
    return [record.seed for record in result.jobs["corridor"].episodes if record.seed is not None]
