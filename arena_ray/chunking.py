"""How a job's episodes are seeded and cut: pure arithmetic."""

from __future__ import annotations

import itertools
import math

import numpy as np

#: Seconds of work that a chunk should hold: long against a dispatch (1 ms), short against a run.
TARGET_CHUNK_S = 5.0

#: Of several slots all but one may wait for a chunk's longest episode: a chunk lasts so many times as long.
LONGEST_EPISODES = 20

#: Episodes for each of several slots in a job's first chunks.
FIRST_EPISODES = 4

#: A worker never takes more than this share of its part of what is left, so that the last chunks are small.
TAIL_DIVISOR = 2


def episode_seed(job_seed: int, episode: int) -> int:
    """Return the seed of an episode, an integer in [0, 2**31).

    It depends on ``(job_seed, episode)`` alone. 31 bits, because `numpy.random.RandomState` refuses more than 32 and
    simulators in C take a signed `int`.

    Args:
        job_seed: The job's seed, at least 0.
        episode: Episode index within the job.
    """
    return int(np.random.SeedSequence((job_seed, episode)).generate_state(1, np.uint32)[0]) >> 1


def rebuild_bounds(num_episodes: int, num_rebuilds: int) -> list[tuple[int, int]]:
    """Return ``[start, stop)`` of each rebuild's episodes, split evenly, the longer parts first (5 in 2: 3 and 2).

    The rule is IsaacLab-Arena's (`num_rebuilds`, its `evaluation/job_manager.py`).
    """
    short, longer = divmod(num_episodes, num_rebuilds)
    starts = [index * short + min(index, longer) for index in range(num_rebuilds + 1)]
    return list(itertools.pairwise(starts))


def chunk_length(remaining: int, num_workers: int, num_slots: int, episode_s: tuple[float, float] | None) -> int:
    """Return how many of the remaining episodes the next chunk takes.

    Guided self-scheduling (Polychronopoulos and Kuck, 1987): a fixed share of each worker's part of what is left, so
    chunks shrink towards the end, but not more than several seconds of work, and a few episodes before anything is
    known. A chunk shorter than the slots of a worker leaves slots idle, so the tail is cut so short only where another
    worker would go without. At a chunk's end slots wait for its longest episode, so where several slots run, a chunk
    holds many times the longest one seen, and everything if there is one worker.

    Args:
        remaining: Episodes not yet handed out, at least 1.
        num_workers: Workers that can run this job at a time.
        num_slots: Slots of a worker.
        episode_s: Mean and largest wall time of an episode in its slot, seconds; ``None`` when none has ended yet.
    """
    if num_workers == 1 and num_slots > 1:
        return remaining
    if num_workers == 1:
        share = remaining
    else:
        part = math.ceil(remaining / num_workers)
        share = max(math.ceil(part / TAIL_DIVISOR), min(num_slots, part))
    if episode_s is None:
        wanted = num_slots if num_slots == 1 else FIRST_EPISODES * num_slots
    else:
        mean_s, longest_s = episode_s
        chunk_s = TARGET_CHUNK_S if num_slots == 1 else max(TARGET_CHUNK_S, LONGEST_EPISODES * longest_s)
        wanted = max(num_slots, int(chunk_s * num_slots / max(mean_s, 1e-6)))
    return max(1, min(wanted, share))
