"""What is made of NVML's answers; the library itself is a stand-in that holds two GPUs, the second in MIG mode."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from arena_ray.devices.inventory import Gpu, GpuProcess, driver_version, list_gpus, list_processes


class FakeNvml(types.ModuleType):
    """The calls of nvidia-ml-py that are used; `opened` counts inits less shutdowns."""

    class NVMLError(Exception):
        """As in pynvml."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__("pynvml")
        self.opened = 0
        self.broken = broken

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"570.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetUUID(self, handle: int | str) -> str:
        return f"GPU-{handle}" if isinstance(handle, int) else handle

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return types.SimpleNamespace(busId=f"00000000:{handle}B:00.0".encode())

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        if handle == 0:
            raise self.NVMLError("Not Supported")
        return 3

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> str:
        if index == 1:
            raise self.NVMLError("Not Found")
        return f"MIG-{index}"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [types.SimpleNamespace(pid=10 + handle, usedGpuMemory=500_000_000)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:
        return [
            types.SimpleNamespace(pid=10, usedGpuMemory=20_000_000),
            types.SimpleNamespace(pid=30, usedGpuMemory=None),
        ]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    yield fake
    assert fake.opened == 0, "every init has its shutdown"


@pytest.mark.usefixtures("nvml")
def test_gpus_are_listed_with_their_names() -> None:
    assert list_gpus() == (
        Gpu(index=0, name="NVIDIA H200", uuid="GPU-0", pci="0000:0b:00.0"),
        Gpu(index=1, name="NVIDIA H200", uuid="GPU-1", pci="0000:1b:00.0", mig_uuids=("MIG-0", "MIG-2")),
    )
    assert driver_version() == "570.1"


@pytest.mark.usefixtures("nvml")
def test_processes_that_compute_and_render_are_listed_once() -> None:
    assert list_processes() == (
        GpuProcess(0, 10, 500.0),
        GpuProcess(0, 30, None),
        GpuProcess(1, 11, 500.0),
        GpuProcess(1, 10, 20.0),
        GpuProcess(1, 30, None),
    )


@pytest.mark.parametrize(
    "module", [pytest.param(None, id="not-installed"), pytest.param(FakeNvml(broken=True), id="no-driver")]
)
def test_without_nvml_nothing_is_known(monkeypatch: pytest.MonkeyPatch, module: FakeNvml | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert list_gpus() == ()
    assert list_processes() is None
    assert driver_version() is None
