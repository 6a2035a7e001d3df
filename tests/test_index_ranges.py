from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_ray.index_ranges import parse_ranges, ranges_text


@given(st.lists(st.integers(0, 60), unique=True))
def test_ranges_are_read_as_they_were_written(indices: list[int]) -> None:
    for one in (indices, sorted(indices)):
        assert list(parse_ranges(ranges_text(one))) == one


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        pytest.param(range(25), "0-24", id="range"),
        pytest.param([3, 7, 9, 10, 11, 12], "3,7,9-12", id="mixed"),
        pytest.param([5], "5", id="one"),
        pytest.param([], "", id="none"),
    ],
)
def test_ranges_are_short(indices: Any, text: str) -> None:
    assert ranges_text(indices) == text
    assert list(parse_ranges(text)) == list(indices)


@pytest.mark.parametrize("text", [pytest.param(text, id=text) for text in ("x", "1-", "-1", "1,,2", "1-2-3")])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(parse_ranges(text))
