"""Section 3 of interface.md: `arena-ray replay`, seen from outside."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult
from tests.comparing import decode, shown_steps
from tests.contract.conftest import Run
from tests.contract.outside import (
    arena_ray,
    arena_ray_here,
    corridor,
    read_lines,
    records,
    started,
    summary,
    tape,
    wait_until,
)

Tree = dict[str, tuple[int, bytes]]


def tree(folder: Path) -> Tree:
    """Every file with its inode and content."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes()) for path in paths}


def replays(run_dir: Path) -> list[dict[str, Any]]:
    return sorted(read_lines(run_dir / "replays.jsonl"), key=lambda line: int(line["episode"]))


@pytest.fixture
def two(run: Run, seeds: list[int]) -> RunResult:
    """A job of episodes of 1 to 9 steps, and one whose episode 1 raised."""
    return run(
        corridor("long", {"length": 0, "cameras": ["front"]}, num_episodes=10, num_envs=2),
        corridor("bad", {"poison": seeds[1:2]}),
        continue_on_error=True,
    )


def test_adds_whole_videos_to_the_run(two: RunResult, tmp_path: Path) -> None:
    before = tree(two.run_dir)
    done = arena_ray("replay", two.run_dir, "--job", "long", "--episodes", "3, 7-8", "--inline", cwd=tmp_path)
    assert done.code == 0, done.said
    assert done.run_dir == two.run_dir
    assert "3/3" in done.stderr
    assert "error:" not in done.stderr.replace("error: XDG_RUNTIME_DIR", "")
    assert [(line["job"], line["episode"], line["equal"]) for line in replays(two.run_dir)] == [
        ("long", episode, True) for episode in (3, 7, 8)
    ]
    after = tree(two.run_dir)
    assert {name for name in before if before[name] != after.get(name)} == {"summary.json", "report.html"}
    rows = records(two.run_dir, "long")
    paths = []
    for line in replays(two.run_dir):
        assert set(line) == {"job", "episode", "equal", "videos"}
        (video,) = line["videos"]
        assert re.fullmatch(rf"long/viewport-env[01]-episode-{line['episode']}\.mp4", video["path"])
        length = rows[line["episode"]]["length"]
        assert video["frames"] == length + 1
        assert shown_steps(decode(two.run_dir / video["path"])) == list(range(length + 1))
        paths.append(video["path"])
    assert summary(two.run_dir)["jobs"]["long"]["videos"] == paths
    assert RunResult.load(two.run_dir).video_paths() == [two.run_dir / path for path in paths]
    assert not [path for path in two.run_dir.rglob("*") if path.name.startswith(".") or "partial" in path.name]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_broken_episode_breaks_again(two: RunResult) -> None:
    done = arena_ray_here("replay", two.run_dir, "--job", "bad", "--episodes", "0-2", "--inline", cwd=two.run_dir)
    assert done.code == 0, done.said
    assert [line["equal"] for line in replays(two.run_dir)] == [True] * 3
    (video,) = replays(two.run_dir)[1]["videos"]
    assert (video["frames"], video["partial"]) == (2, True)
    assert shown_steps(decode(two.run_dir / video["path"])) == [0, 1]


def test_the_folder_may_be_named_from_within(two: RunResult) -> None:
    done = arena_ray_here("replay", ".", "--job", "long", "--episodes", "0", "--inline", cwd=two.run_dir)
    assert done.code == 0, done.said
    assert done.run_dir == two.run_dir


