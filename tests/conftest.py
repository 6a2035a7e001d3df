from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# Explicit, so that no test depends on what an earlier `ray.init` left in the environment.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real local Ray with two cores, started once; pools connect to it and leave it running."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
    )
    yield
    ray.shutdown()
