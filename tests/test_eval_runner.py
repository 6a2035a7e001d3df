"""The driver: with a scripted pool, and inline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_ray import EvalJob, RunResult, evaluate, resume
from arena_ray.dispatch import Chunk
from arena_ray.errors import StorageError
from arena_ray.json_files import LineLog
from arena_ray.pools import ChunkEvents, ChunkFinished, Place, PoolEvent
from arena_ray.records import EpisodeRecord, WorkerInfo
from arena_ray.worker_events import EpisodeStarted, WorkerReady
from tests.simulation import CalmPool
from tests.worlds import walk_job

REPOSITORY = Path(__file__).parent.parent
WORKER = WorkerInfo(host="h", pid=1)


class ScriptedPool(CalmPool):
    """Answers every chunk with completed records, without running anything."""

    can_kill = False

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._events: deque[PoolEvent] = deque()
        self.running = 0
        self.submitted = 0
        self.closed = False

    def num_workers(self, job: EvalJob) -> int:
        return self._num_workers

    def is_warm(self, job: EvalJob) -> bool:
        return self.has_room(job)

    def has_room(self, job: EvalJob) -> bool:
        return self.running < self._num_workers

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        self.running += 1
        self.submitted += 1
        self._events.append(ChunkEvents(chunk, (WorkerReady(worker=WORKER, build_s=0.0),)))
        for episode in chunk.episodes:
            record = EpisodeRecord(
                job=chunk.job.name,
                episode=episode,
                seed=1,
                status="completed",
                success=episode % 2 == 0,
                episode_return=1.0,
                length=5,
                duration_s=0.001,
                chunk=chunk.index,
                worker=WORKER,
            )
            self._events.append(ChunkEvents(chunk, (EpisodeStarted(episode=episode, slot=0), record)))
        self._events.append(ChunkFinished(chunk))

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        event = self._events.popleft()
        self.running -= isinstance(event, ChunkFinished)
        return [event]

    def close(self) -> None:
        self.closed = True


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.heavy
def test_the_drivers_memory_is_flat(tmp_path: Path) -> None:
    """100,000 records through the driver; it must not keep them."""
    evaluate({"jobs": [walk_job(num_episodes=100)]}, pool=ScriptedPool(4), video_base_dir=str(tmp_path))
    before = resident_mb()
    pool = ScriptedPool(64)
    result = evaluate({"jobs": [walk_job(num_episodes=100_000)]}, pool=pool, video_base_dir=str(tmp_path))
    grown = resident_mb() - before
    assert result.jobs["walk"].counts["completed"] == 100_000
    assert result.jobs["walk"].metrics["success_rate"].value == 0.5
    assert pool.closed
    assert grown < 100, f"{grown:.0f} MB"


def test_a_run_leaves_what_the_interface_says(tmp_path: Path) -> None:
    result = evaluate({"jobs": [walk_job()]}, inline=True, video_base_dir=str(tmp_path))
    run = json.loads((result.run_dir / "run.json").read_text())
    expected = {"schema", "status", "jobs", "argv", "git", "versions", "hardware", "notes", "started_at", "finished_at"}
    assert expected <= run.keys()
    assert run["status"] == "completed"
    assert {path.name for path in result.run_dir.iterdir()} == {
        "run.json",
        "episodes.jsonl",
        "events.jsonl",
        "summary.json",
        "report.html",
        "walk",
    }
    kinds = [json.loads(line)["kind"] for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert {"chunk_started", "worker_started", "chunk_finished"} <= set(kinds)
    (log,) = (result.run_dir / "walk" / "logs").iterdir()
    assert "[walk chunk 0]" in log.read_text()


def test_an_environment_that_ignores_its_seed_is_noticed_and_cured(tmp_path: Path) -> None:
    job = walk_job()
    job["env"]["entry_point"] = "tests.worlds:Unseeded"
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    assert len(result.notes) == 1
    assert "ignores reset(seed)" in result.notes[0]
    assert "ignores reset(seed)" in " ".join(str(result).split())
    assert json.loads((result.run_dir / "run.json").read_text())["notes"] == list(result.notes)
    warnings = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["topic"] for event in warnings if event["kind"] == "warning"] == ["seed_ignored"]
    job["env"]["seed_hook"] = "tests.worlds:seed_unseeded"
    cured = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    healthy = evaluate({"jobs": [walk_job()]}, inline=True, video_base_dir=str(tmp_path))
    assert cured.notes == healthy.notes == ()
    returns = [[record.episode_return for record in one.jobs["walk"].episodes] for one in (cured, healthy)]
    assert returns[0] == returns[1]


def test_rebuilds_build_the_environment_anew(tmp_path: Path) -> None:
    job = walk_job(num_episodes=5, num_rebuilds=2)
    job["env"] = {"entry_point": "tests.test_eval_runner:make_counted", "kwargs": {"log": str(tmp_path / "built")}}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path), chunk_size=10)
    assert (tmp_path / "built").read_text() == "bb"
    assert [record.chunk for record in result.jobs["walk"].episodes] == [0, 0, 0, 1, 1]


def make_counted(log: str) -> Any:
    from tests.worlds import Walk

    with open(log, "a") as file:
        file.write("b")
    return Walk()


def test_numbers_that_json_cannot_hold_are_null_with_a_warning(tmp_path: Path) -> None:
    job = walk_job(num_episodes=2)
    job["env"] = {"entry_point": "tests.test_eval_runner:make_infinite"}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    assert [record.episode_return for record in result.jobs["walk"].episodes] == [None, None]
    assert "Infinity" not in (result.run_dir / "episodes.jsonl").read_text()
    assert (result.jobs["walk"].metrics["return"].value, result.jobs["walk"].metrics["return"].n) == (None, 0)
    lines = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    assert {line["topic"] for line in lines if line["kind"] == "warning"} == {"not_finite"}


def make_infinite() -> Any:
    from tests.worlds import Walk

    class Infinite(Walk):
        def step(self, action: Any) -> Any:
            return self._observation(), float("inf"), True, False, {}

    return Infinite()


SLOW = {
    "jobs": [walk_job("slow", num_episodes=400, env_kwargs={"step_s": 0.02, "max_length": 5})],
}


@pytest.mark.heavy
@pytest.mark.parametrize("mode", [pytest.param(["--inline"], id="inline"), pytest.param([], id="ray")])
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, id="sigint"), pytest.param(signal.SIGTERM, 143, id="sigterm")]
)
def test_signals_end_a_run_in_order(tmp_path: Path, mode: list[str], number: int, code: int) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(SLOW))
    command = [sys.executable, "-m", "arena_ray.cli", "run", str(tmp_path / "jobs.json"), "--chunk_size", "200", *mode]
    child = subprocess.Popen(
        [*command, "--video_base_dir", str(tmp_path / "runs")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        records = _wait_for_records(tmp_path / "runs", child)
        child.send_signal(number)
        stdout, _ = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait(10)
    assert child.returncode == code
    run_dir = Path(stdout.strip().splitlines()[-1])
    result = RunResult.load(run_dir)
    assert result.status == "interrupted"
    assert records <= result.jobs["slow"].counts["completed"] < 400
    assert json.loads((run_dir / "summary.json").read_text())["jobs"]["slow"]["status"] == "incomplete"


def _wait_for_records(base: Path, child: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert child.poll() is None
        lines = sum(path.read_bytes().count(b"\n") for path in base.glob("*/episodes.jsonl"))
        if lines >= 3:
            return lines
        time.sleep(0.1)
    raise AssertionError("no record after 60 s")


@pytest.mark.heavy
def test_a_disk_that_takes_no_more_records_ends_the_run_with_whole_files(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: writes are short, then fail, in the same way."""
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": [walk_job("slow", num_episodes=400)]}))
    base = tmp_path / "runs"
    program = f"{sys.executable} -m arena_ray.cli run {tmp_path}/jobs.json --inline --video_base_dir {base}"
    # A compiled file cut short in the same way would stay behind, and break whatever imports it.
    command = f"ulimit -f 24; PYTHONDONTWRITEBYTECODE=1 exec {program}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "episodes.jsonl takes no more lines" in done.stderr
    assert "Traceback" not in done.stderr
    run_dir = Path(done.stdout.strip().splitlines()[-1])
    assert (run_dir / "episodes.jsonl").read_bytes().endswith(b"}\n")
    result = RunResult.load(run_dir)
    assert result.status == "failed"
    assert 10 < result.jobs["slow"].counts["completed"] < 400
    assert result.jobs["slow"].status == "incomplete"


