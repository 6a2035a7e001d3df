from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from arena_ray.records import VideoFile
from arena_ray.video.encoder import PlainBackend
from arena_ray.video.episode_video import EpisodeVideo, VideoSettings
from arena_ray.video.pyav_encoder import PyAvEncoder
from arena_ray.video.selection import RecordSelection
from arena_ray.video.slot_videos import SlotVideos
from tests.video.envs import gray, names


def slot_videos(
    folder: Path,
    episode_index: Callable[[int], int] | None = None,
    record: str = "all",
    outcome_in_name: bool = False,
    keep_cut_off: bool = False,
) -> SlotVideos:
    settings = VideoSettings(folder=folder, kind="camera", fps=20.0, backend=PlainBackend(PyAvEncoder))

    def new_video(slot: int, camera: str | None, episode: int, attempt: int) -> EpisodeVideo:
        stem = f"{slot}-{camera}-{episode}"
        return EpisodeVideo(settings, stem, camera=camera, attempt=attempt)

    return SlotVideos(new_video, RecordSelection(record), outcome_in_name, keep_cut_off, episode_index)


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


def test_episodes_that_are_not_selected_are_counted_and_not_written(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path, record="every:2")
    for _ in range(4):
        run(videos, 0)
    assert names(tmp_path) == ["0-front-0.mp4", "0-front-2.mp4"]


@pytest.mark.parametrize(
    ("record_what", "kept"),
    [
        pytest.param("failures", ["0-front-1.mp4"], id="failures"),
        pytest.param("successes", ["0-front-0.mp4"], id="successes"),
        pytest.param("all", ["0-front-0.mp4", "0-front-1.mp4", "0-front-2.mp4"], id="all"),
    ],
)
@pytest.mark.parametrize("assigned", [True, False], ids=["assigned", "alone"])
def test_the_outcome_decides_what_is_kept(tmp_path: Path, record_what: str, kept: list[str], assigned: bool) -> None:
    videos = slot_videos(tmp_path, record=record_what)
    reported: list[VideoFile] = []
    for episode, success in enumerate((True, False, None)):
        if assigned:
            videos.assign({0: episode}, attempt=1)
        record(videos, 0)
        videos.finish(0, success=None if assigned else success)
        reported += videos.take(0, success)
    assert names(tmp_path) == kept
    assert [Path(video.path).name for video in reported] == kept


def test_a_video_has_its_final_name_only_when_its_outcome_is_known(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path, record="failures")
    videos.assign({0: 0}, attempt=1)
    run(videos, 0)
    assert names(tmp_path) == ["0-front-0.1.partial.mp4"]
    videos.discard_undecided()
    assert names(tmp_path) == []


@pytest.mark.parametrize(("record_what", "kept"), [("failures", 1), ("successes", 0), ("all", 1)], ids=str)
def test_a_broken_episode_is_no_success(tmp_path: Path, record_what: str, kept: int) -> None:
    videos = slot_videos(tmp_path, record=record_what)
    record(videos, 0)
    videos.keep(0)
    assert len(videos.take(0)) == kept == len(names(tmp_path))


def test_an_episode_that_breaks_after_its_last_frame_is_broken(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path, record="failures")
    videos.assign({0: 0}, attempt=1)
    run(videos, 0)
    videos.keep(0)
    assert [video.partial for video in videos.take(0)] == [True]


def test_names_tell_the_outcome(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path, outcome_in_name=True)
    for success in (True, False, None):
        record(videos, 0)
        videos.finish(0, success=success)
    assert names(tmp_path) == ["0-front-0-success.mp4", "0-front-1-failure.mp4", "0-front-2.mp4"]


def test_a_reset_may_keep_what_it_cuts_off(tmp_path: Path) -> None:
    videos = slot_videos(tmp_path, keep_cut_off=True)
    record(videos, 0)
    run(videos, 0)
    assert [video.partial for video in videos.take(0)] == [True, False]
    assert names(tmp_path) == ["0-front-0.mp4", "0-front-1.mp4"]


def test_an_outcome_that_nobody_knows_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = slot_videos(tmp_path, record="failures")
    for _ in range(3):
        run(videos, 0)
    assert caplog.text.count("outcome is not known, so its video is not kept") == 1
    assert names(tmp_path) == []
