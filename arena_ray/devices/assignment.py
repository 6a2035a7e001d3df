"""Pins this process: looks at the machine, decides, and sets environment variables, which children inherit."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from importlib import metadata

from arena_ray.devices.egl_probe import probe_egl
from arena_ray.devices.inventory import list_gpus
from arena_ray.devices.pinning import CUDA_ORDER, MASK, Machine, Pinning, local_gpus, plan

#: Holds a process's `Pinning` as JSON, for the process itself and for the children that step its environments.
PINNED = "ARENA_RAY_DEVICES"


def look_at_machine(environ: Mapping[str, str]) -> Machine:
    """Return what this machine has, as a process with these environment variables sees it."""
    return Machine(
        gpus=list_gpus(),
        egl=probe_egl({CUDA_ORDER: "PCI_BUS_ID", **environ}),
        mujoco_major=_mujoco_major(),
        has_robosuite=importlib.util.find_spec("robosuite") is not None,
    )


def _mujoco_major() -> int | None:
    try:
        return int(metadata.version("mujoco").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return None


def pin_process(gpu_ids: Sequence[str], share: float = 1.0) -> Pinning:
    """Pin this process to the GPUs that Ray gave it; call it before any simulator, torch or JAX is imported.

    Args:
        gpu_ids: As Ray gives them, opaque; Ray has set the mask to them.
        share: How much of a GPU is this process's; below 1 others run beside it.
    """
    unpin_process()
    ours = os.environ.get(MASK) == ",".join(gpu_ids)
    return _apply(plan(gpu_ids, os.environ, look_at_machine(os.environ), share=share, mask_is_ours=ours))


def pin_local_process(local_rank: int) -> Pinning:
    """Pin this process, which Ray has not started, to one of the GPUs that it sees.

    Args:
        local_rank: Which one: 0, or under `torchrun` the local rank; it begins anew after the last.
    """
    unpin_process()
    machine = look_at_machine(os.environ)
    gpu_ids, ordinal = local_gpus(os.environ.get(MASK), len(machine.gpus), local_rank)
    return _apply(plan(gpu_ids, os.environ, machine, ordinal=ordinal))


def _apply(pinning: Pinning) -> Pinning:
    os.environ.update(pinning.settings)
    os.environ[PINNED] = json.dumps(pinning.to_json())
    return pinning


def pinning_of_process(environ: Mapping[str, str] | None = None) -> Pinning | None:
    """Return how this process, or the worker that started it, was pinned; ``None``: it was not."""
    text = (os.environ if environ is None else environ).get(PINNED)
    return None if text is None else Pinning.from_text(text)


def unpin_process(environ: MutableMapping[str, str] | None = None) -> None:
    """Take back what pinning has set in this process; what was changed since then stays."""
    environ = os.environ if environ is None else environ
    pinning = pinning_of_process(environ)
    if pinning is None:
        return
    del environ[PINNED]
    for name, value in pinning.settings.items():
        if environ.get(name) == value:
            del environ[name]
            if name == MASK:
                environ[name] = ",".join(pinning.gpu_ids)


def hide_gpus(environ: MutableMapping[str, str] | None = None) -> None:
    """Hide every GPU from a worker that asked for none: Ray 2.60 no longer does (ray-project/ray#62492)."""
    environ = os.environ if environ is None else environ
    unpin_process(environ)
    environ[MASK] = ""
