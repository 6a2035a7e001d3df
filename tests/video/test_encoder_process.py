from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from arena_ray.specs import VideoRecordingCfg
from arena_ray.video import encoder_process, video_recorders, wrap_env_for_video
from arena_ray.video.encoder import Encoder, EncoderBackend, EncoderError, VideoFormat, open_exactly
from arena_ray.video.encoder_process import EncoderProcess, EncoderProcessError
from arena_ray.video.pyav_encoder import PyAvEncoder
from arena_ray.video.remux import count_frames
from tests.video.envs import StepEnv, gray, names, run_episode, steps_shown

ROOT = Path(encoder_process.__file__).parents[2]
FORMAT = VideoFormat(width=32, height=32, fps=20.0)


@pytest.fixture
def backend() -> Iterator[EncoderBackend]:
    opened = open_exactly("process")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _nobody_else_uses_the_process() -> None:
    """Recorders that earlier tests left unclosed, in a cycle with their environment, hold it until collected."""
    gc.collect()


@pytest.fixture(autouse=True)
def _no_frame_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_process, "SMALLEST_FRAME", 0)


def the_process() -> EncoderProcess:
    shared = EncoderProcess._shared
    assert shared is not None
    return shared


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def children() -> set[int]:
    """Return the processes whose parent this one is, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def test_one_process_serves_all_and_ends_with_its_last_user() -> None:
    before = children()
    backends = [open_exactly("process") for _ in range(3)]
    (pid,) = children() - before
    assert the_process().pid == pid
    for backend in backends[:2]:
        backend.close()
        backend.close()
    assert is_alive(pid)
    backends[2].close()
    assert children() == before


def test_a_backend_that_nobody_closes_ends_its_process_when_it_is_collected() -> None:
    before = children()
    backend = open_exactly("process")
    assert children() != before
    del backend
    gc.collect()
    assert children() == before


def test_tiny_frames_are_encoded_here(tmp_path: Path, backend: EncoderBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_process, "SMALLEST_FRAME", 64 * 64)
    assert isinstance(backend.open(tmp_path / "a.mp4", VideoFormat(width=64, height=63, fps=20.0)), PyAvEncoder)
    assert not isinstance(backend.open(tmp_path / "b.mp4", VideoFormat(width=64, height=64, fps=20.0)), PyAvEncoder)


def test_many_videos_at_once(tmp_path: Path, backend: EncoderBackend) -> None:
    encoders = [backend.open(tmp_path / f"{number}.mp4", FORMAT) for number in range(150)]
    for step in range(6):
        for encoder in encoders:
            encoder.write(gray(step))
    for encoder in encoders:
        encoder.close()
    assert {count_frames(path) for path in tmp_path.iterdir()} == {6}
    assert steps_shown(tmp_path / "149.mp4") == list(range(6))


def test_the_memory_has_no_name_so_its_size_is_its_own(tmp_path: Path, backend: EncoderBackend) -> None:
    target = os.readlink(f"/proc/self/fd/{the_process()._ring.descriptor}")
    assert target.startswith("/memfd:arena_ray-frames")


def test_frames_larger_than_the_memory_make_it_grow(tmp_path: Path, backend: EncoderBackend) -> None:
    small = backend.open(tmp_path / "small.mp4", FORMAT)
    small.write(gray(0))
    height, width = 2400, 1900  # 13.7 MB a frame; the ring has 12 MiB
    large = backend.open(tmp_path / "large.mp4", VideoFormat(width=width, height=height, fps=20.0))
    for step in range(1, 4):
        small.write(gray(step))
        large.write(gray(step, height, width))
    small.close()
    large.close()
    assert steps_shown(tmp_path / "small.mp4") == [0, 1, 2, 3]
    assert steps_shown(tmp_path / "large.mp4") == [1, 2, 3]


def test_frames_of_many_sizes_keep_their_order_around_the_ring(tmp_path: Path, backend: EncoderBackend) -> None:
    sizes = [(64, 48), (640, 480), (33, 21), (1280, 720)]
    formats = [VideoFormat(width=width, height=height, fps=20.0) for width, height in sizes]
    encoders = [backend.open(tmp_path / f"{width}.mp4", one) for (width, _), one in zip(sizes, formats, strict=True)]
    for step in range(12):
        for encoder, (width, height) in zip(encoders, sizes, strict=True):
            encoder.write(gray(step, height, width))
    for encoder in encoders:
        encoder.close()
    for width, _ in sizes:
        assert steps_shown(tmp_path / f"{width}.mp4") == list(range(12))


def test_a_folder_that_is_missing_is_said_at_once(tmp_path: Path, backend: EncoderBackend) -> None:
    with pytest.raises(FileNotFoundError):
        backend.open(tmp_path / "missing" / "a.mp4", FORMAT)


def write_noise(encoder: Encoder, frames: int) -> None:
    noise = np.random.default_rng(0)
    for _ in range(frames):
        encoder.write(noise.integers(0, 255, (64, 64, 3)).astype(np.uint8))


def test_an_error_over_there_is_raised_here(tmp_path: Path, backend: EncoderBackend) -> None:
    resource.prlimit(the_process().pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    bad = backend.open(tmp_path / "bad.mp4", VideoFormat(width=64, height=64, fps=20.0))
    good = backend.open(tmp_path / "good.mp4", FORMAT)
    with pytest.raises(EncoderError, match="File too large"):
        write_noise(bad, 200)
    with pytest.raises(EncoderError, match="File too large"):
        bad.close()
    write_steps(good, 5)
    good.close()
    assert steps_shown(tmp_path / "good.mp4") == list(range(5))


def write_steps(encoder: Encoder, steps: int) -> None:
    for step in range(steps):
        encoder.write(gray(step))


def recorded(folder: Path, length: int, **settings: Any) -> Any:
    cfg = VideoRecordingCfg(
        record_camera_video=True, video_base_dir=str(folder), encoder="process", cameras=("front",), **settings
    )
    return wrap_env_for_video(StepEnv(length=length), cfg, num_episodes=3)


def test_when_the_process_is_killed_the_run_goes_on_inline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = children()
    env = recorded(tmp_path, length=12)
    env.reset()
    for step in range(12):
        if step == 8:
            os.kill(the_process().pid, signal.SIGKILL)
            assert wait_until(lambda: not is_alive(the_process().pid))
        env.step(0)
    run_episode(env)
    (recorder,) = video_recorders(env)
    broken, whole = recorder.take_videos(0)
    assert (broken.partial, "the process that encodes is gone (exit status -9" in str(broken.error)) == (True, True)
    assert steps_shown(broken.path) == list(range(broken.frames))
    assert (whole.partial, whole.error, steps_shown(whole.path)) == (False, None, list(range(13)))
    assert caplog.text.count("from now on videos are encoded in the process that steps") == 1
    env.close()
    assert children() == before
    assert len(names(tmp_path)) == 2


def test_a_process_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_process, "ANSWER_S", 2.0)
    backend = open_exactly("process")
    encoder = backend.open(tmp_path / "a.mp4", FORMAT)
    encoder.write(gray(0))
    process = the_process()
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(EncoderProcessError, match="the process that encodes is gone"):
        write_steps(encoder, 10)
    assert not is_alive(process.pid)
    with pytest.raises(EncoderProcessError):
        encoder.close()
    again = backend.open(tmp_path / "b.mp4", FORMAT)
    again.write(gray(0))
    again.close()
    backend.close()
    assert steps_shown(tmp_path / "b.mp4") == [0]


def test_a_process_that_died_is_replaced_for_the_next_recorder() -> None:
    first, died = open_exactly("process"), the_process()
    os.kill(died.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(died.pid))
    with pytest.raises(EncoderProcessError, match="exit status -9"):
        died.close_video(1)
    second, other = open_exactly("process"), the_process()
    assert (other is not died, is_alive(other.pid)) == (True, True)
    first.close()
    assert is_alive(other.pid)
    second.close()
    assert (EncoderProcess._shared, is_alive(other.pid)) == (None, False)


def test_a_thread_that_ends_does_not_take_the_process_along(tmp_path: Path) -> None:
    opened: list[EncoderBackend] = []
    thread = threading.Thread(target=lambda: opened.append(open_exactly("process")))
    thread.start()
    thread.join()
    encoder = opened[0].open(tmp_path / "a.mp4", FORMAT)
    for step in range(5):
        encoder.write(gray(step))
        time.sleep(0.05)
    encoder.close()
    opened[0].close()
    assert steps_shown(tmp_path / "a.mp4") == list(range(5))


def run_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python code in a session of its own; it prints one line when it is ready."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def playable_frames(path: Path) -> int:
    """Count frames as a player does, up to a torn last one."""
    frames = 0
    with av.open(str(path)) as container, contextlib.suppress(av.error.InvalidDataError):
        for _ in container.decode(video=0):
            frames += 1
    return frames


WRITER = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from arena_ray.video.encoder import VideoFormat, open_exactly
from arena_ray.video.encoder_process import EncoderProcess
noise = np.random.default_rng(0)
backend = open_exactly(sys.argv[2])
encoder = backend.open(Path(sys.argv[1], "a.mp4"), VideoFormat(width=256, height=256, fps=float(sys.argv[3])))
for _ in range(137):
    encoder.write(noise.integers(0, 255, (32, 32, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1))
shared = EncoderProcess._shared
print(shared.pid if shared else 0, flush=True)
"""


