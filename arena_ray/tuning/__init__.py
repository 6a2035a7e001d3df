"""``num_envs: auto`` and ``vectorization: auto``: measured once per job, chosen by a small model."""

from arena_ray.tuning.choice import Limits as Limits
from arena_ray.tuning.choice import Measured as Measured
from arena_ray.tuning.choice import choose as choose
from arena_ray.tuning.choice import steps_per_s as steps_per_s
from arena_ray.tuning.trial import tune as tune

__all__ = ["Limits", "Measured", "choose", "steps_per_s", "tune"]
