from __future__ import annotations

import builtins
import contextlib
import math
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.stream import VideoStream

from arena_ray.specs import EncoderName
from arena_ray.video import encoder as encoder_module
from arena_ray.video import encoder_process, pyav_encoder, yuv_pictures
from arena_ray.video.encoder import Encoder, EncoderBackend, EncoderError, PlainBackend, VideoFormat, open_backend
from arena_ray.video.ffmpeg_encoder import FfmpegPipeEncoder
from arena_ray.video.pyav_encoder import PyAvEncoder
from tests.video.envs import decode, gray, steps_shown

ROOT = Path(encoder_module.__file__).parents[2]


def video_format(width: int = 32, height: int = 32, fps: float = 20.0, **more: Any) -> VideoFormat:
    return VideoFormat(width=width, height=height, fps=fps, **more)


@pytest.fixture(params=["inline", "process", "imageio-ffmpeg"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[EncoderBackend]:
    monkeypatch.setattr(encoder_process, "SMALLEST_FRAME", 0)
    opened = encoder_module.open_exactly(request.param)
    yield opened
    opened.close()


def test_every_frame_is_in_the_file_in_order(tmp_path: Path, backend: EncoderBackend) -> None:
    encoder = backend.open(tmp_path / "a.mp4", video_format(32, 32, 20.0))
    for step in range(12):
        encoder.write(gray(step))
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == list(range(12))


@pytest.mark.parametrize("fps", [pytest.param(20.0, id="whole"), pytest.param(12.5, id="fraction")])
def test_the_file_has_the_rate_and_the_pixel_format_that_players_want(
    tmp_path: Path, backend: EncoderBackend, fps: float
) -> None:
    encoder = backend.open(tmp_path / "a.mp4", video_format(48, 32, fps))
    for step in range(5):
        encoder.write(gray(step, 32, 48))
    encoder.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert isinstance(stream, VideoStream)
        assert (stream.width, stream.height, stream.pix_fmt) == (48, 32, "yuv420p")
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(fps)


def test_a_frame_may_be_overwritten_after_write(tmp_path: Path, backend: EncoderBackend) -> None:
    encoder, frame = backend.open(tmp_path / "a.mp4", video_format(32, 32, 20.0)), gray(0)
    for step in range(6):
        frame[:] = gray(step)
        encoder.write(frame)
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == list(range(6))


def test_close_twice_is_close_once(tmp_path: Path, backend: EncoderBackend) -> None:
    encoder = backend.open(tmp_path / "a.mp4", video_format(32, 32, 20.0))
    encoder.write(gray(1))
    encoder.close()
    encoder.close()
    assert len(decode(tmp_path / "a.mp4")) == 1


@pytest.mark.parametrize(("batch", "playable"), [({"batch": 1}, 19), ({}, 13)], ids=["one-by-one", "default"])
def test_an_open_file_can_be_played_up_to_its_last_batch(
    tmp_path: Path, batch: dict[str, int], playable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav_encoder, "LONGEST_WAIT_S", math.inf)  # However slow this machine is now.
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format(), **batch)
    for step in range(20):
        encoder.write(gray(step))
    assert steps_shown(tmp_path / "a.mp4") == list(range(playable))
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == list(range(20))


def test_a_slow_callers_frames_do_not_wait_for_a_batch(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format())
    for step in range(12):
        encoder.write(gray(step))
        time.sleep(0.03)
    assert len(steps_shown(tmp_path / "a.mp4")) >= 11
    encoder.close()


def test_few_large_pictures_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav_encoder, "LONGEST_WAIT_S", math.inf)
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format(2048, 1024))
    for step in range(11):
        encoder.write(gray(step, 1024, 2048))
    assert len(decode(tmp_path / "a.mp4")) >= 10
    encoder.close()


def test_an_interrupted_frame_is_not_shown_and_the_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert: Any = cv2.cvtColor
    steps: list[int] = []

    def interrupted(*args: Any, **keywords: Any) -> Any:
        if steps[-1] % 10 == 5:
            raise KeyboardInterrupt
        return convert(*args, **keywords)

    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format())
    monkeypatch.setattr(yuv_pictures._cv2, "cvtColor", interrupted)
    for step in range(38):
        steps.append(step)
        with contextlib.suppress(KeyboardInterrupt):
            encoder.write(gray(step))
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == [step for step in range(38) if step % 10 != 5]


def test_a_file_is_there_from_its_first_frame_and_can_be_played_from_its_second(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format())
    for step in range(8):
        encoder.write(gray(step))
        assert (tmp_path / "a.mp4").stat().st_size > 0
        if step:
            assert steps_shown(tmp_path / "a.mp4")[:step] == list(range(step))
    encoder.close()


