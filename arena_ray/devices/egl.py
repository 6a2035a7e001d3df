"""What EGL says of its devices, through ctypes.

It imports nothing of this package and no OpenGL package: run as a script, it is the probe of `egl_probe`, which prints
one JSON list and ends. The order of the list is that of ``eglQueryDevicesEXT``, which ``MUJOCO_EGL_DEVICE_ID`` counts
in (MuJoCo 3.1 to 3.17, dm_control 1.0, robosuite 1.5).

Sources: the registry's EGL_EXT_device_enumeration, EGL_EXT_device_query, EGL_NV_device_cuda,
EGL_EXT_device_persistent_id, EGL_EXT_device_drm and EGL_EXT_device_drm_render_node.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import uuid
from typing import Any

#: Of Linux; other systems that MuJoCo supports have no EGL.
LIBRARY = "libEGL.so.1"

EGL_EXTENSIONS = 0x3055
EGL_DEVICE_EXT = 0x322C
EGL_DRM_DEVICE_FILE_EXT = 0x3233
EGL_CUDA_DEVICE_NV = 0x323A
EGL_DEVICE_UUID_EXT = 0x335C
EGL_DRM_RENDER_NODE_FILE_EXT = 0x3377

_MAX_DEVICES = 64

_QUERY_DEVICES = ctypes.CFUNCTYPE(
    ctypes.c_uint, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
)
_QUERY_STRING = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
_QUERY_ATTRIB = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
_QUERY_BINARY = ctypes.CFUNCTYPE(
    ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
)


def _function(library: ctypes.CDLL, name: str, kind: Any) -> Any:
    library.eglGetProcAddress.restype = ctypes.c_void_p
    library.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    address = library.eglGetProcAddress(name.encode())
    if not address:
        raise OSError(f"EGL has no {name}")
    return kind(address)


def _handles(library: ctypes.CDLL) -> list[int]:
    """Return EGL's handles of its devices, in its order; they stay the same while the process lives."""
    handles = (ctypes.c_void_p * _MAX_DEVICES)()
    count = ctypes.c_int()
    if not _function(library, "eglQueryDevicesEXT", _QUERY_DEVICES)(_MAX_DEVICES, handles, ctypes.byref(count)):
        raise OSError("eglQueryDevicesEXT failed")
    return [handle or 0 for handle in handles[: count.value]]


def query_devices() -> list[dict[str, Any]]:
    """Return EGL's devices in its order: ``index, cuda_index, uuid, pci, extensions``; unknown things are ``None``.

    It loads the drivers, which may crash or hang: call it in a process that may.

    Raises:
        OSError: If there is no EGL, or it cannot list devices.
    """
    library = ctypes.CDLL(LIBRARY)
    return [_describe(library, index, handle) for index, handle in enumerate(_handles(library))]


def _describe(library: ctypes.CDLL, index: int, handle: int) -> dict[str, Any]:
    string = _function(library, "eglQueryDeviceStringEXT", _QUERY_STRING)
    extensions = (string(handle, EGL_EXTENSIONS) or b"").decode().split()
    return {
        "index": index,
        "cuda_index": _cuda_index(library, handle) if "EGL_NV_device_cuda" in extensions else None,
        "uuid": _uuid(library, handle) if "EGL_EXT_device_persistent_id" in extensions else None,
        "pci": _pci(string, handle, extensions),
        "extensions": extensions,
    }


def _cuda_index(library: ctypes.CDLL, handle: int) -> int | None:
    value = ctypes.c_ssize_t(-1)
    query = _function(library, "eglQueryDeviceAttribEXT", _QUERY_ATTRIB)
    return value.value if query(handle, EGL_CUDA_DEVICE_NV, ctypes.byref(value)) and value.value >= 0 else None


def _uuid(library: ctypes.CDLL, handle: int) -> str | None:
    """Return the device's UUID as NVML writes it; NVIDIA's EGL gives the same 16 bytes."""
    content = ctypes.create_string_buffer(16)
    size = ctypes.c_int()
    query = _function(library, "eglQueryDeviceBinaryEXT", _QUERY_BINARY)
    if not query(handle, EGL_DEVICE_UUID_EXT, 16, content, ctypes.byref(size)) or size.value != 16:
        return None
    return f"GPU-{uuid.UUID(bytes=content.raw)}"


def _pci(string: Any, handle: int, extensions: list[str]) -> str | None:
    """Return the PCI address (``0000:1b:00.0``) of the DRM node that EGL names, if the system tells."""
    names = {
        "EGL_EXT_device_drm": EGL_DRM_DEVICE_FILE_EXT,
        "EGL_EXT_device_drm_render_node": EGL_DRM_RENDER_NODE_FILE_EXT,
    }
    for extension, name in names.items():
        node = string(handle, name) if extension in extensions else None
        link = f"/sys/class/drm/{os.path.basename((node or b'').decode())}/device"
        if node and os.path.exists(link):
            return os.path.basename(os.path.realpath(link)).lower()
    return None


def current_device_index() -> int | None:
    """Return the EGL index of the device that this thread renders on; ``None`` if it does not render through EGL.

    It loads nothing: without EGL in the process there is nothing to ask.
    """
    try:
        library = ctypes.CDLL(LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        library.eglGetCurrentDisplay.restype = ctypes.c_void_p
        display = library.eglGetCurrentDisplay()
        handle = ctypes.c_ssize_t()
        query = _function(library, "eglQueryDisplayAttribEXT", _QUERY_ATTRIB)
        if not display or not query(display, EGL_DEVICE_EXT, ctypes.byref(handle)):
            return None
        return _handles(library).index(handle.value)
    except (OSError, AttributeError, ValueError):
        return None  # No EGL in this process, none that tells, or a device that is not in its list.


if __name__ == "__main__":
    try:
        json.dump(query_devices(), sys.stdout)
    except OSError as error:
        sys.exit(str(error))
