"""The process that encodes: takes messages until its parent lets go of the socket. Started by `encoder_process`.

A message is a JSON object: ``{"do": "open", "video", "path", "format"}``, ``{"do": "frame", "video", "at"}``,
``{"do": "close", "video"}``, ``{"do": "grow"}``. A frame and a close are answered, in order, with
``{"done": "frame" | "close", "video", "error"}``; an open only if it failed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arena_ray.video.encoder import Encoder, VideoFormat

COMMAND = "from arena_ray.video.encoder_process_main import main; main()"

#: Longest message: a path has at most 4,096 bytes.
MESSAGE_BYTES = 65_536

#: How often to look whether the parent still lives; its own children may hold the socket open.
PARENT_POLL_S = 0.5

_PR_SET_PDEATHSIG = 1


class EncodingLoop:
    """Carries messages out.

    Args:
        memory: Descriptor of the ring of frames.
        channel: The socket.
    """

    def __init__(self, memory: int, channel: socket.socket) -> None:
        self._descriptor = memory
        self._memory = mmap.mmap(memory, 0)
        self._socket = channel
        self._videos: dict[int, tuple[Encoder, tuple[int, int, int]]] = {}

    def carry_out(self, message: dict[str, Any]) -> None:
        """Carry out one message and answer it."""
        do, video = message["do"], message.get("video")
        if do == "grow":
            self._memory = mmap.mmap(self._descriptor, 0)
            return
        error = None
        try:
            getattr(self, f"_{do}")(**{key: value for key, value in message.items() if key != "do"})
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        if do != "open" or error is not None:
            self._socket.send(json.dumps({"done": do, "video": video, "error": error}).encode())

    def _open(self, video: int, path: str, format: dict[str, Any]) -> None:
        from arena_ray.video.pyav_encoder import PyAvEncoder

        video_format = VideoFormat(**format)
        shape = (video_format.height, video_format.width, 3)
        self._videos[video] = (PyAvEncoder(Path(path), video_format), shape)

    def _frame(self, video: int, at: int) -> None:
        if video not in self._videos:
            return  # It could not be opened, or failed; that has been said.
        encoder, shape = self._videos[video]
        try:
            encoder.write(np.ndarray(shape, np.uint8, self._memory, at))
        except Exception:
            del self._videos[video]
            try:
                encoder.close()
            finally:
                raise

    def _close(self, video: int) -> None:
        if video in self._videos:
            self._videos.pop(video)[0].close()

    def close_all(self) -> None:
        """Close what is open: the parent is gone, and what it wrote can be played."""
        for video in list(self._videos):
            try:
                self._close(video)
            except Exception as error:
                print(f"a video could not be completed: {error}", file=sys.stderr)  # noqa: T201


def messages(channel: socket.socket, parent: int) -> Iterator[dict[str, Any]]:
    """Yield messages until the parent is gone."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        if poll.poll(PARENT_POLL_S * 1000):
            message = channel.recv(MESSAGE_BYTES)
            if not message:
                return
            yield json.loads(message)
        elif os.getppid() != parent:
            return


def format_to_json(video_format: VideoFormat) -> dict[str, Any]:
    """Return the keyword arguments of a `VideoFormat`."""
    return dataclasses.asdict(video_format)


def main() -> None:
    """Run until the parent is gone. Ctrl-C and SIGTERM are for the parent."""
    arguments = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments["follow"] and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from arena_ray.video import pyav_encoder

    pyav_encoder.probe()
    with socket.socket(fileno=arguments["socket"]) as channel:
        loop = EncodingLoop(arguments["memory"], channel)
        try:
            for message in messages(channel, arguments["parent"]):
                loop.carry_out(message)
        except OSError:
            pass  # The parent died in the middle of an exchange.
        loop.close_all()
    # Nothing is left to do, and taking an interpreter with these libraries down costs 50 ms.
    os._exit(0)
