"""Everything that a process started, to the last descendant: found by a mark, ended, guarded against its death. Linux.

A *mark* is a word such as ``arena-ray-5f0c.9a1e``. What stands before a dot is the mark above it: whoever ends that,
ends this too. A process that marks itself hands the mark down in two ways, which neither ``setsid``, a double fork
nor the death of its parents takes away: what it executes has it in the environment (``/proc/PID/environ``), what it
forks has it as the name of an open descriptor (``/proc/PID/fd``).

Known limits. Not found is a process

* that was started before the mark was set: mark first, start afterwards;
* that was executed with an environment without the variable (``env -i``) or wrote over it there (to show a title);
* that was forked, not executed, and closed every descriptor (a daemon that closes "all" of them), unless the process
  that it was forked from had been executed with the mark;
* whose memory is closed to others of its user (``PR_SET_DUMPABLE``), that changed its user, or that runs on another
  machine: from outside of a container those inside are found, not the other way round.

A process marked anew is found by the new mark, and still by the one that it was executed with.

This file is also a program, the guardian (see `start_guardian`), and therefore imports little.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator

#: The variable that holds the mark for what is executed.
MARK_VARIABLE = "ARENA_RAY_PROCESS_MARK"

#: Longest mark, in bytes: what `os.memfd_create` takes as a name.
MARK_BYTES = 249

#: What number the descriptor with the mark may have: so high that nothing else has it, and so few that looking at every
#: process takes a few milliseconds, not some tens as listing what all of them have open.
DESCRIPTORS = range(500, 502)

#: How long a guardian tries to end what is left, seconds; then it ends itself.
GUARDIAN_ENDING_S = 30.0

#: How long a guardian may take to start, seconds.
GUARDIAN_START_S = 60.0

#: How often a guardian looks whether the guarded process has begun to end, milliseconds. The end itself wakes it.
GUARDIAN_LOOK_MS = 500

#: Two looks at the processes are this far apart, seconds: at first, and at most.
FIRST_NAP_S, LONGEST_NAP_S = 0.01, 0.2

#: In the middle of `exec` a process has no environment: how often to look again, and how long after, seconds.
EXEC_LOOKS, EXEC_NAP_S = 4, 0.0002

#: How often at most to look again for what was started while looking.
MOST_ROUNDS = 100

#: A flag of a thread that has begun to end (``include/linux/sched.h``).
_PF_EXITING = 0x4

#: The descriptor that hands the mark down to forks, and its name in ``/proc``.
_held: tuple[int, str] | None = None

#: Process id, and when the process started, in clock ticks since the machine did: ids are used again, pairs are not.
_Process = tuple[int, int]


def new_mark(parent: str | None = None) -> str:
    """Return a mark that nothing else has.

    Args:
        parent: The mark that it stands under; None for one that stands alone.

    Raises:
        ValueError: If the parent is not a mark or the new one would be too long.
    """
    if parent is None:
        return f"arena-ray-{os.urandom(8).hex()}"
    return _valid(f"{_valid(parent)}.{os.urandom(4).hex()}")


def mark_this_process(mark: str) -> None:
    """Mark this process and everything that it starts from now on, in place of an earlier mark.

    Raises:
        OSError: If none of the `DESCRIPTORS` can be opened.
        ValueError: If that is not a mark.
    """
    global _held
    before, _held = _held, _hold(_valid(mark))
    os.environ[MARK_VARIABLE] = mark
    if before is not None:
        _close_if_still(*before)


def marked_processes(mark: str) -> list[int]:
    """Return the processes of this user on this machine that carry a mark, or one under it; without zombies.

    A process that has begun to end carries no mark any more; `end_marked` waits for such processes too.

    Raises:
        ValueError: If that is not a mark.
    """
    return sorted(_carriers(_valid(mark)))


def end_marked(mark: str, timeout_s: float, spare: Collection[int] = ()) -> list[int]:
    """End every process that carries a mark, or one under it, except this process; return what is left.

    All are stopped before the first is killed, so that none can start others meanwhile. Then it waits until their
    last thread is gone, and with it what they held of a GPU. A process that has begun to end shows no mark any more:
    therefore all of this user's processes that are ending at that moment are waited for, marked or not.

    Args:
        mark: The mark.
        timeout_s: How long to wait for the end, seconds; 0 kills and looks once.
        spare: Ids of further processes to leave alone.

    Returns:
        Ids of the processes that were there at the last look, for example because they sleep in a device driver;
        among them may be unmarked ones, of those that were ending. Empty if two looks found none.

    Raises:
        ValueError: If that is not a mark.
    """
    _valid(mark)
    give_up, nap_s = time.monotonic() + timeout_s, FIRST_NAP_S
    spared = {os.getpid(), *spare}
    awaited: set[_Process] = set()
    quiet = False
    while True:
        found = _stop_all(mark, spared)
        for pid, _ in found:
            _send(signal.SIGKILL, pid, functools.partial(_carries, mark=mark))
        if not found and not quiet:
            awaited |= _ending_processes(spared)
        awaited = {process for process in awaited | found if _lives(process)}
        # One look alone could have come in the middle of an `exec` that takes long.
        if quiet and not found and not awaited:
            return []
        if time.monotonic() >= give_up and (awaited or found):
            return sorted(pid for pid, _ in awaited | found)
        quiet = not found
        time.sleep(nap_s)
        nap_s = min(2 * nap_s, LONGEST_NAP_S)


def start_guardian(mark: str, watch_parent: bool = True) -> int:
    """Start a process that ends everything marked as soon as this process is dead; return its id when it watches.

    It is no child of this process: Ray kills the children of a worker that it ends (2.60), and so do others. It is in
    a session of its own, ignores SIGINT, SIGTERM and SIGHUP, carries no mark, keeps nothing of this process open, and
    ends at the latest `GUARDIAN_ENDING_S` after it. If this process dumps its memory as it dies, that is waited for.

    Args:
        mark: The mark of what is to end; usually that of this process.
        watch_parent: Whether the death of this process's parent kills this process. A parent that cannot be seen,
            outside of a container or hidden in ``/proc``, is not watched.

    Raises:
        RuntimeError: If it does not start.
        OSError: If Python cannot be executed.
        subprocess.TimeoutExpired: If it did not start within `GUARDIAN_START_S`.
        ValueError: If that is not a mark.
    """
    import subprocess

    watched = [(os.getpid(), _started(os.getpid()) or 0), *(_parent() if watch_parent else ())]
    numbers = [str(number) for process in watched for number in process]
    started = subprocess.run(
        [sys.executable, "-I", "-S", os.path.abspath(__file__), _valid(mark), *numbers],
        env={name: value for name, value in os.environ.items() if name != MARK_VARIABLE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
        start_new_session=True,
        timeout=GUARDIAN_START_S,
        check=False,
    )
    if not started.stdout.strip().isdigit():
        raise RuntimeError(
            f"the guardian of process {os.getpid()} did not start (exit status {started.returncode}): "
            f"{started.stderr.decode(errors='replace').strip() or 'it said nothing'}. Without it, what this process "
            f"starts could outlive it. Try by hand: {sys.executable} -I -S -c 'import select'"
        )
    return int(started.stdout)


def _valid(mark: str) -> str:
    if mark.isascii() and mark.replace("-", "").replace(".", "").isalnum() and len(mark) <= MARK_BYTES:
        return mark
    raise ValueError(
        f"{mark!r} is not a mark: it has {len(mark)} characters, but becomes the name of a descriptor, of 1 to "
        f"{MARK_BYTES} letters, digits, '-' and '.'; take one from new_mark()"
    )


def _hold(name: str) -> tuple[int, str]:
    """Open a descriptor with a name; return it and how ``/proc`` calls it."""
    import fcntl

    anywhere = os.memfd_create(name)
    try:
        descriptor = fcntl.fcntl(anywhere, fcntl.F_DUPFD_CLOEXEC, DESCRIPTORS.start)
    except OSError as error:
        raise OSError(
            f"descriptor {DESCRIPTORS.start} cannot be opened ({error}), but marks what this process forks: "
            f"allow it at least {DESCRIPTORS.stop} descriptors (ulimit -n)"
        ) from error
    finally:
        os.close(anywhere)
    if descriptor not in DESCRIPTORS:
        os.close(descriptor)
        raise OSError(
            f"descriptors {DESCRIPTORS.start} to {DESCRIPTORS.stop - 1} are in use, but one of them has to mark what "
            "this process forks: mark it before it opens so much"
        )
    return descriptor, os.readlink(f"/proc/self/fd/{descriptor}")


def _close_if_still(descriptor: int, name: str) -> None:
    """Close a descriptor, unless its number stands for something else by now, as in a fork that closed everything."""
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/self/fd/{descriptor}") == name:
            os.close(descriptor)


def _carriers(mark: str) -> Iterator[int]:
    """Yield the ids of the processes that carry a mark, until a listing has only processes that were looked at."""
    seen: set[int] = set()
    for _ in range(MOST_ROUNDS):
        fresh = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in seen]
        if not fresh:
            return
        seen.update(fresh)
        # The newest first: a process that forks and exits, over and over, is gone before a long list is read.
        for pid in sorted(fresh, reverse=True):
            if _carries(pid, mark):
                yield pid


def _carries(pid: int, mark: str) -> bool:
    """Return whether a process carries a mark or one under it, as far as this user can see."""
    folder = f"/proc/{pid}"
    try:
        if os.stat(folder).st_uid != os.geteuid():
            return False
        environment = _read_environment(folder)
        if not environment:
            # The first thread may have ended before the others; then only these show what the process has.
            others = (thread for thread in os.listdir(f"{folder}/task") if thread != str(pid))
            folder = f"{folder}/task/{next(others, pid)}"
            environment = _read_environment(folder)
        return _environment_shows(environment, mark) or _descriptors_show(folder, mark)
    except OSError:
        return False


def _read_environment(folder: str) -> bytes:
    """Return the environment of a process; nothing if it has none, as the kernel's own and those that are ending."""
    with contextlib.suppress(OSError):
        for _ in range(EXEC_LOOKS):
            os.readlink(f"{folder}/exe")  # Raises if it has no memory, and therefore no environment.
            with open(f"{folder}/environ", "rb", buffering=0) as file:
                environment = file.readall()
            if environment:
                return environment
            time.sleep(EXEC_NAP_S)
    return b""


