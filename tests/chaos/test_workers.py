"""Workers and their helpers that die, hang, grow and multiply, on a real local Ray."""

from __future__ import annotations

import datetime
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.processes import marked_processes
from tests.chaos.disasters import DEEDS
from tests.chaos.scenes import events, hold_to_promise, note_row, nothing_lives, undisturbed, wait_until
from tests.local_cluster import LocalCluster
from tests.worlds import walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

STALL_S = 3.0

#: Replacing a worker on this machine: a process, its imports, its environment; on two cores that other tests load.
RESTART_S = 24.0

EPISODES = 10
GIVEN = (2, 7)


def disaster_job(deed: str, marker: Path, **kwargs: Any) -> dict[str, Any]:
    marker.mkdir(exist_ok=True)
    job = walk_job(deed, num_episodes=EPISODES, video={"record_viewport_video": True})
    job["env"] = {
        "entry_point": "tests.chaos.disasters:Disaster",
        "kwargs": {"deed": deed, "marker": str(marker), "episodes": GIVEN, **kwargs},
    }
    return job


@pytest.fixture(scope="module")
def ruins(tmp_path_factory: pytest.TempPathFactory, local_cluster: LocalCluster) -> RunResult:
    """One run of a job per deed, all at once: two episodes of each do it, once."""
    local_cluster.connect()
    folder = tmp_path_factory.mktemp("ruins")
    jobs = [disaster_job(deed, folder / deed, always=deed == "exception") for deed in DEEDS]
    flags: dict[str, Any] = {"stall_timeout": STALL_S, "continue_on_error": True, "num_workers": 2}
    return evaluate({"jobs": jobs}, video_base_dir=str(folder / "runs"), **flags)


@pytest.mark.parametrize("deed", [pytest.param(deed, id=deed) for deed in DEEDS])
def test_a_deed_in_two_episodes(request: pytest.FixtureRequest, ruins: RunResult, tmp_path: Path, deed: str) -> None:
    raised = GIVEN if deed == "exception" else ()
    hold_to_promise(ruins, deed, undisturbed(tmp_path, walk_job(deed, num_episodes=EPISODES)), raised=raised)
    done = (ruins.run_dir.parent.parent / deed / "done").read_text().splitlines()
    losses = [event for event in events(ruins.run_dir, "worker_lost") if event["job"] == deed]
    assert len(done) == 2
    assert len(losses) == (0 if raised else 2)
    spans = [event for event in events(ruins.run_dir, "chunk_started") if event["job"] == deed]
    ends = [event for event in events(ruins.run_dir, "chunk_finished") if event["job"] == deed]
    took = _moment(ends[-1]) - _moment(spans[0])
    note_row(
        request, f"{deed} in 2 episodes", injected=2, episodes=EPISODES, extra_s=took, bound_s=2 * (STALL_S + RESTART_S)
    )


def _moment(event: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()


def test_nothing_of_them_lives(ruins: RunResult) -> None:
    assert ruins.jobs["exception"].counts["error"] == len(GIVEN)
    nothing_lives(ruins)


def test_an_episode_that_always_kills_is_found_and_its_neighbours_are_whole(
    request: pytest.FixtureRequest, tmp_path: Path, local_ray: None
) -> None:
    job = disaster_job("segfault", tmp_path / "marker", always=True)
    job["env"]["kwargs"]["episodes"] = [4]
    job["num_envs"] = 3
    started = time.monotonic()
    flags: dict[str, Any] = {"max_attempts": 2, "continue_on_error": True}
    result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), **flags)
    took = time.monotonic() - started
    hold_to_promise(result, "segfault", undisturbed(tmp_path, walk_job("segfault", num_episodes=EPISODES)), raised=(4,))
    nothing_lives(result)
    note_row(
        request, "segfault in 1 episode, always", injected=2, episodes=EPISODES, extra_s=took, bound_s=3 * RESTART_S
    )


class Killer:
    """Ends random processes of a run while it goes on, from a thread.

    Args:
        base: Where the run directory appears.
        every_s: Between two.
        choose: Returns the ids to choose from.
    """

    def __init__(self, base: Path, every_s: float, choose: Any) -> None:
        self.killed: list[int] = []
        self._base, self._every_s, self._choose = base, every_s, choose
        self._random = random.Random(5)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            folders = [path.parent for path in self._base.glob("*/run.json")]
            pids = [pid for folder in folders for pid in self._choose(folder)]
            if pids:
                victim = self._random.choice(sorted(pids))
                self.killed.append(victim)
                os.kill(victim, signal.SIGKILL)


def workers(run_dir: Path) -> list[int]:
    """Return the worker processes that are alive."""
    told = [event["worker"]["pid"] for event in events(run_dir, "worker_started")]
    return [pid for pid in told if Path(f"/proc/{pid}/cmdline").exists() and b"ray::" in _command(pid)]


