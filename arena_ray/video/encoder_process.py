"""H.264 in one process beside this one, which all recorders of this process share.

Frames go through a ring in shared memory, without a system call; which videos to open and close is told through a
socket, and waited for. The process ends with its last user, and if it dies, what it had open is lost to it and later
videos are encoded in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from arena_ray.video.encoder import Encoder, EncoderBackend, EncoderError, RgbFrame, VideoFormat, open_exactly
from arena_ray.video.encoder_process_main import COMMAND, MESSAGE_BYTES
from arena_ray.video.frame_ring import FrameRing

logger = logging.getLogger(__name__)

#: A ring holds at least so many frames.
RING_FRAMES = 3

#: Frames of one video that may wait: what a crash of both processes costs it, besides what the muxer holds.
FRAMES_IN_FLIGHT = 3

#: Frames of fewer pixels are encoded here: handing them over would cost more.
SMALLEST_FRAME = 64 * 64

#: How long to sleep between two looks whether a frame has been read, seconds.
NAP_S = 0.0002

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
    _sharing = threading.RLock()  # The collector may release one backend while another is opened.

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
        self._heard = 0
        self._errors: dict[int, str] = {}
        self._closed: dict[int, str | None] = {}
        self._in_flight: defaultdict[int, int] = defaultdict(int)
        self._ring = FrameRing()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", round(ANSWER_S), 0))
        with theirs:
            self._program = self._start(theirs)

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """Start the process; it is ready some tenths of a second later, and meanwhile the first frames wait."""
        descriptors = (self._ring.descriptor, self._ring.counters.descriptor, theirs.fileno())
        # A process dies with the thread that started it (PR_SET_PDEATHSIG), so only the main thread may ask for that.
        follow = threading.current_thread() is threading.main_thread()
        paths = [path or str(Path.cwd()) for path in sys.path]
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, json.dumps([*descriptors, self._owner, follow])],
            pass_fds=descriptors,
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
                self._wait(lambda: self._ring.waiting == 0)
                self._ring.grow(RING_FRAMES * frame_bytes)
                self._send({"do": "grow"})
            self._send({"do": "open", "video": video, "path": str(path), "format": dataclasses.asdict(video_format)})
            return video

    def write(self, video: int, frame: RgbFrame) -> None:
        """Append a frame, ``uint8[height, width, 3]``.

        Raises:
            EncoderError: If the file takes no more frames.
        """
        with self._lock:
            self._raise_if_dead()
            self._take_in()
            size = frame.nbytes
            if not self._has_room(video, size):
                self._wait(lambda: self._has_room(video, size))
            if video in self._errors:
                raise EncoderError(self._errors[video])
            self._in_flight[video] += 1
            self._ring.put(frame, video)
            if self._ring.counters.asleep:
                self._send({"do": "wake"})

    def _has_room(self, video: int, size: int) -> bool:
        """Whether a frame of so many bytes can be handed over now."""
        return self._in_flight[video] < FRAMES_IN_FLIGHT and self._ring.has_room(size)

    def close_video(self, video: int) -> None:
        """Complete a file.

        Raises:
            EncoderError: If the file is not complete.
        """
        with self._lock:
            try:
                self._send({"do": "close", "video": video})
                while video not in self._closed:
                    self._hear()
                error = self._errors.get(video) or self._closed[video]
            finally:
                self._closed.pop(video, None)
                self._errors.pop(video, None)
                self._in_flight.pop(video, None)
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

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until frames that were read make a condition true."""
        given_up, looked = time.monotonic() + ANSWER_S, 0
        while True:
            self._take_in()
            if condition():
                return
            time.sleep(NAP_S)
            looked += 1
            if looked % 100 == 0 and self._program.poll() is not None:
                self._bury(None)
            if time.monotonic() > given_up:
                self._bury(TimeoutError(f"it did not answer for {ANSWER_S:.0f} s"))

    def _take_in(self) -> None:
        """Note which frames were read since the last call, and what failed."""
        for video in self._ring.free():
            if video in self._in_flight:
                self._in_flight[video] -= 1
        while self._heard < self._ring.counters.complaints:
            self._hear()

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message, to be carried out after the frames that were posted before it."""
        self._raise_if_dead()
        try:
            self._socket.send(json.dumps({"after": self._ring.counters.posted, **message}).encode())
        except OSError as error:
            self._bury(error)

    def _hear(self) -> None:
        """Wait for the next answer and take it in: an error of a frame or an opening, or the end of a file."""
        self._raise_if_dead()
        try:
            answer = self._socket.recv(MESSAGE_BYTES)
        except BlockingIOError:
            self._bury(TimeoutError(f"it did not answer for {ANSWER_S:.0f} s"))
        except OSError as error:
            self._bury(error)
        if not answer:
            self._bury(None)
        told = json.loads(answer)
        if told["done"] == "close":
            self._closed[told["video"]] = told["error"]
        else:
            self._heard += 1
            self._errors.setdefault(told["video"], told["error"])

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
