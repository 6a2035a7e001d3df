"""Which episodes are done, running and waiting, and what becomes of those whose worker was lost.

Pure: no clock, no threads, no Ray.
"""

from arena_ray.ledger.claims import Claims
from arena_ray.ledger.facts import Exhausted, History, JobHistory, Loss
from arena_ray.ledger.failure_policy import FAULTS, FaultRule
from arena_ray.ledger.job_ledger import JobLedger
from arena_ray.ledger.ledger import Ledger
from arena_ray.ledger.quarantine import Quarantine
from arena_ray.ledger.turns import Turns

__all__ = [
    "FAULTS",
    "Claims",
    "Exhausted",
    "FaultRule",
    "History",
    "JobHistory",
    "JobLedger",
    "Ledger",
    "Loss",
    "Quarantine",
    "Turns",
]
