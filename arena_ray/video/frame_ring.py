"""Frames on their way from one process to another, first in, first out, without a system call.

Two pieces of memory without a name (`os.memfd_create`), whose size does not depend on ``/dev/shm``: one for the pixels,
and a page of counters. Each counter has one writer. Where the order of writes matters, `fence` stands between them.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque

import numpy as np

from arena_ray.video.encoder import RgbFrame

#: Size of the ring unless frames are very large; it is resident in both processes.
RING_BYTES = 12 * 2**20

#: Frames that may wait.
MOST_FRAMES = 64

_PAGE = 4096
_POSTED, _FINISHED, _ASLEEP, _COMPLAINTS, _TABLE = 0, 8, 16, 24, 32  # a cache line each

_fence_lock = threading.Lock()


def fence() -> None:
    """Keep the processor from moving a write before it behind one after it, or a read after it before it.

    A lock is taken with an atomic instruction; twice, because a write may move into the time when it is held.
    """
    with _fence_lock:
        pass
    with _fence_lock:
        pass


class Counters:
    """The page of counters, and the table that says which video and which place each frame belongs to.

    Args:
        descriptor: Of the memory; ``None``: new memory.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("arena_ray-counters") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, _PAGE)
        self._memory = mmap.mmap(self.descriptor, _PAGE)
        self._cells = memoryview(self._memory).cast("q")  # A cell is read in a fifth of the time of an array's.

    @property
    def posted(self) -> int:
        """Frames that the writer has posted."""
        return self._cells[_POSTED]

    @property
    def finished(self) -> int:
        """Frames that the reader has finished."""
        return self._cells[_FINISHED]

    @property
    def complaints(self) -> int:
        """Errors that the reader has sent."""
        return self._cells[_COMPLAINTS]

    @property
    def asleep(self) -> bool:
        """Whether the reader must be woken when a frame is posted."""
        return bool(self._cells[_ASLEEP])

    @asleep.setter
    def asleep(self, value: bool) -> None:
        self._cells[_ASLEEP] = value
        fence()

    def post(self, video: int, offset: int) -> None:
        """Tell the reader of a frame; its pixels are written."""
        posted = self.posted
        place = _TABLE + posted % MOST_FRAMES * 2
        self._cells[place], self._cells[place + 1] = video, offset
        fence()
        self._cells[_POSTED] = posted + 1
        fence()

    def next_frame(self) -> tuple[int, int]:
        """Return video and offset of the oldest frame that is not finished; there is one."""
        fence()
        place = _TABLE + self.finished % MOST_FRAMES * 2
        return self._cells[place], self._cells[place + 1]

    def finish(self) -> None:
        """Tell the writer that the oldest frame has been read."""
        fence()
        self._cells[_FINISHED] += 1

    def complain(self) -> None:
        """Tell the writer that an error has been sent."""
        fence()
        self._cells[_COMPLAINTS] += 1

    def close(self) -> None:
        """Let go of the memory."""
        self._cells.release()
        self._memory.close()
        os.close(self.descriptor)


class FrameRing:
    """The pixels, as their writer sees them."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.descriptor = os.memfd_create("arena_ray-frames")
        self.capacity = RING_BYTES
        os.ftruncate(self.descriptor, self.capacity)
        self._memory = mmap.mmap(self.descriptor, self.capacity)
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._freed = 0

    @property
    def waiting(self) -> int:
        """Frames that are not freed."""
        return len(self._waiting)

    def grow(self, capacity: int) -> None:
        """Make the empty ring larger."""
        self._memory.close()
        self.capacity = capacity
        os.ftruncate(self.descriptor, capacity)
        self._memory = mmap.mmap(self.descriptor, capacity)

    def free(self) -> list[int]:
        """Give back the room of the frames that were read since the last call; return their videos."""
        finished, videos = self.counters.finished, []
        while self._freed < finished:
            self._freed += 1
            videos.append(self._waiting.popleft()[2])
        return videos

    def has_room(self, size: int) -> bool:
        """Whether a frame of so many bytes can be put now."""
        return len(self._waiting) < MOST_FRAMES and self._place(size) is not None

    def _place(self, size: int) -> int | None:
        """Return where the next frame may go: behind the newest, or at the start if that is free.

        The empty ring starts over, so that its memory stays in the processor's cache.
        """
        if not self._waiting:
            return 0
        oldest, newest = self._waiting[0][0], sum(self._waiting[-1][:2])
        if newest > oldest:
            if newest + size <= self.capacity:
                return newest
            newest = 0
        return newest if newest + size <= oldest else None

    def put(self, frame: RgbFrame, video: int) -> None:
        """Copy a frame into the ring, which has room, and post it."""
        offset = self._place(frame.nbytes)
        assert offset is not None
        if frame.flags.c_contiguous and frame.dtype == np.uint8:
            # Not by NumPy: see `yuv_pictures` for what its copies cost the environment.
            self._memory[offset : offset + frame.nbytes] = frame.data
        else:
            np.copyto(np.ndarray(frame.shape, np.uint8, self._memory, offset), frame)
        self._waiting.append((offset, frame.nbytes, video))
        self.counters.post(video, offset)

    def close(self) -> None:
        """Let go of the memory."""
        self.counters.close()
        self._memory.close()
        os.close(self.descriptor)
