"""``arena-ray doctor``: what this machine or cluster has, and what to do about what is missing.

Everything is tried, not looked up: a frame is rendered, a video encoded and read back. What may crash or hang runs in
a child process with a time limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_ray.devices import Machine, look_at_machine, plan
from arena_ray.devices.inventory import Gpu, driver_version
from arena_ray.json_files import strict_json
from arena_ray.provenance import versions
from arena_ray.specs import EncoderName, RunSettings
from arena_ray.video.encoder import VideoFormat, open_exactly

if TYPE_CHECKING:
    from arena_ray.pools.node_survey import ClockSkew

#: Seconds that one check may take.
CHECK_TIMEOUT_S = 60

#: Seconds that all checks of a node may take.
NODE_S = 300.0

#: A node's clock may differ by so much, seconds; it stamps records.
MAX_SKEW_S = 1.0

#: What is written to see how fast a disk is, and what it should have free.
DISK_MB, MIN_FREE_GB = 8, 5

#: What the user may have pinned by hand is left out where GPUs are looked at one by one.
_PINNED = ("CUDA_VISIBLE_DEVICES", "MUJOCO_EGL_DEVICE_ID")

_RENDER_CLASSIC = """
import gymnasium
env = gymnasium.make("CartPole-v1", render_mode="rgb_array"); env.reset(seed=0)
assert env.render().max() > 0
"""

_RENDER_MUJOCO = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model); mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data); assert renderer.render().max() > 0
"""


#: Prints the EGL device that the frame came from.
_RENDER_AND_TELL = f"""{_RENDER_MUJOCO}
    from arena_ray.devices.egl import current_device_index
    print(current_device_index())
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried.

    Attributes:
        topic: What was tried.
        found: What was found, for people.
        ok: Whether it works.
        needed: Whether runs need it; other things are for some jobs only.
        advice: What to do when it does not work.
        node: Address of the node that it was tried on; empty: this machine, or the cluster.
    """

    topic: str
    found: str
    ok: bool
    needed: bool = False
    advice: str = ""
    node: str = ""


def examine(address: str | None, *, as_json: bool = False) -> int:
    """Print what there is; return 0 if the main job can run, 1 if something that it needs is missing.

    Args:
        address: Ray cluster whose nodes are looked at; ``None``: this machine, and Ray on it.
        as_json: Whether to print JSON instead of a table.
    """
    findings = list(findings_of(address))
    can_run = all(finding.ok for finding in findings if finding.needed)
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        sys.stdout.write(strict_json({"ok": can_run, "findings": found}, indent=2) + "\n")
    else:
        _print_table(findings)
    return 0 if can_run else 1


def _print_table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    nodes = [] if all(not finding.node for finding in findings) else ["node"]
    table = Table("", *nodes, "topic", "found", "what to do", title="arena-ray doctor", title_justify="left")
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "-"
        where = [finding.node] if nodes else []
        table.add_row(mark, *where, finding.topic, finding.found, "" if finding.ok else finding.advice)
    Console().print(table)


def findings_of(address: str | None) -> Iterator[Finding]:
    """Yield what was tried, one after the other."""
    yield Finding(topic="versions", found=", ".join(f"{name} {text}" for name, text in versions().items()), ok=True)
    with contextlib.ExitStack() as stack:
        ray = _ray(address, stack)
        yield ray
        if address is None:
            stack.close()
            yield from findings_of_machine()
        elif ray.ok:
            yield from _findings_of_nodes()


def findings_of_machine() -> Iterator[Finding]:
    """Yield what was tried on this machine that needs no Ray."""
    yield from findings_of_gpus()
    yield _torch_gpus()
    yield _render(
        "renderer: classic control", _RENDER_CLASSIC, {}, 'pip install "gymnasium[classic-control]"', needed=True
    )
    for name, package in (("egl", "libegl1 libgl1-mesa-dri"), ("osmesa", "libosmesa6 libgl1-mesa-dri")):
        advice = f'apt-get install -y {package}; pip install "arena-ray[robotics]"'
        yield _render(f"renderer: MuJoCo {name}", _RENDER_MUJOCO, {"MUJOCO_GL": name}, advice)
    yield _encoder("inline", 'pip install --force-reinstall "av>=14"')
    yield _encoder("process", "nothing: videos are encoded in the process that steps")
    yield _encoder("nvenc", "nothing: H100, H200 and A100 have no video encoder, and the CPU does it")
    yield _encoder("imageio-ffmpeg", "pip install --force-reinstall imageio-ffmpeg")
    yield _disk(Path(tempfile.gettempdir()))


