"""Reading job files, overrides and flags into typed specs: what is wrong is said before anything starts.

`load_plan` is the one way in. It is pure: standard library, pydantic and yaml only, so a job file can be checked on a
machine without Ray, torch or any simulator.
"""

from arena_ray.config.changes import JobChanges, compare_jobs
from arena_ray.config.plan import EvalPlan, PlanSource, load_plan
from arena_ray.config.schema import json_schema

__all__ = ["EvalPlan", "PlanSource", "load_plan", "JobChanges", "compare_jobs", "json_schema"]
