"""The process that encodes, until its parent lets go of the socket. Started by `encoder_process`.

Frames come through a `FrameRing`. A message is a JSON object, to be carried out after so many frames:
``{"after", "do": "open", "video", "path", "format"}``, ``{"after", "do": "close", "video"}``,
``{"after", "do": "grow"}`` and ``{"after", "do": "wake"}``. A close is answered with
``{"done": "close", "video", "error"}``; what fails before is told with the same keys and ``"open"`` or ``"frame"``.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from arena_ray.video.encoder import Encoder, VideoFormat
from arena_ray.video.frame_ring import Counters

COMMAND = "from arena_ray.video.encoder_process_main import main; main()"

#: Longest message: a path has at most 4,096 bytes.
MESSAGE_BYTES = 65_536

#: Between two frames it looks again so often, and so many times, before it lets itself be woken: being woken costs the
#: parent a system call.
NAP_MS, NAPS = 1, 20

#: How often to look whether the parent still lives; its own children may hold the socket open.
PARENT_POLL_MS = 500

_PR_SET_PDEATHSIG = 1


class EncodingLoop:
    """Reads frames and carries messages out.

    Args:
        memory: Descriptor of the pixels.
        counters: The counters of the ring.
        channel: The socket.
        parent: Process id of the parent.
    """

    def __init__(self, memory: int, counters: Counters, channel: socket.socket, parent: int) -> None:
        self._descriptor = memory
        self._memory = mmap.mmap(memory, 0)
        self._counters = counters
        self._socket = channel
        self._parent = parent
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._messages: deque[dict[str, Any]] = deque()
        self._videos: dict[int, tuple[Encoder, tuple[int, int, int]]] = {}

    def run(self) -> None:
        """Run until the parent is gone, then close what is open: what it wrote can be played."""
        try:
            while self._receive():
                self._work()
            self._work()
        except OSError:
            pass  # The parent died in the middle of an exchange.
        for encoder, _ in self._videos.values():
            try:
                encoder.close()
            except Exception as error:
                print(f"a video could not be completed: {error}", file=sys.stderr)  # noqa: T201

    def _receive(self) -> bool:
        """Wait for messages or frames; return whether the parent lives."""
        for _ in range(NAPS):
            if self._counters.posted > self._counters.finished or self._poll.poll(NAP_MS):
                return self._read_messages(0)
        self._counters.asleep = True
        lives = True
        if self._counters.posted == self._counters.finished:
            lives = self._read_messages(PARENT_POLL_MS) and os.getppid() == self._parent
        self._counters.asleep = False
        return lives

    def _read_messages(self, timeout_ms: int) -> bool:
        """Read the messages that are there; return False at their end."""
        while self._poll.poll(timeout_ms):
            message = self._socket.recv(MESSAGE_BYTES)
            if not message:
                return False
            self._messages.append(json.loads(message))
            timeout_ms = 0
        return True

    def _work(self) -> None:
        """Carry out messages and encode frames, in the order in which they were sent."""
        while True:
            has_frame = self._counters.finished < self._counters.posted
            self._read_messages(0)  # Now at the latest: the one that opens the video of this frame came before it.
            while self._messages and self._messages[0]["after"] <= self._counters.finished:
                self._carry_out(self._messages.popleft())
            if not has_frame:
                return
            self._encode(*self._counters.next_frame())
            self._counters.finish()

    def _encode(self, video: int, offset: int) -> None:
        if video not in self._videos:
            return  # It could not be opened, or failed; that has been said.
        encoder, shape = self._videos[video]
        try:
            encoder.write(np.ndarray(shape, np.uint8, self._memory, offset))
        except Exception as error:
            self._complain("frame", video, error)
            del self._videos[video]
            try:
                encoder.close()
            except Exception:
                return  # The first error says more.

    def _carry_out(self, message: dict[str, Any]) -> None:
        do = message["do"]
        if do == "grow":
            self._memory = mmap.mmap(self._descriptor, 0)
        elif do == "open":
            self._open(message["video"], message["path"], VideoFormat(**message["format"]))
        elif do == "close":
            self._close(message["video"])

    def _open(self, video: int, path: str, video_format: VideoFormat) -> None:
        from arena_ray.video.pyav_encoder import PyAvEncoder

        try:
            encoder = PyAvEncoder(Path(path), video_format, batch=1)  # Its core has nothing else to do.
        except Exception as error:
            self._complain("open", video, error)
            return
        self._videos[video] = (encoder, (video_format.height, video_format.width, 3))

    def _close(self, video: int) -> None:
        error = None
        try:
            if video in self._videos:
                self._videos.pop(video)[0].close()
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        self._answer({"done": "close", "video": video, "error": error})

    def _complain(self, done: str, video: int, error: Exception) -> None:
        self._answer({"done": done, "video": video, "error": f"{type(error).__name__}: {error}"})
        self._counters.complain()

    def _answer(self, answer: dict[str, Any]) -> None:
        self._socket.send(json.dumps(answer).encode())


def main() -> None:
    """Run until the parent is gone. Ctrl-C and SIGTERM are for the parent."""
    memory, counters, channel, parent, follow = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if follow and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from arena_ray.video import pyav_encoder

    pyav_encoder.probe()
    with socket.socket(fileno=channel) as opened:
        EncodingLoop(memory, Counters(counters), opened, parent).run()
    # Nothing is left to do, and taking an interpreter with these libraries down costs 50 ms.
    os._exit(0)
