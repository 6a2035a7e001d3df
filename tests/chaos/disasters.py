"""An environment to which things really happen."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.worlds import Walk


class Disaster(Walk):
    """A walk in which, in some episodes, a deed is done at a step; each of these once, and never again.

    Args:
        deed: A key of `DEEDS`.
        marker: Folder in which the deeds that were done are noted, for all processes.
        episodes: Seeds of the episodes in which it is done.
        step: At which step.
        always: Do it in every attempt.
    """

    def __init__(
        self,
        deed: str,
        marker: str,
        episodes: Sequence[int] = (),
        step: int = 1,
        always: bool = False,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(render_mode, poison=episodes, poison_step=step, **kwargs)
        self._what, self._folder, self._always = deed, marker, always
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._seed = seed
        return super().reset(seed=seed, options=options)

    def _do_deed(self) -> None:
        path = Path(self._folder) / f"{self._what}-{self._seed}"
        try:
            path.touch(exist_ok=self._always)
        except FileExistsError:
            return
        with (Path(self._folder) / "done").open("a") as log:
            log.write(f"{self._what} {self._seed} {os.getpid()}\n")
        DEEDS[self._what]()


def raise_exception() -> None:
    raise RuntimeError("a disaster")


def segfault() -> None:
    """Read address 0, in C; faulthandler of Ray's worker would only print."""
    ctypes.string_at(0)


def loop_for_ever() -> None:
    while True:
        pass


def hold_the_gil() -> None:
    """Sleep in C without giving the interpreter's lock back."""
    ctypes.PyDLL(None).sleep(100_000)


def fork_bomb() -> None:
    """Start a family in which every member has left its parents and starts two others, up to some dozens, then die."""
    program = (
        "import os, sys, time\n"
        "depth = int(sys.argv[1])\n"
        "while True:\n"
        "    for _ in range(2):\n"
        "        if depth < 4 and os.fork() == 0:\n"
        "            os.setsid()\n"
        "            depth += 1\n"
        "            break\n"
        "    else:\n"
        "        time.sleep(1000)\n"
    )
    subprocess.Popen([sys.executable, "-c", program, "0"], start_new_session=True)
    time.sleep(0.2)
    os._exit(9)


def grow() -> None:
    """Take memory until there is none; the limit is the process's own, so that the machine stays well."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, used + 200_000_000))
    taken = []
    try:
        while True:
            taken.append(bytearray(b"x") * 10_000_000)
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)  # As the kernel does to a process over its limit.


def hang_with_busy_children() -> None:
    """Start a child that is busy, one that is stopped, one in a session of its own, and hang."""
    busy = [sys.executable, "-c", "while True: pass"]
    subprocess.Popen(busy)
    os.kill(subprocess.Popen(busy).pid, signal.SIGSTOP)
    subprocess.Popen(busy, start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        loop_for_ever()
    time.sleep(100_000)


DEEDS: dict[str, Callable[[], None]] = {
    "exception": raise_exception,
    "segfault": segfault,
    "exit": lambda: os._exit(3),
    "loop": loop_for_ever,
    "gil": hold_the_gil,
    "fork-bomb": fork_bomb,
    "memory": grow,
    "busy-children": hang_with_busy_children,
}
