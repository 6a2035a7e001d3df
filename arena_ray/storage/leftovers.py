"""What killed workers left on the disk of a machine that is still there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from arena_ray.dispatch import WorkerSetup
from arena_ray.storage.courier import log_files, open_courier
from arena_ray.storage.staging import staging_root
from arena_ray.worker_events import Event

_PARTIAL = re.compile(r".*-episode-(\d+)(?:-segment-\d+)?\.\d+\.partial\.mp4")


def deliver_leftovers(setup: WorkerSetup, wanted: Collection[tuple[str, int]]) -> Iterator[tuple[Event, ...]]:
    """Deliver what dead workers of a run left on this machine, and remove it; to be called when none runs any more.

    Logs, and the partial videos of episodes that were given up: of episodes that were completed elsewhere, nobody
    needs what broke off.

    Args:
        setup: What the workers were told.
        wanted: Job and episode of those that were given up.
    """
    root = staging_root(setup)
    for folder in sorted(root.glob("*")):
        courier = open_courier(setup, folder)
        for path in (*_partial_videos(folder, wanted), *log_files(folder)):
            yield from courier.send_file(path)
        courier.close()
    shutil.rmtree(root, ignore_errors=True)


def _partial_videos(folder: Path, wanted: Collection[tuple[str, int]]) -> list[str]:
    found = ((path, _PARTIAL.fullmatch(path.name)) for path in sorted(folder.glob("*/*.partial.mp4")))
    return [
        path.relative_to(folder).as_posix()
        for path, match in found
        if match is not None and (path.parent.name, int(match[1])) in wanted and path.stat().st_size
    ]
