"""What the driver hands to workers: the chunk that is dispatched, and what each worker is told once."""

from __future__ import annotations

import dataclasses

from arena_ray.specs import EvalJob


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The unit of dispatch: some episodes of a job, in order, for one worker.

    Attributes:
        job: The job.
        index: Counts the chunks of the job, from 0; a chunk that is tried again gets a new one.
        episodes: Episode indices within the job, ascending; empty when `num_steps` is the budget.
        attempt: The attempt that this is for each of the episodes; 1 is the first.
        num_steps: Budget in environment steps, or ``None``.
        rebuild: Which build of the environment (``num_rebuilds``) the episodes belong to.
        probe_seeding: Whether to check first that `reset(seed)` is honoured.
        stop_on_error: Whether to start no further episode once one failed.
        most_slots: Most slots that make sense, if the worker is to choose: its part of the job's episodes.
    """

    job: EvalJob
    index: int
    episodes: tuple[int, ...]
    attempt: int = 1
    num_steps: int | None = None
    rebuild: int = 0
    probe_seeding: bool = False
    stop_on_error: bool = False
    most_slots: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What every worker of a run is told once.

    Attributes:
        run_dir: Absolute path of the run directory.
        python_path: Folders that are put in front of `sys.path`, so that the user's own modules can be imported.
        mark: Carried by every process that workers of this run start; see `processes`. Empty: none.
        max_episodes: Episodes after which a worker is to be replaced; ``None``: no limit.
        rank: ``(rank, world size)`` under `torchrun`, else ``None``.
        storage: URI of the run's folder in a storage, if videos go there; workers write on their own disk first.
        storage_timeout_s: How long a storage that takes nothing is tried again.
        collect: Whether workers write on their own disk and send the files to the driver.
    """

    run_dir: str
    python_path: tuple[str, ...] = ()
    mark: str = ""
    max_episodes: int | None = None
    rank: tuple[int, int] | None = None
    storage: str | None = None
    storage_timeout_s: float = 20.0
    collect: bool = False

    @property
    def staged(self) -> bool:
        """Whether workers write on their own disk, and not into the run directory."""
        return self.collect or self.storage is not None
