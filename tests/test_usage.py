from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from arena_ray import RunResult, journal
from arena_ray.config import load_plan
from arena_ray.dispatch import Chunk
from arena_ray.records import EpisodeRecord, WorkerInfo
from arena_ray.results import table
from arena_ray.results.usage import UsageTally
from arena_ray.resume_runner import Resumption
from arena_ray.worker_events import ChunkUsage, WorkerReady
from tests.interrupted import change_document
from tests.worlds import walk_job

USAGE = ChunkUsage(
    wall_s=10.0,
    environment_s=2.0,
    policy_s=6.5,
    recording_s=0.5,
    waiting_s=0.25,
    steps=400,
    policy_calls=100,
    slots=4,
)

JSON = {
    "wall_s": 10.0,
    "environment_s": 2.0,
    "policy_s": 6.5,
    "recording_s": 0.5,
    "waiting_s": 0.25,
    "other_s": 0.75,
    "steps": 400,
    "policy_calls": 100,
    "slots": 4,
    "gpu_utilization": None,
    "gpu_mb": None,
}


def test_what_is_left_of_the_time_is_our_own_machinery() -> None:
    assert USAGE.other_s == 0.75
    assert dataclasses.replace(USAGE, wall_s=9.0).other_s == 0.0  # Never negative, however clocks round.
    assert USAGE.to_json() == JSON
    exact = dataclasses.replace(USAGE, wall_s=10.123456, gpu_utilization=0.123456, gpu_mb=12.5).to_json()
    assert (exact["wall_s"], exact["gpu_utilization"], exact["gpu_mb"]) == (10.1235, 0.1235, 12.5)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        pytest.param(None, {}, id="nothing-to-say"),
        pytest.param({"cuda": 1, "egl": 0}, {"devices": {"cuda": 1, "egl": 0}}, id="gpu"),
    ],
)
def test_a_worker_says_what_its_devices_are(devices: dict[str, int] | None, said: dict[str, object]) -> None:
    ready = WorkerReady(worker=WorkerInfo(host="h", pid=1, gpus=("0",)), build_s=0.12345, devices=devices)
    assert ready.to_json() == {"worker": {"host": "h", "pid": 1, "gpus": ("0",)}, "build_s": 0.123, **said}


def test_without_data_there_is_no_usage() -> None:
    assert UsageTally().total() is None


def test_chunks_are_added_up() -> None:
    tally = UsageTally()
    tally.add(JSON)
    tally.add({**JSON, "wall_s": 30.0, "slots": 2, "gpu_utilization": 0.5, "gpu_mb": 300.0})
    tally.add({**JSON, "wall_s": 10.0, "gpu_utilization": 0.9, "gpu_mb": 200.0})
    total = tally.total()
    assert total is not None
    assert (total.chunks, total.wall_s, total.policy_s, total.other_s, total.steps) == (3, 50.0, 19.5, 2.25, 1200)
    assert (total.slots, total.batch) == (4, 4.0)
    assert total.gpu_utilization == pytest.approx((0.5 * 30 + 0.9 * 10) / 40)  # Only of chunks that told.
    assert total.gpu_mb == 300.0
    assert total.shares == pytest.approx(
        {"environment": 0.12, "policy": 0.39, "recording": 0.03, "waiting": 0.015, "other": 0.045}
    )


def test_of_no_time_there_are_no_shares() -> None:
    tally = UsageTally()
    tally.add({**dict.fromkeys(JSON, 0), "slots": 1, "gpu_utilization": None, "gpu_mb": None})
    total = tally.total()
    assert total is not None
    assert set(total.to_json()["shares"].values()) == {None}
    assert total.batch is None
    assert (total.to_json()["gpu_utilization"], total.to_json()["gpu_mb"]) == (None, None)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({**JSON, "wall_s": "long"}, id="text"),
        pytest.param({key: value for key, value in JSON.items() if key != "policy_s"}, id="missing"),
        pytest.param({**JSON, "gpu_mb": "much"}, id="text-for-memory"),
        pytest.param([1, 2], id="list"),
    ],
)
def test_what_cannot_be_added_changes_nothing(content: dict[str, object]) -> None:
    tally = UsageTally()
    tally.add(JSON)
    before = tally.total()
    with pytest.raises((KeyError, TypeError)):
        tally.add(content)
    assert tally.total() == before


