"""Disks that are full or read-only: a small file system of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult
from tests.chaos.scenes import hold_to_promise, note_row, undisturbed, wait_until
from tests.worlds import walk_job

pytestmark = [pytest.mark.heavy]

REPOSITORY = Path(__file__).parents[2]
EPISODES = 150

#: Drivers of the running test.
DRIVERS: list[subprocess.Popen[str]] = []

SLOW = {"step_s": 0.01, "max_length": 12}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting needs privileges: {mounted.stderr!r}")
    yield folder
    for driver in DRIVERS:
        driver.kill()
        driver.communicate(timeout=10)
    DRIVERS.clear()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def start(*words: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    DRIVERS.append(subprocess.Popen([sys.executable, "-m", "arena_ray.cli", *words], cwd=REPOSITORY, **pipes))
    return DRIVERS[-1]


def job_file(folder: Path, **changes: Any) -> str:
    path = folder / "jobs.json"
    path.write_text(json.dumps({"jobs": [walk_job(num_episodes=EPISODES, env_kwargs=SLOW, **changes)]}))
    return str(path)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def num_records(disk: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in disk.glob("*/episodes.jsonl"))


def whole_lines(run_dir: Path) -> bool:
    return all((run_dir / name).read_bytes().endswith(b"}\n") for name in ("episodes.jsonl", "events.jsonl"))


def test_a_full_disk_is_waited_for(request: pytest.FixtureRequest, tmp_path: Path, small_disk: Path) -> None:
    driver = start("run", job_file(tmp_path), "--inline", "--video_base_dir", str(small_disk))
    assert wait_until(lambda: num_records(small_disk) >= 5, 60)
    filler = fill(small_disk)
    begun, before = time.monotonic(), num_records(small_disk)
    time.sleep(3)
    assert num_records(small_disk) <= before + 12  # What the last page of the file still takes.
    assert driver.poll() is None
    filler.unlink()
    output, errors = driver.communicate(timeout=60)
    assert driver.returncode == 0, errors
    assert "takes no more lines" in " ".join(errors.split())
    assert "the run goes on" in " ".join(errors.split())
    result = RunResult.load(output.splitlines()[-1])
    reference = undisturbed(tmp_path, walk_job(num_episodes=EPISODES, env_kwargs={"max_length": 12}))
    hold_to_promise(result, "walk", reference, videos=False)
    took = time.monotonic() - begun
    note_row(request, "disk full for 3 s", injected=1, episodes=EPISODES, extra_s=took, bound_s=30.0)


@pytest.mark.parametrize("videos", [pytest.param(False, id="records"), pytest.param(True, id="videos-too")])
def test_a_disk_that_stays_full_ends_the_run_resumable(
    request: pytest.FixtureRequest, tmp_path: Path, small_disk: Path, videos: bool
) -> None:
    jobs = job_file(tmp_path, video={"record_viewport_video": videos})
    driver = start("run", jobs, "--inline", "--video_base_dir", str(small_disk), "--storage_timeout", "1")
    assert wait_until(lambda: num_records(small_disk) >= 5, 60)
    filler = fill(small_disk)
    begun = time.monotonic()
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 1, errors
    assert "Traceback" not in errors
    assert "takes no more lines" in " ".join(errors.split())
    (run_dir,) = (path.parent for path in small_disk.glob("*/run.json"))
    assert whole_lines(run_dir)
    assert 5 <= RunResult.load(run_dir).jobs["walk"].counts["completed"] < EPISODES
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    resumed = start("resume", str(run_dir), "--inline")
    _, errors = resumed.communicate(timeout=90)
    assert resumed.returncode == 0, errors
    took = time.monotonic() - begun
    reference = undisturbed(tmp_path, walk_job(num_episodes=EPISODES, env_kwargs={"max_length": 12}))
    hold_to_promise(RunResult.load(run_dir), "walk", reference, videos=False)
    fault = f"disk full for good, {'videos' if videos else 'records'}, then resume"
    note_row(request, fault, injected=1, episodes=EPISODES, extra_s=took, bound_s=60.0)


@pytest.mark.parametrize("command", [pytest.param("run", id="run"), pytest.param("resume", id="resume")])
def test_a_read_only_disk_is_refused_before_anything_starts(
    request: pytest.FixtureRequest, tmp_path: Path, small_disk: Path, command: str
) -> None:
    jobs = job_file(tmp_path)
    words = ["run", jobs, "--inline", "--video_base_dir", str(small_disk)]
    if command == "resume":
        driver = start(*words)
        assert wait_until(lambda: num_records(small_disk) >= 5, 60)
        driver.kill()
        driver.wait(timeout=10)
        (run_dir,) = (path.parent for path in small_disk.glob("*/run.json"))
        words = ["resume", str(run_dir), "--inline"]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in small_disk.rglob("*"))
    driver = start(*words)
    begun = time.monotonic()
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 2, errors
    assert "Read-only file system" in " ".join(errors.split())
    assert "Traceback" not in errors
    assert sorted((str(path), path.stat().st_mtime_ns) for path in small_disk.rglob("*")) == before
    took = time.monotonic() - begun
    note_row(request, f"read-only disk, {command}", injected=1, episodes=0, extra_s=took, bound_s=20.0)