def _ray(address: str | None, stack: contextlib.ExitStack) -> Finding:
    """Start Ray here, or connect to the cluster, until the stack is closed; ask what it has."""
    from arena_ray.pools import open_pool

    try:
        nodes = stack.enter_context(contextlib.closing(open_pool(RunSettings(address=address)))).hardware()["nodes"]
    except Exception as error:
        return Finding(
            topic="ray",
            found=f"{type(error).__name__}: {error}",
            ok=False,
            needed=True,
            advice="check the address, and RAY_AUTH_MODE and the token if the cluster asks for one; try `ray status`",
        )
    text = "; ".join(f"{node.get('num_cpus', 0):g} CPUs, {node.get('num_gpus', 0):g} GPUs" for node in nodes)
    return Finding(topic="ray", found=f"{len(nodes)} nodes: {text}", ok=True, needed=True)


def _make_examination() -> Callable[[], list[dict[str, Any]]]:
    def examine_node() -> list[dict[str, Any]]:
        import dataclasses

        from arena_ray.doctor import findings_of_machine

        return [dataclasses.asdict(finding) for finding in findings_of_machine()]

    return examine_node


def _findings_of_nodes() -> Iterator[Finding]:
    """Yield what every node says: its versions and clock, and what was tried there."""
    from arena_ray.pools import node_survey

    fitting = set()
    for answer in node_survey.ask_versions():
        wrong = node_survey.misfits([answer], node_survey.own_versions())
        said = ", ".join(f"{name} {version}" for name, version in (answer.said or {}).items())
        advice = "install the same versions of Ray, Python and arena-ray on every node and where runs are driven"
        found = "; ".join(wrong) or said
        yield Finding(topic="versions", found=found, ok=not wrong, needed=True, advice=advice, node=answer.host)
        fitting.update([] if wrong else [answer.node_id])
    yield from map(_clock, node_survey.ask_clocks(only=fitting))
    for answer in node_survey.ask_nodes(_make_examination, NODE_S, only=fitting):
        if answer.problem is not None:
            yield Finding(topic="checks", found=answer.problem, ok=False, advice="look into its logs", node=answer.host)
        for said in answer.said or ():
            yield Finding(**{**said, "node": answer.host})


def _clock(skew: ClockSkew) -> Finding:
    ahead = f"{skew.ahead_s:+.3f} s against this machine's, +- {skew.within_s:.3f}"
    ok = abs(skew.ahead_s) - skew.within_s < MAX_SKEW_S
    return Finding(
        topic="clock", found=ahead, ok=ok, advice="run chrony or ntpd: times in records differ", node=skew.host
    )


def _disk(folder: Path) -> Finding:
    """Write some megabytes through to a disk, and see how much it has left."""
    topic, advice = f"disk: {folder}", f"make room there, or set TMPDIR to a folder on a disk with {MIN_FREE_GB} GB"
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            file.write(os.urandom(DISK_MB * 1_000_000))
            file.flush()
            os.fsync(file.fileno())
            speed = DISK_MB / (time.perf_counter() - began)
        free_gb = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return Finding(topic=topic, found=str(error), ok=False, needed=True, advice=advice)
    return Finding(
        topic=topic, found=f"{free_gb:.1f} GB free, {speed:.0f} MB/s", ok=free_gb > MIN_FREE_GB, advice=advice
    )


def findings_of_gpus() -> Iterator[Finding]:
    """Look at each GPU: what it is to CUDA, NVML and EGL, and whether a worker that is given it renders on it."""
    environ = {name: value for name, value in os.environ.items() if name not in _PINNED}
    machine = look_at_machine(environ)
    driver = driver_version()
    advice = "without a GPU nothing; with one, install the NVIDIA driver (nvidia-smi) and `pip install nvidia-ml-py`"
    # Without NVML, EGL names those that it can render on.
    seen = [device for device in machine.egl.devices if device.cuda_index is not None]
    by_egl = [Gpu(index=device.cuda_index or 0, uuid=device.uuid, pci=device.pci) for device in seen]
    found = f"{driver}, {len(machine.gpus)} GPUs" if driver else "NVML finds none"
    yield Finding(topic="NVIDIA driver", found=found, ok=driver is not None, advice=advice)
    yield _egl_devices(machine)
    for gpu in machine.gpus or by_egl:
        yield _gpu(gpu, machine, environ)


