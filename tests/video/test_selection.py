from __future__ import annotations

import subprocess
import sys

import pytest

from arena_ray.specs import check_record
from arena_ray.video.selection import RecordSelection

FRACTIONS = ["sample:0.05", "sample:0.25", "sample:0.5", "sample:0.9"]


def wanted(record: str, episodes: int = 10) -> list[int]:
    selection = RecordSelection(check_record(record))
    return [episode for episode in range(episodes) if selection.wants(episode)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param("all", list(range(10)), id="all"),
        pytest.param("none", [], id="none"),
        pytest.param("first:1", [0], id="first-one"),
        pytest.param("first:4", [0, 1, 2, 3], id="first-four"),
        pytest.param("first:100", list(range(10)), id="first-more-than-there-are"),
        pytest.param("every:1", list(range(10)), id="every-one"),
        pytest.param("every:2", [0, 2, 4, 6, 8], id="every-second"),
        pytest.param("every:4", [0, 4, 8], id="every-fourth"),
        pytest.param("every:100", [0], id="every-more-than-there-are"),
        pytest.param("sample:1", list(range(10)), id="sample-of-everything"),
        pytest.param("sample:1.0", list(range(10)), id="sample-of-everything-as-a-fraction"),
        pytest.param("failures", list(range(10)), id="failures-are-written-until-the-end-tells"),
        pytest.param("successes", list(range(10)), id="successes-are-written-until-the-end-tells"),
    ],
)
def test_the_episodes_that_are_written(record: str, expected: list[int]) -> None:
    assert wanted(record) == expected


def test_unless_told_everything_is_recorded() -> None:
    selection = RecordSelection()
    assert all(selection.wants(episode) and selection.keeps(False) for episode in range(10))


@pytest.mark.parametrize("record", FRACTIONS, ids=str)
def test_a_sample_is_about_its_fraction(record: str) -> None:
    fraction = float(record.partition(":")[2])
    # Four standard deviations of 10,000 draws are at most 0.02. The chosen ones are always the same.
    assert len(wanted(record, 10_000)) / 10_000 == pytest.approx(fraction, abs=0.02)


@pytest.mark.parametrize("period", [2, 3, 8, 10], ids=str)
def test_a_sample_follows_no_beat(period: int) -> None:
    """Slots and chunks take every N-th episode; each must have its share."""
    chosen = wanted("sample:0.5", 10_000)
    shares = [sum(episode % period == phase for episode in chosen) for phase in range(period)]
    assert min(shares) > 0.9 * len(chosen) / period


def test_a_larger_sample_holds_the_smaller_one() -> None:
    small, middle, large = (set(wanted(record, 1000)) for record in FRACTIONS[:3])
    assert small < middle < large


def test_a_sample_is_the_same_in_every_process() -> None:
    code = (
        "from arena_ray.video.selection import RecordSelection\n"
        "s = RecordSelection('sample:0.25')\n"
        "print([e for e in range(200) if s.wants(e)])"
    )
    for hash_seed in ("0", "12345"):
        printed = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        assert printed == f"{wanted('sample:0.25', 200)}\n"


def test_a_sample_stays_the_same_from_version_to_version() -> None:
    """`resume` and `replay` of an old run must choose what the run chose."""
    assert wanted("sample:0.25", 40) == [2, 6, 17, 18, 23, 29, 34]


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        pytest.param("failures", [False], id="failures"),
        pytest.param("successes", [True], id="successes"),
        pytest.param("all", [True, False, None], id="all"),
        pytest.param("first:3", [True, False, None], id="first"),
        pytest.param("every:3", [True, False, None], id="every"),
        pytest.param("sample:0.5", [True, False, None], id="sample"),
    ],
)
def test_the_outcome_decides_where_it_is_asked_for(record: str, kept: list[bool | None]) -> None:
    """An episode of which the environment does not say whether it succeeded is neither."""
    selection = RecordSelection(record)
    assert [success for success in (True, False, None) if selection.keeps(success)] == kept
    assert selection.by_outcome == (len(kept) == 1)


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        pytest.param("failures", True, id="failures"),
        pytest.param("successes", False, id="successes"),
        pytest.param("all", True, id="all"),
        pytest.param("first:3", True, id="first"),
        pytest.param("sample:0.5", True, id="sample"),
    ],
)
def test_what_broke_did_not_succeed(record: str, kept: bool) -> None:
    assert RecordSelection(record).keeps_broken is kept


def test_a_trigger_decides_instead() -> None:
    asked: list[int] = []

    def trigger(episode: int) -> bool:
        asked.append(episode)
        return episode in (2, 3)

    selection = RecordSelection("none", trigger=trigger)
    assert [episode for episode in range(5) if selection.wants(episode)] == [2, 3]
    assert asked == [0, 1, 2, 3, 4]
    assert selection.keeps(False)
