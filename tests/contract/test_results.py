"""Section 4 of interface.md: `evaluate` and `RunResult`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from arena_ray import ArenaError, RunResult, evaluate
from tests.contract.conftest import Run
from tests.contract.outside import corridor, records, write_jobs


@pytest.fixture
def result(run: Run, seeds: list[int]) -> RunResult:
    odd = corridor("odd", {"cameras": ["wrist", "front"], "script": {"is_success": [0, 0, 1]}}, metrics=["mark"])
    even = corridor("even", {"cameras": ["wrist"], "poison": seeds[1:2], "script": {"is_success": [1, 1, 0]}})
    return run(odd, even, record_camera_video=True, record_viewport_video=True, continue_on_error=True)


def test_evaluate_returns_what_is_on_disk(result: RunResult) -> None:
    assert isinstance(result, RunResult)
    assert list(result.jobs) == ["odd", "even"]
    rate = result.jobs["odd"].metrics["success_rate"]
    assert (rate.value, rate.n) == (1.0, 3)
    assert rate.low is not None
    assert rate.high is not None
    assert 0 < rate.low < rate.high <= 1
    episodes = result.jobs["odd"].episodes
    assert isinstance(episodes, tuple)
    assert [episode.episode for episode in episodes] == [0, 1, 2]
    rows = records(result.run_dir, "odd")
    for episode, row in zip(episodes, rows, strict=True):
        assert episode.episode_return == row["return"]
        for key in (
            "job",
            "seed",
            "status",
            "success",
            "length",
            "terminated",
            "truncated",
            "chunk",
            "attempt",
            "slot",
        ):
            assert getattr(episode, key) == row[key], key
    assert result.status == "failed"
    assert result.jobs["even"].status == "failed"


def same(one: RunResult, other: RunResult) -> None:
    assert list(one.jobs) == list(other.jobs)
    for mine, theirs in zip(one.jobs.values(), other.jobs.values(), strict=True):
        for key in ("name", "status", "requested", "metrics", "error", "episodes"):
            assert getattr(mine, key) == getattr(theirs, key), key
    assert one.status == other.status
    assert list(one.records()) == list(other.records())


def test_load_gives_the_same_also_elsewhere(result: RunResult, tmp_path: Path) -> None:
    same(RunResult.load(result.run_dir), result)
    same(RunResult.load(str(result.run_dir)), result)
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.move(result.run_dir, moved)
    loaded = RunResult.load(moved)
    same(loaded, result)
    assert loaded.run_dir == moved
    paths = loaded.video_paths()
    assert len(paths) == len(result.video_paths()) >= 3 * 3 + 2 * 2
    assert all(path.is_file() and moved in path.parents for path in paths)


def test_video_paths_filters(result: RunResult) -> None:
    def names(**filters: object) -> list[str]:
        paths = result.video_paths(**filters)  # type: ignore[arg-type]
        assert all(path.is_file() for path in paths)
        return [f"{path.relative_to(result.run_dir).parts[0]}/{path.name}" for path in paths]

    assert names(job="odd", camera="wrist") == [f"odd/robot-cam-env0-wrist-episode-{e}.mp4" for e in range(3)]
    assert names(job="odd", camera="wrist", success=True) == names(job="odd", camera="wrist")
    assert names(job="odd", success=False) == []
    assert names(job="even", camera="wrist", success=False) == [
        f"even/robot-cam-env0-wrist-episode-{episode}.mp4" for episode in (0, 2)
    ]
    assert names(camera="nowhere") == []
    everything = names()
    whole = [name for name in everything if "partial" not in name]
    assert [name.split("/")[0] for name in whole] == ["odd"] * 9 + ["even"] * 4
    episodes = [int(name.rsplit("-", 1)[1].removesuffix(".mp4")) for name in whole]
    assert episodes[:9] == sorted(episodes[:9])


def test_to_pandas(result: RunResult) -> None:
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert len(frame) == 6
    assert {"job", "episode", "seed", "status", "success", "return", "length"} <= set(frame.columns)
    assert frame["job"].tolist() == ["odd"] * 3 + ["even"] * 3
    assert frame.loc[frame["job"] == "odd", "return"].tolist() == [3.0] * 3
    assert [column for column in frame.columns if "mark" in column]


def test_shows_a_table_and_videos(result: RunResult) -> None:
    text = str(result)
    for word in ("odd", "even", str(result.run_dir)):
        assert word in "".join(text.split())
    html = result._repr_html_()
    assert html.count("<video") >= 1


@pytest.mark.parametrize("suffix", ["json", "yaml"], ids=["json", "yaml"])
def test_evaluate_takes_a_path(suffix: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / f"jobs.{suffix}", corridor(num_episodes=2), run={"chunk_size": 1})
    for path in (jobs, str(jobs)):
        result = evaluate(path, inline=True, video_base_dir=tmp_path / "base")
        assert [episode.chunk for episode in result.jobs["corridor"].episodes] == [0, 1]


def test_evaluate_takes_eval_jobs(tmp_path: Path) -> None:
    from arena_ray import EvalJob

    jobs = [EvalJob(**corridor(name, num_episodes=1)) for name in ("a", "b")]
    result = evaluate(jobs, inline=True, video_base_dir=str(tmp_path))
    assert [len(job.episodes) for job in result.jobs.values()] == [1, 1]


def test_evaluate_leaves_signals_and_the_cwd_alone(run: Run) -> None:
    import os
    import signal

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.getcwd()
    run(corridor(num_episodes=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.getcwd()) == before


def test_load_of_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises((OSError, ArenaError), match=tmp_path.name):
        RunResult.load(tmp_path)


@pytest.mark.ray
def test_ray_and_inline_give_the_same_records(run: Run, local_ray: None) -> None:
    jobs = [corridor("a", {"length": 0}, num_episodes=9, num_envs=2, policy={"type": "random"}), corridor("b", seed=5)]
    inline, parallel = run(*jobs), run(*jobs, inline=False, num_workers=2, chunk_size=2)
    keys = ("job", "episode", "seed", "status", "success", "return", "length", "terminated", "truncated", "metrics")
    one, other = ([{key: row[key] for key in keys} for row in records(r.run_dir)] for r in (inline, parallel))
    assert one == other
