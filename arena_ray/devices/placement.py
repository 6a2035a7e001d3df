"""Whether a worker really is on its GPU, asked after its first frames: of NVML, and of EGL in the process itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from arena_ray.devices import egl, inventory
from arena_ray.devices.inventory import GpuProcess
from arena_ray.devices.pinning import EGL_DEVICE_ID, Pinning
from arena_ray.worker_events import Notice

logger = logging.getLogger("arena_ray")

#: What a process may hold on a GPU that is not its own, MB: SAPIEN tries each when it starts (haosulab/SAPIEN#247).
PASSING_MB = 16.0

#: How often is asked: a first answer may come before the environment has rendered.
_LOOKS = 2


class PlacementCheck:
    """Asks a few times where this process and its children are, and tells once if that is not their own GPU.

    Args:
        pinning: How the process is pinned; ``None``: it has no GPU, and nothing is asked.
    """

    def __init__(self, pinning: Pinning | None) -> None:
        self._pinning = pinning
        self._looks_left = 0 if pinning is None or not pinning.gpu_ids else _LOOKS

    def notices(self) -> tuple[Notice, ...]:
        """Return what people should know, at most once; it never raises."""
        if not self._looks_left:
            return ()
        assert self._pinning is not None
        self._looks_left -= 1
        try:
            used = gpus_in_use(inventory.list_processes() or ())
            notice = misplacement(self._pinning, used, egl.current_device_index())
        except Exception:
            logger.exception("whether this worker is on its GPU cannot be found out")
            return ()
        if notice is not None:
            self._looks_left = 0
            logger.warning("%s", notice.message)
        return () if notice is None else (notice,)


def gpus_in_use(running: Sequence[GpuProcess], pid: int | None = None, proc: Path = Path("/proc")) -> dict[int, float]:
    """Return the GPUs that a process and its descendants use, with what they hold there, MB.

    In a container NVML may give other process ids than the processes themselves see; then numbers would be confused, so
    where it names a process that is not here, nothing is returned.

    Args:
        running: What NVML lists.
        pid: The process; by default this one.
        proc: Where the system describes processes.
    """
    if not all((proc / str(process.pid)).exists() for process in running):
        return {}
    used: dict[int, float] = {}
    for process in running:
        if _descends(process.pid, os.getpid() if pid is None else pid, proc):
            used[process.gpu_index] = used.get(process.gpu_index, 0.0) + (process.memory_mb or 0.0)
    return used


def _descends(pid: int, ancestor: int, proc: Path) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            # The name of a process stands in brackets and may hold anything; its parent is the second field after it.
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return False  # It has just ended.
    return pid == ancestor


def misplacement(pinning: Pinning, used: Mapping[int, float], egl_index: int | None) -> Notice | None:
    """Return what to say when a worker is not on its own GPU alone; ``None`` if it is, or if nothing can tell.

    Args:
        pinning: How it is pinned.
        used: GPUs that it uses, in NVML's order, with what it holds there, MB; empty if nobody can tell.
        egl_index: EGL device that it renders on; ``None`` if nobody can tell.
    """
    own = set(pinning.own_indices)
    at_home = own & set(used)
    strange = sorted(index for index, held in used.items() if index not in own and not (at_home and held < PASSING_MB))
    if own and strange:
        return _notice(pinning, f"GPU {', '.join(map(str, strange))}")
    if egl_index is not None and pinning.egl_index is not None and egl_index != pinning.egl_index:
        return _notice(pinning, f"EGL device {egl_index}, which is not its own ({pinning.egl_index})")
    if not (own and used) and (egl_index is None or pinning.egl_index is None):
        logger.info("neither NVML nor EGL can tell whether this worker is on its own GPU")
    return None


def _notice(pinning: Pinning, where: str) -> Notice:
    kept = pinning.kept.get(EGL_DEVICE_ID)
    advice = "run `arena-ray doctor` on that machine to see which GPU is which to CUDA and to EGL"
    if kept is not None:
        advice = f"{EGL_DEVICE_ID}={kept} was set before the worker began and was kept; unset it to have it mapped"
    elif pinning.egl_index is None:
        advice = "its renderer could not be pinned (see 'notes' under 'devices' in events.jsonl); " + advice
    return Notice(
        topic="gpu_misplaced",
        message=(
            f"a worker that was given GPU {', '.join(pinning.gpu_ids)} also uses {where}: it takes time and memory "
            f"from the workers there, while its own GPU has less to do; {advice}"
        ),
    )
