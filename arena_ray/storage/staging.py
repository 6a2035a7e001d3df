"""Where workers write on their own disk before what they wrote is delivered."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from arena_ray.dispatch import WorkerSetup


def staging_root(setup: WorkerSetup) -> Path:
    """Return the folder on this machine of all workers of a run, in the folder for temporary files (``TMPDIR``)."""
    name = setup.mark or f"arena-ray-{hashlib.sha256(setup.run_dir.encode()).hexdigest()[:16]}"
    return Path(tempfile.gettempdir()) / f"{name}.staging"


def open_staging(setup: WorkerSetup) -> Path:
    """Create and return a folder of this worker's own.

    Raises:
        OSError: If the folder cannot be created, or somebody else has created it.
    """
    root = staging_root(setup)
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.geteuid():
        raise PermissionError(f"{root} is not this user's; remove it, or set TMPDIR to another folder")
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))


def remove_staging(folder: Path) -> None:
    """Remove a worker's folder, and that of the run if it was the last."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:
        return  # Another worker's is there.
