from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arena_ray.video.encoder import PyAvEncoder
from arena_ray.video.episode_video import EpisodeVideo
from arena_ray.video.slot_videos import SlotVideos
from tests.video.envs import gray, names


def slot_videos(folder: Path, episode_index: Callable[[int], int] | None = None) -> SlotVideos:
    def new_video(slot: int, camera: str | None, episode: int, attempt: int) -> EpisodeVideo:
        stem = f"{slot}-{camera}-{episode}"
        return EpisodeVideo(folder, stem, kind="camera", camera=camera, attempt=attempt, fps=20.0, encoder=PyAvEncoder)

    return SlotVideos(new_video, episode_index)


def record(videos: SlotVideos, slot: int) -> None:
    videos.begin(slot)
    videos.add(slot, "front", gray(0))


def run(videos: SlotVideos, slot: int) -> None:
    record(videos, slot)
    videos.finish(slot)


def test_episodes_count_per_slot(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    for slot in (0, 1, 0):
        run(videos, slot)
    assert names(tmp_path) == ["0-front-0.mp4", "0-front-1.mp4", "1-front-0.mp4"]


def test_an_environment_that_counts_episodes_is_believed(tmp_path: Path) -> None:
    run(slot_videos(tmp_path, lambda slot: 40 + slot), 1)
    assert names(tmp_path) == ["1-front-41.mp4"]


def test_assigned_episodes_have_the_assigned_index_and_attempt(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    videos.assign({0: 7, 1: 9}, attempt=3)
    record(videos, 0)
    assert names(tmp_path) == ["0-front-7.3.partial.mp4"]
    videos.finish(0)
    run(videos, 1)
    assert names(tmp_path) == ["0-front-7.mp4", "1-front-9.mp4"]


def test_the_next_episode_can_be_assigned_while_one_runs(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    videos.assign({0: 7}, attempt=1)
    record(videos, 0)
    videos.assign({0: 8}, attempt=1)
    videos.finish(0)
    run(videos, 0)
    assert names(tmp_path) == ["0-front-7.mp4", "0-front-8.mp4"]


def test_what_is_not_assigned_is_not_recorded_once_anything_was(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    videos.assign({0: 7}, attempt=1)
    run(videos, 0)
    run(videos, 0)
    run(videos, 1)
    assert names(tmp_path) == ["0-front-7.mp4"]


def test_an_episode_that_starts_over_keeps_its_index(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    videos.assign({0: 7}, attempt=2)
    record(videos, 0)
    record(videos, 0)
    assert names(tmp_path) == ["0-front-7.2.partial.mp4"]
    videos.finish(0)
    assert [video.frames for video in videos.take(0)] == [1]


def test_videos_are_taken_once_and_by_slot(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    run(videos, 0)
    run(videos, 1)
    assert len(videos.take(0)) == 1
    assert videos.take(0) == ()
    assert len(videos.take(1)) == 1


def test_discarding_ends_the_recording_without_a_report(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    record(videos, 0)
    videos.discard(0)
    videos.add(0, "front", gray(1))
    videos.finish(0)
    assert (names(tmp_path), videos.take(0), videos.running_slots()) == ([], (), ())


def test_keeping_reports_partial_files(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path)
    record(videos, 0)
    videos.keep(0)
    assert [video.partial for video in videos.take(0)] == [True]
    assert names(tmp_path) == ["0-front-0.1.partial.mp4"]
