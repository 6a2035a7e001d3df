"""Which settings follow from which GPUs; the tables need no GPU, the probe asks the real EGL of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arena_ray import devices
from arena_ray.devices import Machine, Pinning, plan
from arena_ray.devices.assignment import PINNED
from arena_ray.devices.egl_probe import EglDevice, EglDevices, probe_egl
from arena_ray.devices.inventory import Gpu, GpuProcess, pci_address
from arena_ray.devices.offers import kit_args
from arena_ray.devices.pinning import Identity, find_egl_device, identify, local_gpus, mujoco_device_id
from arena_ray.devices.placement import PlacementCheck, gpus_in_use, misplacement

UUIDS = [f"GPU-{index}0000000-aaaa-bbbb-cccc-00000000000{index}" for index in range(4)]
MIG = "MIG-5a6b7c8d-1111-2222-3333-444444444444"
GPUS = tuple(
    Gpu(index=index, uuid=UUIDS[index], pci=f"0000:{index + 1}b:00.0", mig_uuids=(MIG,) if index == 3 else ())
    for index in range(4)
)


def egl_of(*cuda_indices: int | None) -> EglDevices:
    """EGL's list, each entry given by its index in CUDA's order; ``None``: the CPU's."""
    return EglDevices(
        devices=tuple(
            EglDevice(index=index, cuda_index=cuda_index, software=cuda_index is None)
            for index, cuda_index in enumerate(cuda_indices)
        )
    )


def machine(*cuda_indices: int | None, **changes: Any) -> Machine:
    return Machine(**{"gpus": GPUS, "egl": egl_of(*cuda_indices), "mujoco_major": 3, **changes})