def _egl_devices(machine: Machine) -> Finding:
    texts = [
        f"{device.index}: {'software' if device.software else f'CUDA {device.cuda_index}, {device.uuid or device.pci}'}"
        for device in machine.egl.devices
    ]
    return Finding(
        topic="EGL devices",
        found=machine.egl.problem or "; ".join(texts),
        ok=any(not device.software for device in machine.egl.devices),
        advice="without a GPU nothing; with one, install libegl1 and the driver's EGL (in containers: "
        "NVIDIA_DRIVER_CAPABILITIES=all)",
    )


def _gpu(gpu: Gpu, machine: Machine, environ: Mapping[str, str]) -> Finding:
    """Pin a child to a GPU as a worker would be, and have it render."""
    mask = {"CUDA_VISIBLE_DEVICES": str(gpu.index), "MUJOCO_GL": "egl"}
    pinning = plan([str(gpu.index)], {**environ, **mask}, machine, mask_is_ours=True)
    is_same = f"{gpu.name or 'a GPU'}, {gpu.uuid}, CUDA and NVML {gpu.index}, EGL {pinning.egl_index}"
    ok, text = False, "; ".join(pinning.notes)
    if pinning.egl_index is not None:
        ok, text = _in_child(_RENDER_AND_TELL, {**mask, **pinning.settings})
    if ok and text != str(pinning.egl_index):
        ok, text = False, f"asked for EGL device {pinning.egl_index}, the frame came from {text}"
    said = "a frame was rendered on it" if ok else text
    advice = "MuJoCo cannot render on it: leave it out with CUDA_VISIBLE_DEVICES, or set MUJOCO_GL=osmesa for the CPU"
    return Finding(topic=f"GPU {gpu.index}", found=f"{is_same}: {said}", ok=ok, advice=advice)


def _torch_gpus() -> Finding:
    code = "import torch; print([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])"
    ok, text = _in_child(code, {})
    found = text if ok else "torch cannot be asked"
    return Finding(
        topic="torch: GPUs",
        found=found,
        ok=ok and text != "[]",
        advice="without a GPU policies run on the CPU; with one, check nvidia-smi and install a CUDA build of torch",
    )


def _render(topic: str, code: str, environ: dict[str, str], advice: str, needed: bool = False) -> Finding:
    ok, text = _in_child(code, environ)
    found = "a frame was rendered" if ok else text
    return Finding(topic=topic, found=found, ok=ok, needed=needed, advice=advice)


def _encoder(name: EncoderName, advice: str) -> Finding:
    """Encode a second of video and read it back."""
    with tempfile.TemporaryDirectory() as folder:
        error = _failure_of(lambda: _encode_and_decode(name, Path(folder, "test.mp4")))
    found = "30 frames were encoded and read back" if error is None else error
    return Finding(topic=f"encoder: {name}", found=found, ok=error is None, needed=name == "inline", advice=advice)


def _encode_and_decode(name: EncoderName, path: Path) -> None:
    import imageio.v3
    import numpy as np

    backend = open_exactly(name)
    try:
        encoder = backend.open(path, VideoFormat(width=256, height=256, fps=30))
        for level in range(30):
            encoder.write(np.full((256, 256, 3), 8 * level, dtype=np.uint8))
        encoder.close()
    finally:
        backend.close()
    frames = sum(1 for _ in imageio.v3.imiter(path, plugin="pyav"))
    if frames != 30:
        raise RuntimeError(f"30 frames were encoded, {frames} came back")


def _failure_of(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _in_child(code: str, environ: dict[str, str]) -> tuple[bool, str]:
    """Run Python code in a child; return whether it succeeded, and what it printed or its last line of error."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {CHECK_TIMEOUT_S} s"
    if child.returncode == 0:
        return True, child.stdout.strip()
    lines = child.stderr.strip().splitlines()
    return False, lines[-1] if lines else f"exit code {child.returncode}"
