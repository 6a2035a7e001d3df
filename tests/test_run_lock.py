from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from arena_ray.run_lock import RunLock


def test_it_is_held_once(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "file")
    assert lock.problem is None
    with pytest.raises(BlockingIOError):
        RunLock(tmp_path / "file")
    lock.release()
    lock.release()
    RunLock(tmp_path / "file").release()
    assert (tmp_path / "file").read_bytes() == b""


def test_an_executed_program_does_not_inherit_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "file")
    program = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        RunLock(tmp_path / "file").release()
    finally:
        program.kill()
        program.wait(10)


def test_a_forked_process_does_not_inherit_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "file")
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begin, b"!")
        signal.pause()
    try:
        os.read(begun, 1)
        with pytest.raises(BlockingIOError):  # What the child closed is still this process's.
            RunLock(tmp_path / "file")
        lock.release()
        RunLock(tmp_path / "file").release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(begin)
