"""Environments: built from a job, run in slots, one episode at a time."""

from arena_ray.envs.base import Outcome as Outcome
from arena_ray.envs.base import Slots as Slots
from arena_ray.envs.base import Ticket as Ticket
from arena_ray.envs.build import open_slots as open_slots

__all__ = ["Outcome", "Slots", "Ticket", "open_slots"]