class BrokenObserver:
    """As a terminal that is gone."""

    def started(self, run_dir: Path, plan: Any) -> None:
        raise BrokenPipeError

    recorded = event = tick = finished = started


def test_an_observer_that_raises_costs_the_run_nothing(tmp_path: Path) -> None:
    observer: Any = BrokenObserver()
    result = evaluate({"jobs": [walk_job()]}, inline=True, observer=observer, video_base_dir=str(tmp_path))
    assert RunResult.load(result.run_dir).status == "completed"


def make_badly_named() -> Any:
    """Raises a message that is not Unicode, as a path on an old disk may be."""
    from tests.worlds import Walk

    class Bad(Walk):
        def step(self, action: Any) -> Any:
            raise FileNotFoundError("scene-\udcff.xml")

    return Bad()


def test_a_message_that_is_not_unicode_is_written_down(tmp_path: Path) -> None:
    job = walk_job(num_episodes=1)
    job["env"] = {"entry_point": "tests.test_eval_runner:make_badly_named"}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path))
    (record,) = RunResult.load(result.run_dir).jobs["walk"].episodes
    assert record.error is not None
    assert record.error.message == "scene-\udcff.xml"


def make_exiting() -> Any:
    from tests.worlds import Walk

    class Exiting(Walk):
        def step(self, action: Any) -> Any:
            sys.exit(0)

    return Exiting()


def test_an_environment_that_exits_is_a_lost_worker(tmp_path: Path) -> None:
    job = walk_job(num_episodes=2)
    job["env"] = {"entry_point": "tests.test_eval_runner:make_exiting"}
    result = evaluate({"jobs": [job]}, inline=True, video_base_dir=str(tmp_path), max_attempts=2)
    assert result.status == "failed"
    assert "sys.exit(0)" in str(result.jobs["walk"].error)


def test_a_run_whose_last_record_was_not_written_is_not_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = LineLog.append

    def fails_at_the_last(log: LineLog, content: Mapping[str, Any]) -> None:
        if content.get("episode") == 7:
            raise StorageError("no room")
        append(log, content)

    monkeypatch.setattr(LineLog, "append", fails_at_the_last)
    result = evaluate({"jobs": [walk_job()]}, inline=True, video_base_dir=str(tmp_path))
    assert result.status == "failed"
    assert json.loads((result.run_dir / "run.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    assert resume(result.run_dir).status == "completed"
