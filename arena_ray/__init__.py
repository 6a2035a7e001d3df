"""Evaluate robot and RL policies in parallel: one job file in, one run directory with records and videos out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arena_ray.comparison import Comparison as Comparison
    from arena_ray.comparison import compare as compare
    from arena_ray.errors import ArenaError as ArenaError
    from arena_ray.errors import ConfigError as ConfigError
    from arena_ray.errors import NotEnoughResourcesError as NotEnoughResourcesError
    from arena_ray.eval_runner import evaluate as evaluate
    from arena_ray.records import EpisodeRecord as EpisodeRecord
    from arena_ray.records import EpisodeReplay as EpisodeReplay
    from arena_ray.replay_runner import replay as replay
    from arena_ray.results import JobResult as JobResult
    from arena_ray.results import ReplayResult as ReplayResult
    from arena_ray.results import RunResult as RunResult
    from arena_ray.resume_runner import resume as resume
    from arena_ray.specs import EvalJob as EvalJob
    from arena_ray.specs import VideoRecordingCfg as VideoRecordingCfg
    from arena_ray.video import CameraObsVideoRecorder as CameraObsVideoRecorder
    from arena_ray.video import timestamped_run_dir as timestamped_run_dir
    from arena_ray.video import wrap_env_for_video as wrap_env_for_video

__version__ = "0.1.0"

#: Public names and their modules. They are imported when first used: `import arena_ray` costs a few milliseconds.
_HOMES = {
    "evaluate": "arena_ray.eval_runner",
    "replay": "arena_ray.replay_runner",
    "resume": "arena_ray.resume_runner",
    "compare": "arena_ray.comparison",
    "Comparison": "arena_ray.comparison",
    "ReplayResult": "arena_ray.results",
    "RunResult": "arena_ray.results",
    "JobResult": "arena_ray.results",
    "EpisodeRecord": "arena_ray.records",
    "EpisodeReplay": "arena_ray.records",
    "EvalJob": "arena_ray.specs",
    "VideoRecordingCfg": "arena_ray.specs",
    "timestamped_run_dir": "arena_ray.video",
    "wrap_env_for_video": "arena_ray.video",
    "CameraObsVideoRecorder": "arena_ray.video",
    "ArenaError": "arena_ray.errors",
    "ConfigError": "arena_ray.errors",
    "NotEnoughResourcesError": "arena_ray.errors",
}

__all__ = [
    "evaluate",
    "replay",
    "resume",
    "compare",
    "Comparison",
    "ReplayResult",
    "RunResult",
    "JobResult",
    "EpisodeRecord",
    "EpisodeReplay",
    "EvalJob",
    "VideoRecordingCfg",
    "timestamped_run_dir",
    "wrap_env_for_video",
    "CameraObsVideoRecorder",
    "ArenaError",
    "ConfigError",
    "NotEnoughResourcesError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'arena_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
