"""Against a stand-in for NVML; `test_gpu_release` asks the real one where there is a GPU."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import types

import pytest

from arena_ray import memory
from arena_ray.nvml import Gpus, GpuWatch


@dataclasses.dataclass
class Process:
    pid: int
    usedGpuMemory: int | None  # as NVML has it


@dataclasses.dataclass
class Utilization:
    gpu: int


class FakeNvml(types.ModuleType):
    """Two GPUs; `asked` lists the calls."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.asked: list[str] = []
        self.busy: list[int | None] = [20, 90]
        self.computing: list[list[Process]] = [[], []]
        self.rendering: list[list[Process]] | None = [[], []]
        self.works = True

    def nvmlInit(self) -> None:
        self.asked.append("init")
        if not self.works:
            raise RuntimeError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.asked.append(f"handle {index}")
        return index

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Utilization:
        self.asked.append(f"busy {device}")
        share = self.busy[device]
        if share is None:
            raise RuntimeError("not supported")
        return Utilization(share)

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[Process]:
        return self.computing[device]

    def nvmlDeviceGetGraphicsRunningProcesses(self, device: int) -> list[Process]:
        if self.rendering is None:
            raise RuntimeError("not supported")
        return self.rendering[device]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param((1,), 0.9, id="one"),
        pytest.param((0, 1), 0.55, id="mean-of-two"),
        pytest.param((), None, id="none"),
    ],
)
def test_only_the_workers_own_gpus_count(nvml: FakeNvml, own: tuple[int, ...], expected: float | None) -> None:
    assert Gpus(own).busy() == pytest.approx(expected)
    assert [call for call in nvml.asked if call.startswith("busy")] == [f"busy {index}" for index in own]


def test_a_gpu_that_does_not_say_gives_no_figure(nvml: FakeNvml) -> None:
    nvml.busy[1] = None
    assert Gpus((0, 1)).busy() is None


def test_memory_is_that_of_the_processes_and_counted_once_each(nvml: FakeNvml) -> None:
    nvml.computing = [[Process(7, 2_000_000_000), Process(9, 500_000_000)], [Process(7, 1_000_000_000)]]
    nvml.rendering = [[Process(7, 2_000_000_000), Process(8, 100_000_000)], [Process(7, None)]]
    assert Gpus((0,)).held_mb([7, 8]) == 3100.0
    nvml.rendering = None
    assert Gpus((0,)).held_mb([7, 8]) == 3000.0
    assert Gpus((0,)).held_mb([1]) is None


def test_there_is_one_connection_and_it_stays_open(nvml: FakeNvml) -> None:
    gpus = Gpus((0,))
    for _ in range(5):
        memory.sample(gpus, amid=False)
        gpus.busy()
    assert nvml.asked.count("init") == 1
    assert nvml.asked.count("handle 0") == 1


@pytest.mark.parametrize("installed", [pytest.param(True, id="no-driver"), pytest.param(False, id="not-installed")])
def test_without_nvml_there_are_no_figures_and_it_is_not_asked_again(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    nvml.works = False
    if not installed:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = Gpus((0,))
    for _ in range(3):
        assert gpus.busy() is None
        assert gpus.held_mb([os.getpid()]) is None
    assert nvml.asked == (["init"] if installed else [])
    with GpuWatch(gpus, period_s=0.001) as watch:
        assert watch._thread is None
    assert watch.utilization is None


def test_a_worker_without_gpus_asks_nobody(nvml: FakeNvml) -> None:
    sample = memory.sample(amid=True)
    assert (sample.gpu_mb, sample.amid) == (None, True)
    assert sample.resident_mb > 1
    with GpuWatch(None) as watch:
        assert watch._thread is None
    assert watch.utilization is None
    assert nvml.asked == []


def test_a_watch_gives_the_mean_of_what_it_saw_while_it_was_open(nvml: FakeNvml) -> None:
    nvml.busy[0] = 100  # What it sees first was before.
    with GpuWatch(Gpus((0,)), period_s=0.01) as watch:
        assert watch.utilization is None
        nvml.busy[0] = 20
        deadline = time.monotonic() + 10
        while watch.utilization is None and time.monotonic() < deadline:
            time.sleep(0.005)
    assert watch.utilization == pytest.approx(0.2)
    looks = len(nvml.asked)
    time.sleep(0.05)
    assert len(nvml.asked) == looks
