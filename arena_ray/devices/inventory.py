"""What NVIDIA's management library (NVML) says of the GPUs; it sees them all, whatever mask CUDA is given.

`pynvml` (``pip install nvidia-ml-py``) is optional: without it, or without a driver, nothing is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger("arena_ray")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A physical GPU.

    Attributes:
        index: In NVML's order, that of ``nvidia-smi`` and of the PCI bus.
        name: E.g. ``NVIDIA H200``.
        uuid: ``GPU-...``
        pci: PCI address, ``0000:1b:00.0``.
        mig_uuids: Ids of its MIG instances, ``MIG-...``; empty unless it is in MIG mode.
    """

    index: int
    name: str = ""
    uuid: str | None = None
    pci: str | None = None
    mig_uuids: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a GPU: the GPU's index, the process id as NVML gives it, and what it holds, MB (10^6)."""

    gpu_index: int
    pid: int
    memory_mb: float | None


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs, in NVML's order; none if nobody can tell."""
    try:
        with _nvml() as nvml:
            return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except Exception as error:  # No package, no driver, or one of another version: `NVMLError` is pynvml's own.
        logger.debug("NVML cannot list GPUs: %r", error)
        return ()


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver; ``None`` if nobody can tell."""
    try:
        with _nvml() as nvml:
            return _text(nvml.nvmlSystemGetDriverVersion())
    except Exception:
        return None


def list_processes() -> tuple[GpuProcess, ...] | None:
    """Return the processes that compute or render on each GPU; ``None`` if nobody can tell.

    Process ids are those of the machine, which in a container may not be those that the processes themselves see.
    """
    try:
        with _nvml() as nvml:
            found: dict[tuple[int, int], float | None] = {}
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                for running in _running(nvml, handle):
                    known = found.get((index, running.pid)) or 0.0
                    found[index, running.pid] = max(known, (running.usedGpuMemory or 0) / 1e6) or None
            return tuple(GpuProcess(index, pid, held) for (index, pid), held in found.items())
    except Exception as error:
        logger.debug("NVML cannot list processes: %r", error)
        return None


def _running(nvml: Any, handle: Any) -> list[Any]:
    """Return what computes and what renders: a process that does both stands in both lists."""
    return [*nvml.nvmlDeviceGetComputeRunningProcesses(handle), *nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)]


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        pci=pci_address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        mig_uuids=tuple(_mig_uuids(nvml, handle)),
    )


def _mig_uuids(nvml: Any, handle: Any) -> Iterator[str]:
    try:
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return  # A GPU that cannot be divided.
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):  # Places that hold no instance.
            yield _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)))


def pci_address(bus_id: str) -> str:
    """Return a PCI address as Linux writes it (``0000:1b:00.0``): NVML writes the domain with eight digits."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _text(value: Any) -> str:
    """Return text: old versions of pynvml give bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
