from __future__ import annotations

import contextlib
import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import arena_ray.video.encoder
from arena_ray.records import VideoFile
from arena_ray.video.encoder import EncoderError, PlainBackend, RgbFrame, VideoFormat
from arena_ray.video.episode_video import (
    EpisodeVideo,
    VideoSettings,
    camera_stem,
    clip_stem,
    distinct_name,
    safe_name,
    viewport_stem,
)
from arena_ray.video.pyav_encoder import PyAvEncoder
from tests.video.envs import decode, gray, names, steps_shown

SEGMENTS = ("-segment-1", "-segment-2", "")


class BreakingEncoder(PyAvEncoder):
    """Writes three frames, then fails like a full disk."""

    written = 0

    def write(self, frame: RgbFrame) -> None:
        if self.written == 3:
            raise OSError(28, "No space left on device")
        self.written += 1
        super().write(frame)


def new_video(folder: Path, stem: str = "cam-env0-front-episode-4", attempt: int = 2, **changes: Any) -> EpisodeVideo:
    backend = PlainBackend(changes.pop("encoder", PyAvEncoder))
    settings = VideoSettings(folder=folder, kind="camera", fps=20.0, backend=backend, **changes)
    return EpisodeVideo(settings, stem, camera="front", attempt=attempt)


def fill(video: EpisodeVideo, num_frames: int = 5) -> None:
    for step in range(num_frames):
        video.add(gray(step))


def test_the_file_is_partial_until_it_is_finished(tmp_path: Path) -> None:
    video = new_video(tmp_path)
    assert names(tmp_path) == []
    fill(video)
    assert names(tmp_path) == ["cam-env0-front-episode-4.2.partial.mp4"]
    video.finish()
    assert names(tmp_path) == ["cam-env0-front-episode-4.mp4"]


def test_the_report_tells_what_is_in_the_file(tmp_path: Path) -> None:
    video = new_video(tmp_path)
    fill(video)
    path = tmp_path / "cam-env0-front-episode-4.mp4"
    (report,) = video.finish()
    assert report == VideoFile(
        kind="camera", camera="front", path=str(path), frames=5, fps=20.0, bytes=path.stat().st_size, partial=False
    )
    assert len(decode(path)) == 5


def test_kept_files_stay_partial_and_are_whole(tmp_path: Path) -> None:
    video = new_video(tmp_path)
    fill(video)
    (report,) = video.keep()
    assert (report.partial, Path(report.path).name) == (True, "cam-env0-front-episode-4.2.partial.mp4")
    assert steps_shown(report.path) == [0, 1, 2, 3, 4]


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    video = new_video(tmp_path)
    fill(video)
    video.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize("end", ["finish", "keep", "discard"], ids=str)
def test_a_video_without_frames_leaves_no_file_and_no_report(tmp_path: Path, end: str) -> None:
    assert not getattr(new_video(tmp_path), end)()
    assert names(tmp_path) == []


def test_a_finished_video_removes_what_other_attempts_left(tmp_path: Path) -> None:
    leftovers = ["cam-env0-front-episode-4.1.partial.mp4", "cam-env0-front-episode-4.17.partial.mp4"]
    others = ["cam-env0-front-episode-41.1.partial.mp4", "cam-env0-front-episode-4.x.partial.mp4"]
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b"x")
    video = new_video(tmp_path)
    fill(video)
    video.finish()
    assert names(tmp_path) == sorted([*others, "cam-env0-front-episode-4.mp4"])


def test_a_video_that_was_cut_off_removes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "cam-env0-front-episode-4.1.partial.mp4").write_bytes(b"x")
    video = new_video(tmp_path)
    fill(video)
    (report,) = video.finish(cut_off=True)
    assert (report.partial, Path(report.path).name) == (True, "cam-env0-front-episode-4.mp4")
    assert len(names(tmp_path)) == 2


def test_an_episode_that_is_run_again_replaces_its_file(tmp_path: Path) -> None:
    for num_frames in (5, 3):
        video = new_video(tmp_path)
        fill(video, num_frames)
        video.finish()
    assert steps_shown(tmp_path / "cam-env0-front-episode-4.mp4") == [0, 1, 2]


def test_an_encoder_failure_is_told_once_and_keeps_what_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = new_video(tmp_path, encoder=BreakingEncoder)
    fill(video, 8)
    (report,) = video.finish()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text
    assert report.error == "OSError: [Errno 28] No space left on device"
    assert (report.partial, report.frames, names(tmp_path)) == (True, 3, ["cam-env0-front-episode-4.2.partial.mp4"])
    assert steps_shown(report.path) == [0, 1, 2]


def test_an_encoder_that_cannot_even_open_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(path: Path, video_format: VideoFormat) -> PyAvEncoder:
        raise EncoderError("no codec")

    video = new_video(tmp_path, encoder=refuse)
    fill(video)
    (report,) = video.finish()
    assert (report.frames, report.bytes, report.partial, report.error) == (0, 0, True, "EncoderError: no codec")
    assert caplog.text.count("no codec") == 1
    assert names(tmp_path) == []