def record(job: str, episode: int) -> EpisodeRecord:
    return EpisodeRecord(
        job=job, episode=episode, seed=0, status="completed", success=True, episode_return=1.0, length=3
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of two jobs; the first has two chunks of two episodes, and the second none that told."""
    plan = load_plan(
        {"jobs": [walk_job("busy", num_episodes=4), walk_job("mute", num_episodes=1)]},
        (),
        {"video_base_dir": str(tmp_path)},
    )
    busy, mute = plan.jobs
    with journal.new_run(plan)({}) as book:
        for index in range(2):
            chunk = Chunk(job=busy, index=index, episodes=(2 * index, 2 * index + 1))
            book.event("chunk_started", chunk, episodes=2, indices=f"{2 * index}-{2 * index + 1}")
            for episode in chunk.episodes:
                book.commit(record("busy", episode))
            usage = dataclasses.replace(USAGE, gpu_utilization=None if index else 0.2, wall_s=10.1)
            book.event("chunk_finished", chunk, cut_short=False, usage=usage.to_json())
        silent = Chunk(job=mute, index=0, episodes=(0,))
        book.event("chunk_started", silent, episodes=1, indices="0")
        book.commit(record("mute", 0))
        book.event("chunk_finished", silent, cut_short=False)
        book.finish("completed", {"busy": ("completed", None), "mute": ("completed", None)})
        return book.run_dir.path


def test_the_summary_has_the_sums_and_the_shares(run_dir: Path) -> None:
    jobs = json.loads((run_dir / "summary.json").read_text())["jobs"]
    assert jobs["mute"]["usage"] is None
    usage = jobs["busy"]["usage"]
    assert (usage["chunks"], usage["wall_s"], usage["other_s"], usage["steps"]) == (2, 20.2, 1.7, 800)
    assert usage["gpu_utilization"] == 0.2
    assert usage["gpu_mb"] is None
    assert usage["shares"]["policy"] == round(13 / 20.2, 4)
    assert sum(usage["shares"].values()) == pytest.approx(1, abs=1e-3)


def test_the_table_says_what_bounds_a_job(run_dir: Path) -> None:
    result = RunResult.load(run_dir)
    assert str(result.jobs["busy"].bottleneck).startswith("policy-bound: 64 % of the time in act()")
    text = " ".join(str(result).split())
    assert f"busy: {result.jobs['busy'].bottleneck}" in text
    assert "mute: " not in text
    assert max(map(len, table.text(result).splitlines()[1:])) <= 80  # The first names the run directory.


def test_it_survives_loading_also_without_a_summary(run_dir: Path) -> None:
    whole = RunResult.load(run_dir)
    assert whole.jobs["busy"].usage is not None
    summary = (run_dir / "summary.json").read_text()
    assert json.loads(json.dumps(whole.summary())) == json.loads(summary)
    (run_dir / "summary.json").unlink()
    assert RunResult.load(run_dir).jobs["busy"].usage == whole.jobs["busy"].usage


def test_events_that_cannot_be_read_cost_only_the_usage(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run_dir / "events.jsonl").write_text("nonsense\n{}\n")
    result = RunResult.load(run_dir)
    assert result.jobs["busy"].usage is None
    assert result.jobs["busy"].counts["completed"] == 4
    assert "known only in part" in caplog.text


def test_a_resumed_run_counts_the_chunks_before_it(run_dir: Path) -> None:
    """Nothing is left to run here, so only the last files are written again."""
    before = RunResult.load(run_dir)
    (run_dir / "summary.json").unlink()
    change_document(run_dir, status="running", finished_at=None)
    with Resumption(run_dir) as resumption:
        resumed = resumption.execute()
    assert resumed.jobs["busy"].usage == before.jobs["busy"].usage
    assert json.loads((run_dir / "summary.json").read_text())["jobs"]["busy"]["usage"]["chunks"] == 2
