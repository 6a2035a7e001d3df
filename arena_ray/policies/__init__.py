"""Policies: one small protocol, the built-in types, and adapters for plain callables."""

from arena_ray.policies.base import Policy as Policy
from arena_ray.policies.build import open_policy as open_policy

__all__ = ["Policy", "open_policy"]