def test_an_episode_that_comes_to_something_else(run: Run, seeds: list[int], tmp_path: Path) -> None:
    """It raises only as long as a marker does not exist: in the run, and not in the replay."""
    kwargs = {"poison": seeds[1:2], "marker": str(tmp_path / "marker")}
    result = run(corridor(kwargs=kwargs, num_episodes=4), continue_on_error=True)
    before = records(result.run_dir)
    done = arena_ray_here(
        "replay", result.run_dir, "--job", "corridor", "--episodes", "0,1,3", "--inline", cwd=tmp_path
    )
    assert done.code == 1
    assert done.run_dir == result.run_dir
    for words in ("episode 1:", 'status "completed", recorded was "error"', "length 3, recorded was 1", "poisoned"):
        assert words in done.stderr
    assert "episode 0:" not in done.stderr
    lines = replays(result.run_dir)
    assert [(line["episode"], line["equal"]) for line in lines] == [(0, True), (1, False), (3, True)]
    assert lines[1]["differences"]["status"] == ["error", "completed"]
    assert lines[1]["differences"]["error.message"] == ["poisoned step", None]
    assert [video["path"] for video in lines[1]["videos"]] == ["corridor/unequal-replays/viewport-env0-episode-1.mp4"]
    assert shown_steps(decode(result.run_dir / lines[1]["videos"][0]["path"])) == [0, 1, 2, 3]
    assert [path.name for path in RunResult.load(result.run_dir).video_paths()] == [
        f"viewport-env0-episode-{episode}.mp4" for episode in (0, 3)
    ]
    assert records(result.run_dir) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        pytest.param(["RUN", "--episodes", "3"], ["--job"], id="no-job"),
        pytest.param(["RUN", "--job", "long"], ["--episodes"], id="no-episodes"),
        pytest.param(["--job", "long", "--episodes", "3"], ["RUN_DIR"], id="no-folder"),
        pytest.param([".", "--job", "long", "--episodes", "3"], ["run.json"], id="no-run-directory"),
        pytest.param(["RUN", "--job", "lnog", "--episodes", "3"], ["lnog", "did you mean 'long'"], id="unknown-job"),
        pytest.param(["RUN", "--job", "long", "--episodes", "3;7"], ["3;7", "3,7,10-12"], id="malformed"),
        pytest.param(["RUN", "--job", "long", "--episodes", "10"], ["10", "0 to 9"], id="out-of-range"),
        pytest.param(["RUN", "--job", "long", "--episodes", "--inline"], ["--episodes"], id="no-value"),
        pytest.param(["RUN", "--job", "long", "--episode", "3"], ["--episode;", "--episodes"], id="misspelt-flag"),
        pytest.param(
            ["RUN", "--job", "long", "--episodes", "3", "--record-viewport-video"],
            ["--record-viewport-video", "--record_viewport_video"],
            id="hyphens",
        ),
        pytest.param(
            ["RUN", "--job", "long", "--episodes", "3", "--camera_video"],
            ["--camera_video", "--record_camera_video"],
            id="retired-flag",
        ),
        pytest.param(
            ["RUN", "--job", "long", "--episodes", "3", "--video_base_dir", "x"], ["--video_base_dir"], id="base-dir"
        ),
        pytest.param(
            ["RUN", "--job", "long", "--episodes", "3", "--num_workers", "0"], ["num_workers", "0"], id="no-workers"
        ),
    ],
)
def test_bad_input(argv: list[str], words: list[str], two: RunResult, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = arena_ray_here("replay", *(two.run_dir if word == "RUN" else word for word in argv), cwd=tmp_path)
    assert done.code == 2, done.said
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    missing = [word for word in words if word not in done.stderr]
    assert not missing, f"{missing} not in: {done.stderr}"
    assert tree(tmp_path) == before


def test_an_episode_that_has_not_run_yet(run: Run, tmp_path: Path) -> None:
    result = run(corridor(num_episodes=5))
    lines = (result.run_dir / "episodes.jsonl").read_text().splitlines(keepends=True)
    (result.run_dir / "episodes.jsonl").write_text("".join(lines[:2]))
    before = tree(tmp_path)
    done = arena_ray_here("replay", result.run_dir, "--job", "corridor", "--episodes", "1,4", "--inline", cwd=tmp_path)
    assert done.code == 2
    assert "episode 4: there is no record" in done.stderr
    assert f"arena-ray resume {result.run_dir}" in done.stderr
    assert tree(tmp_path) == before


def test_every_flag_is_documented_and_taken(two: RunResult) -> None:
    shown = arena_ray_here("replay", "--help", cwd=two.run_dir).stdout
    switches = ["--record_viewport_video", "--record_camera_video", "--continue_on_error", "--inline", "--collect"]
    values = {
        "--num_workers": "1",
        "--chunk_size": "1",
        "--max_attempts": "1",
        "--episode_timeout": "50",
        "--stall_timeout": "50",
        "--start_timeout": "50",
        "--isolation": "chunk",
        "--max_episodes_per_worker": "5",
        "--storage_timeout": "5",
    }
    assert {*switches, *values, "--address", "--job", "--episodes", "--help"} == set(re.findall(r"--\w+", shown))
    words = [word for pair in values.items() for word in pair]
    done = arena_ray_here("replay", *switches, "--job", "long", *words, two.run_dir, "--episodes", "3", cwd=two.run_dir)
    assert done.code == 0, done.said
    assert [(video["kind"], video["camera"]) for video in replays(two.run_dir)[0]["videos"]] == [
        ("viewport", None),
        ("camera", "front"),
    ]


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, id="sigint"), pytest.param(signal.SIGTERM, 143, id="sigterm")]
)
def test_signals(number: signal.Signals, code: int, run: Run, tmp_path: Path) -> None:
    """SIGINT: the episode in flight is judged. SIGTERM: at once. Nothing half done is left."""
    notes = tmp_path / "tape"
    result = run(corridor(kwargs={"tape": str(notes), "step_s": 0.05}, num_episodes=12))
    before = tree(result.run_dir)
    steps = len(tape(notes, "step"))
    flags = ("--job", "corridor", "--episodes", "0-11", "--inline", "--chunk_size", "12")
    with started("replay", result.run_dir, *flags, folder=tmp_path) as process:
        wait_until(lambda: len(tape(notes, "step")) > steps + 3)
        process.signal(number)
        done = process.ended()
    assert done.code == code, done.said
    assert done.run_dir == result.run_dir
    assert "Traceback" not in done.stderr
    assert re.search(r"error: not replayed: episodes [\d, ]+11", done.stderr)
    judged = [line["episode"] for line in replays(result.run_dir)]
    assert judged == list(range(len(judged)))
    assert 1 <= len(judged) < 12
    replayed_steps = len(tape(notes, "step")) - steps
    assert number == signal.SIGTERM or replayed_steps == 3 * len(judged)
    after = tree(result.run_dir)
    assert {name for name in before if before[name] != after.get(name)} == {"summary.json", "report.html"}
    videos = [name for name in after if name.endswith(".mp4")]
    assert sorted(videos) == sorted(f"corridor/viewport-env0-episode-{episode}.mp4" for episode in judged)
    assert summary(result.run_dir)["jobs"]["corridor"]["videos"] == [
        f"corridor/viewport-env0-episode-{episode}.mp4" for episode in judged
    ]
    assert not list(result.run_dir.rglob(".*"))


@pytest.mark.ray
@pytest.mark.heavy
def test_on_a_ray_of_its_own(two: RunResult, tmp_path: Path) -> None:
    done = arena_ray("replay", two.run_dir, "--job", "long", "--episodes", "1,2", cwd=tmp_path, timeout_s=120)
    assert done.code == 0, done.said
    assert done.run_dir == two.run_dir
    assert len(RunResult.load(two.run_dir).video_paths(job="long")) == 2
