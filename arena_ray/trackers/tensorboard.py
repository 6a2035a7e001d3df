"""TensorBoard: event files in the run directory, written with the `tensorboard` package itself.

It brings the file format (`RecordWriter`, the protocol buffers) without torch and TensorFlow, and is what people look
at the files with. `torch.utils.tensorboard` is a wrapper of it that needs torch; `tensorboardX` imports torch where it
is installed (2.6.5: 1.9 s against 0.2 s).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from arena_ray.trackers.base import FailureVideo, FinalResult, Point, TrackedRun, TrackerRun, required

if TYPE_CHECKING:
    from typing import BinaryIO

#: Folder of the event files in the run directory; no job can have that name (`specs.RESERVED_JOB_NAMES`).
FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes one event file per driver. A resumed run adds a file to the folder, which TensorBoard reads as one run.

    Curves are ``JOB/METRIC`` over the number of episodes done; videos are animated images, because TensorBoard plays no
    MP4; configuration and result are texts.

    Raises:
        ConfigError: If the library is missing.
    """

    def __init__(self) -> None:
        required("tensorboard", "tensorboard.summary.writer.record_writer", "tensorboard.plugins.text.summary_v2")
        self._file: BinaryIO | None = None
        self._records: Any = None

    def start(self, run: TrackedRun) -> TrackerRun:
        """Open a file, and write the configuration."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run.run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        self._text("config", "\n".join(f"    {line}" for line in json.dumps(run.config, indent=2).splitlines()))
        self._records.flush()
        return TrackerRun(id=FOLDER, where=str(folder))

    def log(self, points: Sequence[Point]) -> None:
        """Write a scalar for each value."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            values = [
                Summary.Value(tag=f"{point.job}/{name}", simple_value=value) for name, value in point.values.items()
            ]
            self._add(step=point.step, wall_time=point.time_s, summary=Summary(value=values))
        self._records.flush()

    def log_video(self, video: FailureVideo) -> None:
        """Write a small animated image."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        from arena_ray.video.preview import animated_gif

        gif, width, height = animated_gif(video.path, video.frames, video.fps)
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        tag = f"{video.job}/failures/{video.view}"
        self._add(step=video.step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))
        self._text(f"{video.job}/failures", f"{video.title}: `{video.path}`", step=video.step)
        self._records.flush()

    def finish(self, final: FinalResult) -> None:
        """Write the table, and the metrics with their intervals, and close the file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._text("result", "\n".join(f"    {line}" for line in final.table.splitlines()))
        values = [
            Summary.Value(tag=f"{job}/final/{name}", simple_value=value)
            for job, figures in final.figures.items()
            for name, value in figures.items()
        ]
        self._add(summary=Summary(value=values))
        self._records.close()

    def _text(self, tag: str, markdown: str, step: int = 0) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step=step, summary=text_pb(tag, markdown))

    def _add(self, step: int = 0, wall_time: float | None = None, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        now = time.time() if wall_time is None else wall_time
        self._records.write(Event(wall_time=now, step=step, **content).SerializeToString())