def _environment_shows(environment: bytes, mark: str) -> bool:
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    if wanted not in environment:
        return False
    return any(entry == wanted or entry.startswith(wanted + b".") for entry in environment.split(b"\0"))


def _descriptors_show(folder: str, mark: str) -> bool:
    wanted = f"/memfd:{mark}"
    for descriptor in DESCRIPTORS:
        with contextlib.suppress(OSError):
            # "/memfd:MARK (deleted)"
            if os.readlink(f"{folder}/fd/{descriptor}").startswith((f"{wanted} ", f"{wanted}.")):
                return True
    return False


def _stop_all(mark: str, spared: Collection[int]) -> set[_Process]:
    """Stop the processes that carry a mark, until a look finds no further one; return them."""
    stopped: set[_Process] = set()
    for _ in range(MOST_ROUNDS):
        before = len(stopped)
        for pid in _carriers(mark):
            started = _started(pid)
            if pid in spared or started is None or (pid, started) in stopped:
                continue
            _send(signal.SIGSTOP, pid, functools.partial(_carries, mark=mark))
            stopped.add((pid, started))
        if len(stopped) == before:
            break
    return stopped


def _send(number: signal.Signals, pid: int, is_meant: Callable[[int], bool]) -> None:
    """Signal a process if it is the one that is meant, which is asked when its id cannot pass to another any more."""
    pidfd = _open_pidfd(pid)
    with contextlib.suppress(OSError):  # It is gone.
        if is_meant(pid):
            if pidfd is None:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(pidfd, number)
    if pidfd is not None:
        os.close(pidfd)


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that stands for a process; None if that is gone or the kernel (5.3) or a sandbox has none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _ending_processes(spared: Collection[int]) -> set[_Process]:
    """Return this user's processes that have begun to end."""
    ending = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            started = _started(pid) if os.stat(f"/proc/{pid}").st_uid == os.geteuid() else None
            if started is not None and pid not in spared and _is_ending(pid):
                ending.add((pid, started))
    return ending


