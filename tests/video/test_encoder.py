from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from arena_ray.video import encoder as encoder_module
from arena_ray.video.encoder import (
    Encoder,
    EncoderError,
    EncoderFactory,
    FfmpegPipeEncoder,
    PyAvEncoder,
    resolve_encoder,
)
from tests.video.envs import decode, gray, steps_shown

BACKENDS = [pytest.param(PyAvEncoder, id="inline"), pytest.param(FfmpegPipeEncoder, id="imageio-ffmpeg")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_frame_is_in_the_file_in_order(tmp_path: Path, backend: EncoderFactory) -> None:
    encoder = backend(tmp_path / "a.mp4", 32, 32, 20.0)
    for step in range(12):
        encoder.write(gray(step))
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == list(range(12))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fps", [pytest.param(20.0, id="whole"), pytest.param(12.5, id="fraction")])
def test_the_file_has_the_rate_and_the_pixel_format_that_players_want(
    tmp_path: Path, backend: EncoderFactory, fps: float
) -> None:
    encoder = backend(tmp_path / "a.mp4", 48, 32, fps)
    for step in range(5):
        encoder.write(gray(step, 32, 48))
    encoder.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert isinstance(stream, VideoStream)
        assert (stream.width, stream.height, stream.pix_fmt) == (48, 32, "yuv420p")
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(fps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_may_be_overwritten_after_write(tmp_path: Path, backend: EncoderFactory) -> None:
    encoder, frame = backend(tmp_path / "a.mp4", 32, 32, 20.0), gray(0)
    for step in range(6):
        frame[:] = gray(step)
        encoder.write(frame)
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == list(range(6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_close_twice_is_close_once(tmp_path: Path, backend: EncoderFactory) -> None:
    encoder = backend(tmp_path / "a.mp4", 32, 32, 20.0)
    encoder.write(gray(1))
    encoder.close()
    encoder.close()
    assert len(decode(tmp_path / "a.mp4")) == 1


def test_an_open_file_can_be_played_up_to_the_last_frame_but_one(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "a.mp4", 32, 32, 20.0)
    for step in range(10):
        encoder.write(gray(step))
    assert steps_shown(tmp_path / "a.mp4")[:9] == list(range(9))
    encoder.close()


def test_closing_without_a_frame_does_not_crash_the_process(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from arena_ray.video.encoder import PyAvEncoder; "
        f"PyAvEncoder(Path({str(tmp_path / 'a.mp4')!r}), 32, 32, 20.0).close()"
    )
    root = Path(encoder_module.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    assert not (tmp_path / "a.mp4").exists()


def test_pyav_says_when_a_folder_is_not_there(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "missing" / "a.mp4", 32, 32, 20.0)
    with pytest.raises(FileNotFoundError):
        encoder.write(gray(0))
    encoder.close()


def write_until_it_fails(encoder: Encoder) -> None:
    for _ in range(200):
        encoder.write(gray(0, 1024, 1024))


def test_a_write_after_ffmpegs_end_says_why_it_ended(tmp_path: Path) -> None:
    encoder = FfmpegPipeEncoder(tmp_path / "missing" / "a.mp4", 1024, 1024, 20.0)
    with pytest.raises(EncoderError, match="No such file or directory"):
        write_until_it_fails(encoder)
    with pytest.raises(EncoderError):
        encoder.close()


def test_ffmpegs_own_words_are_in_the_error(tmp_path: Path) -> None:
    encoder = FfmpegPipeEncoder(tmp_path / "missing" / "a.mp4", 32, 32, 20.0)
    encoder.write(gray(0))
    with pytest.raises(EncoderError, match="No such file or directory"):
        encoder.close()


def test_auto_prefers_encoding_in_process() -> None:
    assert resolve_encoder("auto") is PyAvEncoder


def test_a_named_encoder_is_used() -> None:
    assert resolve_encoder("imageio-ffmpeg") is FfmpegPipeEncoder


def test_an_unknown_encoder_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'auto', 'inline', 'imageio-ffmpeg'"):
        resolve_encoder("h265")  # type: ignore[arg-type]


def hide_modules(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    encoder_module._pyav_movflags.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)


def test_without_pyav_ffmpeg_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_modules(monkeypatch, "av")
    assert resolve_encoder("auto") is FfmpegPipeEncoder


def test_without_any_encoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_modules(monkeypatch, "av", "imageio_ffmpeg")
    with pytest.raises(EncoderError, match=r"pip install av.*pip install imageio-ffmpeg"):
        resolve_encoder("auto")


def test_an_old_ffmpeg_gets_the_flags_that_it_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoder_module, "_HYBRID", "no_such_flag")
    encoder_module._pyav_movflags.cache_clear()
    try:
        encoder = PyAvEncoder(tmp_path / "a.mp4", 32, 32, 20.0)
        for step in range(5):
            encoder.write(gray(step))
        assert steps_shown(tmp_path / "a.mp4") == list(range(4))
        encoder.close()
    finally:
        encoder_module._pyav_movflags.cache_clear()
    assert steps_shown(tmp_path / "a.mp4") == list(range(5))


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    code = f"""
import resource, numpy as np
from pathlib import Path
from arena_ray.video.encoder import PyAvEncoder
encoder = PyAvEncoder(Path({str(tmp_path / "a.mp4")!r}), 640, 480, 30.0)
frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(10):
    encoder.write(frame)
before = peak()
for _ in range(50):
    encoder.write(frame)
encoder.close()
print(peak() - before)
"""
    root = Path(encoder_module.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert int(result.stdout) < 50 * 900 / 3  # KiB; the frames alone have 900 KiB each


def test_frames_are_close_to_what_was_written(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "a.mp4", 64, 64, 20.0)
    ramp = np.broadcast_to(np.linspace(20, 230, 64).astype(np.uint8)[:, None, None], (64, 64, 3)).copy()
    encoder.write(ramp)
    encoder.close()
    assert np.abs(decode(tmp_path / "a.mp4")[0].astype(int) - ramp).mean() < 6
