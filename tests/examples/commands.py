"""Runs examples as commands, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"


def run_python(*args: str | Path) -> list[str]:
    """Run ``python *args`` from the root of the repository; return the lines of its standard output."""
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def run_job_file(name: str, *args: str | Path) -> Path:
    """Run ``arena-ray run examples/NAME *args``; return the run directory, which its last line names."""
    return Path(run_python("-m", "arena_ray.eval_runner", f"examples/{name}", *args)[-1])


def count_frames(video: Path) -> int:
    """Return how many frames a video decodes to."""
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))
