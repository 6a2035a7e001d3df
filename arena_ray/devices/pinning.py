"""From the GPUs that a worker was given to what each library needs to be told. Pure: what there is, is an argument.

CUDA, EGL and Vulkan count GPUs each in their own order, and only CUDA follows ``CUDA_VISIBLE_DEVICES``.

* MuJoCo up to 3.17, dm_control 1.0 and robosuite 1.5 read ``MUJOCO_EGL_DEVICE_ID`` as an index of EGL's list.
* MuJoCo from 4.0 on reads it as a place in ``CUDA_VISIBLE_DEVICES``, else as a CUDA index (``mujoco/egl/__init__.py``).
* robosuite (1.4, 1.5) refuses to be imported unless the text of ``MUJOCO_EGL_DEVICE_ID`` occurs in
  ``CUDA_VISIBLE_DEVICES`` (``robosuite/utils/binding_utils.py``), though it uses the one as an EGL index.
* SAPIEN 3 and ManiSkill 3 find the Vulkan device through CUDA, so the mask is enough; ``cuda`` is the first GPU that it
  leaves visible, and a device of another number would be masked twice (haosulab/SAPIEN#101).
* JAX takes 75 % of a GPU's memory when it starts, unless it is told not to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from arena_ray.devices.egl_probe import EglDevice, EglDevices
from arena_ray.devices.inventory import Gpu

MASK = "CUDA_VISIBLE_DEVICES"
CUDA_ORDER = "CUDA_DEVICE_ORDER"
EGL_DEVICE_ID = "MUJOCO_EGL_DEVICE_ID"
JAX_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"

#: The old name of two: JAX before 0.5 knows only this one, and later versions refuse both together.
JAX_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
JAX_NEW_FRACTION = "XLA_CLIENT_MEM_FRACTION"

#: What JAX takes of a whole GPU; a worker with a share of one takes as much of its share.
JAX_SHARE = 0.75

#: MuJoCo and dm_control ask EGL for no more devices than this (``egl_ext.eglQueryDevicesEXT``).
MUJOCO_MAX_EGL_DEVICES = 10

#: The first version of MuJoCo that reads ``MUJOCO_EGL_DEVICE_ID`` in CUDA's order.
MUJOCO_IN_CUDA_ORDER = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a worker's machine has.

    Attributes:
        gpus: What NVML lists; empty if nobody can tell.
        egl: What EGL lists.
        mujoco_major: First number of MuJoCo's version; ``None`` if it is not installed.
        has_robosuite: Whether robosuite is installed.
    """

    gpus: tuple[Gpu, ...] = ()
    egl: EglDevices = dataclasses.field(default_factory=EglDevices)
    mujoco_major: int | None = None
    has_robosuite: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pinning:
    """What a worker's GPUs are to each library.

    Attributes:
        gpu_ids: Ids of the GPUs that the worker was given, as CUDA's mask has them; opaque.
        ordinal: Which of the visible GPUs is the worker's first: the N of torch's ``cuda:N``.
        physical_index: Index of the first one in NVML's order; ``None`` if not known.
        own_indices: Indices of all of them in NVML's order; empty if one of them is not known.
        egl_index: Index of the first one in EGL's list; ``None`` if not known.
        settings: Environment variables that were set.
        kept: Environment variables that would have been set, had the user not set them to this.
        notes: What people should know, in sentences.
    """

    gpu_ids: tuple[str, ...]
    ordinal: int = 0
    physical_index: int | None = None
    own_indices: tuple[int, ...] = ()
    egl_index: int | None = None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kept: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        lists = {"gpu_ids": [*self.gpu_ids], "own_indices": [*self.own_indices], "notes": [*self.notes]}
        return {**dataclasses.asdict(self), "settings": dict(self.settings), "kept": dict(self.kept), **lists}

    @classmethod
    def from_text(cls, text: str) -> Pinning:
        """Return what `to_json` gave, from its JSON text."""
        values = json.loads(text)
        tuples = {name: tuple(values[name]) for name in ("gpu_ids", "own_indices", "notes")}
        return cls(**{**values, **tuples})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What is known of a GPU that an id stands for; `cuda_index` is in CUDA's order without a mask."""

    cuda_index: int | None = None
    physical_index: int | None = None
    uuid: str | None = None
    pci: str | None = None
    is_mig: bool = False


