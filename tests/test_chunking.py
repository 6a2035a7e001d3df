from __future__ import annotations

import pytest

from arena_ray.chunking import (
    FIRST_EPISODES,
    LONGEST_EPISODES,
    TARGET_CHUNK_S,
    chunk_length,
    episode_seed,
    rebuild_bounds,
)


def test_seeds_are_pinned_because_results_rest_on_them() -> None:
    assert [episode_seed(0, episode) for episode in range(3)] == [1484405855, 1982462498, 1570558271]
    assert episode_seed(7, 0) != episode_seed(0, 7)


def test_seeds_are_distinct_31_bit_integers() -> None:
    seeds = [episode_seed(3, episode) for episode in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("episodes", "rebuilds", "bounds"),
    [
        pytest.param(5, 2, [(0, 3), (3, 5)], id="uneven"),
        pytest.param(4, 2, [(0, 2), (2, 4)], id="even"),
        pytest.param(3, 1, [(0, 3)], id="one"),
        pytest.param(0, 1, [(0, 0)], id="steps"),
    ],
)
def test_rebuilds_split_evenly_longer_first(episodes: int, rebuilds: int, bounds: list[tuple[int, int]]) -> None:
    assert rebuild_bounds(episodes, rebuilds) == bounds


def test_a_chunk_holds_some_seconds_of_work() -> None:
    assert chunk_length(10**6, num_workers=4, num_slots=1, episode_s=(0.5, 2.0)) == int(TARGET_CHUNK_S / 0.5)


def test_slots_that_wait_for_a_chunks_longest_episode_wait_a_small_share_of_the_chunk() -> None:
    assert chunk_length(10**6, num_workers=4, num_slots=2, episode_s=(0.5, 2.0)) == int(
        LONGEST_EPISODES * 2.0 * 2 / 0.5
    )
    assert chunk_length(10**6, num_workers=4, num_slots=2, episode_s=(0.01, 0.02)) == int(TARGET_CHUNK_S * 2 / 0.01)


def test_the_first_chunk_is_a_few_episodes_a_slot() -> None:
    assert chunk_length(1000, num_workers=4, num_slots=1, episode_s=None) == 1
    assert chunk_length(1000, num_workers=4, num_slots=8, episode_s=None) == FIRST_EPISODES * 8


def test_one_worker_with_several_slots_takes_everything() -> None:
    assert chunk_length(1000, num_workers=1, num_slots=8, episode_s=None) == 1000
    assert chunk_length(1000, num_workers=1, num_slots=1, episode_s=(1.0, 2.0)) == TARGET_CHUNK_S


def test_the_tail_is_shared_between_workers() -> None:
    assert chunk_length(2, num_workers=2, num_slots=1, episode_s=(0.001, 0.001)) == 1
    assert chunk_length(8, num_workers=2, num_slots=8, episode_s=(0.001, 0.001)) == 4
