"""collect_videos.py: what it prints is what the run left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.commands import count_frames, run_python

NUM_EPISODES = 2


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    args = ("--inline", "--num_episodes", str(NUM_EPISODES), "--video_base_dir", folder)
    return run_python("examples/collect_videos.py", *args)


def test_paths_of_the_trained_policy_come_last(lines: list[str]) -> None:
    paths = [Path(line) for line in lines if line.endswith(".mp4")]
    assert paths == [Path(line) for line in lines[-NUM_EPISODES:]]
    assert {path.parent.name for path in paths} == {"cartpole-trained"}
    assert all(count_frames(path) > 100 for path in paths)


def test_metrics_have_intervals(lines: list[str]) -> None:
    assert "cartpole-trained: success_rate unknown" in lines
    (line,) = (line for line in lines if line.startswith("cartpole-random: return "))
    assert line.endswith(f"], n = {NUM_EPISODES}")


@pytest.mark.parametrize("job", ["cartpole-trained", "cartpole-random"])
def test_every_episode_is_listed_with_its_video(lines: list[str], job: str) -> None:
    for episode in range(NUM_EPISODES):
        (at,) = (at for at, line in enumerate(lines) if line.startswith(f"{job} episode {episode} (seed "))
        video = Path(lines[at + 1].removeprefix("  viewport: ").partition(",")[0])
        assert video.is_file()
        assert video.parent.name == job
