"""Which slots keep a worker busiest: a small model over what was measured. Pure arithmetic.

In one process, environments and policy take turns. With child processes three things bound the steps per second: the
worker's own thread (the policy, and handing observations and actions over), the cores (children and that thread share
them), and latency (a slot waits for the slowest of its group, then for the policy).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from arena_ray.specs import SlotChoice

#: What a step costs beside environment and policy, seconds: a row in this process; a row that goes through a pipe, in
#: the worker and in the child. Measured with Gymnasium 1.4 on a 2-core machine; elsewhere they are of that order.
SYNC_ROW_S = 6e-6
PIPE_ROW_S = 25e-6
CHILD_STEP_S = 40e-6

#: Bounds that lie near each other are not reached: what waits for one makes the other wait, the less the more groups
#: take turns. They are combined as ``(sum(bound ** -sharpness)) ** (-1 / sharpness)``. With two groups (sharpness 3)
#: two equal bounds give 0.79 of each (seen on a 16-core machine with an H200: 0.76), with four (6) 0.89.
SHARPNESS_PER_GROUP = 1.5

#: Four groups are worth their smaller batches from so many slots on: batches of 32 and more.
FOUR_GROUPS_FROM = 128

#: Bytes per second at which observations are copied out of shared memory.
COPY_RATE = 4e9

#: A setting with fewer slots is taken if it gives this share of the best one's rate.
GOOD_ENOUGH = 0.95

#: Child processes cost seconds to start and memory: they must promise so many times the rate of one process.
WORTH_CHILDREN = 1.15

#: More slots than this do not help anybody: what starts and ends with them grows, too.
MOST_SLOTS = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one environment and the policy were seen to take.

    Attributes:
        step_s: Wall time of single environment steps, seconds, each with its share of resets and recorders added.
        round_s: What a round of all slots takes in this process beside environments and policy, seconds.
        cpu_share: CPU time over wall time of a step: below 1 if it waits, for a renderer or a server, above if it has
            threads.
        policy_s: Rows of a batch to the wall time of `act` on it, seconds; at least for 1 row. A policy that answers
            row by row has that one entry.
        observation_bytes: Of one row.
        environment_mb: Resident memory that another environment takes, MB (10^6 bytes).
        child_mb: The same in a process of its own.
    """

    step_s: Sequence[float]
    policy_s: Mapping[int, float]
    round_s: float = 0.0
    cpu_share: float = 1.0
    observation_bytes: int = 0
    environment_mb: float = 0.0
    child_mb: float = 0.0

    @property
    def mean_step_s(self) -> float:
        """Mean wall time of a step, seconds."""
        return sum(self.step_s) / len(self.step_s)

    def slowest_of(self, count: int) -> float:
        """Return the expected largest of `count` steps drawn from those measured, seconds."""
        ordered, size = sorted(self.step_s), len(self.step_s)
        shares = ((rank / size) ** count - ((rank - 1) / size) ** count for rank in range(1, size + 1))
        return math.fsum(value * share for value, share in zip(ordered, shares, strict=True))

    def policy_batch_s(self, rows: int) -> float:
        """Return the time of `act` on so many rows: measured, between two measured, or row by row beyond them."""
        if rows in self.policy_s:
            return self.policy_s[rows]
        below = max(size for size in self.policy_s if size <= rows)
        above = min((size for size in self.policy_s if size > rows), default=None)
        if above is None:
            return self.policy_s[below] * rows / below
        share = (rows - below) / (above - below)
        return self.policy_s[below] * (1 - share) + self.policy_s[above] * share


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker has.

    Attributes:
        cores: Cores.
        memory_mb: Memory for environments, MB; ``None``: unknown.
        most_slots: Most slots that make sense: as many as the worker's part of the episodes.
        num_envs: Slots that the job asks for; ``None``: to be chosen.
        vectorization: What the job asks for; ``None``: to be chosen.
        one_group: Whether all slots must step together.
    """

    cores: float
    memory_mb: float | None = None
    most_slots: int = MOST_SLOTS
    num_envs: int | None = None
    vectorization: str | None = None
    one_group: bool = False


def choose(measured: Measured, limits: Limits) -> SlotChoice:
    """Return the smallest setting that is expected to come close to the best one.

    Args:
        measured: What environment and policy take.
        limits: What the worker has and the job asks for.
    """
    rates = {setting: steps_per_s(measured, setting, limits.cores) for setting in _candidates(measured, limits)}
    here = {setting: rate for setting, rate in rates.items() if setting.vectorization == "sync"}
    apart = {setting: rate for setting, rate in rates.items() if setting.vectorization == "async"}
    if here and apart and max(apart.values()) < WORTH_CHILDREN * max(here.values()):
        apart = {}
    pool = apart or here
    enough = GOOD_ENOUGH * max(pool.values())
    good = [setting for setting, rate in pool.items() if rate >= enough]
    return min(good, key=lambda setting: (setting.num_envs, setting.num_groups))


def steps_per_s(measured: Measured, setting: SlotChoice, cores: float) -> float:
    """Return the steps per second that a worker should make with a setting."""
    slots, batch = setting.num_envs, setting.num_envs // setting.num_groups
    copy_s = measured.observation_bytes / COPY_RATE
    if setting.vectorization == "sync":
        rows_s = slots * (measured.mean_step_s + SYNC_ROW_S + copy_s)
        return slots / (measured.round_s + rows_s + measured.policy_batch_s(slots))
    here_s = measured.round_s + measured.policy_batch_s(batch) + batch * (PIPE_ROW_S + copy_s)
    cpu_s = measured.mean_step_s * measured.cpu_share + CHILD_STEP_S + copy_s
    slowest_s = measured.slowest_of(batch) + CHILD_STEP_S + copy_s
    by_thread = batch / here_s
    by_cores = cores / (cpu_s + here_s / batch)
    sharpness = SHARPNESS_PER_GROUP * max(2, setting.num_groups)
    if setting.num_groups > 1:
        return _combined(sharpness, by_thread, by_cores, slots / (here_s + slowest_s))
    queues = max(1.0, slots * cpu_s / (cores * slowest_s))  # All step at once, and then none while the policy answers.
    return _combined(sharpness, by_thread, by_cores, slots / (here_s + slowest_s * queues))


def _combined(sharpness: float, *bounds: float) -> float:
    return float(math.fsum(bound**-sharpness for bound in bounds) ** (-1 / sharpness))


def _candidates(measured: Measured, limits: Limits) -> Iterator[SlotChoice]:
    """Yield what the limits allow; one slot in this process is always there."""
    counts = [limits.num_envs] if limits.num_envs is not None else _counts(limits)
    for slots in counts:
        if limits.vectorization != "async" and (slots == counts[0] or _fits(slots * measured.environment_mb, limits)):
            yield SlotChoice(num_envs=slots, vectorization="sync")
        if limits.vectorization != "sync" and (
            (slots == counts[0] and limits.vectorization == "async") or _fits(slots * measured.child_mb, limits)
        ):
            yield SlotChoice(num_envs=slots, vectorization="async")
            if limits.one_group:
                continue
            if slots >= 4 and slots % 2 == 0:
                yield SlotChoice(num_envs=slots, vectorization="async", num_groups=2)
            if slots >= FOUR_GROUPS_FROM and slots % 4 == 0:
                yield SlotChoice(num_envs=slots, vectorization="async", num_groups=4)


def _fits(memory_mb: float, limits: Limits) -> bool:
    return limits.memory_mb is None or memory_mb <= limits.memory_mb


def _counts(limits: Limits) -> list[int]:
    """Return the numbers of slots to look at: powers of two, and one and a half times them."""
    most = max(1, min(limits.most_slots, MOST_SLOTS))
    powers = [2**exponent for exponent in range(8)]
    return sorted({count for power in powers for count in (power, power + power // 2) if count <= most})