def test_closing_without_a_frame_does_not_crash_the_process(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.video.test_encoder import PyAvEncoder, video_format; "
        f"PyAvEncoder(Path({str(tmp_path / 'a.mp4')!r}), video_format()).close()"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert not (tmp_path / "a.mp4").exists()


def test_pyav_says_when_a_folder_is_not_there(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "missing" / "a.mp4", video_format(32, 32))
    with pytest.raises(FileNotFoundError):
        encoder.write(gray(0))
    encoder.close()


def write_until_it_fails(encoder: Encoder) -> None:
    for _ in range(200):
        encoder.write(gray(0, 1024, 1024))


def test_a_write_after_ffmpegs_end_says_why_it_ended(tmp_path: Path) -> None:
    encoder = FfmpegPipeEncoder(tmp_path / "missing" / "a.mp4", video_format(1024, 1024))
    with pytest.raises(EncoderError, match="No such file or directory"):
        write_until_it_fails(encoder)
    with pytest.raises(EncoderError):
        encoder.close()


def test_ffmpegs_own_words_are_in_the_error(tmp_path: Path) -> None:
    encoder = FfmpegPipeEncoder(tmp_path / "missing" / "a.mp4", video_format(32, 32))
    encoder.write(gray(0))
    with pytest.raises(EncoderError, match="No such file or directory"):
        encoder.close()


def opened(name: EncoderName) -> type:
    """Return the class of the encoder that a backend opens, or of the backend where encoders share something."""
    backend = open_backend(name)
    backend.close()
    return backend._new_encoder if isinstance(backend, PlainBackend) else type(backend)  # type: ignore[return-value]


def test_auto_takes_a_process_where_a_core_is_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "usable_cores", lambda: 2.0)
    assert opened("auto") is encoder_process.ProcessBackend
    monkeypatch.setattr(encoder_module, "usable_cores", lambda: 1.9)
    assert opened("auto") is PyAvEncoder


@pytest.mark.parametrize(("cores", "stepping", "chosen"), [(8, 4, "process"), (7.9, 4, "inline"), (1.5, 1, "inline")])
def test_each_process_that_steps_needs_a_core_for_its_encoder(cores: float, stepping: int, chosen: str) -> None:
    assert encoder_module.choose_encoder(cores, stepping) == chosen


def test_a_child_process_of_a_vector_environment_encodes_inline() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as children:
        assert children.submit(opened, "auto").result(60) is PyAvEncoder


def test_a_named_encoder_is_used() -> None:
    assert opened("inline") is PyAvEncoder
    assert opened("imageio-ffmpeg") is FfmpegPipeEncoder


def test_a_gpu_that_cannot_encode_gives_way_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise EncoderError("no such hardware")

    monkeypatch.setattr(pyav_encoder, "probe_nvenc", refuse)
    monkeypatch.setattr(encoder_module, "_said", set())
    monkeypatch.setattr(encoder_module, "usable_cores", lambda: 1.0)
    assert [opened("nvenc"), opened("nvenc")] == [PyAvEncoder, PyAvEncoder]
    assert caplog.text.count("'nvenc' does not work here (nvenc: EncoderError: no such hardware)") == 1


def test_an_unknown_encoder_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'auto', 'inline', 'process', 'nvenc', 'imageio-ffmpeg'"):
        open_backend("h265")  # type: ignore[arg-type]


def hide_modules(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    pyav_encoder._movflags.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)


def test_without_pyav_ffmpeg_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_modules(monkeypatch, "av")
    assert opened("auto") is FfmpegPipeEncoder


def test_without_any_encoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_modules(monkeypatch, "av", "imageio_ffmpeg")
    with pytest.raises(EncoderError, match=r"pip install av.*pip install imageio-ffmpeg"):
        open_backend("auto")


