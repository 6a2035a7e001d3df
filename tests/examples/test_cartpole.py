"""cartpole.yaml: the main job of the README, on a Ray that runs already (`tests/test_readme.py` lets it start one)."""

from __future__ import annotations

import pytest

from arena_ray import RunResult
from tests.examples.commands import count_frames, run_job_file
from tests.local_cluster import LocalCluster


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, local_cluster: LocalCluster) -> RunResult:
    words = ("--video_base_dir", tmp_path_factory.mktemp("runs"), "--address", local_cluster.address)
    return RunResult.load(run_job_file("cartpole.yaml", *words, "*:num_episodes=3"))


pytestmark = [pytest.mark.ray, pytest.mark.heavy]


def test_every_episode_is_completed(result: RunResult) -> None:
    assert result.status == "completed"
    assert {name: job.counts["completed"] for name, job in result.jobs.items()} == {
        "cartpole-trained": 3,
        "cartpole-random": 3,
    }


def test_trained_policy_is_far_better_than_random_actions(result: RunResult) -> None:
    trained, random = (result.jobs[name].metrics["return"].value for name in ("cartpole-trained", "cartpole-random"))
    assert trained is not None
    assert random is not None
    assert trained >= 450
    assert random <= 60


def test_both_jobs_have_the_same_seeds_and_their_tags(result: RunResult) -> None:
    trained, random = result.jobs.values()
    assert [record.seed for record in trained.episodes] == [record.seed for record in random.episodes]
    assert (trained.tags["policy"], random.tags["policy"]) == ("trained", "random")


def test_every_episode_has_its_whole_viewport_video(result: RunResult) -> None:
    for record in result.records():
        (video,) = record.videos
        assert (video.kind, video.partial) == ("viewport", False)
        assert record.length is not None
        assert count_frames(result.run_dir / video.path) == video.frames == record.length + 1


def test_videos_lie_in_the_folders_of_the_jobs(result: RunResult) -> None:
    folders = {path.parent for path in result.video_paths()}
    assert folders == {result.run_dir / "cartpole-trained", result.run_dir / "cartpole-random"}


def test_run_directory_is_in_the_folder_that_was_given(
    result: RunResult, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert tmp_path_factory.getbasetemp() in result.run_dir.parents
