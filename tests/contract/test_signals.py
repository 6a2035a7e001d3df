"""SIGINT and SIGTERM: exit codes 130 and 143, and what is on disk afterwards."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contract.outside import (
    Started,
    corridor,
    events,
    read_json,
    records,
    started,
    summary,
    tape,
    wait_until,
    write_jobs,
)


@contextmanager
def a_long_run(
    folder: Path, *flags: str, step_s: float = 0.05, num_envs: int = 1, wait_for: str = "records"
) -> Iterator[tuple[Started, Path]]:
    """A run of very many episodes of three steps, at its second record or its first step; and its tape."""
    notes = folder / "tape"
    kwargs = {"tape": str(notes), "step_s": step_s}
    jobs = [corridor("long", kwargs, num_episodes=500, num_envs=num_envs), corridor("later", num_episodes=1000)]
    path = write_jobs(folder / "jobs.yaml", *jobs)
    with started("run", path, "--video_base_dir", folder / "base", *flags, folder=folder) as process:
        wait_until(lambda: tape(notes, "step") if wait_for == "a step" else len(_lines(folder)) >= 2)
        yield process, notes


def _lines(folder: Path) -> list[str]:
    return [line for path in folder.glob("base/*/episodes.jsonl") for line in path.read_text().splitlines()]


def assert_resumable(run_dir: Path) -> None:
    assert read_json(run_dir / "run.json")["status"] == "interrupted"
    assert read_json(run_dir / "run.json")["finished_at"] is not None
    assert summary(run_dir)["status"] == "interrupted"
    jobs = summary(run_dir)["jobs"]
    assert {job["status"] for job in jobs.values()} == {"incomplete"}
    assert jobs["long"]["episodes"]["requested"] == 500
    assert jobs["long"]["episodes"]["completed"] == len(records(run_dir, "long")) < 500
    assert {row["status"] for row in records(run_dir)} <= {"completed"}
    assert events(run_dir)[-1]["kind"] == "run_finished"


@pytest.mark.parametrize("num_envs", [1, 2], ids=["one-slot", "two-slots"])
def test_sigint_lets_episodes_in_flight_finish(num_envs: int, tmp_path: Path) -> None:
    with a_long_run(tmp_path, "--inline", num_envs=num_envs) as (process, notes):
        process.signal(signal.SIGINT)
        done = process.ended()
    assert done.code == 130, done.said
    assert done.wall_s < 5
    assert_resumable(done.run_dir)
    begun = {step["seed"] for step in tape(notes, "step")}
    assert begun == {row["seed"] for row in records(done.run_dir)}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("signals", "code"),
    [pytest.param(["SIGINT", "SIGINT"], 130, id="sigint-twice"), pytest.param(["SIGTERM"], 143, id="sigterm")],
)
@pytest.mark.parametrize("step_s", [0.3, 60.0], ids=["between-steps", "in-a-step-that-does-not-end"])
def test_ends_at_once(signals: list[str], code: int, step_s: float, tmp_path: Path) -> None:
    with a_long_run(tmp_path, "--inline", step_s=step_s, wait_for="a step") as (process, notes):
        for name in signals:
            process.signal(signal.Signals[name])
            time.sleep(0.1)
        done = process.ended(4)
    assert done.code == code, done.said
    assert done.wall_s < 2.5
    assert_resumable(done.run_dir)
    assert len(tape(notes, "step")) % 3 != 0
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.heavy
def test_ctrl_c_in_a_terminal_reaches_ray_too(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group."""
    with a_long_run(tmp_path, "--num_workers", "1") as (process, notes):
        process.signal_group(signal.SIGINT)
        done = process.ended()
    assert done.code == 130, done.said
    assert_resumable(done.run_dir)
    begun = {step["seed"] for step in tape(notes, "step")}
    assert begun == {row["seed"] for row in records(done.run_dir)}
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.heavy
def test_sigterm_on_ray(local_ray: None, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    flags = ("--num_workers", "1", "--address", address)
    with a_long_run(tmp_path, *flags, step_s=60, wait_for="a step") as (process, _):
        process.signal(signal.SIGTERM)
        # Flushed within two seconds, whatever leaving the cluster takes.
        run_json = next(tmp_path.glob("base/*/run.json"))
        wait_until(lambda: read_json(run_json)["status"] == "interrupted", 2.5)
        done = process.ended()
    assert done.code == 143, done.said
    assert done.wall_s < 6
    assert_resumable(done.run_dir)
