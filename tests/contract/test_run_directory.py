"""Section 6 of interface.md: the tree, every key and type of the files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult
from tests.contract.conftest import Run
from tests.contract.outside import (
    arena_ray,
    corridor,
    events,
    read_json,
    read_lines,
    records,
    summary,
    write_jobs,
)

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
RECORD_KEYS = [
    *("schema", "job", "episode", "seed", "status", "success", "return", "length", "terminated", "truncated"),
    *("metrics", "videos", "started_at", "duration_s", "chunk", "attempt", "slot", "worker", "error"),
]
KINDS = {
    *("run_started", "worker_started", "chunk_started", "chunk_finished", "episode_timeout", "worker_lost"),
    *("requeued", "quarantined", "warning", "run_finished"),
}


def exact(value: Any, *kinds: type) -> bool:
    return type(value) in kinds


@pytest.fixture
def mixed(run: Run, seeds: list[int]) -> RunResult:
    """One job with cameras and metrics that completes, one with an episode that raises, one without data."""
    script = {"is_success": [False, False, True], "distance": [3, 2, 1]}
    return run(
        corridor("good", {"script": script, "cameras": ["front"], "rewards": [0.5]}, metrics=["distance"], seed=7),
        corridor("bad", {"poison": seeds[1:2], "cameras": ["front"]}, tags={"suite": "x", "level": 3}),
        corridor("empty", num_steps=2),
        record_viewport_video=True,
        record_camera_video=True,
        continue_on_error=True,
    )


def test_tree(mixed: RunResult) -> None:
    root = mixed.run_dir
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?", root.name)
    names = {path.name for path in root.iterdir()}
    assert names - {"replays.jsonl", "report.html"} == {
        *("run.json", "episodes.jsonl", "events.jsonl", "summary.json", "good", "bad", "empty")
    }
    assert not [path for path in root.rglob("*") if ".tmp" in path.name or path.name.startswith(".")]
    assert any((root / "good" / "logs").iterdir())


def test_records(mixed: RunResult) -> None:
    rows = records(mixed.run_dir)
    assert [(row["job"], row["episode"], row["status"]) for row in rows] == [
        ("bad", 0, "completed"),
        ("bad", 1, "error"),
        ("bad", 2, "completed"),
        ("good", 0, "completed"),
        ("good", 1, "completed"),
        ("good", 2, "completed"),
    ]
    for row in rows:
        assert list(row) == RECORD_KEYS
        for key in ("schema", "episode", "seed", "chunk", "attempt", "slot"):
            assert exact(row[key], int), key
        assert row["attempt"] == 1
        assert row["slot"] == 0
        assert exact(row["duration_s"], float, int)
        assert TIME.fullmatch(row["started_at"])
        assert set(row["worker"]) == {"host", "pid", "gpus"}
        assert exact(row["worker"]["host"], str)
        assert exact(row["worker"]["pid"], int)
        assert exact(row["worker"]["gpus"], list)
    for row in rows[3:]:
        assert row["success"] is True
        assert row["return"] == pytest.approx(2.5)
        assert exact(row["return"], float)
        assert (row["length"], row["terminated"], row["truncated"]) == (3, True, False)
        assert row["metrics"] == {"distance": 1}
        assert row["error"] is None
    assert all(row["success"] is None for row in rows[:3])
    error = rows[1]["error"]
    assert set(error) == {"type", "message", "traceback"}
    assert error["type"].split(".")[-1] == "RuntimeError"
    assert error["message"] == "poisoned step"
    assert "stage.py" in error["traceback"]
    assert "poisoned step" in error["traceback"]


def test_videos_of_records(mixed: RunResult) -> None:
    for row in records(mixed.run_dir, "good"):
        assert {(video["kind"], video["camera"]) for video in row["videos"]} == {
            ("viewport", None),
            ("camera", "front"),
        }
        for video in row["videos"]:
            assert list(video) == ["kind", "camera", "path", "frames", "fps", "bytes", "partial"]
            assert video["path"].startswith("good/")
            assert (video["frames"], video["fps"], video["partial"]) == (4, 10, False)
            assert video["bytes"] == (mixed.run_dir / video["path"]).stat().st_size
        names = sorted(Path(video["path"]).name for video in row["videos"])
        episode = row["episode"]
        assert names == [f"robot-cam-env0-front-episode-{episode}.mp4", f"viewport-env0-episode-{episode}.mp4"]


def test_video_of_an_episode_that_raised_stays_partial(mixed: RunResult) -> None:
    row = records(mixed.run_dir, "bad")[1]
    left = sorted(path.name for path in (mixed.run_dir / "bad").iterdir() if "partial" in path.name)
    assert left == ["robot-cam-env0-front-episode-1.1.partial.mp4", "viewport-env0-episode-1.1.partial.mp4"]
    assert sorted(Path(video["path"]).name for video in row["videos"]) == left
    assert all(video["partial"] for video in row["videos"])
    # The reset frame and the one of step 1; step 2 raised.
    assert {video["frames"] for video in row["videos"]} == {2}


def test_run_json(mixed: RunResult) -> None:
    document = read_json(mixed.run_dir / "run.json")
    expected = {"schema", "status", "jobs", "argv", "git", "versions", "hardware", "notes", "started_at", "finished_at"}
    assert expected <= set(document)
    assert exact(document["schema"], int)
    assert document["status"] == "failed"
    assert TIME.fullmatch(document["started_at"])
    assert TIME.fullmatch(document["finished_at"])
    assert document["started_at"] <= document["finished_at"]
    assert exact(document["argv"], list)
    assert exact(document["notes"], list)
    assert {"python", "ray", "gymnasium", "numpy", "torch"} <= set(document["versions"])
    assert exact(document["hardware"], dict)
    jobs = {job["name"]: job for job in document["jobs"]}
    assert list(jobs) == ["good", "bad", "empty"]
    assert jobs["good"]["seed"] == 7
    assert jobs["good"]["num_envs"] == 1
    assert jobs["good"]["resources"] == {"num_gpus": 0, "num_cpus": 1}
    assert jobs["bad"]["tags"] == {"suite": "x", "level": 3}
    assert jobs["empty"]["num_steps"] == 2
    assert jobs["good"]["video"]["record_viewport_video"] is True


def test_events(mixed: RunResult) -> None:
    rows = events(mixed.run_dir)
    assert {row["kind"] for row in rows} <= KINDS
    assert all(TIME.fullmatch(row["time"]) for row in rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert rows[0]["kind"] == "run_started"
    assert rows[-1]["kind"] == "run_finished"
    for kind in ("chunk_started", "chunk_finished", "worker_started"):
        mine = [row for row in rows if row["kind"] == kind]
        assert {row["job"] for row in mine} == {"good", "bad", "empty"}
        if kind != "worker_started":
            assert all(exact(row["chunk"], int) and exact(row["attempt"], int) for row in mine)


def test_summary(mixed: RunResult) -> None:
    document = summary(mixed.run_dir)
    assert {"schema", "status", "jobs"} <= set(document)
    assert document["status"] == "failed"
    assert list(document["jobs"]) == ["good", "bad", "empty"]
    for job in document["jobs"].values():
        assert {"status", "episodes", "metrics", "error", "videos"} <= set(job)
        assert set(job["episodes"]) == {"requested", "completed", "error", "timeout"}
        for metric in job["metrics"].values():
            assert set(metric) == {"value", "low", "high", "n", "confidence", "method"}
        assert {"success_rate", "return", "length"} <= set(job["metrics"])
    good, bad, empty = (document["jobs"][name] for name in ("good", "bad", "empty"))
    assert [job["status"] for job in (good, bad, empty)] == ["completed", "failed", "completed"]
    assert good["episodes"] == {"requested": 3, "completed": 3, "error": 0, "timeout": 0}
    assert bad["episodes"] == {"requested": 3, "completed": 2, "error": 1, "timeout": 0}
    assert empty["episodes"] == {"requested": None, "completed": 0, "error": 0, "timeout": 0}
    rate = good["metrics"]["success_rate"]
    # Wilson, 3 of 3: the lower bound is n / (n + z^2).
    assert (rate["value"], rate["n"], rate["confidence"]) == (1.0, 3, 0.95)
    assert rate["low"] == pytest.approx(3 / (3 + 1.959964**2), abs=1e-6)
    assert rate["high"] == pytest.approx(1.0)
    assert good["metrics"]["distance"]["value"] == 1
    assert good["error"] is None
    assert "poisoned step" in json.dumps(bad["error"])
    assert bad["metrics"]["return"]["n"] == 2
    for metric in [bad["metrics"]["success_rate"], *empty["metrics"].values()]:
        assert (metric["value"], metric["low"], metric["high"], metric["n"]) == (None, None, None, 0)
    paths = [video["path"] for row in records(mixed.run_dir, "good") for video in row["videos"]]
    assert sorted(good["videos"]) == sorted(paths)


def test_no_path_in_any_file_is_absolute(mixed: RunResult) -> None:
    for name in ("episodes.jsonl", "summary.json", "events.jsonl"):
        text = (mixed.run_dir / name).read_text()
        # Tracebacks name source files, never the run directory.
        assert str(mixed.run_dir) not in text, name


def test_numbers_that_are_not_finite_are_null_with_a_warning(run: Run) -> None:
    result = run(
        corridor(
            kwargs={"rewards": [1.0, "nan"], "script": {"distance": [0.0, 0.0, "inf"], "energy": ["nan", 1.0, 2.0]}},
            metrics=["distance", {"key": "energy", "reduce": "sum"}],
            num_episodes=2,
        )
    )
    rows = records(result.run_dir)
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert {row["return"] for row in rows} == {None}
    assert rows[0]["metrics"] == {"distance": None, "energy": None}
    warnings = json.dumps(events(result.run_dir, "warning"))
    for word in ("return", "distance", "energy"):
        assert word in warnings
    metrics = summary(result.run_dir)["jobs"]["corridor"]["metrics"]
    assert (metrics["return"]["value"], metrics["return"]["n"]) == (None, 0)
    assert RunResult.load(result.run_dir).jobs["corridor"].episodes[0].episode_return is None


def test_argv_and_git_are_those_of_the_command(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", corridor(num_episodes=1))
    done = arena_ray("run", jobs, "--inline", "--video_base_dir", tmp_path / "base")
    document = read_json(done.run_dir / "run.json")
    assert document["argv"][-5:] == ["run", str(jobs), "--inline", "--video_base_dir", str(tmp_path / "base")]
    assert re.search(r"[0-9a-f]{40}", json.dumps(document["git"]))


def test_two_runs_never_share_a_directory(run: Run) -> None:
    runs = [run(corridor(num_episodes=1)) for _ in range(3)]
    assert len({result.run_dir for result in runs}) == 3
    assert all(len(read_lines(result.run_dir / "episodes.jsonl")) == 1 for result in runs)