@pytest.mark.parametrize("fps", ["25", "60"])
@pytest.mark.parametrize("encoder", ["inline", "process"])
def test_the_whole_group_is_killed_and_at_least_130_of_137_frames_are_there(
    tmp_path: Path, encoder: str, fps: str
) -> None:
    with run_child(WRITER + "time.sleep(60)", str(tmp_path), encoder, fps) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        os.killpg(child.pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid))
    assert 130 <= playable_frames(tmp_path / "a.mp4") <= 137


FORKED = {
    "alone": "",
    "with an idle child": "os.fork() or time.sleep(60)\n",
    "with a busy child": "if not os.fork():\n    while True: pass\n",
}


@pytest.mark.parametrize("name", FORKED)
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_no_orphan_when_the_parent_is_killed(tmp_path: Path, name: str, state: str) -> None:
    code = WRITER.replace("print(", FORKED[name] + "print(")
    with run_child(code + "time.sleep(60)", str(tmp_path), "process", "30") as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert is_alive(pid)
        if state == "stopped":
            os.kill(pid, signal.SIGSTOP)
        os.kill(child.pid, signal.SIGKILL)
        try:
            assert wait_until(lambda: not is_alive(pid), 5.0)
        finally:
            os.killpg(child.pid, signal.SIGKILL)
    assert playable_frames(tmp_path / "a.mp4") >= 130


