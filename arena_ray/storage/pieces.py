"""Files as a stream of pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from arena_ray.storage.base import PIECE_BYTES
from arena_ray.worker_events import FilePiece


def read_pieces(folder: Path, path: str) -> Iterator[FilePiece]:
    """Yield a file in pieces of at most `PIECE_BYTES`; the last one tells size and digest of the whole.

    Args:
        folder: Where the file is.
        path: Relative to it, with ``/``.

    Raises:
        OSError: If it cannot be read.
    """
    digest, offset = hashlib.sha256(), 0
    with (folder / path).open("rb") as file:
        data = file.read(PIECE_BYTES)
        while True:
            following = file.read(PIECE_BYTES)
            digest.update(data)
            whole = None if following else digest.hexdigest()
            yield FilePiece(path=path, offset=offset, data=data, sha256=whole)
            if not following:
                return
            offset += len(data)
            data = following
