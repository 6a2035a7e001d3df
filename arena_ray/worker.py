"""The remote side: builds environment and policy, runs chunks, streams events. It knows nothing of Ray.

environment in the recorders -> policy -> episodes -> events
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from arena_ray import devices, memory, storage, tuning
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.envs import Slots, open_slots
from arena_ray.envs.base import describe_error
from arena_ray.nvml import Gpus, GpuWatch
from arena_ray.policies import Policy, open_policy
from arena_ray.policies.base import PolicyContext
from arena_ray.records import WorkerInfo
from arena_ray.rollout import Events, Rollout
from arena_ray.run_dir import RunDir
from arena_ray.specs import EncoderName, EvalJob
from arena_ray.video.encoder import choose_encoder, usable_cores
from arena_ray.worker_events import ChunkUsage, EpisodeStarted, Event, Failure, MemorySample, Retiring, WorkerReady

logger = logging.getLogger("arena_ray")

#: How often memory is sampled while a chunk runs, seconds.
SAMPLE_PERIOD_S = 10.0

#: How often memory is compared with the worker's limit, seconds; a look costs under a millisecond.
LIMIT_PERIOD_S = 0.5


class EvalWorker:
    """Runs chunks, one after the other, and keeps environment and policy between chunks of one job.

    Args:
        setup: What every worker of the run is told.
        gpus: Ids of the GPUs that this process was given; opaque.
        local_rank: Under `torchrun`, which of the visible GPUs is this rank's.
        cores: Cores that this worker can count on; ``None``: all that this process may use.
        replaceable: Whether another process can take over, so that limits on episodes and memory can be kept.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        gpus: Sequence[str] = (),
        local_rank: int | None = None,
        cores: float | None = None,
        replaceable: bool = False,
    ) -> None:
        devices.prepare_process()
        self._pinning = devices.pinning_of_process() if local_rank is None else devices.pin_local_process(local_rank)
        self._placement = devices.PlacementCheck(self._pinning)
        for folder in reversed(setup.python_path):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        self._setup = setup
        # Resolved, because recorders report resolved paths.
        self._run_dir = RunDir(storage.open_staging(setup).resolve() if setup.staged else setup.run_dir)
        self._courier = storage.open_courier(setup, self._run_dir.path)
        self._device = (tuple(gpus), local_rank)
        pinning = self._pinning
        self._gpus = None if pinning is None or not pinning.gpu_ids else Gpus(pinning.own_indices)
        self._gpu_mb: float | None = None
        self._cores = cores
        self._info = WorkerInfo(host=socket.gethostname(), pid=os.getpid(), gpus=tuple(gpus))
        self._built_for: tuple[EvalJob, int] | None = None
        self._slots: Slots | None = None
        self._policy: Policy | None = None
        self._torch_threads: int | None = None
        self._replaceable = replaceable
        self._num_started = 0
        self._retires: str | None = None
        self._sampled_at = self._limited_at = -math.inf

    def run(self, chunk: Chunk, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Events]:
        """Yield what happens while a chunk is run; it never raises what environment or policy raise.

        Args:
            chunk: What to run.
            should_stop: Asked before an episode starts; True lets those in flight finish and starts no other.
        """
        for events in self._run(chunk, should_stop):
            yield from self._courier.send(events)
        yield from self._courier.finish()

    def _run(self, chunk: Chunk, should_stop: Callable[[], bool]) -> Iterator[Events]:
        with self._log_to_job_folder(chunk):
            logger.info("chunk begins: %d episodes, attempt %d", len(chunk.episodes), chunk.attempt)
            is_warm = self._built_for == (chunk.job, chunk.rebuild) and not chunk.job.needs_tuning
            if not is_warm:
                yield ()  # The chunk has arrived: from now on it is environment and policy that take their time.
            try:
                chunk, tuned = self._tuned(chunk)
                ready = (*tuned, *self._prepare(chunk))
            except Exception as error:
                logger.exception("building environment or policy failed")
                self.close()
                yield (Failure(kind="build", error=describe_error(error)),)
                return
            self._sampled_at, self._gpu_mb = time.monotonic(), None
            unsaid: Events = ready if is_warm else (self._sample(amid=False), *ready)
            if not is_warm or chunk.probe_seeding:
                yield unsaid
                unsaid = ()
            # A message takes a millisecond: what follows at once goes with it.
            with GpuWatch(self._gpus) as watch:
                for events in self._roll_out(chunk, should_stop):
                    self._num_started += sum(isinstance(event, EpisodeStarted) for event in events)
                    unsaid = (*unsaid, *self._with_gpus(events, watch), *self._samples())
                    if not any(isinstance(event, ChunkUsage) for event in events):
                        yield unsaid
                        unsaid = ()
            self._retires = self._retires or self._reason_to_retire(chunk.job)
            retiring = () if self._retires is None else (Retiring(reason=self._retires),)
            yield (*unsaid, self._sample(amid=False), *self._placement.notices(), *retiring)
            logger.info("chunk ends")

    def _samples(self) -> Events:
        """Return what this worker holds in memory, if that was not said lately."""
        if time.monotonic() - self._sampled_at < SAMPLE_PERIOD_S:
            return ()
        self._sampled_at = time.monotonic()
        return (self._sample(amid=True), *self._placement.notices())

    def _sample(self, *, amid: bool) -> MemorySample:
        held = memory.sample(self._gpus, amid=amid)
        if held.gpu_mb is not None:
            self._gpu_mb = max(held.gpu_mb, self._gpu_mb or 0.0)
        return held

    def _with_gpus(self, events: Events, watch: GpuWatch) -> Events:
        """Add to a chunk's usage what is known of the GPUs."""
        if self._gpus is None or not any(isinstance(event, ChunkUsage) for event in events):
            return events
        self._sample(amid=False)
        complete = functools.partial(dataclasses.replace, gpu_utilization=watch.utilization, gpu_mb=self._gpu_mb)
        return tuple(complete(event) if isinstance(event, ChunkUsage) else event for event in events)

    def _allowance(self, chunk: Chunk, should_stop: Callable[[], bool]) -> float:
        """Return how many episodes may start; a budget of steps is one worker's, however long it takes."""
        if should_stop():
            return 0
        if chunk.num_steps is not None:
            return math.inf
        self._retires = self._retires or self._reason_to_retire(chunk.job)
        limit = self._setup.max_episodes if self._replaceable else None
        return 0 if self._retires else math.inf if limit is None else limit - self._num_started

    def _reason_to_retire(self, job: EvalJob) -> str | None:
        """Return why this worker should be replaced; not before it has begun an episode, or none would ever run."""
        if not self._replaceable or not self._num_started:
            return None
        most = self._setup.max_episodes
        if most is not None and self._num_started >= most:
            return f"it has run {self._num_started} episodes (max_episodes_per_worker {most})"
        limit_gb = job.resources.memory_gb
        if limit_gb is None or time.monotonic() - self._limited_at < LIMIT_PERIOD_S:
            return None
        self._limited_at = time.monotonic()
        held_gb = memory.resident_gb()
        return f"it holds {held_gb:.2f} GB (memory_gb {limit_gb:g})" if held_gb > limit_gb else None

    def _roll_out(self, chunk: Chunk, should_stop: Callable[[], bool]) -> Iterator[Events]:
        assert self._slots is not None
        assert self._policy is not None
        rollout = Rollout(
            chunk,
            self._slots,
            self._policy,
            self._info,
            self._run_dir.path,
            lambda: self._allowance(chunk, should_stop),
        )
        try:
            yield from rollout.run()
        except Exception as error:
            logger.exception("the chunk cannot go on")
            self.close()
            yield (Failure(kind="worker", error=describe_error(error)),)

    def _tuned(self, chunk: Chunk) -> tuple[Chunk, Events]:
        """Return the chunk with its slots decided, and what was measured for that."""
        job = chunk.job
        if not job.needs_tuning:
            return chunk, ()
        self.close()
        cores = min(usable_cores(), self._cores or usable_cores())
        tuned = tuning.tune(job, self._open_slots, self._open_policy_for_trial, cores, chunk.most_slots)
        logger.info("slots: %s", tuned.to_json())
        return dataclasses.replace(chunk, job=job.with_slots(tuned.choice)), (tuned,)

    def _prepare(self, chunk: Chunk) -> Events:
        """Build what the chunk needs, unless it is there already."""
        started = time.perf_counter()
        wanted = (chunk.job, chunk.rebuild)
        events: list[Event] = []
        if self._built_for != wanted:
            self.close()
            self._slots = self._open_slots(chunk.job)
            self._policy, device = self._open_policy(chunk.job, self._slots)
            self._built_for = wanted
            notice = devices.missing_gpu_notice(self._device[0], device)
            events += [notice] if notice is not None else []
        pinned = None if self._pinning is None else self._pinning.to_json()
        if pinned is not None:
            logger.info("devices: %s", pinned)
        return (WorkerReady(worker=self._info, build_s=time.perf_counter() - started, devices=pinned), *events)

    def _open_slots(self, job: EvalJob, folder: Path | None = None) -> Slots:
        return open_slots(job, folder or self._run_dir.job_folder(job.name), self._encoder_for(job))

    def _encoder_for(self, job: EvalJob) -> EncoderName:
        """Return what encodes videos where the job leaves it open; slots in child processes record their own."""
        cores = min(usable_cores(), self._cores or usable_cores())
        return choose_encoder(cores, job.num_slots if job.vectorization == "async" else 1)

    def _open_policy_for_trial(self, job: EvalJob, slots: Slots, num_slots: int) -> Policy:
        return self._open_policy(job, slots, num_slots)[0]

    def _open_policy(self, job: EvalJob, slots: Slots, trial_slots: int | None = None) -> tuple[Policy, str]:
        device = devices.torch_device(*self._device)
        context = PolicyContext(
            observation_space=slots.observation_space,
            action_space=slots.action_space,
            num_slots=trial_slots or slots.num_slots,
            device=device,
            language_instruction=job.language_instruction,
            folders=(*self._setup.python_path, ""),
            batch_rows=trial_slots or slots.num_slots // slots.num_groups,
        )
        policy = open_policy(job, context, one_copy=trial_slots is not None)
        self._limit_torch_threads(job.resources.num_cpus)
        return policy, device

    def _limit_torch_threads(self, num_cpus: float) -> None:
        """Keep torch within the worker's cores: more threads slow others down, and change how sums are rounded."""
        torch = sys.modules.get("torch")
        if torch is not None:
            self._torch_threads = self._torch_threads or torch.get_num_threads()
            torch.set_num_threads(max(1, int(num_cpus)))

    def close(self) -> None:
        """Close environment and policy; may be called again, and never raises."""
        policy, slots = self._policy, self._slots
        self._policy = self._slots = self._built_for = None
        if policy is not None:
            try:
                policy.close()
            except Exception:
                logger.exception("closing the policy failed")
        if slots is not None:
            slots.close()
        if self._torch_threads is not None:
            sys.modules["torch"].set_num_threads(self._torch_threads)
            self._torch_threads = None

    def end(self) -> None:
        """Close, and remove what this worker has on its own disk; it runs no further chunk."""
        self.close()
        self._courier.close()
        if self._setup.staged:
            storage.remove_staging(self._run_dir.path)

    def _open_log(self, folder: Path) -> logging.Handler:
        """Return where log lines go; a disk that is full costs them, and nothing else."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return logging.FileHandler(folder / f"{self._info.host}-{self._info.pid}.log", encoding="utf-8")
        except OSError:
            return logging.NullHandler()

    @contextlib.contextmanager
    def _log_to_job_folder(self, chunk: Chunk) -> Iterator[None]:
        """Send the package's log lines, with job, chunk and rank, to a file of this worker."""
        handler = self._open_log(self._run_dir.log_folder(chunk.job.name))
        rank = "" if self._setup.rank is None else f"[Rank {self._setup.rank[0]}/{self._setup.rank[1]}] "
        prefix = f"{rank}[{chunk.job.name} chunk {chunk.index}]".replace("%", "%%")
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {prefix} %(message)s"))
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()
