"""What a worker process is told about its devices before any simulator or torch is imported.

GPU ids -> `look_at_machine` (NVML, a probe of EGL) -> `plan` -> environment variables -> `PlacementCheck`
"""

from arena_ray.devices.assignment import (
    hide_gpus,
    look_at_machine,
    pin_local_process,
    pin_process,
    pinning_of_process,
    unpin_process,
)
from arena_ray.devices.offers import env_offers
from arena_ray.devices.pinning import Machine, Pinning, plan
from arena_ray.devices.placement import PlacementCheck
from arena_ray.devices.preparation import (
    PR_SET_PDEATHSIG,
    follow_parent,
    missing_gpu_notice,
    offscreen_renderer,
    prepare_process,
    torch_device,
)

__all__ = [
    "PR_SET_PDEATHSIG",
    "Machine",
    "Pinning",
    "PlacementCheck",
    "env_offers",
    "follow_parent",
    "hide_gpus",
    "look_at_machine",
    "missing_gpu_notice",
    "offscreen_renderer",
    "pin_local_process",
    "pin_process",
    "pinning_of_process",
    "plan",
    "prepare_process",
    "torch_device",
    "unpin_process",
]
