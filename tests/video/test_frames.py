from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arena_ray.video.frames import NotRgbError, RgbStream, pad_to_even, to_numpy


def filled(value: Any, dtype: Any, shape: tuple[int, ...] = (4, 6, 3)) -> Any:
    return np.full(shape, value, dtype)


def test_uint8_is_passed_on_without_a_copy() -> None:
    frame = filled(7, np.uint8)
    assert np.shares_memory(RgbStream().convert(frame), frame)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(filled(0.5, np.float32), 128, id="unit-float"),
        pytest.param(filled(200.0, np.float64), 200, id="float-to-255"),
        pytest.param(filled(1.004, np.float32), 255, id="just-above-one"),
        pytest.param(filled(300, np.int32), 255, id="int-above"),
        pytest.param(filled(-5, np.int64), 0, id="int-below"),
        pytest.param(filled(65535, np.uint16), 255, id="uint16-does-not-wrap"),
        pytest.param(filled(True, np.bool_), 255, id="bool"),
        pytest.param(filled(np.nan, np.float32), 0, id="nan"),
        pytest.param(filled(9, np.uint8, (4, 6, 4)), 9, id="rgba"),
        pytest.param(filled(0.5, np.float16), 128, id="half"),
        pytest.param(filled(9, np.uint8, (3, 5, 6)), 9, id="channels-first"),
        pytest.param(filled(9, np.uint8, (4, 5, 6)), 9, id="rgba-channels-first"),
        pytest.param(filled(9, np.uint8, (4, 6)), 9, id="gray"),
        pytest.param(filled(9, np.uint8, (4, 6, 1)), 9, id="gray-with-channel"),
        pytest.param(filled(9, np.uint8, (1, 4, 6)), 9, id="gray-channel-first"),
        pytest.param(filled(True, np.bool_, (4, 6)), 255, id="mask"),
        pytest.param(filled(200, np.uint16), 200, id="uint16-to-255"),
        pytest.param(filled(0x8080, np.uint16), 128, id="uint16-to-65535"),
    ],
)
def test_every_kind_of_image_becomes_uint8_rgb(frame: Any, expected: int) -> None:
    rgb = RgbStream().convert(frame)
    assert (rgb.ndim, rgb.shape[1:], str(rgb.dtype)) == (3, (6, 3), "uint8")
    assert set(rgb.ravel().tolist()) == {expected}


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((4,), id="line"),
        pytest.param((1, 4, 6, 3), id="batch"),
        pytest.param((4, 6, 2), id="two-channels"),
        pytest.param((0, 6, 3), id="empty"),
    ],
)
def test_what_is_not_rgb_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(NotRgbError, match=r"uint8\[" + ", ".join(map(str, shape))):
        RgbStream().convert(np.zeros(shape, np.uint8))


def test_a_dtype_without_colours_is_refused() -> None:
    with pytest.raises(NotRgbError, match="complex"):
        RgbStream().convert(np.zeros((4, 6, 3), np.complex64))


def test_the_scale_of_floats_is_decided_once() -> None:
    stream = RgbStream()
    assert stream.convert(filled(200.0, np.float32)).max() == 200
    assert stream.convert(filled(1.0, np.float32)).max() == 1


def test_a_black_frame_does_not_decide_the_scale() -> None:
    stream = RgbStream()
    assert stream.convert(filled(0.0, np.float32)).max() == 0
    assert stream.convert(filled(200.0, np.float32)).max() == 200


@pytest.mark.parametrize(
    ("high", "expected"),
    [
        pytest.param(255.0, 1, id="to-255"),
        pytest.param(1.0, 255, id="to-1"),
        pytest.param(np.inf, 255, id="unbounded"),
        pytest.param(None, 255, id="unknown"),
    ],
)
def test_the_bound_of_the_space_decides_the_scale(high: float | None, expected: int) -> None:
    assert RgbStream(high).convert(filled(1.0, np.float32)).max() == expected


def test_channels_first_are_turned() -> None:
    frame = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    np.testing.assert_array_equal(RgbStream().convert(frame.transpose(2, 0, 1)), frame)


def test_a_size_with_three_pixels_is_no_channel() -> None:
    assert RgbStream().convert(np.zeros((3, 64, 3), np.uint8)).shape == (3, 64, 3)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(filled(1.5, np.float32, (4, 6)), id="metres"),
        pytest.param(filled(1500, np.uint16, (4, 6, 1)), id="millimetres"),
        pytest.param(filled(7, np.int32, (1, 4, 6)), id="labels"),
    ],
)
def test_one_channel_of_numbers_is_taken_for_a_depth(frame: Any) -> None:
    with pytest.raises(NotRgbError, match="looks like a depth"):
        RgbStream().convert(frame)


def test_one_channel_of_floats_bounded_like_a_picture_is_gray() -> None:
    assert RgbStream(1.0).convert(filled(0.5, np.float32, (4, 6))).max() == 128


def test_the_layout_is_decided_once() -> None:
    stream = RgbStream()
    stream.convert(filled(1, np.uint8))
    with pytest.raises(NotRgbError, match=r"uint8\[4, 6\] is not RGB.*after frames in the layout HWC"):
        stream.convert(filled(1, np.uint8, (4, 6)))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.ones(2, 3), id="float"),
        pytest.param(torch.ones(2, 3, requires_grad=True), id="with-gradient"),
        pytest.param(torch.ones(2, 3, dtype=torch.bfloat16), id="bfloat16"),
        pytest.param(torch.ones(2, 3, dtype=torch.uint8), id="uint8"),
    ],
)
def test_tensors_become_arrays(tensor: torch.Tensor) -> None:
    np.testing.assert_array_equal(to_numpy(tensor), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("size", "padded_size"),
    [
        pytest.param((4, 6), (4, 6), id="even"),
        pytest.param((5, 6), (6, 6), id="odd-height"),
        pytest.param((4, 7), (4, 8), id="odd-width"),
        pytest.param((5, 7), (6, 8), id="both-odd"),
        pytest.param((1, 1), (2, 2), id="one-pixel"),
    ],
)
def test_odd_sizes_repeat_the_edge(size: tuple[int, int], padded_size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    padded = pad_to_even(frame)
    extra = [(0, after - before) for before, after in zip(size, padded_size, strict=True)]
    np.testing.assert_array_equal(padded, np.pad(frame, [*extra, (0, 0)], mode="edge"))


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3)], ids=["no-rows", "no-columns"])
def test_an_empty_image_is_refused_also_after_a_good_one(shape: tuple[int, ...]) -> None:
    stream = RgbStream()
    stream.convert(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(NotRgbError):
        stream.convert(np.zeros(shape, np.uint8))
