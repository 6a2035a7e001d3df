"""What `video` of a job asks for is on the disk and in the records, the same for any number of workers and slots.

One run per layout holds a job per setting; what to expect comes from a run without video.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from arena_ray import RunResult, evaluate
from arena_ray.records import EpisodeRecord
from arena_ray.video.selection import RecordSelection
from tests.comparing import decode, shown_steps, substance
from tests.worlds import Walk, walk_job

NUM_EPISODES = 10
MAX_LENGTH = 12
VIEWPORT = {"record_viewport_video": True}


class Touch(Walk):
    """Touches the goal in the first step of every episode whose length is even, and at no other time.

    What Walk says of success is the opposite at the end of an episode.
    """

    def step(self, action: npt.NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "touched": self._t == 1 and self._length % 2 == 0}


class Textured(Walk):
    """Its picture is worth compressing."""

    def _frame(self) -> npt.NDArray[np.uint8]:
        rows, columns = np.mgrid[0:96, 0:128]
        waves = 128 + 60 * np.sin((rows + 3 * self._t) / 5) + 60 * np.cos((columns - 2 * self._t) / 7)
        return np.repeat(waves.astype(np.uint8)[:, :, None], 3, axis=2)


def make_job(name: str, video: dict[str, Any], env: str = "tests.worlds:Walk", **changes: Any) -> dict[str, Any]:
    kwargs = {"max_length": MAX_LENGTH, **changes.pop("env_kwargs", {})}
    job = walk_job(name, env_kwargs=kwargs, num_episodes=NUM_EPISODES, video=video, **changes)
    job["env"]["entry_point"] = env
    return job


#: Which episodes are kept, by their record.
SELECTIONS: dict[str, Callable[[EpisodeRecord], bool]] = {
    "all": lambda record: True,
    "none": lambda record: False,
    "failures": lambda record: record.success is False,
    "successes": lambda record: record.success is True,
    "first:1": lambda record: record.episode == 0,
    "first:3": lambda record: record.episode < 3,
    "first:99": lambda record: True,
    "every:1": lambda record: True,
    "every:3": lambda record: record.episode in (0, 3, 6, 9),
    "sample:0.5": lambda record: RecordSelection("sample:0.5").wants(record.episode),
    "sample:1": lambda record: True,
}


def job_name(record: str) -> str:
    return record.replace(":", "-")


TOUCHED = {"key": "touched", "when": "any"}
POISONED = {"poison": [2, 5], "poison_step": 1}

JOBS = [
    *(make_job(job_name(record), {**VIEWPORT, "record": record}) for record in SELECTIONS),
    make_job("length-3", {**VIEWPORT, "video_length": 3}),
    make_job("length-3-failures", {**VIEWPORT, "video_length": 3, "record": "failures"}),
    make_job("names", {**VIEWPORT, "outcome_in_name": True}),
    make_job("names-of-failures", {**VIEWPORT, "outcome_in_name": True, "record": "failures"}),
    make_job(
        "cameras",
        {**VIEWPORT, "record_camera_video": True, "cameras": ["wrist"], "record": "every:2"},
        env_kwargs={"cameras": ["front", "wrist"]},
    ),
    make_job("small-picture", {**VIEWPORT, "max_resolution": 24}),
    make_job("overlay", {**VIEWPORT, "overlay": True}),
    make_job("preset-fast", VIEWPORT, "tests.test_what_is_recorded:Textured"),
    make_job("preset-small", {**VIEWPORT, "preset": "small"}, "tests.test_what_is_recorded:Textured"),
    make_job("encoder-inline", {**VIEWPORT, "encoder": "inline"}, "tests.test_what_is_recorded:Textured"),
    make_job("encoder-process", {**VIEWPORT, "encoder": "process"}, "tests.test_what_is_recorded:Textured"),
    make_job("touched-failures", {**VIEWPORT, "record": "failures"}, "tests.test_what_is_recorded:Touch", success=TOUCHED),
    make_job("touched-successes", {**VIEWPORT, "record": "successes"}, "tests.test_what_is_recorded:Touch", success=TOUCHED),
    make_job("untold", {**VIEWPORT, "record": "failures", "outcome_in_name": True}, success={"key": "nowhere"}),
    make_job("untold-all", {**VIEWPORT, "outcome_in_name": True}, success={"key": "nowhere"}),
    *(make_job(f"poisoned-{record}", {**VIEWPORT, "record": record}, env_kwargs=POISONED) for record in ("failures", "successes", "all")),
    make_job(
        "choked-failures",
        {**VIEWPORT, "record": "failures"},
        policy={"entry_point": "tests.worlds:Choker", "kwargs": {"poison": [2, 5]}},
    ),
]


LAYOUTS = [
    pytest.param({"num_envs": 1}, {"inline": True, "chunk_size": 1}, id="one-slot-chunks-of-1"),
    pytest.param({"num_envs": 1}, {"inline": True, "chunk_size": 4}, id="one-slot-chunks-of-4"),
    pytest.param({"num_envs": 3}, {"inline": True, "chunk_size": 2}, id="three-slots-chunks-of-2"),
    pytest.param({"num_envs": 3}, {"inline": True, "chunk_size": 10}, id="three-slots-one-chunk"),
    pytest.param({"num_envs": 3}, {"num_workers": 2, "chunk_size": 4}, marks=pytest.mark.ray, id="two-workers"),
]
