"""Whether two runs asked the same question, and how they differ beyond their policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arena_ray.specs import EvalJob

#: What must be the same in both runs: other scenes, budgets or definitions of success make other questions.
_DECISIVE = ("env", "num_episodes", "num_steps", "success")

#: What is worth knowing. Other seeds cost the pairing; the rest may or may not matter, which no file can tell.
_LISTED = ("seed", "stop_when", "language_instruction", "num_rebuilds", "metrics")

_OF_RUN = ("versions", "hardware")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something in which two runs differ, their policies aside.

    Attributes:
        job: Name of the job; ``None``: of the whole run.
        key: Dotted key as in ``run.json``; ``job`` where only one run has the job.
        a: Value in A; ``None`` where it has none.
        b: Value in B.
        decisive: Whether it makes the runs incomparable.
    """

    job: str | None
    key: str
    a: Any
    b: Any
    decisive: bool

    def __str__(self) -> str:
        if self.key == "job":
            return f"job {self.job!r} is only in run {'A' if self.b is None else 'B'}"
        where = "" if self.job is None else f"job {self.job!r}: "
        return f"{where}{self.key} is {self.a!r} in A and {self.b!r} in B"


def find_differences(run_a: Mapping[str, Any], run_b: Mapping[str, Any]) -> list[Difference]:
    """Return how two runs differ, decisive differences first.

    Versions and hardware are listed, and do not make runs incomparable: a policy is often compared before and after an
    upgrade, and whether that changes what an environment does, nobody can tell from a version.

    Args:
        run_a: Content of A's ``run.json``.
        run_b: Content of B's.
    """
    jobs_a, jobs_b = (_jobs(run) for run in (run_a, run_b))
    found = [Difference(job=name, key="job", a=name, b=None, decisive=True) for name in jobs_a if name not in jobs_b]
    found += [Difference(job=name, key="job", a=None, b=name, decisive=True) for name in jobs_b if name not in jobs_a]
    for name in (name for name in jobs_a if name in jobs_b):
        for keys, decisive in ((_DECISIVE, True), (_LISTED, False)):
            found += _of_job(name, jobs_a[name], jobs_b[name], keys, decisive)
    for key in _OF_RUN:
        pairs = _unequal(run_a.get(key), run_b.get(key), key)
        found += [Difference(job=None, key=name, a=a, b=b, decisive=False) for name, a, b in pairs]
    return sorted(found, key=lambda difference: not difference.decisive)


def _jobs(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the jobs by name, with the defaults of keys that an older version did not know."""
    jobs = [EvalJob.model_validate(job) for job in run["jobs"]]
    return {job.name: job.model_dump(mode="json") for job in jobs}


def _of_job(
    name: str, a: Mapping[str, Any], b: Mapping[str, Any], keys: Sequence[str], decisive: bool
) -> Iterator[Difference]:
    for key in keys:
        for path, old, new in _unequal(a[key], b[key], key):
            yield Difference(job=name, key=path, a=old, b=new, decisive=decisive)


def _unequal(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted key and both values of what differs; to an environment, ``True`` is not 1 and 1 is not 1.0."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys((*a, *b)):
            yield from _unequal(a.get(name), b.get(name), f"{key}.{name}")
    elif repr(a) != repr(b):
        yield key, a, b
