from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.errors import RunDirError
from arena_ray.records import EpisodeRecord
from arena_ray.results import JobTally
from tests.worlds import walk_job


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    jobs = [
        walk_job("cams", env_kwargs={"cameras": ["front", "wrist"]}, num_envs=2, metrics=["distance"]),
        walk_job("plain", num_episodes=3, tags={"suite": "x"}),
    ]
    return evaluate(
        {"jobs": jobs},
        inline=True,
        record_camera_video=True,
        record_viewport_video=True,
        video_base_dir=str(tmp_path_factory.mktemp("runs")),
    )


def test_a_loaded_result_is_the_returned_one_wherever_the_directory_lies(result: RunResult, tmp_path: Path) -> None:
    moved = shutil.copytree(result.run_dir, tmp_path / "elsewhere")
    loaded = RunResult.load(moved)
    assert loaded.status == result.status == "completed"
    assert loaded == result
    assert loaded.jobs.keys() == result.jobs.keys()
    for name, job in result.jobs.items():
        assert loaded.jobs[name].metrics == job.metrics
        assert loaded.jobs[name].episodes == job.episodes
        assert loaded.jobs[name].videos == job.videos
    assert all(path.is_file() and path.is_relative_to(moved) for path in loaded.video_paths())


def test_the_summary_file_holds_the_same_numbers(result: RunResult) -> None:
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary == result.summary()
    assert summary["jobs"]["cams"]["episodes"] == {"requested": 8, "completed": 8, "error": 0, "timeout": 0}
    metric = summary["jobs"]["cams"]["metrics"]["success_rate"]
    successes = sum(bool(record.success) for record in result.jobs["cams"].episodes)
    assert (metric["value"], metric["n"], metric["method"]) == (successes / 8, 8, "wilson")


def test_videos_are_filtered_and_in_episode_order(result: RunResult) -> None:
    wrist = result.video_paths(job="cams", camera="wrist")
    assert [path.name.split("-episode-")[1] for path in wrist] == [f"{episode}.mp4" for episode in range(8)]
    won = result.video_paths(job="cams", camera="wrist", success=True)
    lost = result.video_paths(job="cams", camera="wrist", success=False)
    assert sorted(won + lost) == sorted(wrist)
    assert len(won) == sum(bool(record.success) for record in result.jobs["cams"].episodes)
    assert len(result.video_paths(kind="viewport")) == 11
    assert len(result.video_paths()) == 8 * 3 + 3
    with pytest.raises(KeyError, match="did you mean 'cams'"):
        result.video_paths(job="cam")


def test_pandas_has_a_row_per_episode(result: RunResult) -> None:
    frame = result.to_pandas()
    assert len(frame) == 11
    cams = frame[frame["job"] == "cams"]
    assert cams["return"].mean() == pytest.approx(result.jobs["cams"].metrics["return"].value)
    assert list(cams["metrics.distance"]) == [0.0] * 8


def test_it_shows_as_a_table_and_in_a_notebook(result: RunResult) -> None:
    text = str(result)
    assert "cams" in text
    assert "8/8" in text
    assert "distance" in text
    html = result._repr_html_()
    assert html.count("<video") == 12
    assert "8/8" in html


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError):
        RunResult.load(tmp_path)


def test_a_run_that_was_cut_off_loads_without_a_summary(result: RunResult, tmp_path: Path) -> None:
    cut = shutil.copytree(result.run_dir, tmp_path / "cut")
    (cut / "summary.json").unlink()
    lines = (cut / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "episodes.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    loaded = RunResult.load(cut)
    assert loaded.jobs["cams"].counts["completed"] == 4
    assert loaded.jobs["cams"].status == "incomplete"


def test_the_newest_record_of_an_episode_counts() -> None:
    tally = JobTally(["energy"])
    tally.add(EpisodeRecord(job="a", episode=1, seed=0, status="error"))
    tally.add(
        EpisodeRecord(job="a", episode=0, seed=0, status="completed", success=False, episode_return=4.0, length=2)
    )
    tally.add(
        EpisodeRecord(
            job="a",
            episode=1,
            seed=0,
            status="completed",
            success=True,
            episode_return=2.0,
            length=4,
            metrics={"energy": 1.0},
        )
    )
    assert tally.counts() == {"completed": 2, "error": 0, "timeout": 0}
    metrics = tally.metrics()
    assert (metrics["success_rate"].value, metrics["return"].value, metrics["energy"].value) == (0.5, 3.0, 1.0)
    assert metrics["energy"].n == 1


def test_errors_are_never_failures() -> None:
    tally = JobTally([])
    tally.add(EpisodeRecord(job="a", episode=0, seed=0, status="error", success=None))
    assert tally.metrics()["success_rate"].value is None
    assert tally.counts()["error"] == 1


def test_tags_and_all_jobs_together_stand_in_the_summary(result: RunResult) -> None:
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary["overall"]["jobs"] == ["cams", "plain"]
    assert summary["overall"]["episodes"] == {"completed": 11, "error": 0, "timeout": 0}
    assert summary["groups"] == {"suite": {"x": {**summary["groups"]["suite"]["x"], "jobs": ["plain"]}}}
    plain = summary["jobs"]["plain"]["metrics"]
    assert summary["groups"]["suite"]["x"]["metrics"] == plain
    returns = [record.episode_return for record in result.records()]
    overall = summary["overall"]["metrics"]
    assert overall["return"]["value"] == pytest.approx(sum(value or 0 for value in returns) / 11)
    assert (overall["success_rate"]["n"], overall["return_iqm"]["n"]) == (11, 11)
    assert overall["return_iqm"]["method"] == "stratified bootstrap"
    assert plain["return_iqm"]["value"] == pytest.approx(sorted(returns[8:], key=lambda value: value or 0)[1], abs=10)
