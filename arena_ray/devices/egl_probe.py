"""Asks EGL for its devices in a child process: a driver may crash or hang, and a mask would change its answer."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arena_ray.devices import egl

#: A probe takes 0.1 to 0.5 s; a driver that answers no sooner than this is in trouble.
PROBE_TIMEOUT_S = 15.0

#: How long a killed probe may take to go; one that is stuck in a driver never does.
_KILL_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EglDevice:
    """A device of EGL.

    Attributes:
        index: In EGL's own order.
        cuda_index: Index in CUDA's order without a mask (EGL_NV_device_cuda); ``None`` where EGL does not say.
        uuid: As NVML writes it, ``GPU-...``; ``None`` where EGL does not say.
        pci: PCI address, ``0000:1b:00.0``; ``None`` where nobody says.
        software: Whether the CPU does the work (Mesa's llvmpipe).
    """

    index: int
    cuda_index: int | None = None
    uuid: str | None = None
    pci: str | None = None
    software: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EglDevices:
    """What the probe found; `problem` says in words why it found nothing."""

    devices: tuple[EglDevice, ...] = ()
    problem: str | None = None


def probe_egl(
    environ: Mapping[str, str], command: Sequence[str] | None = None, timeout_s: float = PROBE_TIMEOUT_S
) -> EglDevices:
    """Return EGL's devices, as a process sees them that no mask hides GPUs from. It never raises.

    Args:
        environ: Environment variables of the worker, which decide CUDA's order; its mask is left out.
        command: Prints what `egl.query_devices` returns, as JSON; by default `egl` run as a script.
        timeout_s: Limit, seconds.
    """
    unmasked = {name: value for name, value in environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = command or [sys.executable, "-I", "-S", str(Path(egl.__file__))]
    try:
        code, output, errors = _run(command, unmasked, timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        return EglDevices(problem=f"EGL gave no answer in {timeout_s:g} s" if late else f"no probe of EGL: {error}")
    if code != 0:
        return EglDevices(problem=_why(code, errors))
    try:
        return EglDevices(devices=tuple(_device(entry) for entry in json.loads(output)))
    except (ValueError, KeyError, TypeError) as error:
        return EglDevices(problem=f"the probe of EGL printed something else than devices ({error!r})")


def _run(command: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> tuple[int, str, str]:
    """Run a command; unlike `subprocess.run`, do not wait for ever for one that not even SIGKILL ends."""
    child = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate(timeout=_KILL_S)
        raise
    return child.returncode, output, errors


def _why(code: int, errors: str) -> str:
    if code < 0:
        return f"EGL crashed the probe (signal {-code})"
    lines = errors.strip().splitlines()
    return lines[-1] if lines else f"the probe of EGL ended with exit code {code}"


def _device(entry: Mapping[str, Any]) -> EglDevice:
    names = [field.name for field in dataclasses.fields(EglDevice) if field.name != "software"]
    software = "EGL_MESA_device_software" in entry["extensions"]
    return EglDevice(**{name: entry[name] for name in names}, software=software)