def identify(gpu_id: str, gpus: Sequence[Gpu], *, by_pci_bus: bool = True) -> Identity:
    """Return what an id stands for: an index, ``GPU-<uuid>``, ``MIG-<uuid>`` or ``MIG-GPU-<uuid>/...``.

    Args:
        gpu_id: As CUDA's mask has it; a UUID may be cut short.
        gpus: What NVML lists.
        by_pci_bus: Whether CUDA counts in the order of the PCI bus, as NVML does.
    """
    is_mig = gpu_id.startswith("MIG-")
    if gpu_id.isdigit():
        known = by_pci_bus or len(gpus) == 1
        found = [gpu for gpu in gpus if known and gpu.index == int(gpu_id)]
        return _identity(found, Identity(cuda_index=int(gpu_id), physical_index=int(gpu_id) if by_pci_bus else None))
    if is_mig and not gpu_id.startswith("MIG-GPU-"):
        return _identity([gpu for gpu in gpus if gpu_id in gpu.mig_uuids], Identity(is_mig=True))
    uuid = gpu_id.removeprefix("MIG-").partition("/")[0]
    if not uuid.startswith("GPU-"):
        return Identity(is_mig=is_mig)
    found = [gpu for gpu in gpus if (gpu.uuid or "").startswith(uuid)]
    return _identity(found, Identity(uuid=uuid, is_mig=is_mig), by_pci_bus=by_pci_bus)


def _identity(found: Sequence[Gpu], otherwise: Identity, *, by_pci_bus: bool = True) -> Identity:
    if len(found) != 1:
        return otherwise
    gpu = found[0]
    cuda_index = otherwise.cuda_index if otherwise.cuda_index is not None else gpu.index if by_pci_bus else None
    return Identity(
        cuda_index=cuda_index, physical_index=gpu.index, uuid=gpu.uuid, pci=gpu.pci, is_mig=otherwise.is_mig
    )


def find_egl_device(identity: Identity, devices: Sequence[EglDevice]) -> int | None:
    """Return the EGL index of a GPU; ``None`` unless exactly one device is it. What names it goes before orders."""
    for name in ("uuid", "pci", "cuda_index"):
        wanted = getattr(identity, name)
        found = [device.index for device in devices if getattr(device, name) == wanted]
        if wanted is not None and len(found) == 1:
            return found[0]
    return None


def local_gpus(mask: str | None, num_gpus: int, local_rank: int) -> tuple[tuple[str, ...], int]:
    """Return the GPU of a process that Ray gave none, and which of the visible ones it is.

    Args:
        mask: ``CUDA_VISIBLE_DEVICES``, or ``None``: every GPU is visible.
        num_gpus: GPUs of the machine; 0 if nobody knows.
        local_rank: Which of the visible GPUs is the process's; it begins anew after the last.
    """
    visible = [str(index) for index in range(num_gpus or local_rank + 1)]
    if mask is not None:
        visible = [entry.strip() for entry in mask.split(",") if entry.strip()]
    if "-1" in visible:
        visible = visible[: visible.index("-1")]  # CUDA ends its list there.
    ordinal = local_rank % len(visible) if visible else 0
    return tuple(visible[ordinal : ordinal + 1]), ordinal


def plan(
    gpu_ids: Sequence[str],
    environ: Mapping[str, str],
    machine: Machine,
    *,
    share: float = 1.0,
    ordinal: int = 0,
    mask_is_ours: bool = False,
) -> Pinning:
    """Return what to set; what is set already stays.

    Args:
        gpu_ids: GPUs that the worker was given; its renderer gets the first.
        environ: Environment variables of the worker.
        machine: What there is.
        share: How much of a GPU is the worker's; below 1 others run beside it.
        ordinal: Which of the visible GPUs is the worker's first.
        mask_is_ours: Whether the mask comes from Ray and not from the user, so that it may be written differently.
    """
    by_pci_bus = environ.get(CUDA_ORDER, "PCI_BUS_ID") == "PCI_BUS_ID"
    identities = [identify(gpu_id, machine.gpus, by_pci_bus=by_pci_bus) for gpu_id in gpu_ids]
    first = identities[0] if identities else Identity()
    egl_index = find_egl_device(first, machine.egl.devices) if identities else None
    wanted = {CUDA_ORDER: "PCI_BUS_ID", JAX_PREALLOCATE: "false"}
    if share < 1 and JAX_NEW_FRACTION not in environ:
        wanted[JAX_FRACTION] = f"{JAX_SHARE * share:.3g}"
    notes = _notes(gpu_ids, first, egl_index, machine)
    if egl_index is not None:
        renderer, said = _renderer(egl_index, first, environ, ordinal, machine, mask_is_ours=mask_is_ours)
        wanted |= renderer
        notes += said
    kept = {name: environ[name] for name in wanted if name in environ and not (name == MASK and mask_is_ours)}
    indices = tuple(one.physical_index for one in identities if one.physical_index is not None)
    return Pinning(
        gpu_ids=tuple(gpu_ids),
        ordinal=ordinal,
        physical_index=first.physical_index,
        own_indices=indices if len(indices) == len(identities) else (),
        egl_index=egl_index,
        settings={name: value for name, value in wanted.items() if name not in kept},
        kept=kept,
        notes=tuple(notes),
    )


