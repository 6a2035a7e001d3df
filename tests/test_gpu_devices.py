"""Pinning on real GPUs: every GPU has its EGL device, and what is pinned to a GPU computes and renders there.

Skipped without a GPU that EGL can render on. They need mujoco, and for some NVML (``pip install nvidia-ml-py``).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from arena_ray import devices
from arena_ray.devices.egl_probe import EglDevice
from arena_ray.devices.inventory import Gpu, driver_version
from arena_ray.doctor import findings_of_gpus

pytestmark = pytest.mark.heavy

_FREE = ("CUDA_VISIBLE_DEVICES", "MUJOCO_EGL_DEVICE_ID", "CUDA_DEVICE_ORDER")


def environ() -> dict[str, str]:
    """The environment without what a user may have pinned by hand."""
    return {name: value for name, value in os.environ.items() if name not in _FREE}


@functools.cache
def machine() -> devices.Machine:
    return devices.look_at_machine(environ())


def gpus() -> tuple[Gpu, ...]:
    """The GPUs, as NVML lists them."""
    pytest.importorskip("pynvml")
    if not machine().gpus:
        pytest.skip("no GPU")
    return machine().gpus


def gpus_of_egl() -> list[EglDevice]:
    found = [device for device in machine().egl.devices if device.cuda_index is not None]
    if not found:
        pytest.skip(f"EGL has no GPU: {machine().egl.problem}")
    return found


#: Pins itself as a worker behind Ray does, renders, and tells where it was: by EGL, by NVML and by the check.
_WORKER = """
import json, os, sys
from arena_ray import devices
from arena_ray.devices import egl, inventory
from arena_ray.devices.placement import gpus_in_use
pinning = devices.pin_process([os.environ["CUDA_VISIBLE_DEVICES"]])
devices.prepare_process()
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model); mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 480, 640) as renderer:
    renderer.update_scene(data)
    assert renderer.render().max() > 0
    running, index = inventory.list_processes(), egl.current_device_index()
    notices = devices.PlacementCheck(pinning).notices()
    print(json.dumps({
        "pinning": pinning.to_json(), "egl_index": index,
        "uuid": None if index is None else egl.query_devices()[index]["uuid"],
        "used": None if running is None else gpus_in_use(running), "notices": [n.message for n in notices],
        "processes": None if running is None else [[p.gpu_index, p.pid, p.memory_mb] for p in running],
    }))
"""


def render_as_worker(gpu_id: str, **changes: str) -> dict[str, Any]:
    variables = {**environ(), "CUDA_VISIBLE_DEVICES": gpu_id, "MUJOCO_GL": "egl", **changes}
    done = subprocess.run([sys.executable, "-c", _WORKER], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(gpu_id, changes, told)  # noqa: T201  # shown with -s, or when the test fails
    return told


def test_every_gpu_has_an_egl_device_of_its_own() -> None:
    plans = [devices.plan([str(gpu.index)], {}, machine()) for gpu in gpus()]
    assert None not in [plan.egl_index for plan in plans], machine()
    assert len({plan.egl_index for plan in plans}) == len(plans)
    by_uuid = [devices.plan([str(gpu.uuid)], {}, machine()) for gpu in gpus()]
    assert [plan.egl_index for plan in by_uuid] == [plan.egl_index for plan in plans]
    assert [plan.physical_index for plan in by_uuid] == [gpu.index for gpu in gpus()]


def test_what_egl_says_of_identity_agrees_with_nvml() -> None:
    by_index = {gpu.index: gpu for gpu in gpus()}
    for device in gpus_of_egl():
        assert device.cuda_index is not None
        gpu = by_index[device.cuda_index]
        assert device.uuid in (None, gpu.uuid)
        assert device.pci in (None, gpu.pci)


def test_a_mask_does_not_change_what_the_probe_finds() -> None:
    gpus_of_egl()
    assert devices.look_at_machine({**environ(), "CUDA_VISIBLE_DEVICES": "0"}).egl == machine().egl


def test_a_pinned_process_renders_on_its_gpu() -> None:
    for device in gpus_of_egl():
        told = render_as_worker(str(device.cuda_index))
        assert told["egl_index"] == device.index
        assert told["uuid"] == device.uuid, "the mask changes EGL's order"
        assert told["notices"] == []
        # In a container NVML may not know this process.
        assert told["used"] in (None, {}) or set(told["used"]) == {str(device.cuda_index)}


def test_a_process_pinned_by_uuid_renders_on_its_gpu() -> None:
    egl_of = {device.cuda_index: device.index for device in gpus_of_egl()}
    for gpu in gpus():
        assert render_as_worker(str(gpu.uuid))["egl_index"] == egl_of[gpu.index]


def test_a_process_that_renders_elsewhere_is_told() -> None:
    found = gpus_of_egl()
    if len(found) < 2:
        pytest.skip("one GPU")
    first, last = found[0], found[-1]
    told = render_as_worker(str(last.cuda_index), MUJOCO_EGL_DEVICE_ID=str(first.index))
    assert told["egl_index"] == first.index
    (message,) = told["notices"]
    assert f"MUJOCO_EGL_DEVICE_ID={first.index} was set" in message


def test_torch_counts_as_nvml_does() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA build of torch")
    code = "import torch; print('GPU-' + str(torch.cuda.get_device_properties(0).uuid))"
    for gpu in gpus():
        variables = {**environ(), **devices.plan([str(gpu.index)], {}, machine()).settings}
        variables["CUDA_VISIBLE_DEVICES"] = str(gpu.index)
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == gpu.uuid, done.stderr


def test_doctor_renders_on_every_gpu() -> None:
    found = {finding.topic: finding for finding in findings_of_gpus()}
    for device in gpus_of_egl():
        finding = found[f"GPU {device.cuda_index}"]
        assert finding.ok, finding
        assert f"EGL {device.index}: a frame was rendered on it" in finding.found
    if machine().gpus:
        assert str(driver_version()) in found["NVIDIA driver"].found