def test_an_old_ffmpeg_gets_the_flags_that_it_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pyav_encoder, "HYBRID", "no_such_flag")
    pyav_encoder._movflags.cache_clear()
    try:
        encoder = PyAvEncoder(tmp_path / "a.mp4", video_format(32, 32))
        for step in range(5):
            encoder.write(gray(step))
        assert steps_shown(tmp_path / "a.mp4") == list(range(4))
        encoder.close()
    finally:
        pyav_encoder._movflags.cache_clear()
    assert steps_shown(tmp_path / "a.mp4") == list(range(5))


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    code = f"""
import resource, numpy as np
from pathlib import Path
from tests.video.test_encoder import PyAvEncoder, video_format
encoder = PyAvEncoder(Path({str(tmp_path / "a.mp4")!r}), video_format(640, 480))
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
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(result.stdout) < 50 * 900 / 3  # KiB; the frames alone have 900 KiB each


def test_frames_are_close_to_what_was_written(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format(64, 64))
    ramp = np.broadcast_to(np.linspace(20, 230, 64).astype(np.uint8)[:, None, None], (64, 64, 3)).copy()
    encoder.write(ramp)
    encoder.close()
    assert np.abs(decode(tmp_path / "a.mp4")[0].astype(int) - ramp).mean() < 6


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        pytest.param((640, 480), None, (640, 480), id="no-limit"),
        pytest.param((640, 480), 320, (320, 240), id="half"),
        pytest.param((480, 640), 320, (240, 320), id="portrait"),
        pytest.param((100, 75), 320, (100, 76), id="small-enough-and-odd"),
        pytest.param((1000, 10), 100, (100, 2), id="never-nothing"),
        pytest.param((601, 401), 300, (300, 200), id="odd"),
    ],
)
def test_the_size_of_the_video(size: tuple[int, int], limit: int | None, expected: tuple[int, int]) -> None:
    assert video_format(*size, max_resolution=limit).encoded_size == expected


@pytest.mark.parametrize("opencv", [True, False], ids=["opencv", "swscale"])
def test_frames_are_scaled_down_to_the_limit(tmp_path: Path, opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not opencv:
        monkeypatch.setattr(yuv_pictures, "_cv2", None)
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format(63, 47, max_resolution=32))
    for step in range(5):
        encoder.write(gray(step, 47, 63))
    encoder.close()
    assert decode(tmp_path / "a.mp4")[0].shape == (24, 32, 3)
    assert steps_shown(tmp_path / "a.mp4") == list(range(5))


def test_ffmpeg_scales_too(tmp_path: Path) -> None:
    encoder = FfmpegPipeEncoder(tmp_path / "a.mp4", video_format(63, 47, max_resolution=32))
    for step in range(5):
        encoder.write(gray(step, 47, 63))
    encoder.close()
    assert decode(tmp_path / "a.mp4")[0].shape == (24, 32, 3)


def test_the_small_preset_is_smaller(tmp_path: Path) -> None:
    sizes = {}
    for preset in ("fast", "small"):
        noise = np.random.default_rng(0)
        encoder = PyAvEncoder(tmp_path / f"{preset}.mp4", video_format(128, 128, preset=preset))
        for _ in range(20):
            small = noise.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            encoder.write(small.repeat(8, axis=0).repeat(8, axis=1))
        encoder.close()
        sizes[preset] = (tmp_path / f"{preset}.mp4").stat().st_size
    assert sizes["small"] < 0.9 * sizes["fast"]


@pytest.mark.parametrize("size", [(16, 16), (22, 34), (30, 30), (46, 62), (50, 66), (48, 36)], ids=str)
def test_gray_stays_gray_in_every_size(tmp_path: Path, backend: EncoderBackend, size: tuple[int, int]) -> None:
    encoder = backend.open(tmp_path / "a.mp4", video_format(size[1], size[0]))
    encoder.write(gray(20, *size))
    encoder.close()
    (shown,) = decode(tmp_path / "a.mp4")
    assert np.abs(shown.astype(int) - gray(20, *size)).max() <= 3


def test_colours_are_labelled_and_survive(tmp_path: Path) -> None:
    encoder = PyAvEncoder(tmp_path / "a.mp4", video_format(64, 64))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32, :32], picture[:32, 32:], picture[32:, :32] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    encoder.write(picture)
    encoder.close()
    shown = decode(tmp_path / "a.mp4")[0].astype(int)
    for row, column in ((16, 16), (16, 48), (48, 16), (48, 48)):
        assert np.abs(shown[row, column] - picture[row, column]).max() < 20
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (int(context.colorspace), int(context.color_range)) == (6, 1)


def test_a_disk_of_many_machines_gets_a_write_per_quarter_second(tmp_path: Path) -> None:
    sizes = {}
    for name, fragment_s in (("network", 0.25), ("local", None)):
        encoder = PyAvEncoder(tmp_path / name, video_format(fps=20.0, fragment_s=fragment_s), batch=1)
        for step in range(13):
            encoder.write(gray(step))
        sizes[name] = len(steps_shown(tmp_path / name))
        encoder.close()
        assert steps_shown(tmp_path / name) == list(range(13))
    assert sizes == {"network": 10, "local": 12}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param("ext4", None, id="local"),
        pytest.param("nfs4", 0.25, id="nfs"),
        pytest.param("fuse.s3fs", 0.25, id="fuse"),
        pytest.param("tmpfs", None, id="memory"),
    ],
)
def test_which_disk_a_folder_is_on(
    tmp_path: Path, kind: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [
        "22 1 0:21 / / rw - ext4 /dev/a rw",
        f"23 22 0:22 / {tmp_path.resolve()} rw,relatime shared:1 - {kind} server:/x rw",
        f"24 22 0:23 / {tmp_path.resolve()}-other rw - lustre x rw",
    ]
    monkeypatch.setattr(Path, "read_text", lambda self, **keywords: "\n".join(mounts))
    assert encoder_module.fragment_length(tmp_path / "videos") == expected
