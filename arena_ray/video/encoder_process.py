"""H.264 in one process beside this one, which all recorders of this process share.

Frames go through a ring in memory without a name (`os.memfd_create`), whose size does not depend on ``/dev/shm``; what
to do with them goes through a socket, a message at a time. The process ends with its last user, and if it dies, what it
had open is lost to it and later videos are encoded in this process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections import defaultdict, deque
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from arena_ray.video.encoder import Encoder, EncoderBackend, EncoderError, RgbFrame, VideoFormat, open_exactly
from arena_ray.video.encoder_process_main import COMMAND, MESSAGE_BYTES, format_to_json

logger = logging.getLogger(__name__)

#: Size of the ring unless frames are very large; it is resident in both processes.
RING_BYTES = 12 * 2**20

#: A ring holds at least so many frames.
RING_FRAMES = 3

#: Frames of one video that may wait: what a crash of both processes costs it, besides what the muxer holds.
FRAMES_IN_FLIGHT = 3

#: Frames of all videos that may wait: more would fill the sockets, and both sides would wait for each other.
MOST_FRAMES_IN_FLIGHT = 64

#: Frames of fewer pixels are encoded here: handing them over would cost more.
SMALLEST_FRAME = 64 * 64

#: How long the process may take to answer before it is given up, seconds.
ANSWER_S = 30.0


class EncoderProcessError(EncoderError):
    """The process that encodes is gone."""


class ProcessBackend:
    """Opens encoders in the shared process; for tiny frames, and from the moment when that is gone, in this one.

    Args:
        fallback: Opens encoders in this process.
    """

    def __init__(self, fallback: EncoderBackend) -> None:
        self._fallback = fallback
        self._process: EncoderProcess | None = EncoderProcess.shared()
        # Also for a recorder that nobody closes: when it is collected, or Python ends.
        self._release = weakref.finalize(self, self._process.release)

    def __reduce__(self) -> tuple[Any, ...]:
        """A recorder that has not begun may be sent to another process, which has a process of its own."""
        return open_exactly, ("process",)

    def open(self, path: Path, video_format: VideoFormat) -> Encoder:
        """Begin a file."""
        if self._process is not None and video_format.width * video_format.height >= SMALLEST_FRAME:
            try:
                return _ProcessEncoder(self._process, path, video_format)
            except EncoderProcessError as error:
                logger.warning("from now on videos are encoded in the process that steps: %s", error)
                self.close()
        return self._fallback.open(path, video_format)

    def close(self) -> None:
        """Let go of the process; its last user ends it."""
        self._process = None
        self._release()


class _ProcessEncoder:
    def __init__(self, process: EncoderProcess, path: Path, video_format: VideoFormat) -> None:
        self._process: EncoderProcess | None = process
        self._video = process.open(path, video_format)

    def write(self, frame: RgbFrame) -> None:
        if self._process is None:
            raise EncoderError("the file is closed")
        self._process.write(self._video, frame)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close_video(self._video)


class EncoderProcess:
    """The encoding process as its parent sees it. Methods may be called from any thread."""

    _shared: EncoderProcess | None = None
    _sharing = threading.Lock()

    @classmethod
    def shared(cls) -> EncoderProcess:
        """Return the process's one instance, started if there is none; `release` gives it back."""
        with cls._sharing:
            shared = cls._shared
            if shared is None or shared._owner != os.getpid() or shared._death is not None:
                shared = cls._shared = cls()
            shared._users += 1
            return shared

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._users = 0
        self._lock = threading.RLock()
        self._death: str | None = None
        self._next_video = 0
        self._open: set[int] = set()
        self._errors: dict[int, str] = {}
        self._closed: dict[int, str | None] = {}
        self._in_flight: defaultdict[int, int] = defaultdict(int)
        self._ring = _Ring()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", round(ANSWER_S), 0))
        with theirs:
            self._program = self._start(theirs)

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """Start the process; it is ready some tenths of a second later, and meanwhile the first frames wait."""
        # A process dies with the thread that started it (PR_SET_PDEATHSIG), so only the main thread may ask for that.
        follow = threading.current_thread() is threading.main_thread()
        arguments = {
            "memory": self._ring.descriptor,
            "socket": theirs.fileno(),
            "parent": self._owner,
            "follow": follow,
        }
        paths = [path or str(Path.cwd()) for path in sys.path]
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, json.dumps(arguments)],
            pass_fds=(self._ring.descriptor, theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._program.pid

    def open(self, path: Path, video_format: VideoFormat) -> int:
        """Begin a file; return its number.

        Raises:
            EncoderProcessError: If the process is gone.
            OSError: If the file cannot be created.
        """
        with self._lock:
            path.touch()  # A disk that refuses says so now.
            self._next_video += 1
            video = self._next_video
            frame_bytes = video_format.width * video_format.height * 3
            if self._ring.capacity < RING_FRAMES * frame_bytes:
                while self._ring.waiting:
                    self._take_answer()
                self._ring.grow(RING_FRAMES * frame_bytes)
                self._send({"do": "grow"})
            self._send({"do": "open", "video": video, "path": str(path), "format": format_to_json(video_format)})
            self._open.add(video)
            return video

    def write(self, video: int, frame: RgbFrame) -> None:
        """Append a frame, ``uint8[height, width, 3]``.

        Raises:
            EncoderError: If the file takes no more frames.
        """
        with self._lock:
            # What is answered is taken in at once, so that the ring starts over and its memory stays in the cache.
            while self._take_answer(socket.MSG_DONTWAIT):
                pass
            while not self._may_send(video, frame.nbytes):
                self._take_answer()
            if video in self._errors:
                raise EncoderError(self._errors[video])
            offset = self._ring.put(frame, video)
            self._in_flight[video] += 1
            self._send({"do": "frame", "video": video, "at": offset})

    def _may_send(self, video: int, size: int) -> bool:
        few = self._in_flight[video] < FRAMES_IN_FLIGHT and self._ring.waiting < MOST_FRAMES_IN_FLIGHT
        return few and self._ring.has_room(size)

    def close_video(self, video: int) -> None:
        """Complete a file.

        Raises:
            EncoderError: If the file is not complete.
        """
        with self._lock:
            try:
                if video in self._open:
                    self._send({"do": "close", "video": video})
                while video not in self._closed:
                    self._take_answer()
                error = self._errors.get(video) or self._closed[video]
            finally:
                self._open.discard(video)
                for facts in (self._closed, self._errors, self._in_flight):
                    facts.pop(video, None)
        if error is not None:
            raise EncoderError(error)

    def release(self) -> None:
        """Give the shared instance back; the last user ends the process and waits for it."""
        with self._sharing:
            self._users -= 1
            if self._users > 0 or self._owner != os.getpid():
                return
            if EncoderProcess._shared is self:
                EncoderProcess._shared = None
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._socket.close()
            self._ring.close()
            try:
                self._program.wait(ANSWER_S)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()

    def _send(self, message: dict[str, Any]) -> None:
        self._raise_if_dead()
        try:
            self._socket.send(json.dumps(message).encode())
        except OSError as error:
            self._bury(error)

    def _take_answer(self, flags: int = 0) -> bool:
        """Take the next answer in: wait for it, or with `MSG_DONTWAIT` return whether there was one."""
        self._raise_if_dead()
        try:
            answer = self._socket.recv(MESSAGE_BYTES, flags)
        except BlockingIOError as error:
            if flags:
                return False
            self._bury(TimeoutError(f"it did not answer for {ANSWER_S:.0f} s ({error})"))
        except OSError as error:
            self._bury(error)
        if not answer:
            self._bury(None)
        self._take_in(json.loads(answer))
        return True

    def _take_in(self, answer: dict[str, Any]) -> None:
        video = answer["video"]
        if answer["done"] == "close":
            self._closed[video] = answer["error"]
            return
        if answer["done"] == "frame":
            self._ring.free()
            if video in self._in_flight:
                self._in_flight[video] -= 1
        if answer["error"] is not None:
            self._errors.setdefault(video, answer["error"])

    def _raise_if_dead(self) -> None:
        if self._owner != os.getpid():
            raise EncoderProcessError("the process that encodes belongs to the parent of this process")
        if self._death is not None:
            raise EncoderProcessError(self._death)

    def _bury(self, error: Exception | None) -> NoReturn:
        """Note that the process is gone, and let no zombie behind."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(1.0)
        if self._program.poll() is None:
            self._program.kill()
            self._program.wait()
        how = f"exit status {self._program.returncode}" + (f", {error}" if error is not None else "")
        self._death = f"the process that encodes is gone ({how})"
        raise EncoderProcessError(self._death) from error


class _Ring:
    """Frames on their way, first in, first out, in memory that two processes share."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("arena_ray-frames")
        self.capacity = RING_BYTES
        os.ftruncate(self.descriptor, self.capacity)
        self._memory = mmap.mmap(self.descriptor, self.capacity)
        self._frames: deque[tuple[int, int]] = deque()

    @property
    def waiting(self) -> int:
        """Frames that are not freed."""
        return len(self._frames)

    def grow(self, capacity: int) -> None:
        """Make the empty ring larger."""
        self._memory.close()
        self.capacity = capacity
        os.ftruncate(self.descriptor, capacity)
        self._memory = mmap.mmap(self.descriptor, capacity)

    def has_room(self, size: int) -> bool:
        return self._place(size) is not None

    def _place(self, size: int) -> int | None:
        """Return where the next frame may go: behind the newest, or at the start if that is free."""
        if not self._frames:
            return 0
        oldest, newest = self._frames[0][0], sum(self._frames[-1])
        if newest > oldest:
            if newest + size <= self.capacity:
                return newest
            newest = 0
        return newest if newest + size <= oldest else None

    def put(self, frame: RgbFrame, video: int) -> int:
        """Copy a frame into the ring, which has room; return its offset."""
        offset = self._place(frame.nbytes)
        assert offset is not None
        np.copyto(np.ndarray(frame.shape, np.uint8, self._memory, offset), frame)
        self._frames.append((offset, frame.nbytes))
        return offset

    def free(self) -> None:
        """Give back the room of the oldest frame."""
        self._frames.popleft()

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)
