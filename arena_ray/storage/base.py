"""What the rest of the package sees of a storage."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

#: First words of `VideoFile.error` of a video that was recorded, but did not arrive where the run keeps its videos.
NOT_DELIVERED = "not delivered"

#: Files are read, sent and received in pieces of so many bytes, so that memory does not depend on their size.
PIECE_BYTES = 2**20


class Storage(Protocol):
    """A folder in a storage. A file appears under its name at once and whole, or not at all.

    Paths are relative to the folder, with ``/``. An instance belongs to one thread, and is thrown away when a call
    raised: its connection may be broken.
    """

    #: Where it is, without credentials and without ``/`` at its end.
    uri: str

    def put(self, source: Path, path: str) -> int:
        """Store a local file under a path, in place of what is there; return the size that the storage tells."""
        ...

    def get(self, path: str, target: Path) -> None:
        """Write what is stored under a path into a local file.

        Raises:
            FileNotFoundError: If there is nothing.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove what is stored under a path."""
        ...
