"""Makes ordinary MP4 files of what killed processes left."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def remux_leftovers(folder: str | Path) -> list[Path]:
    """Rewrite every ``*.partial.mp4`` under a folder as an ordinary MP4 of the same name; return those rewritten.

    The pictures are copied as they are encoded. A file without a single picture is removed; one that cannot be read is
    left alone, with a warning. To be called when nothing writes to the folder.
    """
    return [path for path in sorted(Path(folder).rglob("*.partial.mp4")) if salvage(path)]


def salvage(path: Path) -> bool:
    """Rewrite one leftover as `remux_leftovers` does; return whether it is an ordinary MP4 now."""
    try:
        if remux(path):
            return True
        path.unlink()
    except Exception as error:
        logger.warning("%s cannot be made an ordinary MP4: %s", path, error)
    return False


def remux(path: Path) -> int:
    """Rewrite one MP4 file as an ordinary one, in one step; return its frames. One without frames is left alone."""
    import av

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    frames = 0
    try:
        with av.open(str(path)) as source, av.open(str(temporary), "w", format="mp4") as target:
            copy: Any = None
            for packet in _packets(source):
                copy = copy or target.add_stream_from_template(source.streams.video[0])
                packet.stream = copy
                target.mux(packet)
                frames += 1
        if frames:
            os.replace(temporary, path)
        return frames
    except av.error.InvalidDataError:
        if _has_pictures(path):
            raise
        return 0  # Not even the header was written.
    finally:
        temporary.unlink(missing_ok=True)


def count_frames(path: Path) -> int:
    """Return how many frames an MP4 file holds, without decoding them."""
    import av

    with av.open(str(path)) as source:
        return sum(1 for _ in _packets(source))


def _packets(source: Any) -> Any:
    """Yield whole packets up to where the file ends, torn as it may be."""
    import av

    try:
        yield from (packet for packet in source.demux(video=0) if packet.dts is not None)
    except (av.error.InvalidDataError, av.error.EOFError):
        return


def _has_pictures(path: Path) -> bool:
    return b"mdat" in path.read_bytes()