def _lives(process: _Process) -> bool:
    return _started(process[0]) == process[1]


def _is_ending(pid: int) -> bool:
    """Return whether a process is gone or every thread of it has begun to end."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(_thread_is_ending(f"/proc/{pid}/task/{thread}") for thread in threads)


def _thread_is_ending(folder: str) -> bool:
    try:
        return bool(int(_stat_fields(folder)[6]) & _PF_EXITING)
    except OSError:
        return True


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks; None if it is gone or of its threads only a zombie is left."""
    try:
        fields = _stat_fields(f"/proc/{pid}")
    except OSError:
        return None
    # The first thread is a zombie until the others are gone, and these may take long to give a GPU back.
    is_gone = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return None if is_gone else int(fields[19])


def _stat_fields(folder: str) -> list[bytes]:
    """Return what ``stat`` has after the name of the program, so field N of proc_pid_stat(5) at index N - 3."""
    with open(f"{folder}/stat", "rb", buffering=0) as file:
        return file.readall().rpartition(b") ")[2].split()


def _parent() -> list[_Process]:
    """Return the parent, or nothing if it cannot be seen."""
    pid = os.getppid()
    started = _started(pid)
    if os.getppid() != pid:
        return [(pid, 0)]  # It has just died: to the guardian, no process that started at 0 lives.
    return [] if started is None else [(pid, started)]


def _guard(mark: str, watched: list[_Process]) -> None:
    """Wait for the end of a process or of its parent, then end it and everything marked.

    Args:
        mark: The mark.
        watched: The guarded process, then its parent if that is watched too.
    """
    _wait_for_first_end(watched)
    _send(signal.SIGKILL, watched[0][0], lambda _: _lives(watched[0]))
    end_marked(mark, GUARDIAN_ENDING_S)


def _wait_for_first_end(processes: list[_Process]) -> None:
    waker = select.poll()
    for pid, _ in processes:
        pidfd = _open_pidfd(pid)
        if pidfd is not None:
            waker.register(pidfd, select.POLLIN)
    while all(_lives(process) and not _is_ending(process[0]) for process in processes):
        waker.poll(GUARDIAN_LOOK_MS)


def _detach() -> None:
    """Go on as an orphan, tell its id, and let go of what the starter waits for."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() > 0:
        os._exit(0)
    _survive_lack_of_memory()
    with contextlib.suppress(OSError):  # The starter is gone.
        os.write(1, str(os.getpid()).encode())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _survive_lack_of_memory() -> None:
    """Do not be the first that the kernel ends when memory is short, as Ray makes a worker and its children (1000)."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) > 0:
            file.write("0")


if __name__ == "__main__":
    _numbers = [int(number) for number in sys.argv[2:]]
    _detach()
    _guard(sys.argv[1], list(zip(_numbers[::2], _numbers[1::2], strict=True)))