def encoders(run_dir: Path) -> list[int]:
    """Return the encoding processes that are alive."""
    return [
        pid
        for told in {event["worker"]["pid"] for event in events(run_dir, "worker_started")}
        for task in Path(f"/proc/{told}/task").glob("*/children")
        for pid in map(int, task.read_text().split())
        if b"encoder_process_main" in _command(pid)
    ]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


SLOW = {"step_s": 0.01, "max_length": 12}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, local_cluster: LocalCluster) -> tuple[RunResult, float]:
    """Two hundred episodes to which nothing happens, on the same workers, and how long they take, seconds."""
    local_cluster.connect()
    folder = tmp_path_factory.mktemp("calm")
    started = time.monotonic()
    job = walk_job(num_episodes=200, env_kwargs=SLOW, video={"record_viewport_video": True})
    result = evaluate({"jobs": [job]}, video_base_dir=str(folder))
    return result, time.monotonic() - started


def test_workers_killed_every_few_seconds(
    request: pytest.FixtureRequest, tmp_path: Path, calm: tuple[RunResult, float]
) -> None:
    job = walk_job(num_episodes=200, env_kwargs=SLOW, video={"record_viewport_video": True})
    started = time.monotonic()
    with Killer(tmp_path / "runs", 2.5, workers) as killer:
        result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), max_attempts=20)
    took = time.monotonic() - started
    assert len(killer.killed) >= 2
    hold_to_promise(result, "walk", calm[0])
    nothing_lives(result)
    note_row(
        request,
        "SIGKILL of a random worker every 2.5 s",
        injected=len(killer.killed),
        episodes=200,
        extra_s=took - calm[1],
        bound_s=calm[1] + len(killer.killed) * RESTART_S,
    )


def test_encoders_killed_every_second(
    request: pytest.FixtureRequest, tmp_path: Path, calm: tuple[RunResult, float]
) -> None:
    """The running videos break off, with the reason in the record; the next ones are whole, and so is every record."""
    video = {"record_viewport_video": True, "encoder": "process"}
    job = walk_job(num_episodes=200, env_kwargs={**SLOW, "frame_shape": [128, 128]}, video=video)
    started = time.monotonic()
    with Killer(tmp_path / "runs", 0.5, encoders) as killer:
        result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"))
    took = time.monotonic() - started
    assert killer.killed
    hold_to_promise(result, "walk", calm[0], videos=False)
    broken = [video for record in result.records() for video in record.videos if video.partial]
    assert len(broken) <= 2 * len(killer.killed)
    assert all("the process that encodes is gone" in str(video.error) for video in broken)
    nothing_lives(result)
    note_row(
        request,
        "SIGKILL of a random encoder every 0.5 s",
        injected=len(killer.killed),
        episodes=200,
        extra_s=took - calm[1],
        bound_s=calm[1] + RESTART_S,
    )


class BackwardsClock(datetime.datetime):
    """A clock that somebody sets back by an hour again and again."""

    looks = 0
    real = datetime.datetime

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        cls.looks += 1
        return cls.real.now(tz) - datetime.timedelta(hours=cls.looks)


@pytest.fixture
def backwards_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BackwardsClock]]:
    monkeypatch.setattr("arena_ray.journal.datetime.datetime", BackwardsClock)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * BackwardsClock.looks)
    yield BackwardsClock
    BackwardsClock.looks = 0


def test_a_clock_that_is_set_back(
    request: pytest.FixtureRequest, tmp_path: Path, local_ray: None, backwards_clock: type[BackwardsClock]
) -> None:
    started = time.monotonic()
    flags: dict[str, Any] = {"episode_timeout": 60.0, "stall_timeout": 60.0}
    job = walk_job(num_episodes=EPISODES, video={"record_viewport_video": True})
    result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), **flags)
    took = time.monotonic() - started
    looks = backwards_clock.looks
    assert looks > 5
    assert events(result.run_dir, "worker_lost") == []
    hold_to_promise(result, "walk", undisturbed(tmp_path, walk_job(num_episodes=EPISODES)))
    note_row(
        request, "clock set back by an hour", injected=looks, episodes=EPISODES, extra_s=took, bound_s=2 * RESTART_S
    )


def test_the_mark_of_a_run_finds_its_workers(tmp_path: Path, local_ray: None) -> None:
    """`nothing_lives` would prove nothing if marks were not there while a run goes on."""
    seen: list[int] = []

    class Watcher:
        def started(self, run_dir: Path, plan: Any) -> None:
            self.run_dir = run_dir

        def tick(self) -> None:
            import json

            seen.extend(marked_processes(json.loads((self.run_dir / "run.json").read_text())["mark"]))

        def recorded(self, record: Any) -> None: ...
        def event(self, line: Any) -> None: ...
        def finished(self, result: Any) -> None: ...

    job = walk_job(num_episodes=20, env_kwargs=SLOW)
    result = evaluate({"jobs": [job]}, observer=Watcher(), video_base_dir=str(tmp_path / "runs"))
    assert {record.worker.pid for record in result.records() if record.worker} <= set(seen)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in set(seen)), 10)
