"""What every process that runs environments needs, and the device that policies are offered."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence

from arena_ray.worker_events import Notice

#: From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


def prepare_process(environ: MutableMapping[str, str] | None = None) -> None:
    """Set what every process that runs environments needs; what the user set stays.

    * SDL catches SIGTERM from the first `render()` of a classic-control environment on, so the process would no longer
      end on it: ``SDL_NO_SIGNAL_HANDLERS=1``.
    * MuJoCo renders through GLFW by default, which needs a screen: without one, EGL or OSMesa, whichever is installed.

    Args:
        environ: The environment variables; by default those of this process.
    """
    environ = os.environ if environ is None else environ
    environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux" and "DISPLAY" not in environ and "WAYLAND_DISPLAY" not in environ:
        renderer = offscreen_renderer()
        if renderer is not None and not environ.get("MUJOCO_GL"):
            environ["MUJOCO_GL"] = renderer


def follow_parent() -> None:
    """Let a child process leave Ctrl-C to its parent, and on Linux die with it, even in a step that never ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def offscreen_renderer() -> str | None:
    """Return which of MuJoCo's offscreen renderers has its library here: ``egl``, ``osmesa`` or ``None``."""
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return name
    return None


def torch_device(gpus: Sequence[str], local_rank: int | None = None) -> str:
    """Return the device that policies are offered, as torch names it.

    Args:
        gpus: Ids of the GPUs that this process was given; opaque.
        local_rank: Under `torchrun`, which of the visible GPUs is this rank's.
    """
    if not gpus and local_rank is None:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{0 if local_rank is None else local_rank % torch.cuda.device_count()}"


def missing_gpu_notice(gpus: Sequence[str], device: str) -> Notice | None:
    """Return what to say when a worker was given a GPU that torch cannot use."""
    if not gpus or device != "cpu":
        return None
    return Notice(
        topic="no_cuda",
        message=(
            f"the worker was given GPU {', '.join(gpus)}, but torch sees no CUDA device, so policies run on the CPU; "
            "install a CUDA build of torch, or check the driver with nvidia-smi"
        ),
    )
