"""What environment factories are offered: the device as torch names it, and arguments for Isaac Sim's Kit."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any

from arena_ray.devices.assignment import pinning_of_process
from arena_ray.devices.pinning import Pinning
from arena_ray.devices.preparation import torch_device

#: The setting that Isaac Lab uses from pull request #7057 (August 2026) on.
_BY_CUDA_INDEX = "activeCudaGpus"


def env_offers(names: Collection[str]) -> dict[str, Any]:
    """Return those of ``device`` and ``kit_args`` that a factory names; torch is imported only if it asks for it.

    Args:
        names: Parameters of the factory.
    """
    pinning = pinning_of_process()
    offered: dict[str, Any] = {}
    if "device" in names:
        offered["device"] = "cpu" if pinning is None else torch_device(pinning.gpu_ids, pinning.ordinal)
    if "kit_args" in names:
        offered["kit_args"] = "" if pinning is None else kit_args(pinning, by_cuda_index=_isaaclab_selects_by_cuda())
    return offered


def kit_args(pinning: Pinning, *, by_cuda_index: bool) -> str:
    """Return command line arguments that put Isaac Sim's physics and renderer on the worker's GPU.

    The two settings of the renderer exclude each other: ``activeGpu`` counts all GPUs as the graphics driver does, mask
    or not, and where it is set ``activeCudaGpus`` is not looked at. The latter counts as CUDA does, and needs its comma
    (isaac-sim/IsaacLab#7057 and its tests).

    Args:
        pinning: How the worker is pinned.
        by_cuda_index: Whether Isaac Lab leaves ``activeGpu`` alone; before #7057 its `AppLauncher` sets it.
    """
    physics = f"--/physics/cudaDevice={pinning.ordinal}"
    if by_cuda_index:
        return f"--/renderer/multiGpu/{_BY_CUDA_INDEX}={pinning.ordinal}, {physics}"
    if pinning.physical_index is None:
        return physics
    return f"--/renderer/activeGpu={pinning.physical_index} {physics}"


def _isaaclab_selects_by_cuda() -> bool:
    """Return whether Isaac Lab, if it is installed, knows the newer setting; its version numbers do not tell."""
    spec = importlib.util.find_spec("isaaclab")
    folders = () if spec is None else spec.submodule_search_locations or ()
    launchers = [Path(folder, "app", "app_launcher.py") for folder in folders]
    return all(_BY_CUDA_INDEX in path.read_text(encoding="utf-8") for path in launchers if path.is_file())
