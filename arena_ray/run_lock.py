"""A run directory is one driver's at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from pathlib import Path

#: What a file system without locks answers.
_CANNOT_LOCK = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class RunLock:
    """Holds a file's lock (`flock`) from the beginning until `release`.

    Programs that this process starts do not inherit it, nor do processes that are forked from it.

    Args:
        path: The file; created if missing. Nothing is written to it.

    Attributes:
        problem: Why this file system cannot lock, so that nothing is locked; ``None``: it is locked.

    Raises:
        BlockingIOError: If somebody else holds it.
        OSError: If the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                self.release()
                raise
            self.problem = os.strerror(error.errno)
        _held.add(self)

    def release(self) -> None:
        """Let go of it; may be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """Close a forked child's copies: the lock ends when the last copy is closed."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_leave_to_the_parent)
