"""What a worker and everything that it started hold in memory. Linux tells; elsewhere only the process itself."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from arena_ray.nvml import Gpus
from arena_ray.worker_events import MemorySample

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def sample(gpus: Gpus | None = None, *, amid: bool) -> MemorySample:
    """Return what this process and its descendants hold now.

    Args:
        gpus: Those of this process; ``None``: it has none, and nobody is asked.
        amid: Whether that is in the middle of a chunk.
    """
    pids = [os.getpid(), *_descendants(os.getpid())]
    gpu_mb = None if gpus is None else gpus.held_mb(pids)
    return MemorySample(resident_mb=round(_resident_bytes(pids) / 1e6, 1), gpu_mb=gpu_mb, amid=amid)


def resident_gb() -> float:
    """Return the resident memory of this process and its descendants, GB; pages that they share count for each."""
    return _resident_bytes([os.getpid(), *_descendants(os.getpid())]) / 1e9


def available_mb() -> float | None:
    """Return how much memory more this process could take, MB: of the machine's, or of what its cgroup has left."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0.0, limit - used))
    return free / 1e6


def _descendants(pid: int) -> Iterator[int]:
    """Yield all children, grandchildren and so on that have not been re-parented."""
    for task in _listed(f"/proc/{pid}/task"):  # Each thread has its own children.
        for child in map(int, _content(f"/proc/{pid}/task/{task}/children").split()):
            yield child
            yield from _descendants(child)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _content(file: str) -> bytes:
    """Return what stands in a file of ``/proc``; nothing if the thread or process has just ended."""
    try:
        with open(file, "rb", buffering=0) as stream:
            return stream.read()
    except OSError:
        return b""


def _resident_bytes(pids: list[int]) -> int:
    found = [_pages(pid) for pid in pids]
    if any(found):
        return sum(found) * _PAGE_BYTES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _pages(pid: int) -> int:
    numbers = _content(f"/proc/{pid}/statm").split()
    return int(numbers[1]) if len(numbers) > 1 else 0
