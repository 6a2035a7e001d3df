"""Finishing runs that ended early: only what has no record is run, and the records are those of an undisturbed run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate, replay, resume
from arena_ray.cli import run_command
from arena_ray.config import load_plan
from arena_ray.errors import NotEnoughResourcesError, RunDirError
from arena_ray.index_ranges import parse_ranges
from arena_ray.journal import new_run
from arena_ray.processes import MARK_VARIABLE
from arena_ray.records import EpisodeRecord
from arena_ray.report import PlainProgress
from arena_ray.resume_runner import Resumption
from tests.comparing import outcome
from tests.interrupted import (
    REPOSITORY,
    SLOW,
    NotingPool,
    Watcher,
    assert_attempts_and_chunks,
    assert_whole,
    change_document,
    cut,
    document,
    events,
    killed_run,
    lines,
    run,
    state,
    torn,
    undisturbed,
    write_jobs,
)
from tests.worlds import walk_job


class Driver:
    """A driver in a process of its own."""

    def __init__(self, base: Path, *words: str) -> None:
        self._base = base
        self.process = subprocess.Popen(
            [sys.executable, "-m", "arena_ray.cli", *words],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, records: int, run_dir: Path | None = None, or_file: Path | None = None) -> Path:
        """Wait until there are so many records (or a file), and return the run directory."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for folder in [run_dir] if run_dir else list(self._base.glob("*")):
                if (folder / "run.json").exists() and (
                    (folder / "episodes.jsonl").read_bytes().count(b"\n") >= records or (or_file and or_file.exists())
                ):
                    return folder
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.005)
        raise AssertionError(f"not {records} records after 60 s")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@contextlib.contextmanager
def driver(base: Path, *words: str) -> Iterator[Driver]:
    one = Driver(base, *words)
    try:
        yield one
    finally:
        one.kill()


