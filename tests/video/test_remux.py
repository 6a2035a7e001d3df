from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

import arena_ray.video
from arena_ray.video import remux_leftovers
from arena_ray.video.encoder import VideoFormat
from arena_ray.video.pyav_encoder import PyAvEncoder
from arena_ray.video.remux import count_frames, remux
from tests.video.envs import gray, names, steps_shown

ROOT = Path(arena_ray.video.__file__).parents[2]
FORMAT = VideoFormat(width=32, height=32, fps=20.0)


def killed_file(path: Path, frames: int = 22) -> Path:
    """Leave a file whose writer was killed."""
    code = (
        "import os, sys; from pathlib import Path; from tests.video.test_remux import *\n"
        "encoder = PyAvEncoder(Path(sys.argv[1]), FORMAT)\n"
        "for step in range(int(sys.argv[2])): encoder.write(gray(step))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(frames)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    return path


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.dts is not None]


def test_a_killed_file_becomes_an_ordinary_one_without_loss(tmp_path: Path) -> None:
    path = killed_file(tmp_path / "a.mp4")
    before, shown = packets(path), steps_shown(path)
    assert b"moof" in path.read_bytes()
    assert remux(path) == len(before) >= 15
    assert b"moof" not in path.read_bytes()
    assert (packets(path), steps_shown(path)) == (before, shown)
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(len(before) / 20 * 1e6, rel=0.01)
    assert names(tmp_path) == ["a.mp4"]


def test_a_torn_end_costs_the_last_frames_only(tmp_path: Path) -> None:
    path = killed_file(tmp_path / "a.mp4")
    os.truncate(path, path.stat().st_size - 40)
    frames = remux(path)
    assert frames >= 14
    assert steps_shown(path) == list(range(frames))


def test_only_what_is_partial_is_touched(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    killed_file(tmp_path / "job" / "a.1.partial.mp4")
    encoder = PyAvEncoder(tmp_path / "b.mp4", FORMAT)
    encoder.write(gray(0))
    encoder.close()
    stamp = (tmp_path / "b.mp4").stat().st_mtime_ns
    assert remux_leftovers(tmp_path) == [tmp_path / "job" / "a.1.partial.mp4"]
    assert (tmp_path / "b.mp4").stat().st_mtime_ns == stamp
    assert remux_leftovers(tmp_path) == [tmp_path / "job" / "a.1.partial.mp4"]


def test_a_file_without_a_picture_is_removed_and_garbage_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty.1.partial.mp4").touch()
    (tmp_path / "header.1.partial.mp4").write_bytes(killed_file(tmp_path / "x.mp4").read_bytes()[:40])
    (tmp_path / "x.mp4").unlink()
    (tmp_path / "garbage.1.partial.mp4").write_bytes(b"mdat" * 1000)
    assert remux_leftovers(tmp_path) == []
    assert names(tmp_path) == ["garbage.1.partial.mp4"]
    assert "garbage.1.partial.mp4 cannot be made an ordinary MP4" in caplog.text


def test_frames_are_counted_without_decoding(tmp_path: Path) -> None:
    assert count_frames(killed_file(tmp_path / "a.mp4", frames=7)) in (5, 6, 7)
