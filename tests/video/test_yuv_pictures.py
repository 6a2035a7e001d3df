from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_ray.video import yuv_pictures
from arena_ray.video.encoder import VideoFormat
from arena_ray.video.frames import pad_to_even
from arena_ray.video.yuv_pictures import BLIND_FRAMES, YuvPictures

Frame = npt.NDArray[np.uint8]


def converted_whole(frame: Frame) -> Frame:
    return np.asarray(cv2.cvtColor(pad_to_even(frame), cv2.COLOR_RGB2YUV_I420), np.uint8)


def pictures(width: int, height: int, count: int = 3) -> YuvPictures:
    return YuvPictures(VideoFormat(width=width, height=height, fps=30.0), count)


def shown(converter: YuvPictures, frame: Frame) -> Frame:
    return np.asarray(converter.picture_of(frame).to_ndarray())


def noise(width: int, height: int, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@st.composite
def films(draw: st.DrawFn) -> tuple[int, list[Frame]]:
    """Draw a number of pictures, and frames in which some boxes change, all, or nothing."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    frame = noise(width, height)
    frames = [frame]
    for seed in range(draw(st.integers(1, 60))):
        frame = frame.copy()
        for _ in range(draw(st.integers(0, 2))):
            left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            right, bottom = draw(st.integers(left, width)), draw(st.integers(top, height))
            frame[top:bottom, left:right] = noise(right - left, bottom - top, seed)
        frames.append(frame[::-1] if draw(st.booleans()) else frame)
    return draw(st.integers(1, 8)), frames


@settings(deadline=None)
@given(films())
def test_converting_what_changed_gives_what_converting_all_gives(film: tuple[int, list[Frame]]) -> None:
    count, frames = film
    height, width = frames[0].shape[:2]
    converter = pictures(width, height, count)
    for frame in frames:
        assert (shown(converter, frame) == converted_whole(frame)).all()


def test_only_the_box_around_what_changed_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    convert: Any = cv2.cvtColor

    def spy(frame: Frame, code: int, **keywords: Any) -> Any:
        sizes.append(frame.shape[:2])
        return convert(frame, code, **keywords)

    frame, converter = noise(64, 48), pictures(64, 48, count=2)
    for _ in range(BLIND_FRAMES):
        converter.picture_of(frame)
    monkeypatch.setattr(yuv_pictures._cv2, "cvtColor", spy)
    for step in range(6):
        if step in (3, 5):
            frame[10, 20 + step] += 1
        converter.picture_of(frame)
    # One of the two pictures gets all of it once more. What is compared are eight bytes at a time.
    assert sizes == [(48, 64), (2, 4), (2, 4), (2, 4)]


def test_a_camera_that_moves_is_seldom_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    compared: list[int] = []
    bounding_box: Any = cv2.boundingRect

    def spy(mask: Frame) -> Any:
        compared.append(steps[-1])
        return bounding_box(mask)

    monkeypatch.setattr(yuv_pictures._cv2, "boundingRect", spy)
    frame, converter = noise(64, 48), pictures(64, 48)
    for step in range(200):
        steps.append(step)
        if step < 100:
            frame = noise(64, 48, step)
        frame[3, 5] += 1
        assert (shown(converter, frame) == converted_whole(frame)).all()
    assert compared == [31, 63, 95, *range(127, 200)]


def test_frames_in_strides_of_four_bytes_and_upside_down() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    for frame in (rgba[:, :, :3], rgba[::-1, :, :3], np.ascontiguousarray(rgba[:, :, :3])[::-1]):
        converter = pictures(30, 20)
        for _ in range(2 * BLIND_FRAMES):
            assert (shown(converter, frame) == converted_whole(frame)).all()
            frame[4, 7] += 1


def test_a_frame_may_be_changed_as_soon_as_it_was_converted() -> None:
    frame, converter = noise(32, 16), pictures(32, 16)
    for _ in range(2 * BLIND_FRAMES):
        picture, before = converter.picture_of(frame), converted_whole(frame)
        frame[:] += 1
        assert (picture.to_ndarray() == before).all()
    assert (shown(converter, frame) == converted_whole(frame)).all()


@pytest.mark.parametrize("at", [2, 40, 41, 42, 43])
def test_after_an_interruption_pictures_are_right(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    convert: Any = cv2.cvtColor
    steps: list[int] = []

    def interrupted(*args: Any, **keywords: Any) -> Any:
        if steps[-1] == at:
            raise KeyboardInterrupt
        return convert(*args, **keywords)

    monkeypatch.setattr(yuv_pictures._cv2, "cvtColor", interrupted)
    frame, converter = noise(64, 48), pictures(64, 48)
    for step in range(100):
        steps.append(step)
        frame[step % 48, 7 * step % 64] += 1
        if step == at:
            with pytest.raises(KeyboardInterrupt):
                converter.picture_of(frame)
            steps.append(step + 1)
        assert (shown(converter, frame) == converted_whole(frame)).all()