def slow_job(tmp_path: Path, num_episodes: int, **changes: Any) -> dict[str, Any]:
    """A job whose last episode hangs, so that no driver reaches its end, until the file ``done`` is there."""
    once = {"poison": [num_episodes - 1], "deed": "hang", "marker": str(tmp_path)}
    return walk_job("slow", num_episodes=num_episodes, env_kwargs={**SLOW, **once}, **changes)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "records", [*(pytest.param(number, id=f"after-{number}") for number in (0, 4)), pytest.param(99, id="hanging")]
)
def test_a_killed_driver_costs_nothing(tmp_path: Path, records: int, capfd: pytest.CaptureFixture[str]) -> None:
    base, done = tmp_path / "runs", tmp_path / "done"
    jobs = [slow_job(tmp_path, 9, num_envs=2), walk_job("quick", num_episodes=3)]
    flags = ("--inline", "--chunk_size", "4", "--record_viewport_video", "--video_base_dir", str(base))
    with driver(base, "run", str(write_jobs(tmp_path, *jobs)), *flags) as one:
        run_dir = one.wait_for(records, or_file=done)
        one.kill()
    done.touch()
    before = document(run_dir)
    had = {(line["job"], line["episode"]) for line in lines(run_dir)}
    assert len(had) < 12
    handed_out = {
        (event["job"], episode)
        for event in events(run_dir, "chunk_started")
        for episode in parse_ranges(event["indices"])
    } - had
    assert run_command(["resume", str(run_dir)]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == str(run_dir)
    assert "12/12 episodes" in err.splitlines()[-1]
    result = RunResult.load(run_dir)
    assert outcome(result) == undisturbed(tmp_path, *jobs)
    assert result.status == "completed"
    assert_whole(result)
    assert len(result.video_paths()) == len(lines(run_dir)) == 12
    assert_attempts_and_chunks(run_dir)
    attempts = {(record.job, record.episode): record.attempt for record in result.records()}
    assert {key for key, attempt in attempts.items() if attempt == 2} == handed_out
    after = document(run_dir)
    assert [after[key] for key in ("started_at", "mark", "source")] == [
        before[key] for key in ("started_at", "mark", "source")
    ]
    assert (len(after["resumed_at"]), after["driver"]["pid"] != before["driver"]["pid"]) == (1, True)
    (event,) = events(run_dir, "run_resumed")
    assert event["left"] == 12 - len(had)


@pytest.mark.heavy
def test_a_driver_that_resumes_may_be_killed_too(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    job = slow_job(tmp_path, 9)
    flags = ("--inline", "--record_viewport_video", "--video_base_dir", str(base))
    words = ["run", str(write_jobs(tmp_path, job)), *flags]
    run_dir = None
    for records in (2, 4):
        with driver(base, *words) as one:
            run_dir = one.wait_for(records, run_dir)
            one.kill()
        assert len(lines(run_dir)) < 9
        words = ["resume", str(run_dir)]
    assert run_dir is not None
    (tmp_path / "done").touch()
    result = resume(run_dir)
    assert outcome(result) == undisturbed(tmp_path, job)
    assert_whole(result)
    assert_attempts_and_chunks(run_dir)
    assert len(document(run_dir)["resumed_at"]) == 2


@pytest.mark.ray
@pytest.mark.heavy
def test_a_driver_killed_on_ray(tmp_path: Path, local_ray: None) -> None:
    """Its workers may go on for a moment, on the cluster on which the run is resumed."""
    import ray

    base = tmp_path / "runs"
    job = slow_job(tmp_path, 20, num_envs=2)
    flags = ("--chunk_size", "5", "--record_viewport_video", "--video_base_dir", str(base))
    address = ray.get_runtime_context().gcs_address
    with driver(base, "run", str(write_jobs(tmp_path, job)), *flags, "--address", address) as one:
        run_dir = one.wait_for(4)
        one.kill()
    (tmp_path / "done").touch()
    assert len(lines(run_dir)) < 20
    result = resume(run_dir)
    assert outcome(result) == undisturbed(tmp_path, job)
    assert_whole(result)
    assert_attempts_and_chunks(run_dir)


@pytest.mark.heavy
def test_a_run_belongs_to_one_driver_until_that_is_dead(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    job = walk_job("slow", num_episodes=60, env_kwargs=SLOW)
    with driver(base, "run", str(write_jobs(tmp_path, job)), "--inline", "--video_base_dir", str(base)) as one:
        run_dir = one.wait_for(1)
        with pytest.raises(RunDirError, match=rf"process {one.process.pid} on \S+ writes there; wait until"):
            resume(run_dir)
        assert replay(run_dir, "slow", [0], inline=True).equal
        assert one.process.poll() is None
        one.kill()
    with Resumption(run_dir, ["slow:num_episodes=60"]) as resumption:
        assert not resumption.finished


def test_two_drivers_in_one_process_are_two(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    whole = state(run_dir)
    with Resumption(run_dir):
        with pytest.raises(RunDirError, match=f"process {os.getpid()} on"):
            resume(run_dir)
        assert state(run_dir) == whole
    plan = load_plan({"jobs": [walk_job()]}, (), {"video_base_dir": str(tmp_path / "new")})
    with new_run(plan)({}) as journal, pytest.raises(RunDirError, match="still goes on"):
        resume(journal.run_dir.path)
    assert resume(run_dir).status == "completed"
    assert resume(journal.run_dir.path, inline=True).status == "completed"


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    run_dir = killed_run(tmp_path, walk_job(), records=3)
    monkeypatch.setattr(fcntl, "flock", cannot)
    assert resume(run_dir).status == "completed"
    (event,) = events(run_dir, "warning")
    assert event["topic"] == "no_lock"
    assert "No locks available" in event["message"]


def test_a_lock_that_fails_in_another_way_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    run_dir = killed_run(tmp_path, walk_job(), records=3)
    monkeypatch.setattr(fcntl, "flock", cannot)
    with pytest.raises(RunDirError, match=r"cannot write into the run directory .* Input/output error"):
        resume(run_dir)


def test_only_episodes_without_a_record_are_run(tmp_path: Path) -> None:
    jobs = [walk_job("a"), walk_job("b", num_episodes=5)]
    run_dir = killed_run(tmp_path, *jobs, records=10, chunk_size=3)
    kept = (run_dir / "episodes.jsonl").read_bytes()
    pool = NotingPool()
    result = resume(run_dir, pool=pool)
    assert [(chunk.job.name, chunk.episodes) for chunk in pool.chunks] == [("b", (2, 3, 4))]
    assert [(chunk.index, chunk.attempt) for chunk in pool.chunks] == [(2, 2)]
    assert pool.closed
    assert (run_dir / "episodes.jsonl").read_bytes().startswith(kept)
    assert outcome(result) == undisturbed(tmp_path, *jobs)
    assert RunResult.load(run_dir) == result
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary == result.summary()
    assert [job["episodes"]["completed"] for job in summary["jobs"].values()] == [8, 5]
    assert document(run_dir)["status"] == "completed"


def test_attempts_go_on_where_the_newest_ended(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(num_episodes=6), records=1, chunk_size=2)
    cut(run_dir / "events.jsonl", 3)
    with (run_dir / "events.jsonl").open("a") as file:
        for chunk, attempt, indices in ((7, 4, "1"), (5, 2, "1-2,4")):
            event = {"kind": "chunk_started", "job": "walk", "chunk": chunk, "attempt": attempt, "indices": indices}
            file.write(json.dumps({"time": "", **event}) + "\n")
    pool = NotingPool()
    resume(run_dir, pool=pool)
    attempts = {episode: chunk.attempt for chunk in pool.chunks for episode in chunk.episodes}
    assert attempts == {1: 5, 2: 3, 3: 1, 4: 3, 5: 1}
    assert [chunk.index for chunk in pool.chunks] == [8 + number for number in range(len(pool.chunks))]


def test_a_run_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    """Its events do not say which episodes a chunk had, its run.json not where the jobs came from."""
    run_dir = killed_run(tmp_path, walk_job(), records=3, chunk_size=2)
    new_keys = {"indices", "cut_short"}
    old = [{key: line[key] for key in line.keys() - new_keys} for line in lines(run_dir, "events.jsonl")]
    (run_dir / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    change_document(run_dir, source=..., mark=..., driver=..., resumed_at=..., python_path=...)
    pool = NotingPool()
    result = resume(run_dir, pool=pool)
    assert {chunk.attempt for chunk in pool.chunks} == {2}
    assert sorted(episode for chunk in pool.chunks for episode in chunk.episodes) == [3, 4, 5, 6, 7]
    assert outcome(result) == undisturbed(tmp_path, walk_job())
    assert document(run_dir)["mark"].startswith("arena-ray-")


@pytest.mark.parametrize(
    "interrupted_by", [pytest.param(signal.SIGINT, id="sigint"), pytest.param(signal.SIGTERM, id="sigterm")]
)
def test_a_resumed_run_may_be_interrupted(tmp_path: Path, interrupted_by: signal.Signals) -> None:
    run_dir = killed_run(tmp_path, walk_job(env_kwargs={"max_length": 3}), records=3, chunk_size=2)

    with Resumption(run_dir) as resumption:
        result = resumption.execute(Watcher(lambda: os.kill(os.getpid(), interrupted_by)))
        assert resumption.signal == interrupted_by
    assert (result.status, result.jobs["walk"].status) == ("interrupted", "incomplete")
    assert 4 <= len(lines(run_dir)) < 8
    result = resume(run_dir)
    assert outcome(result) == undisturbed(tmp_path, walk_job(env_kwargs={"max_length": 3}))
    assert_attempts_and_chunks(run_dir)
    assert [len(document(run_dir)["resumed_at"]), result.status] == [2, "completed"]


def test_the_observer_sees_what_is_run_and_hears_what_was(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=6)
    watcher = Watcher()
    resume(run_dir, observer=watcher)
    assert [record.episode for record in watcher.records] == [6, 7]
    assert watcher.told[:2] == ["started", "run_resumed"]
    assert watcher.told[-2:] == ["run_finished", "finished"]
    successes = sum(line["success"] for line in lines(run_dir)[:6])
    assert watcher.events[0]["jobs"] == {"walk": {"done": 6, "failed": 0, "judged": 6, "successes": successes}}


def test_progress_counts_the_whole_run_and_the_speed_of_this_part(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, period_s=0)
    progress.started(tmp_path, load_plan({"jobs": [walk_job(num_episodes=100)]}))
    counts = {"done": 90, "failed": 2, "judged": 80, "successes": 40}
    progress.event({"kind": "run_resumed", "left": 10, "jobs": {"walk": counts}})
    progress.tick()
    assert stream.getvalue().splitlines()[-2:] == [
        "90/100 episodes, 0/s, 0 workers, 2 errors",
        "  walk: 90/100, success 50 % [39, 61], 2 errors",
    ]
    progress.started_at -= 10
    progress._said_at -= 10
    for episode in range(5):
        progress.recorded(EpisodeRecord(job="walk", episode=episode, seed=0, status="completed"))
    progress.tick()
    headline, of_job = stream.getvalue().splitlines()[-2:]
    assert re.match(r"95/100 episodes, 0\.(5|49\d*)/s, 0:10 left, 0 workers, 2 errors", headline)
    assert of_job.startswith("  walk: 95/100, ")


def cured(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """A job whose episode 2 breaks once only."""
    (tmp_path / "marker").mkdir(exist_ok=True)
    return walk_job(env_kwargs={"poison": [2], "marker": str(tmp_path / "marker"), **more})


def test_without_the_flag_a_failed_episode_stays_failed(tmp_path: Path) -> None:
    result = run(tmp_path, cured(tmp_path), chunk_size=2)
    assert [record.status for record in result.records()] == ["completed", "completed", "error"]
    result = resume(result.run_dir)
    assert result.jobs["walk"].counts == {"completed": 7, "error": 1, "timeout": 0}
    assert (result.status, result.jobs["walk"].status) == ("failed", "failed")
    assert len(lines(result.run_dir)) == 8
    assert run_command(["resume", str(result.run_dir)]) == 1


@pytest.mark.parametrize("finished", [pytest.param(True, id="finished"), pytest.param(False, id="unfinished")])
def test_with_the_flag_a_failed_episode_is_run_again(tmp_path: Path, finished: bool) -> None:
    flags = {"continue_on_error": finished, "record_viewport_video": True}
    result = run(tmp_path, cured(tmp_path, poison_step=1), **flags)
    run_dir = result.run_dir
    broken = result.jobs["walk"].episodes[2]
    assert [video.partial for video in broken.videos] == [True]
    watcher = Watcher()
    result = resume(run_dir, retry_failed=True, observer=watcher)
    assert outcome(result) == undisturbed(tmp_path, walk_job())
    assert [line["status"] for line in lines(run_dir) if line["episode"] == 2] == ["error", "completed"]
    assert result.jobs["walk"].episodes[2].attempt == 2
    assert result.jobs["walk"].counts == {"completed": 8, "error": 0, "timeout": 0}
    assert json.loads((run_dir / "summary.json").read_text()) == result.summary() == RunResult.load(run_dir).summary()
    assert (watcher.events[0]["left"], watcher.events[0]["jobs"]["walk"]["failed"]) == (1 if finished else 6, 0)
    assert_whole(result)
    whole = state(run_dir)
    assert run_command(["resume", str(run_dir), "--retry_failed"]) == 0
    assert state(run_dir) == whole


def test_an_episode_that_fails_again_is_recorded_again(tmp_path: Path) -> None:
    job = walk_job(env_kwargs={"poison": [2]})
    run_dir = run(tmp_path, job, continue_on_error=True).run_dir
    for attempt in (2, 3):
        assert run_command(["resume", str(run_dir), "--retry_failed"]) == 1
        tried = [line for line in lines(run_dir) if line["episode"] == 2]
        assert [line["attempt"] for line in tried] == list(range(1, attempt + 1))
    assert_attempts_and_chunks(run_dir)


class TooSmallPool(NotingPool):
    def check(self, jobs: Any) -> None:
        raise NotEnoughResourcesError("no node")


def test_a_machine_that_is_too_small_changes_nothing(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=2)
    whole = state(run_dir)
    with pytest.raises(NotEnoughResourcesError):
        resume(run_dir, pool=TooSmallPool())
    assert state(run_dir) == whole
    assert resume(run_dir).status == "completed"


STEPS = walk_job(num_episodes=None, num_steps=60, num_envs=2)


def test_an_unfinished_budget_of_steps_is_run_again_from_its_beginning(tmp_path: Path) -> None:
    reference = run(tmp_path, STEPS, record_viewport_video=True)
    number = len(lines(reference.run_dir))
    run_dir = shutil.copytree(reference.run_dir, tmp_path / "copy")
    finish = next(i for i, line in enumerate(lines(run_dir, "events.jsonl")) if line["kind"] == "chunk_finished")
    torn(run_dir, 3, finish)
    kept = (run_dir / "episodes.jsonl").read_bytes()
    result = resume(run_dir)
    assert outcome(result) == outcome(reference)
    assert (run_dir / "episodes.jsonl").read_bytes().startswith(kept)
    assert len(lines(run_dir)) == number > 3
    assert events(run_dir, "run_resumed")[0]["left"] is None
    assert [event["attempt"] for event in events(run_dir, "chunk_started")] == [1, 2]
    assert [event["chunk"] for event in events(run_dir, "chunk_started")] == [0, 1]
    assert_whole(result)
    whole = state(run_dir)
    assert resume(run_dir).status == "completed"
    assert state(run_dir) == whole


def test_a_used_up_budget_of_steps_is_not_run_again(tmp_path: Path) -> None:
    run_dir = run(tmp_path, STEPS, walk_job("b")).run_dir
    torn(run_dir, len(lines(run_dir)) - 2)
    pool = NotingPool()
    assert resume(run_dir, pool=pool).status == "completed"
    assert {chunk.job.name for chunk in pool.chunks} == {"b"}


def test_an_interrupted_budget_of_steps_is_not_taken_for_used_up(tmp_path: Path) -> None:
    job = {**STEPS, "num_steps": 300}
    path = write_jobs(tmp_path, job)
    watcher = Watcher(lambda: os.kill(os.getpid(), signal.SIGINT))
    result = evaluate(path, inline=True, video_base_dir=str(tmp_path / "runs"), observer=watcher)
    assert result.status == "interrupted"
    assert [event["cut_short"] for event in events(result.run_dir, "chunk_finished")] == [True]
    assert outcome(resume(result.run_dir)) == undisturbed(tmp_path, job)


def test_a_budget_of_steps_whose_environment_could_not_be_built_is_not_used_up(tmp_path: Path) -> None:
    (tmp_path / "not_yet.py").write_text("from tests.worlds import raise_while_building as make\n")
    job = {**STEPS, "env": {"entry_point": "not_yet:make"}}
    result = run(tmp_path, job, continue_on_error=True)
    assert [event["cut_short"] for event in events(result.run_dir, "chunk_finished")] == [False]
    (tmp_path / "not_yet.py").write_text("from tests.worlds import Walk as make\n")
    del sys.modules["not_yet"]
    assert outcome(resume(result.run_dir)) == undisturbed(tmp_path, STEPS)


def test_a_failed_episode_of_a_budget_of_steps_is_run_again_with_it(tmp_path: Path) -> None:
    job = {**cured(tmp_path), "num_episodes": None, "num_steps": 60}
    result = run(tmp_path, job, continue_on_error=True)
    assert result.jobs["walk"].counts["error"] == 1
    whole = state(result.run_dir)
    resume(result.run_dir)
    assert state(result.run_dir) == whole
    again = resume(result.run_dir, retry_failed=True)
    assert again.jobs["walk"].counts["error"] == 0
    assert again.jobs["walk"].status == "completed"


def test_processes_that_workers_left_are_ended(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    environ = {**os.environ, MARK_VARIABLE: document(run_dir)["mark"]}
    left = subprocess.Popen(["sleep", "60"], env=environ)
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK_VARIABLE: "arena-ray-other"})
    try:
        assert resume(run_dir).status == "completed"
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait(10)


def test_processes_that_do_not_end_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    marks: list[str] = []

    def survive(mark: str, timeout_s: float) -> list[int]:
        marks.append(mark)
        return [17, 18]

    monkeypatch.setattr("arena_ray.resume_runner.end_marked", survive)
    assert resume(run_dir).status == "completed"
    assert marks == [document(run_dir)["mark"]]
    (event,) = events(run_dir, "warning")
    assert (event["topic"], "17, 18" in event["message"]) == ("leftover_workers", True)
