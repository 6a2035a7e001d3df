from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver

from arena_ray import RunResult, evaluate
from tests.browsing import chromium
from tests.report.hostile import hostile_job
from tests.worlds import walk_job


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Two jobs of one suite, with cameras, an error, and a metric of their own; and one that nobody judges."""
    kwargs = {"frame_shape": (60, 80)}
    jobs = [
        walk_job(
            "reach",
            num_episodes=14,
            env_kwargs={**kwargs, "cameras": ["front", "wrist"], "poison": [3]},
            tags={"suite": "walks", "level": 1},
            metrics=["distance"],
            language_instruction="walk to the red door",
            video={"record_viewport_video": True, "record_camera_video": True},
        ),
        walk_job("push", num_episodes=9, num_envs=2, env_kwargs=kwargs, tags={"suite": "walks"}),
        {
            "name": "pole",
            "env": {"id": "CartPole-v1"},
            "policy": {"type": "random"},
            "num_episodes": 5,
            "video": {"record_viewport_video": True},
        },
    ]
    base = str(tmp_path_factory.mktemp("runs"))
    return evaluate({"jobs": jobs}, inline=True, continue_on_error=True, video_base_dir=base)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run whose texts are HTML wherever they can be."""
    base = str(tmp_path_factory.mktemp("hostile"))
    return evaluate({"jobs": [hostile_job()]}, inline=True, continue_on_error=True, video_base_dir=base)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver
