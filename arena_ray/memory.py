"""What a worker and everything that it started hold in memory. Linux tells; elsewhere only the process itself."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from arena_ray.records import MemorySample

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def sample(*, amid: bool) -> MemorySample:
    """Return what this process and its descendants hold now.

    Args:
        amid: Whether that is in the middle of a chunk.
    """
    pids = [os.getpid(), *_descendants(os.getpid())]
    return MemorySample(resident_mb=round(_resident_bytes(pids) / 1e6, 1), gpu_mb=_gpu_mb(pids), amid=amid)


def resident_gb() -> float:
    """Return the resident memory of this process and its descendants, GB; pages that they share count for each."""
    return _resident_bytes([os.getpid(), *_descendants(os.getpid())]) / 1e9


def _descendants(pid: int) -> Iterator[int]:
    """Yield all children, grandchildren and so on that have not been re-parented."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue  # The thread or process has just ended.
        for child in children:
            yield int(child)
            yield from _descendants(int(child))


def _resident_bytes(pids: list[int]) -> int:
    found = [_pages(pid) for pid in pids]
    if any(found):
        return sum(found) * _PAGE_BYTES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _gpu_mb(pids: list[int]) -> float | None:
    """Return what these processes hold on the GPUs: NVML knows, or for this process alone torch, if they are there."""
    try:
        import pynvml

        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        running = [process for device in devices for process in pynvml.nvmlDeviceGetComputeRunningProcesses(device)]
        held = [process.usedGpuMemory for process in running if process.pid in pids and process.usedGpuMemory]
        if held:  # In a container NVML may see other process ids than the processes themselves.
            return float(round(sum(held) / 1e6, 1))
    except Exception:  # No NVML, or none that works here.
        pass
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    held_bytes = sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
    return float(round(held_bytes / 1e6, 1))
