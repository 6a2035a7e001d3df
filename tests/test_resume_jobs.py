"""A resumed run has the jobs that it began with, or more episodes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate, resume
from arena_ray.cli import NO_RESUME_FLAGS, run_command
from arena_ray.errors import ConfigError
from arena_ray.resume_runner import NO_FLAGS
from tests.comparing import outcome
from tests.interrupted import (
    assert_attempts_and_chunks,
    assert_whole,
    document,
    events,
    killed_run,
    run,
    state,
    torn,
    undisturbed,
    write_jobs,
)
from tests.worlds import walk_job


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"seed": 1}, ["job 'walk': seed: was 0, is now 1"], id="seed"),
        pytest.param(
            {"env_kwargs": {"max_length": 9}, "num_envs": 2},
            ["job 'walk': env.kwargs.max_length: was 3, is now 9", "job 'walk': num_envs: was 1, is now 2"],
            id="two",
        ),
        pytest.param({"env_kwargs": {}}, ["job 'walk': env.kwargs.max_length: was 3, is now None"], id="key-gone"),
        pytest.param({"env_kwargs": {"max_length": 3.0}}, ["env.kwargs.max_length: was 3, is now 3.0"], id="type"),
        pytest.param({"metrics": ["energy"]}, ["job 'walk': metrics: was [], is now [{"], id="metrics"),
        pytest.param({"name": "run"}, ["'walk': it was there, and is gone", "'run': it was not there"], id="name"),
        pytest.param(
            {"num_episodes": 7},
            ["num_episodes: was 8, is now 7 (episodes that have run cannot be taken back)"],
            id="fewer",
        ),
        pytest.param(
            {"num_episodes": None, "num_steps": 9},
            ["num_episodes: was 8, is now None", "num_steps: was None"],
            id="steps",
        ),
        pytest.param({"video": {"fps": 5}}, ["job 'walk': video.fps: was None, is now 5.0"], id="video"),
    ],
)
def test_jobs_that_have_changed_are_refused(tmp_path: Path, change: dict[str, Any], told: list[str]) -> None:
    run_dir = killed_run(tmp_path, walk_job(env_kwargs={"max_length": 3}), walk_job("b"), records=3)
    path = write_jobs(tmp_path, walk_job(**{"env_kwargs": {"max_length": 3}, **change}), walk_job("b"))
    whole = state(run_dir)
    with pytest.raises(ConfigError) as refusal:
        resume(run_dir)
    assert f"{path}: these are not the jobs" in str(refusal.value)
    assert "put it back as it was, or move it away" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1 + len(told)
    for line in told:
        assert line in str(refusal.value)
    assert state(run_dir) == whole
    path.rename(tmp_path / "away.json")
    assert resume(run_dir).status == "completed"


def test_the_order_of_the_jobs_is_kept(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job("a"), walk_job("b"), records=3)
    write_jobs(tmp_path, walk_job("b"), walk_job("a"))
    with pytest.raises(ConfigError, match="the order of the jobs: was a, b, is now b, a"):
        resume(run_dir)


@pytest.mark.parametrize(
    ("job", "override", "told"),
    [
        pytest.param({}, "walk:seed=3", "overrides: these are not .*\n  job 'walk': seed: was 0, is now 3", id="seed"),
        pytest.param({}, "walk:num_episodes=3", "was 8, is now 3 .episodes that have run", id="fewer"),
        pytest.param({"num_rebuilds": 2}, "*:num_episodes=9", "num_rebuilds splits the episodes", id="rebuilds"),
        pytest.param({"num_episodes": None, "num_steps": 30}, "walk:num_steps=40", "was 30, is now 40", id="steps"),
        pytest.param({}, "other:num_episodes=9", "there is no job 'other'", id="no-such-job"),
    ],
)
def test_overrides_are_held_to_the_same(tmp_path: Path, job: dict[str, Any], override: str, told: str) -> None:
    """Whether the jobs come from a file or from Python."""
    run_dir = evaluate({"jobs": [walk_job(**job)]}, inline=True, video_base_dir=str(tmp_path)).run_dir
    whole = state(run_dir)
    with pytest.raises(ConfigError, match=told):
        resume(run_dir, [override])
    assert state(run_dir) == whole


def test_the_original_overrides_and_flags_are_applied_again(tmp_path: Path) -> None:
    path = write_jobs(tmp_path, walk_job(num_episodes=3), defaults={"num_envs": 2}, run={"continue_on_error": True})
    flags: dict[str, Any] = {"inline": True, "video_base_dir": tmp_path / "runs", "record_viewport_video": True}
    result = evaluate(path, overrides=["walk:num_episodes=5", "*:seed=4"], **flags)
    source = document(result.run_dir)["source"]
    assert source == {
        "job_file": str(path),
        "overrides": ["walk:num_episodes=5", "*:seed=4"],
        "flags": {"inline": True, "video_base_dir": str(tmp_path / "runs"), "record_viewport_video": True},
    }
    whole = outcome(result)
    torn(result.run_dir, 2)
    kept = {line["episode"] for line in map(json.loads, (result.run_dir / "episodes.jsonl").read_text().splitlines())}
    for record in result.jobs["walk"].episodes:
        for video in record.videos if record.episode not in kept else ():
            (result.run_dir / video.path).unlink()
    again = resume(result.run_dir)
    assert outcome(again) == whole
    assert_whole(again)
    assert document(result.run_dir)["settings"]["continue_on_error"] is True


@pytest.mark.parametrize(
    ("how", "records"),
    [
        pytest.param("override", 8, id="override"),
        pytest.param("override", 3, id="killed-override"),
        pytest.param("file", 8, id="file"),
        pytest.param("file", 3, id="killed-file"),
        pytest.param("file-gone", 8, id="file-gone"),
        pytest.param("python", 8, id="python"),
    ],
)
def test_more_episodes_extend_a_run(tmp_path: Path, how: str, records: int) -> None:
    jobs = [walk_job(video={"record_viewport_video": True, "record": "every:3"}), walk_job("b", num_episodes=2)]
    if how == "python":
        run_dir = evaluate({"jobs": jobs}, inline=True, video_base_dir=str(tmp_path / "runs")).run_dir
    else:
        run_dir = run(tmp_path, *jobs).run_dir
    if records < 8:
        torn(run_dir, records)
    more = [{**jobs[0], "num_episodes": 12}, jobs[1]]
    overrides = [] if how == "file" else ["walk:num_episodes=12"]
    if how == "file":
        write_jobs(tmp_path, *more)
    elif how == "file-gone":
        (tmp_path / "jobs.json").unlink()
    result = resume(run_dir, overrides)
    assert outcome(result) == undisturbed(tmp_path, *more)
    assert_whole(result)
    assert [record.episode for record in result.records() if record.videos] == [0, 3, 6, 9]
    (event,) = events(run_dir, "run_extended")
    assert event["num_episodes"] == {"walk": {"was": 8, "is": 12}}
    assert [job["num_episodes"] for job in document(run_dir)["jobs"]] == [12, 2]
    assert json.loads((run_dir / "summary.json").read_text())["jobs"]["walk"]["episodes"]["requested"] == 12
    assert_attempts_and_chunks(run_dir)
    whole = state(run_dir)
    assert resume(run_dir).status == "completed"  # The overrides of the resumption are part of the run now.
    assert state(run_dir) == whole
    if how != "python":
        return
    with pytest.raises(ConfigError, match="was 12, is now 8"):
        resume(run_dir, ["walk:num_episodes=8"])


def test_settings_are_kept_unless_a_flag_says_otherwise(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=2, chunk_size=3, stall_timeout=77)
    resume(run_dir, ["walk:num_episodes=9"], max_attempts=5)
    settings = document(run_dir)["settings"]
    assert [settings[key] for key in ("chunk_size", "stall_timeout", "max_attempts", "inline")] == [3, 77, 5, True]


@pytest.mark.parametrize("flag", [pytest.param(flag, id=flag) for flag in sorted(NO_FLAGS)])
def test_what_is_settled_has_no_flag(tmp_path: Path, flag: str, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=2)
    given: dict[str, Any] = {flag: True}
    with pytest.raises(ConfigError, match=f"flags: {flag}: .*leave it out"):
        resume(run_dir, **given)
    assert run_command(["resume", str(run_dir), f"--{flag}"]) == 2
    assert f"there is no flag --{flag}" in capfd.readouterr().err
    assert set(NO_FLAGS) == NO_RESUME_FLAGS


def test_bad_flags_are_refused(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=2)
    whole = state(run_dir)
    with pytest.raises(ConfigError, match="flags: max_attempts: found 0"):
        resume(run_dir, max_attempts=0)
    assert state(run_dir) == whole


def test_the_directory_may_stand_behind_an_override(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=2)
    assert run_command(["resume", "walk:num_episodes=9", "--chunk_size", "2", str(run_dir)]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == str(run_dir)
    assert "9/9 episodes" in err


def test_a_policy_run_is_resumed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--env", "tests.worlds:Walk", "--policy", "tests.worlds:Leaner", "--num_episodes", "5", "--inline"]
    assert run_command(["policy", *words, "--video_base_dir", str(tmp_path)]) == 0
    run_dir = Path(capfd.readouterr().out.splitlines()[-1])
    whole = outcome(RunResult.load(run_dir))
    assert document(run_dir)["source"]["job_file"] is None
    torn(run_dir, 2)
    assert run_command(["resume", str(run_dir)]) == 0
    assert outcome(RunResult.load(run_dir)) == whole
