"""What NVML, the monitoring library of NVIDIA's driver, says of a worker's GPUs: who holds memory, how busy they are.

Only workers that were given GPUs ask; through one connection, which stays open. Without the Python binding
(``pip install nvidia-ml-py``), a driver, or an NVIDIA GPU the answer is ``None``.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Collection, Sequence
from typing import Any

#: How often a `GpuWatch` looks, seconds; NVML itself gives the mean of the last 1/6 to 1 s, depending on the GPU.
WATCH_PERIOD_S = 0.5


class Gpus:
    """The GPUs of this machine, and which of them are this process's.

    Args:
        own_indices: Those of this process, in NVML's order; empty if that is not known.
    """

    def __init__(self, own_indices: Sequence[int]) -> None:
        self._own_indices = tuple(own_indices)
        self._nvml: Any = None
        self._is_missing = False
        self._all: list[Any] = []

    def held_mb(self, pids: Collection[int]) -> float | None:
        """Return what processes hold on all GPUs of this machine, MB (10^6 bytes).

        In a container NVML may know processes by other ids than they themselves do; then torch tells what this process
        has reserved, if it uses torch.
        """
        held = sum(sum(self._held_bytes(device, pids).values()) for device in self._devices())
        return round(held / 1e6, 1) if held else _reserved_by_torch()

    def _held_bytes(self, device: Any, pids: Collection[int]) -> dict[int, int]:
        """Return what each of the processes holds of a GPU; one that computes and renders is listed twice."""
        held: dict[int, int] = {}
        for running in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            with contextlib.suppress(Exception):  # Not every GPU and driver tells both.
                for process in getattr(self._nvml, running)(device):
                    if process.pid in pids and process.usedGpuMemory:
                        held[process.pid] = max(process.usedGpuMemory, held.get(process.pid, 0))
        return held

    def busy(self) -> float | None:
        """Return the share of the last moments, 0 to 1, in which some kernel ran; the mean over the process's GPUs."""
        try:
            own = [self._devices()[index] for index in self._own_indices]
            shares = [self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100 for device in own]
        except Exception:  # Also of MIG instances: NVML does not tell how busy they are.
            return None
        return sum(shares) / len(shares) if shares else None

    def _devices(self) -> list[Any]:
        """Return all GPUs that NVML sees; nothing if there is no NVML, which is asked for once."""
        if self._nvml is None and not self._is_missing:
            self._is_missing = True
            try:
                import pynvml

                pynvml.nvmlInit()
                handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
                self._nvml, self._all = pynvml, list(handles)
            except Exception:  # No binding, no driver, or none that works here.
                return []
        return self._all


def _reserved_by_torch() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    held_bytes = sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
    return float(round(held_bytes / 1e6, 1))


class GpuWatch:
    """Looks how busy GPUs are while it is open, in a thread of its own.

    The worker's own loop could only look between a step and the next answer, and so would see the same phase each time.

    Args:
        gpus: Which; ``None``: nothing is looked at, and no thread is started.
        period_s: How often, seconds.
    """

    def __init__(self, gpus: Gpus | None, period_s: float = WATCH_PERIOD_S) -> None:
        self._gpus, self._period_s = gpus, period_s
        self._shares: list[float] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def utilization(self) -> float | None:
        """Mean share of the time so far, 0 to 1, in which the GPUs were busy; ``None`` if nobody could say yet."""
        shares = self._shares[:]
        return sum(shares) / len(shares) if shares else None

    def _look(self, gpus: Gpus) -> None:
        while not self._over.wait(self._period_s):
            share = gpus.busy()
            if share is not None:
                self._shares.append(share)

    def __enter__(self) -> GpuWatch:
        # A first look says whether there is anything to see; what it sees was before.
        if self._gpus is not None and self._gpus.busy() is not None:
            self._thread = threading.Thread(target=self._look, args=(self._gpus,), name="gpu-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
