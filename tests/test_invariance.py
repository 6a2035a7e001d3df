"""A job's records and frames are the same for any number of workers, slots and chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arena_ray import RunResult, evaluate
from tests.comparing import outcome, shown_steps, videos_by_episode
from tests.worlds import walk_job

SEEDS = (0, 7, 12345)

LAYOUTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("chunks-of-1", {}, {"chunk_size": 1}),
    ("chunks-of-3", {}, {"chunk_size": 3}),
    ("three-slots-sync", {"num_envs": 3}, {}),
    ("three-slots-sync-chunks-of-1", {"num_envs": 3}, {"chunk_size": 1}),
    ("three-slots-async", {"num_envs": 3, "vectorization": "async"}, {"chunk_size": 4}),
    ("a-fresh-process-per-chunk", {}, {"chunk_size": 3, "isolation": "chunk"}),
]


def run(tmp_path: Path, job: dict[str, Any], flags: dict[str, Any]) -> RunResult:
    jobs = [
        walk_job(f"seed-{seed}", seed=seed, env_kwargs={"cameras": ["front"]}, metrics=["distance"], **job)
        for seed in SEEDS
    ]
    return evaluate(
        {"jobs": jobs}, video_base_dir=str(tmp_path), record_viewport_video=True, record_camera_video=True, **flags
    )


def assert_equal_runs(result: RunResult, reference: RunResult) -> None:
    assert result.status == reference.status == "completed"
    assert outcome(result) == outcome(reference)
    videos, expected = videos_by_episode(result), videos_by_episode(reference)
    assert videos.keys() == expected.keys()
    for key in expected:
        assert np.array_equal(videos[key], expected[key]), key


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tmp_path_factory.mktemp("reference"), {}, {"inline": True})


def test_the_reference_itself_shows_every_step(reference: RunResult) -> None:
    videos = videos_by_episode(reference)
    assert len(videos) == 2 * 8 * len(SEEDS)
    for record in reference.records():
        assert record.length is not None
        for kind, camera in (("viewport", None), ("camera", "front")):
            steps = shown_steps(videos[record.job, record.episode, kind, camera])
            assert steps == list(range(record.length + 1))


@pytest.mark.parametrize(("job", "flags"), [pytest.param(*layout[1:], id=layout[0]) for layout in LAYOUTS[:4]])
def test_inline_layouts_agree(tmp_path: Path, reference: RunResult, job: dict[str, Any], flags: dict[str, Any]) -> None:
    assert_equal_runs(run(tmp_path, job, {"inline": True, **flags}), reference)


@pytest.mark.ray
@pytest.mark.heavy
@pytest.mark.parametrize(("job", "flags"), [pytest.param(*layout[1:], id=layout[0]) for layout in LAYOUTS[1::2]])
def test_ray_layouts_agree(
    tmp_path: Path, local_ray: None, reference: RunResult, job: dict[str, Any], flags: dict[str, Any]
) -> None:
    assert_equal_runs(run(tmp_path, job, {"num_workers": 2, **flags}), reference)


@pytest.mark.heavy
def test_child_processes_agree(tmp_path: Path, reference: RunResult) -> None:
    assert_equal_runs(run(tmp_path, LAYOUTS[4][1], {"inline": True, **LAYOUTS[4][2]}), reference)
