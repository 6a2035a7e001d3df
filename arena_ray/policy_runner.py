"""One policy on one environment under `torchrun`: episodes are divided over the ranks by index, rank 0 merges.

All ranks share the run directory that rank 0 resolves. Each writes its records to a file of its own as they come, so
that a rank that dies loses nothing; at the end rank 0 merges them into ``episodes.jsonl``.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from arena_ray.config import EvalPlan
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.errors import ConfigError
from arena_ray.journal import Journal, python_path
from arena_ray.json_files import LineLog
from arena_ray.records import EpisodeRecord
from arena_ray.run_dir import RunDir, read_records
from arena_ray.specs import EvalJob
from arena_ray.trackers import Tracking, open_tracking
from arena_ray.video.encoder import usable_cores
from arena_ray.worker import EvalWorker
from arena_ray.worker_events import ChunkUsage, Failure, Notice

logger = logging.getLogger("arena_ray")

#: What a rank noticed, why it failed, and where its time went.
_Told: TypeAlias = tuple[list[Notice], str | None, ChunkUsage | None]


def run_rank(plan: EvalPlan) -> int:
    """Run this rank's share of a plan of one job; return the exit code, the same on every rank.

    Args:
        plan: With one job, whose budget is `num_episodes`.

    Raises:
        ConfigError: If the budget cannot be divided.
    """
    (job,) = plan.jobs
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if job.num_episodes is None:
        raise ConfigError(
            "job 'policy': num_steps cannot be divided over the ranks of torchrun, because which episodes it holds is "
            "not known before; give --num_episodes"
        )
    if plan.settings.storage is not None or plan.settings.collect:
        raise ConfigError(
            "storage and collect are for workers on Ray: the ranks of torchrun write into the run directory, which "
            "their machines must share"
        )
    if job.needs_tuning:
        raise ConfigError(
            "job 'policy': num_envs 'auto' is chosen by the first worker for all, and the ranks of torchrun begin at "
            "once; give --num_envs a number"
        )
    tracking = open_tracking(plan.settings.trackers) if rank == 0 else None
    _log_to_stderr(rank, world_size)
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    try:
        return _Rank(plan, job, rank, world_size, tracking).run()
    finally:
        torch.distributed.destroy_process_group()


class _Rank:
    """This process's part of the run."""

    def __init__(self, plan: EvalPlan, job: EvalJob, rank: int, world_size: int, tracking: Tracking | None) -> None:
        self._tracking = tracking
        self._plan, self._job = plan, job
        self._rank, self._world_size = rank, world_size
        self._notices: list[Notice] = []
        self._failure: str | None = None
        self._usage: ChunkUsage | None = None

    def run(self) -> int:
        """Run this rank's episodes; on rank 0, merge all ranks' records."""
        started_at = datetime.datetime.now(datetime.timezone.utc)
        base = self._plan.settings.video_base_dir
        run_dir = RunDir(self._from_rank_0(lambda: str(RunDir.create(base, started_at.astimezone()).path)))
        if self._rank != 0:
            self._roll_out(run_dir)
            self._gather()
            return int(self._from_rank_0(lambda: 0))
        hardware = {"pool": "torchrun", "world_size": self._world_size}
        with Journal(self._plan, run_dir, hardware, started_at, tracking=self._tracking) as journal:
            self._roll_out(run_dir)
            result = self._merge(journal, self._gather())
        code = int(self._from_rank_0(lambda: 0 if result.status == "completed" else 1))
        print(f"{result}\n{run_dir.path}")  # noqa: T201  # the last line of standard output is the run directory
        return code

    def _roll_out(self, run_dir: RunDir) -> None:
        """Run the episodes whose index leaves this rank's number, and write their records to this rank's file."""
        assert self._job.num_episodes is not None
        episodes = tuple(range(self._rank, self._job.num_episodes, self._world_size))
        if not episodes:
            return
        path = run_dir.rank_file(self._rank)
        path.parent.mkdir(exist_ok=True)
        with LineLog(path) as records:
            for record in self._records(run_dir, episodes):
                records.append(record.to_json())
                logger.info("episode %d: %s, return %s", record.episode, record.status, record.episode_return)

    def _records(self, run_dir: RunDir, episodes: tuple[int, ...]) -> Iterator[EpisodeRecord]:
        setup = WorkerSetup(
            run_dir=str(run_dir.path),
            python_path=python_path(self._plan.folder),
            rank=(self._rank, self._world_size),
        )
        local_rank = int(os.environ.get("LOCAL_RANK", self._rank)) if self._job.resources.num_gpus else None
        cores = usable_cores() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        worker = EvalWorker(setup, local_rank=local_rank, cores=cores)
        chunk = Chunk(
            job=self._job,
            index=self._rank,
            episodes=episodes,
            probe_seeding=self._rank == 0,
            stop_on_error=not self._plan.settings.continue_on_error,
        )
        try:
            for events in worker.run(chunk):
                for event in events:
                    if isinstance(event, EpisodeRecord):
                        yield event
                    elif isinstance(event, Notice):
                        self._notices.append(event)
                    elif isinstance(event, ChunkUsage):
                        self._usage = event
                    elif isinstance(event, Failure):
                        self._failure = f"{event.error.type}: {event.error.message}"
        finally:
            worker.close()

    def _gather(self) -> list[_Told]:
        """Wait for all ranks; return what each told."""
        import torch.distributed

        everything: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(everything, (self._notices, self._failure, self._usage))
        return everything

    def _from_rank_0(self, make: Any) -> Any:
        """Return on every rank what rank 0 makes; what it raises there is raised everywhere."""
        import torch.distributed

        box: list[Any] = [None, None]
        if self._rank == 0:
            try:
                box[0] = make()
            except Exception as error:
                box[1] = error
        torch.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def _merge(self, journal: Journal, gathered: list[_Told]) -> Any:
        """Write all ranks' records into ``episodes.jsonl`` in episode order; their files are removed."""
        run_dir = journal.run_dir
        files = [run_dir.rank_file(rank) for rank in range(self._world_size)]
        records = sorted((record for file in files for record in read_records(file)), key=lambda one: one.episode)
        for record in records:
            journal.commit(record)
        _remove(files)
        failures = [failure for _, failure, _ in gathered if failure is not None]
        for rank, (notices, _, usage) in enumerate(gathered):
            chunk = Chunk(job=self._job, index=rank, episodes=())
            for notice in notices:
                journal.note(chunk, notice)
            if usage is not None:
                journal.event("chunk_finished", chunk, usage=usage.to_json())
        completed = not failures and sum(record.status == "completed" for record in records) == self._job.num_episodes
        error = "; ".join(dict.fromkeys(failures)) or None
        status = "completed" if completed else "failed"
        return journal.finish(status, {self._job.name: (status, error)})


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
    if files[0].parent.is_dir():
        files[0].parent.rmdir()


def _log_to_stderr(rank: int, world_size: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[Rank {rank}/{world_size}] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    from arena_ray.cli import main

    main(["policy", *sys.argv[1:]])