def test_no_orphan_when_another_thread_started_it_and_a_child_holds_the_socket(tmp_path: Path) -> None:
    code = WRITER.replace(
        "backend = open_exactly(sys.argv[2])",
        "import threading\nheld = []\n"
        "thread = threading.Thread(target=lambda: held.append(open_exactly(sys.argv[2])))\n"
        "thread.start(); thread.join(); backend = held[0]\n",
    ).replace("print(", FORKED["with a busy child"] + "print(")
    with run_child(code + "time.sleep(60)", str(tmp_path), "process", "30") as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        try:
            assert wait_until(lambda: not is_alive(pid), 5.0)
        finally:
            os.killpg(child.pid, signal.SIGKILL)
    assert count_frames(tmp_path / "a.mp4") == 137  # It had the time to complete the file.


def test_ctrl_c_for_the_group_leaves_the_process_to_its_parent(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WRITER
    with run_child(
        code + "sys.stdin = open(sys.argv[4])\nsys.stdin.read()\n"
        "encoder.write(np.zeros((256, 256, 3), np.uint8))\nencoder.close(); backend.close()",
        str(tmp_path),
        "process",
        "30",
        fifo(tmp_path),
    ) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        (tmp_path / "fifo").write_text("go on")
    assert child.returncode == 0
    assert count_frames(tmp_path / "a.mp4") == 138


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return str(folder / "fifo")


def test_a_forked_child_cannot_disturb_the_parents_videos(tmp_path: Path, backend: EncoderBackend) -> None:
    encoder = backend.open(tmp_path / "a.mp4", FORMAT)
    encoder.write(gray(0))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            encoder.write(gray(9))
        except EncoderProcessError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    encoder.write(gray(1))
    encoder.close()
    assert steps_shown(tmp_path / "a.mp4") == [0, 1]


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["inline", "process"])
def test_three_hundred_videos_leave_memory_files_and_processes_where_they_were(tmp_path: Path, name: str) -> None:
    processes = children()
    backend = open_exactly(name)

    def write_videos(number: int) -> None:
        for _ in range(number):
            encoder = backend.open(tmp_path / "a.mp4", VideoFormat(width=320, height=240, fps=30.0))
            for step in range(5):
                encoder.write(gray(step, 240, 320))
            encoder.close()

    write_videos(30)
    pids = [os.getpid(), *(children() - processes)]
    before = [(resident_kib(pid), len(os.listdir(f"/proc/{pid}/fd"))) for pid in pids]
    write_videos(300)
    after = [(resident_kib(pid), len(os.listdir(f"/proc/{pid}/fd"))) for pid in pids]
    backend.close()
    assert children() == processes
    for (memory_before, files_before), (memory, files) in zip(before, after, strict=True):
        assert files == files_before
        assert memory - memory_before < 4 * 1024  # 300 leaked encoders would hold a hundred times as much


@pytest.mark.heavy
def test_three_hundred_recorders_leave_files_and_processes_where_they_were(tmp_path: Path) -> None:
    def count() -> tuple[int, set[int]]:
        return len(os.listdir("/proc/self/fd")), children()

    before = count()
    keep = open_exactly("process")  # So that the process is not started three hundred times.
    for _ in range(300):
        run_episode(env := recorded(tmp_path, length=1))
        env.close()
    keep.close()
    assert count() == before