def test_a_folder_that_disappears_costs_the_video_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = new_video(tmp_path / "gone")
    fill(video)
    (report,) = video.finish()
    assert (report.bytes, report.partial) == (0, True)
    assert "No such file or directory" in caplog.text


def test_a_frame_of_another_size_starts_a_new_segment(tmp_path: Path) -> None:
    video = new_video(tmp_path)
    fill(video)
    for step in range(3):
        video.add(gray(step, 64, 64))
    fill(video, 2)
    assert names(tmp_path) == [f"cam-env0-front-episode-4{part}.2.partial.mp4" for part in SEGMENTS]
    reports = video.finish()
    assert names(tmp_path) == [f"cam-env0-front-episode-4{part}.mp4" for part in SEGMENTS]
    assert [(report.segment, report.frames, report.partial) for report in reports] == [
        (0, 5, False),
        (1, 3, False),
        (2, 2, False),
    ]
    assert [steps_shown(report.path) for report in reports] == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1]]


def test_segments_of_earlier_attempts_are_removed_too(tmp_path: Path) -> None:
    for part in ("", "-segment-1", "-segment-12", "-failure", "-segment-1-success"):
        (tmp_path / f"cam-env3-front-episode-4{part}.1.partial.mp4").write_bytes(b"x")
    video = new_video(tmp_path)
    fill(video)
    video.finish(ending="-success")
    assert names(tmp_path) == ["cam-env0-front-episode-4-success.mp4"]


def test_a_video_ends_at_its_greatest_length(tmp_path: Path) -> None:
    video = new_video(tmp_path, max_frames=4)
    fill(video, 4)
    assert not video.takes_frames()
    fill(video, 4)
    (report,) = video.finish()
    assert (report.frames, report.partial, steps_shown(report.path)) == (4, True, [0, 1, 2, 3])


def test_a_video_of_exactly_the_greatest_length_is_whole(tmp_path: Path) -> None:
    video = new_video(tmp_path, max_frames=5)
    fill(video, 5)
    (report,) = video.finish()
    assert (report.frames, report.partial) == (5, False)


def test_odd_sizes_are_padded_by_one_pixel(tmp_path: Path) -> None:
    video = new_video(tmp_path)
    frame = gray(1, 31, 33)
    frame[-1] = 200
    video.add(frame)
    (report,) = video.finish()
    shown = decode(report.path)[0]
    assert shown.shape == (32, 34, 3)
    assert abs(int(shown[31].mean()) - 200) < 8


def playable_frames(path: str) -> int:
    """Count frames as a player does, up to a torn last one."""
    with av.open(path) as container, contextlib.suppress(av.error.InvalidDataError):
        for count, _ in enumerate(container.decode(video=0), start=1):
            frames = count
    return frames


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_costs_the_video_only(
    tmp_path: Path, file_size_limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    video, noise = new_video(tmp_path), np.random.default_rng(0)
    for _ in range(30):
        video.add(noise.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    (report,) = video.finish()
    assert (report.partial, report.bytes) == (True, file_size_limit)
    assert report.error is not None
    assert report.frames > 0
    assert report.frames - 1 <= playable_frames(report.path) <= report.frames
    assert caplog.text.count("The rollout goes on") == 1


def test_a_killed_process_leaves_a_playable_partial_file(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from tests.video.envs import gray
from tests.video.test_episode_video import new_video
video = new_video(Path({str(tmp_path)!r}))
for step in range(30):
    video.add(gray(step))
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(arena_ray.video.encoder.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -9
    assert names(tmp_path) == ["cam-env0-front-episode-4.2.partial.mp4"]
    shown = steps_shown(tmp_path / "cam-env0-front-episode-4.2.partial.mp4")
    assert len(shown) >= 30 - 7
    assert shown == list(range(len(shown)))


def test_names() -> None:
    assert camera_stem("robot-cam", 3, "wrist", 17) == "robot-cam-env3-wrist-episode-17"
    assert viewport_stem("viewport", 3, 17) == "viewport-env3-episode-17"
    assert clip_stem("viewport", 2) == "viewport-chunk2"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("wrist_cam-1.left", "wrist_cam-1.left", id="harmless"),
        pytest.param("a/b\\c d", "a_b_c_d", id="separators"),
        pytest.param("../../etc/passwd", "______etc_passwd", id="upwards"),
        pytest.param("..", "__", id="dots"),
        pytest.param(".hidden", "_hidden", id="leading-dot"),
        pytest.param("a..b", "a__b", id="inner-dots"),
        pytest.param("", "_", id="empty"),
        pytest.param("käse\n\0", "k_se__", id="not-ascii"),
        pytest.param("x" * 300, "x" * 100, id="long"),
    ],
)
def test_names_are_made_safe(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_names_that_collide_get_numbers() -> None:
    taken: list[str] = []
    for name in ("a/b", "a_b", "a_b-2", "a:b"):
        taken.append(distinct_name(name, taken))
    assert taken == ["a_b", "a_b-2", "a_b-2-2", "a_b-3"]