def _notes(gpu_ids: Sequence[str], first: Identity, egl_index: int | None, machine: Machine) -> list[str]:
    """Return why the renderer is not pinned, or may not render where it is pinned to."""
    if not gpu_ids:
        return ["CUDA_VISIBLE_DEVICES hides every GPU, so there is none to pin anything to"]
    if machine.egl.problem is not None:
        return [f"renderers are not pinned to GPU {gpu_ids[0]}: EGL's devices are not known ({machine.egl.problem})"]
    if egl_index is None:
        return [
            f"renderers are not pinned: none of EGL's {len(machine.egl.devices)} devices says that it is GPU "
            f"{gpu_ids[0]}; set {EGL_DEVICE_ID} by hand if an environment renders with MuJoCo"
        ]
    if first.is_mig:
        return [f"GPU {gpu_ids[0]} is a MIG instance, and A100, H100 and H200 render nothing while in MIG mode"]
    return []


def _renderer(
    egl_index: int, first: Identity, environ: Mapping[str, str], ordinal: int, machine: Machine, *, mask_is_ours: bool
) -> tuple[dict[str, str], list[str]]:
    """Return the settings that pin MuJoCo and robosuite, and what to say of them."""
    mask = environ.get(MASK)
    in_cuda_order = (machine.mujoco_major or 0) >= MUJOCO_IN_CUDA_ORDER
    value = mujoco_device_id(egl_index, first.cuda_index, mask, ordinal) if in_cuda_order else egl_index
    notes = []
    if egl_index >= MUJOCO_MAX_EGL_DEVICES:
        notes.append(f"the GPU is EGL device {egl_index}, but MuJoCo and dm_control look at the first 10 only")
    if value != egl_index:
        notes.append(
            f"{EGL_DEVICE_ID} is {value} as MuJoCo 4 counts; dm_control and robosuite, which count as EGL does, would "
            f"need {egl_index} and render on another GPU"
        )
    wanted = {EGL_DEVICE_ID: str(value)}
    refused = machine.has_robosuite and bool(mask) and str(value) not in str(mask) and EGL_DEVICE_ID not in environ
    if not refused:
        return wanted, notes
    if mask_is_ours and all(entry.isdigit() for entry in str(mask).split(",")):
        # CUDA reads no further than the -1 (CUDA programming guide, "CUDA Environment Variables"; torch as well), but
        # robosuite finds the number that it insists on.
        return {**wanted, MASK: f"{mask},-1,{value}"}, notes
    notes.append(
        f"{EGL_DEVICE_ID} is not set: it would have to be {value}, and robosuite refuses to be imported when that does "
        f"not occur in {MASK}={mask}; if robosuite is not used, set it by hand"
    )
    return {}, notes


def mujoco_device_id(egl_index: int, cuda_index: int | None, mask: str | None, ordinal: int) -> int:
    """Return the number that MuJoCo 4 takes for a GPU, if possible one that also is its EGL index or in the mask.

    MuJoCo 4 reads a number below the length of an integer mask as a place in it, else as an entry of it, and without
    such a mask as a CUDA index.
    """
    entries = (mask or "").split(",")
    if not all(entry.strip().isdigit() for entry in entries):
        return ordinal if cuda_index is None else cuda_index
    means_this = {ordinal} | ({cuda_index} if cuda_index is not None and cuda_index >= len(entries) else set())
    return next(number for number in (egl_index, cuda_index, ordinal) if number in means_this)