@pytest.fixture
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that pinning sets, unset, and as they were afterwards."""
    names = (PINNED, "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MUJOCO_EGL_DEVICE_ID")
    for name in (*names, "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.setenv(name, "")  # Remembered, so that what a test sets is taken back.
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("gpu_id", "cuda_indices", "physical_index", "egl_index"),
    [
        pytest.param("1", (0, 1, 2, 3), 1, 1, id="same-order"),
        pytest.param("0", (2, 3, 0, 1), 0, 2, id="reordered"),
        pytest.param("3", (None, 2, 3, 0, 1), 3, 2, id="after-software"),
        pytest.param(UUIDS[2], (3, 2, 1, 0), 2, 1, id="uuid"),
        pytest.param(UUIDS[2][:12], (3, 2, 1, 0), 2, 1, id="uuid-cut-short"),
        pytest.param(MIG, (3, 2, 1, 0), 3, 0, id="mig"),
        pytest.param(f"MIG-{UUIDS[1]}/7/0", (3, 2, 1, 0), 1, 2, id="mig-of-old-drivers"),
        pytest.param("MIG-unknown", (0, 1), None, None, id="mig-unknown"),
        pytest.param("0", (None,), 0, None, id="software-only"),
        pytest.param("0", (0, 0), 0, None, id="ambiguous"),
        pytest.param("1", (), 1, None, id="no-egl-devices"),
    ],
)
def test_a_gpu_is_found_in_egls_order(
    gpu_id: str, cuda_indices: tuple[int | None, ...], physical_index: int | None, egl_index: int | None
) -> None:
    pinning = plan([gpu_id], {"CUDA_VISIBLE_DEVICES": gpu_id}, machine(*cuda_indices))
    assert (pinning.physical_index, pinning.egl_index) == (physical_index, egl_index)
    assert pinning.settings.get("MUJOCO_EGL_DEVICE_ID") == (None if egl_index is None else str(egl_index))
    assert pinning.settings["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert pinning.settings["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert (egl_index is None) == any("not pinned" in note for note in pinning.notes)


def test_what_names_a_gpu_goes_before_orders() -> None:
    devices_of_egl = [
        EglDevice(index=0, cuda_index=0, uuid=UUIDS[1], pci=GPUS[1].pci),
        EglDevice(index=1, cuda_index=1, uuid=UUIDS[0], pci=GPUS[0].pci),
    ]
    assert find_egl_device(identify("0", GPUS), devices_of_egl) == 1
    assert find_egl_device(Identity(cuda_index=0), devices_of_egl) == 0
    assert find_egl_device(Identity(cuda_index=0, pci=GPUS[0].pci), devices_of_egl) == 1
    assert find_egl_device(identify(UUIDS[1], ()), devices_of_egl) == 0, "a UUID needs no NVML where EGL knows it"
    assert find_egl_device(identify("", GPUS), devices_of_egl) is None


def test_in_another_order_of_cuda_an_index_says_nothing_to_nvml() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    pinning = plan(["1"], environ, machine(1, 0))
    assert pinning.physical_index is None
    assert pinning.own_indices == ()
    assert pinning.egl_index == 0, "the probe counts in the worker's order"
    assert pinning.kept == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def test_what_the_user_set_stays() -> None:
    own = {"MUJOCO_EGL_DEVICE_ID": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    pinning = plan(["2"], {"CUDA_VISIBLE_DEVICES": "2", **own}, machine(0, 1, 2, 3), mask_is_ours=True)
    assert pinning.kept == own
    assert pinning.settings == {}
    assert pinning.egl_index == 2


@pytest.mark.parametrize(
    ("share", "environ", "fraction"),
    [
        pytest.param(1.0, {}, None, id="whole"),
        pytest.param(2.0, {}, None, id="two"),
        pytest.param(0.25, {}, "0.188", id="quarter"),
        pytest.param(0.25, {"XLA_CLIENT_MEM_FRACTION": ".5"}, None, id="new-name-set"),
        pytest.param(0.25, {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, None, id="old-name-set"),
    ],
)
def test_a_share_of_a_gpu_is_a_share_of_its_memory(share: float, environ: dict[str, str], fraction: str | None) -> None:
    pinning = plan(["0"], environ, machine(0), share=share)
    assert pinning.settings.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == fraction


def test_without_gpus_or_egl_nothing_of_the_renderer_is_set() -> None:
    hidden = plan([], {"CUDA_VISIBLE_DEVICES": ""}, machine(0, 1))
    assert "MUJOCO_EGL_DEVICE_ID" not in hidden.settings
    assert "hides every GPU" in hidden.notes[0]
    missing = plan(["1"], {}, machine(egl=EglDevices(problem="libEGL.so.1: cannot open shared object file")))
    assert "MUJOCO_EGL_DEVICE_ID" not in missing.settings
    assert "libEGL.so.1" in missing.notes[0]
    assert missing.own_indices == (1,)


def test_mig_and_far_devices_are_explained() -> None:
    assert "MIG" in plan([MIG], {}, machine(0, 1, 2, 3)).notes[0]
    far = plan(["3"], {}, machine(*(None,) * 10, 3))
    assert far.settings["MUJOCO_EGL_DEVICE_ID"] == "10"
    assert "the first 10 only" in far.notes[0]


@pytest.mark.parametrize(
    ("mask", "ours", "cuda_indices", "egl_id", "new_mask"),
    [
        pytest.param("1", True, (0, 1), "1", None, id="same-order"),
        pytest.param("2", True, (2, 3, 0, 1), "0", "2,-1,0", id="reordered"),
        pytest.param("2", False, (2, 3, 0, 1), None, None, id="reordered-mask-of-the-user"),
        pytest.param("12", False, (1, 12), "1", None, id="it-looks-for-text"),
    ],
)
def test_robosuite_can_be_imported(
    mask: str, ours: bool, cuda_indices: tuple[int, ...], egl_id: str | None, new_mask: str | None
) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": mask}
    pinning = plan([mask], environ, machine(*cuda_indices, has_robosuite=True), mask_is_ours=ours)
    assert pinning.settings.get("MUJOCO_EGL_DEVICE_ID") == egl_id
    assert pinning.settings.get("CUDA_VISIBLE_DEVICES") == new_mask
    assert any("robosuite" in note for note in pinning.notes) == (egl_id is None)
    after = {**environ, **pinning.settings}
    # The assertion of robosuite 1.5.2, binding_utils.py.
    assert after.get("MUJOCO_EGL_DEVICE_ID") is None or after["MUJOCO_EGL_DEVICE_ID"] in after["CUDA_VISIBLE_DEVICES"]


def mujoco_4_selects(devices_by_cuda: dict[int, int], mask: str | None, device_id: int) -> int:
    """The rule of MuJoCo 4.0 (`mujoco/egl/__init__.py`), told again: from CUDA index to EGL index."""
    entries = [int(entry) for entry in (mask or "").split(",") if entry.strip()]
    visible = [devices_by_cuda[entry] for entry in entries]
    if visible and device_id < len(visible):
        return visible[device_id]
    if device_id in entries:
        return visible[entries.index(device_id)]
    return devices_by_cuda[device_id]


@pytest.mark.parametrize("order", [pytest.param(order, id=str(order)) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))])
@pytest.mark.parametrize("mask", ["0", "1", "2", "1,2", "2,1", "1,0", "0,1,2", None])
def test_mujoco_4_is_told_in_its_own_order(mask: str | None, order: tuple[int, ...]) -> None:
    by_cuda = {cuda_index: index for index, cuda_index in enumerate(order)}
    for rank in range(3):
        gpu_ids, ordinal = local_gpus(mask, 3, rank)
        value = mujoco_device_id(by_cuda[int(gpu_ids[0])], int(gpu_ids[0]), mask, ordinal)
        assert mujoco_4_selects(by_cuda, mask, value) == by_cuda[int(gpu_ids[0])]


def test_where_mujoco_4_and_others_differ_a_note_says_so() -> None:
    pinning = plan(["2"], {"CUDA_VISIBLE_DEVICES": "2"}, machine(2, 0, 1, mujoco_major=4))
    assert pinning.settings["MUJOCO_EGL_DEVICE_ID"] == "0"
    assert pinning.notes == ()
    differs = plan(["0"], {"CUDA_VISIBLE_DEVICES": "0"}, machine(2, 0, 1, mujoco_major=4))
    assert differs.settings["MUJOCO_EGL_DEVICE_ID"] == "0"
    assert "dm_control and robosuite" in differs.notes[0]


@pytest.mark.parametrize(
    ("mask", "num_gpus", "rank", "expected"),
    [
        pytest.param(None, 4, 2, (("2",), 2), id="all-visible"),
        pytest.param(None, 2, 3, (("1",), 1), id="more-ranks-than-gpus"),
        pytest.param(None, 0, 0, (("0",), 0), id="nobody-counts"),
        pytest.param("2, 3", 4, 1, (("3",), 1), id="masked"),
        pytest.param("2,-1,0", 4, 1, (("2",), 0), id="ends-at-minus-one"),
        pytest.param("", 4, 0, ((), 0), id="hidden"),
    ],
)
def test_a_process_without_ray_takes_its_local_gpu(
    mask: str | None, num_gpus: int, rank: int, expected: tuple[tuple[str, ...], int]
) -> None:
    assert local_gpus(mask, num_gpus, rank) == expected


def test_a_pinning_is_plain_data_and_comes_back() -> None:
    pinning = plan(["2", "3"], {"MUJOCO_EGL_DEVICE_ID": "0"}, machine(0, 1, 2, 3), share=2)
    text = json.dumps(pinning.to_json())
    assert Pinning.from_text(text) == pinning
    assert pinning.own_indices == (2, 3)
    assert json.loads(text)["physical_index"] == 2


@pytest.mark.usefixtures("clean_environ")
def test_pinning_is_taken_back_and_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    before = dict(os.environ)
    first = devices.pin_local_process(0)
    assert devices.pinning_of_process() == first
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    again = devices.pin_local_process(0)
    assert again == first, "what the first pinning set does not count as the user's"
    assert again.kept == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    devices.unpin_process()
    assert dict(os.environ) == before


@pytest.mark.usefixtures("clean_environ")
def test_a_worker_without_gpus_sees_none_and_forgets_what_it_inherits() -> None:
    devices.pin_process(["1"])
    devices.hide_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert devices.pinning_of_process() is None
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ


def test_egl_is_asked_in_a_process_without_the_mask() -> None:
    if devices.offscreen_renderer() != "egl":
        pytest.skip("no EGL")
    found = probe_egl({**os.environ, "CUDA_VISIBLE_DEVICES": "7"})
    assert found.problem is None
    assert [device.index for device in found.devices] == list(range(len(found.devices)))
    assert found.devices
    show = "import json, os; print(json.dumps([{'index': 0, 'cuda_index': None, 'uuid': None, 'pci': None, "
    show += "'extensions': ['CUDA_VISIBLE_DEVICES'] if 'CUDA_VISIBLE_DEVICES' in os.environ else []}]))"
    assert probe_egl({"CUDA_VISIBLE_DEVICES": "7"}, [sys.executable, "-c", show]) == EglDevices(
        devices=(EglDevice(index=0),)
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("import os; os.kill(os.getpid(), 11)", "crashed the probe (signal 11)", id="crash"),
        pytest.param("import time; time.sleep(100)", "no answer in 0.5 s", id="hang"),
        pytest.param("import sys; sys.exit('libEGL.so.1: cannot open shared object file')", "libEGL.so.1", id="no-egl"),
        pytest.param("import sys; sys.exit(3)", "exit code 3", id="silent"),
        pytest.param("print('hello')", "something else", id="no-json"),
        pytest.param("print('[{}]')", "something else", id="no-devices"),
    ],
)
def test_a_probe_that_fails_is_a_note(code: str, said: str) -> None:
    timeout_s = 0.5 if "sleep" in code else 30.0
    found = probe_egl(os.environ, [sys.executable, "-c", code], timeout_s)
    assert found.devices == ()
    assert said in str(found.problem)
    assert said in plan(["0"], {}, machine(egl=found)).notes[0]


def test_a_probe_that_cannot_be_started_is_a_note() -> None:
    assert "no probe" in str(probe_egl(os.environ, ["/nonexistent"]).problem)


def test_the_probe_and_the_process_agree_on_the_device_of_a_frame() -> None:
    if devices.offscreen_renderer() != "egl":
        pytest.skip("no EGL")
    pytest.importorskip("mujoco")
    from arena_ray.doctor import _RENDER_AND_TELL, _in_child

    index = next(device.index for device in probe_egl(os.environ).devices)
    assert _in_child(_RENDER_AND_TELL, {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": str(index)}) == (True, str(index))
    assert _in_child("from arena_ray.devices.egl import current_device_index as i; print(i())", {}) == (True, "None")


def test_pinning_needs_no_heavy_library() -> None:
    heavy = "{'torch', 'mujoco', 'pynvml', 'OpenGL', 'ray', 'gymnasium'} & set(sys.modules)"
    code = f"import sys; from arena_ray import devices; devices.hide_gpus(); assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


PINNED_TO_1 = Pinning(gpu_ids=("1",), physical_index=1, own_indices=(1,), egl_index=2)


@pytest.mark.parametrize(
    ("used", "egl_index", "told"),
    [
        pytest.param({1: 500.0}, 2, None, id="at-home"),
        pytest.param({0: 500.0}, None, "GPU 0", id="elsewhere"),
        pytest.param({0: 500.0, 1: 500.0}, None, "GPU 0", id="at-home-and-elsewhere"),
        pytest.param({0: 6.0, 1: 500.0}, 2, None, id="passing-by"),
        pytest.param({0: 6.0}, None, "GPU 0", id="little-but-elsewhere"),
        pytest.param({}, 0, "EGL device 0", id="egl-alone"),
        pytest.param({1: 500.0}, 0, "EGL device 0", id="computes-at-home-renders-elsewhere"),
        pytest.param({}, None, None, id="nobody-knows"),
    ],
)
def test_a_worker_on_another_gpu_is_told(used: dict[int, float], egl_index: int | None, told: str | None) -> None:
    notice = misplacement(PINNED_TO_1, used, egl_index)
    assert (notice is None) == (told is None)
    if notice is not None:
        assert notice.topic == "gpu_misplaced"
        assert f"was given GPU 1 also uses {told}" in notice.message
        assert "arena-ray doctor" in notice.message


def test_a_worker_misplaced_by_the_user_is_told_by_which_variable() -> None:
    kept = Pinning(gpu_ids=("1",), own_indices=(1,), egl_index=1, kept={"MUJOCO_EGL_DEVICE_ID": "0"})
    notice = misplacement(kept, {0: 300.0}, 0)
    assert notice is not None
    assert "MUJOCO_EGL_DEVICE_ID=0 was set" in notice.message


def test_processes_are_told_from_strangers_by_their_parents(tmp_path: Path) -> None:
    parents = {40: 1, 41: 40, 42: 41, 50: 1}
    for pid, parent in parents.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (b) c) S {parent} 0 0")
    running = [GpuProcess(0, 42, 10.0), GpuProcess(1, 40, None), GpuProcess(1, 41, 5.0), GpuProcess(2, 50, 7.0)]
    assert gpus_in_use(running, 40, tmp_path) == {0: 10.0, 1: 5.0}
    unknown = GpuProcess(0, 99, 10.0)
    assert gpus_in_use([*running, unknown], 40, tmp_path) == {}, "pids of another namespace are not compared"


def test_real_children_are_found() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        running = [GpuProcess(3, child.pid, 100.0), GpuProcess(2, os.getppid(), 100.0)]
        assert gpus_in_use(running) == {3: 100.0}
    finally:
        child.communicate(b"\n", timeout=30)


def test_the_check_is_made_twice_and_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    assert PlacementCheck(None).notices() == ()
    check = PlacementCheck(PINNED_TO_1)
    with caplog.at_level("INFO", logger="arena_ray"):
        assert [check.notices() for _ in range(4)] == [(), (), (), ()]
    # This process uses no GPU, so nobody can tell.
    assert sum("neither NVML nor EGL can tell" in line for line in caplog.messages) == 2


@pytest.mark.parametrize(
    ("ordinal", "physical_index", "by_cuda_index", "expected"),
    [
        pytest.param(0, 3, True, "--/renderer/multiGpu/activeCudaGpus=0, --/physics/cudaDevice=0", id="by-cuda-index"),
        pytest.param(0, 3, False, "--/renderer/activeGpu=3 --/physics/cudaDevice=0", id="older-isaac-lab"),
        pytest.param(2, None, False, "--/physics/cudaDevice=2", id="unknown-index"),
    ],
)
def test_isaac_sim_is_told_in_its_own_settings(
    ordinal: int, physical_index: int | None, by_cuda_index: bool, expected: str
) -> None:
    pinning = Pinning(gpu_ids=("3",), ordinal=ordinal, physical_index=physical_index)
    assert kit_args(pinning, by_cuda_index=by_cuda_index) == expected


@pytest.mark.usefixtures("clean_environ")
def test_factories_are_offered_what_they_name() -> None:
    assert devices.env_offers({"device", "kit_args", "num_envs"}) == {"device": "cpu", "kit_args": ""}
    assert devices.env_offers({"num_envs"}) == {}
    devices.pin_local_process(0)
    offered = devices.env_offers({"kit_args"})
    assert offered == {"kit_args": "--/renderer/multiGpu/activeCudaGpus=0, --/physics/cudaDevice=0"}


def test_pci_addresses_are_written_as_linux_does() -> None:
    assert pci_address("00000000:1B:00.0") == "0000:1b:00.0"
