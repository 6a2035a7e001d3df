"""`arena-ray status`, on directories of real runs, some cut off in the middle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arena_ray import evaluate
from arena_ray.cli import run_command
from arena_ray.run_dir import RunDir
from arena_ray.run_status import RunStatus
from tests.worlds import walk_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    jobs = {"jobs": [walk_job("one", num_episodes=6), walk_job("two", num_episodes=4)]}
    return evaluate(jobs, inline=True, chunk_size=3, video_base_dir=str(base)).run_dir


@pytest.fixture
def cut_off(finished: Path, tmp_path: Path) -> Path:
    """The run as it was after the fourth record, in the middle of the second chunk."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    records = (folder / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_bytes(b"".join(records[:4]) + records[4][:20])
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    second = next(i for i, event in enumerate(events) if event["kind"] == "chunk_started" and event["chunk"] == 1)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[: second + 1]))
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "status": "running"}))
    return folder


def test_a_finished_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", str(finished)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"completed: {finished}")
    assert "has ended" in text
    status = RunStatus.read(finished)
    assert [(job.name, job.done, job.requested) for job in status.jobs] == [("one", 6, 6), ("two", 4, 4)]
    assert status.running == ()


def test_a_run_that_goes_on_says_who_runs_what(cut_off: Path) -> None:
    lock = RunDir(cut_off).lock()
    try:
        status = RunStatus.read(cut_off)
    finally:
        lock.release()
    assert status.driver_lives is True
    (chunk,) = status.running
    record = json.loads((cut_off / "episodes.jsonl").read_bytes().splitlines()[3])
    assert (chunk.job, chunk.chunk, chunk.left) == ("one", 1, "4-5")
    assert chunk.worker == record["worker"]
    assert status.jobs[0].done == 4
    rate = status.jobs[0].success_rate
    assert rate is not None
    assert rate[1] <= rate[0] <= rate[2]
    assert str(record["worker"]["pid"]) in str(status)


def test_without_its_driver_nothing_runs_and_resume_is_named(cut_off: Path) -> None:
    status = RunStatus.read(cut_off)
    assert (status.driver_lives, status.running) == (False, ())
    assert f"arena-ray resume {cut_off}" in str(status)


def test_it_needs_no_ray_and_no_simulator(finished: Path) -> None:
    code = (
        "import sys; from arena_ray.cli import run_command; "
        f"assert run_command(['status', {str(finished)!r}, '--json']) == 0; "
        "heavy = {'ray', 'torch', 'gymnasium', 'scipy', 'av'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"][1]["done"] == 4


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_a_chunk_without_a_record_is_with_the_worker_that_was_free(cut_off: Path) -> None:
    records = (cut_off / "episodes.jsonl").read_bytes().splitlines(keepends=True)[:3]
    (cut_off / "episodes.jsonl").write_bytes(b"".join(records))
    lock = RunDir(cut_off).lock()
    try:
        (chunk,) = RunStatus.read(cut_off).running
    finally:
        lock.release()
    assert (chunk.chunk, chunk.left) == (1, "3-5")
    assert chunk.worker == json.loads(records[0])["worker"]
