"""Real processes, of every kind that escapes a plain ``kill``; every wait is bounded, and so is every life."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import processes
from arena_ray.processes import MARK_VARIABLE, end_marked, mark_this_process, marked_processes, new_mark, start_guardian

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: How long everything may take to be gone, seconds.
GONE_S = 5.0

#: How long anything may take to begin, on a busy machine, seconds.
BEGIN_S = 60.0

#: How long what a test starts would live if nothing ended it, seconds.
LIFE_S = 90

#: A worker with children of every kind. Arguments: mark, where to write the process ids, whether to watch the parent.
WORKER = f"""
import ctypes, json, multiprocessing, os, resource, signal, subprocess, sys, time
from arena_ray import processes

LIFE_S = {LIFE_S}
SLEEP = [sys.executable, "-I", "-S", "-c", f"import time; time.sleep({{LIFE_S}})"]

def fork(deed):
    pid = os.fork()
    if pid == 0:
        try:
            deed()
        finally:
            os._exit(0)
    return pid

def daemon():
    read, write = os.pipe()
    def between():
        os.setsid()
        os.write(write, str(fork(lambda: time.sleep(LIFE_S))).encode())
    os.waitpid(fork(between), 0)
    return int(os.read(read, 20))

def stopped():
    pid = subprocess.Popen(SLEEP).pid
    os.kill(pid, signal.SIGSTOP)
    return pid

def busy():
    resource.setrlimit(resource.RLIMIT_CPU, (LIFE_S, LIFE_S))
    while True:
        pass

def bomb(life_s):
    # A process forks another after 10 ms, lives on for a while and exits.
    given_up = time.monotonic() + LIFE_S
    while time.monotonic() < given_up:
        time.sleep(0.01)
        if os.fork() > 0:
            time.sleep(life_s)
            return

def context(method):
    process = multiprocessing.get_context(method).Process(target=time.sleep, args=(LIFE_S,), daemon=True)
    process.start()
    return process.pid

def main():
    mark, answer, watch_parent = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    processes.mark_this_process(mark)
    guardian = processes.start_guardian(mark, watch_parent=watch_parent == "True")
    pids = {{
        "worker": os.getpid(),
        "executed": subprocess.Popen(SLEEP).pid,
        "executed in a session": subprocess.Popen(SLEEP, start_new_session=True).pid,
        "forked": fork(lambda: time.sleep(LIFE_S)),
        "daemon": daemon(),
        "forkserver": context("forkserver"),
        "spawn": context("spawn"),
        "busy": fork(busy),
        "stopped": stopped(),
        "holds the GIL": fork(lambda: ctypes.PyDLL(None).sleep(LIFE_S)),
        "first thread ended": subprocess.Popen([sys.executable, "-c", (
            "import ctypes, threading, time; "
            f"threading.Thread(target=time.sleep, args=({{LIFE_S}},)).start(); "
            "ctypes.CDLL(None).pthread_exit(None)"
        )]).pid,
    }}
    for life_s in (0, 0.05, 0.1):
        fork(lambda: bomb(life_s))
    with open(answer + ".new", "w") as file:
        json.dump({{"guardian": guardian, "pids": pids}}, file)
    os.rename(answer + ".new", answer)
    deed = sys.stdin.readline().strip()
    if deed == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == "_exit":
        os._exit(3)

if __name__ == "__main__":
    main()
"""

#: What starts a worker and waits for it, as a raylet does.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


def stat(pid: int) -> list[str]:
    """What /proc/PID/stat has from the state on, without the help of the module under test; [] for none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return []


def is_alive(pid: int) -> bool:
    """Whether a process has a thread that is no zombie."""
    fields = stat(pid)
    return bool(fields) and (fields[0] not in ("Z", "X") or int(fields[17]) > 1)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait for a condition; fail after a time."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, f"not so after {timeout_s} s"
        time.sleep(0.01)


class Started:
    """What a test started, to be ended by id; and marks for it."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path = tmp_path
        self._programs: list[subprocess.Popen[str]] = []
        self._others: set[tuple[int, str]] = set()
        self.mark = new_mark()

    def program(self, command: list[str], mark: str | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a program that has a mark in its environment, unless that is None."""
        environment = {name: value for name, value in os.environ.items() if name != MARK_VARIABLE}
        if mark is not None:
            environment[MARK_VARIABLE] = mark
        program = subprocess.Popen(command, env=environment, text=True, **options)
        self._programs.append(program)
        return program

    def sleeper(self, mark: str | None) -> int:
        """Start a process that sleeps and has a mark in its environment; return its id."""
        return self.program(["sleep", str(LIFE_S)], mark).pid

    def python(self, code: str, *arguments: str, mark: str | None = None) -> subprocess.Popen[str]:
        """Start a script which then has said a first line, which is read off."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return self.program([sys.executable, "-c", code, *arguments], mark, **pipes)

    def other(self, *pids: int) -> None:
        """Take over the end of processes that something else started."""
        self._others |= {(pid, stat(pid)[19]) for pid in pids if stat(pid)}

    def worker(self, watch_parent: bool) -> tuple[subprocess.Popen[str], int, dict[str, int]]:
        """Start a worker under a parent; return the parent, the guardian's id, and the ids of what it started."""
        script, answer = self._tmp_path / "worker.py", self._tmp_path / "answer.json"
        script.write_text(WORKER)
        parent = self.python(PARENT, str(script), self.mark, str(answer), str(watch_parent))
        wait_until(lambda: answer.exists() or parent.poll() is not None, BEGIN_S)
        found = json.loads(answer.read_text())
        self.other(found["guardian"], *found["pids"].values())
        wait_until(lambda: first_thread_ended(found["pids"]["first thread ended"]), BEGIN_S)
        return parent, found["guardian"], found["pids"]

    def end(self) -> None:
        """End what is left."""
        for program in self._programs:
            program.kill()
            for pipe in (program.stdin, program.stdout):
                with contextlib.suppress(OSError):
                    _ = pipe and pipe.close()
            program.wait(GONE_S)
        for pid, begun in self._others:
            if stat(pid)[19:20] == [begun]:
                os.kill(pid, signal.SIGKILL)
        end_marked(self.mark, GONE_S)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    kept = Started(tmp_path)
    yield kept
    kept.end()


def first_thread_ended(pid: int) -> bool:
    fields = stat(pid)
    return bool(fields) and fields[0] == "Z" and int(fields[17]) > 1


def everything_is_gone(mark: str, pids: list[int]) -> bool:
    return not marked_processes(mark) and not any(is_alive(pid) for pid in pids)


def tell(parent: subprocess.Popen[str], deed: str) -> None:
    assert parent.stdin is not None
    parent.stdin.write(f"{deed}\n")
    parent.stdin.flush()


def kill_the_parent_of_a_stopped_worker(parent: subprocess.Popen[str], worker: int) -> None:
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: stat(worker)[0] == "T", BEGIN_S)
    parent.kill()


DEATHS: dict[str, Callable[[subprocess.Popen[str], int], None]] = {
    "SIGKILL": lambda parent, worker: os.kill(worker, signal.SIGKILL),
    "SIGSEGV": lambda parent, worker: tell(parent, "signal"),
    "_exit": lambda parent, worker: tell(parent, "_exit"),
    "exit": lambda parent, worker: tell(parent, "return"),
    "SIGKILL of the parent": kill_the_parent_of_a_stopped_worker,
}


@pytest.mark.parametrize("death", [pytest.param(death, id=name) for name, death in DEATHS.items()])
def test_nothing_outlives_a_worker(started: Started, death: Callable[[subprocess.Popen[str], int], None]) -> None:
    parent, guardian, pids = started.worker(watch_parent=True)
    marked = set(marked_processes(started.mark))
    assert {kind for kind, pid in pids.items() if pid not in marked} == set()
    assert len(marked) > len(pids) + 2  # The bomb, and the server of the forkserver.
    assert guardian not in marked
    death(parent, pids["worker"])
    wait_until(lambda: everything_is_gone(started.mark, list(pids.values())), GONE_S)
    wait_until(lambda: not is_alive(guardian), GONE_S)
    time.sleep(0.1)
    assert marked_processes(started.mark) == []  # Nothing of the bomb slipped through.


def test_a_driver_ends_a_worker_that_lives(started: Started) -> None:
    _, guardian, pids = started.worker(watch_parent=False)
    assert end_marked(started.mark, GONE_S) == []
    assert everything_is_gone(started.mark, list(pids.values()))
    wait_until(lambda: not is_alive(guardian), GONE_S)


def test_without_watching_the_parent_a_worker_outlives_it(started: Started) -> None:
    parent, guardian, pids = started.worker(watch_parent=False)
    parent.kill()
    parent.wait()
    time.sleep(1.5 * processes.GUARDIAN_LOOK_MS / 1000)
    assert is_alive(pids["worker"])
    assert is_alive(guardian)
    assert end_marked(started.mark, GONE_S) == []


def test_a_guardian_is_apart_from_what_it_guards(started: Started) -> None:
    _, guardian, pids = started.worker(watch_parent=True)
    parent, group, session = (int(field) for field in stat(guardian)[1:4])
    relatives = {*pids.values(), *(int(stat(pid)[field]) for pid in pids.values() for field in (2, 3))}
    assert not {parent, group, session} & relatives
    assert MARK_VARIABLE.encode() not in Path(f"/proc/{guardian}/environ").read_bytes()
    opened = {os.readlink(link) for link in Path(f"/proc/{guardian}/fd").iterdir()}
    assert {name for name in opened if "pidfd" not in name} == {os.devnull}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guardian, number)
    time.sleep(0.1)
    assert is_alive(guardian)
    os.kill(pids["worker"], signal.SIGKILL)
    wait_until(lambda: everything_is_gone(started.mark, list(pids.values())), GONE_S)
    wait_until(lambda: not is_alive(guardian), GONE_S)


def test_a_guardian_is_small_and_quick_to_start(started: Started) -> None:
    code = (
        "import sys, time; from arena_ray import processes; begun = time.perf_counter(); "
        "guardian = processes.start_guardian(sys.argv[1]); print(guardian, time.perf_counter() - begun, flush=True); "
        "sys.stdin.readline()"
    )
    durations_s = []
    for _ in range(3):
        program = started.python(code, started.mark)
        assert program.stdout is not None
        guardian, duration_s = program.stdout.readline().split()
        started.other(int(guardian))
        durations_s.append(float(duration_s))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{guardian}/status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) < 20_000, "kB"
    assert min(durations_s) < 0.2


def test_a_guardian_whose_worker_died_before_it_looked_ends_what_is_left(started: Started) -> None:
    """Neither the id of the worker nor that of its parent deceives it, though other processes have them now."""
    namesake, left = started.sleeper(None), started.sleeper(started.mark)
    began_before = str(int(stat(namesake)[19]) - 1)
    command = [sys.executable, "-I", "-S", processes.__file__, started.mark, str(namesake), began_before]
    subprocess.run(command, check=True, timeout=BEGIN_S, stdout=subprocess.DEVNULL)
    wait_until(lambda: not is_alive(left), GONE_S)
    assert is_alive(namesake)


@pytest.mark.parametrize(
    "before", [pytest.param("", id="pidfd"), pytest.param("import os; del os.pidfd_open", id="no pidfd")]
)
def test_it_guards_with_and_without_descriptors_of_processes(started: Started, before: str) -> None:
    worker, left = started.sleeper(None), started.sleeper(started.mark)
    code = "import sys; from arena_ray import processes; processes._guard(sys.argv[1], [tuple(map(int, sys.argv[2:]))])"
    guard = started.python(f"{before}\n{code}", started.mark, str(worker), stat(worker)[19])
    time.sleep(0.5)
    assert is_alive(left)
    os.kill(worker, signal.SIGKILL)
    assert guard.wait(GONE_S) == 0
    assert not is_alive(left)


def test_a_guardian_kills_a_worker_that_set_itself_no_mark_with_its_parent(started: Started) -> None:
    worker, parent = started.sleeper(None), started.sleeper(None)
    watched = [str(worker), stat(worker)[19], str(parent), stat(parent)[19]]
    command = [sys.executable, "-I", "-S", processes.__file__, started.mark, *watched]
    guardian = int(subprocess.run(command, check=True, timeout=BEGIN_S, stdout=subprocess.PIPE).stdout)
    started.other(guardian)
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(worker), GONE_S)
    wait_until(lambda: not is_alive(guardian), GONE_S)


def test_a_guardian_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"did not start \(exit status 1\): it said nothing\. Without it"):
        start_guardian(new_mark())


def test_ending_a_mark_ends_those_under_it(started: Started) -> None:
    mark = started.mark
    pids = [started.sleeper(each) for each in (mark, f"{mark}.1", f"{mark}.1.2", f"{mark}.3")]
    assert marked_processes(mark) == sorted(pids)
    assert end_marked(mark, GONE_S) == []
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("arena-ray-1.3", id="sibling"),
        pytest.param("arena-ray-1", id="above"),
        pytest.param("arena-ray-1.20", id="same beginning"),
        pytest.param("another", id="unrelated"),
        pytest.param(None, id="unmarked"),
    ],
)
def test_ending_a_mark_leaves_the_others(started: Started, other: str | None) -> None:
    unlike_all_others = started.mark
    pid = started.sleeper(other and f"{unlike_all_others}{other}")
    ended = started.sleeper(f"{unlike_all_others}arena-ray-1.2")
    assert end_marked(f"{unlike_all_others}arena-ray-1.2", GONE_S) == []
    assert not is_alive(ended)
    assert stat(pid)[0] == "S"


def test_forks_are_told_apart_too(started: Started) -> None:
    code = (
        "import os, sys, time; from arena_ray.processes import mark_this_process\n"
        "mark_this_process(sys.argv[1])\n"
        "for mark in (sys.argv[1] + '.1', sys.argv[1] + '.10'):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        mark_this_process(mark)\n"
        f"        time.sleep({LIFE_S})\n"
        "    print(pid, flush=True)\n"
        "sys.stdin.readline()"
    )
    worker = started.python(code, started.mark)
    assert worker.stdout is not None
    first, second = (int(worker.stdout.readline()) for _ in range(2))
    started.other(first, second)
    wait_until(lambda: marked_processes(f"{started.mark}.1") == [first], BEGIN_S)
    wait_until(lambda: marked_processes(f"{started.mark}.10") == [second], BEGIN_S)
    assert end_marked(f"{started.mark}.1", GONE_S) == []
    assert marked_processes(started.mark) == sorted([worker.pid, second])
    assert end_marked(started.mark, GONE_S) == []


def test_what_is_spared_lives(started: Started) -> None:
    spared, ended = started.sleeper(started.mark), started.sleeper(started.mark)
    assert end_marked(started.mark, GONE_S, spare=[spared]) == []
    assert not is_alive(ended)
    assert stat(spared)[0] == "S"


def test_a_process_spares_itself(started: Started) -> None:
    code = (
        "import sys; from arena_ray.processes import end_marked, marked_processes, mark_this_process\n"
        "mark_this_process(sys.argv[1])\n"
        "print(end_marked(sys.argv[1], 5), len(marked_processes(sys.argv[1])), flush=True)"
    )
    left = started.sleeper(started.mark)
    program = started.python(code, started.mark)
    assert program.communicate(timeout=BEGIN_S)[0] == "[] 1\n"
    assert not is_alive(left)


@pytest.fixture
def slow(started: Started) -> subprocess.Popen[str]:
    """A process that takes some tenths of a second to die: it has much to give back, and somebody else computes."""
    code = (
        "import ctypes, mmap; memory = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "memory.madvise(15)  # MADV_NOHUGEPAGE\n"
        "ctypes.memset(ctypes.byref(ctypes.c_char.from_buffer(memory)), 1, len(memory))\n"
        "print('filled', flush=True); input()"
    )
    dying = started.python(code, mark=started.mark)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "filled\n"
    computing = started.python("while True: pass")
    for pid in (dying.pid, computing.pid):
        os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, dying.pid, 19)
    return dying


def test_what_is_not_gone_in_time_is_returned(started: Started, slow: subprocess.Popen[str]) -> None:
    assert end_marked(started.mark, 0) == [slow.pid]
    assert end_marked(started.mark, GONE_S) == []
    assert not is_alive(slow.pid)


def test_who_is_ending_shows_no_mark_and_is_waited_for(started: Started, slow: subprocess.Popen[str]) -> None:
    slow.kill()
    wait_until(lambda: marked_processes(started.mark) == [], BEGIN_S)
    assert slow.pid in end_marked(started.mark, 0)
    assert end_marked(started.mark, GONE_S) == []
    assert not is_alive(slow.pid)


def environment_shows(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_who_executes_one_program_after_another_is_found(started: Started, tmp_path: Path) -> None:
    script = tmp_path / "again.sh"
    script.write_text('exec /bin/sh "$0"')
    restless = started.program(["/bin/sh", str(script)], started.mark)
    wait_until(lambda: marked_processes(started.mark) == [restless.pid], BEGIN_S)
    missed = missed_by_one_look = 0
    for _ in range(20_000):
        missed += not processes._carries(restless.pid, started.mark)
        missed_by_one_look += not environment_shows(restless.pid, started.mark)
    assert missed <= 1 + missed_by_one_look // 2
    assert end_marked(started.mark, GONE_S) == []
    assert not is_alive(restless.pid)


def test_without_descriptors_of_processes_it_ends_them_by_id(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    pid = started.sleeper(started.mark)
    assert end_marked(started.mark, GONE_S) == []
    assert not is_alive(pid)


def test_a_later_mark_takes_the_place_of_the_first(started: Started) -> None:
    code = (
        "import os, sys; from arena_ray.processes import mark_this_process, marked_processes\n"
        "first, second = sys.argv[1] + '.1', sys.argv[1] + '.2'\n"
        "mark_this_process(first); before = len(os.listdir('/proc/self/fd')); mark_this_process(second)\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
        "assert os.environ['ARENA_RAY_PROCESS_MARK'] == second\n"
        "print(marked_processes(first), marked_processes(second) == [os.getpid()])\n"
    )
    assert started.python(code, started.mark).communicate(timeout=BEGIN_S)[0] == "[] True\n"


def test_marking_closes_no_descriptor_of_others(started: Started) -> None:
    """A daemon that closed all descriptors may have the number of the old one for something else."""
    code = (
        "import os, sys; from arena_ray.processes import mark_this_process\n"
        "mark_this_process(sys.argv[1]); os.closerange(3, 1000); os.dup2(0, 500)\n"
        "mark_this_process(sys.argv[1]); print(os.path.sameopenfile(0, 500))"
    )
    assert started.python(code, started.mark).communicate(timeout=BEGIN_S)[0] == "True\n"


@pytest.mark.parametrize(
    ("before", "message"),
    [
        pytest.param(
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))",
            "allow it at least 502 descriptors (ulimit -n)",
            id="not allowed",
        ),
        pytest.param(
            "import os; [os.dup2(0, number) for number in range(500, 502)]",
            "descriptors 500 to 501 are in use, but one of them has to mark what this process forks",
            id="in use",
        ),
    ],
)
def test_a_process_that_cannot_open_the_descriptor_says_so(started: Started, before: str, message: str) -> None:
    code = "import os, sys; from arena_ray.processes import MARK_VARIABLE, mark_this_process"
    attempt = "try: mark_this_process(sys.argv[1])\nexcept OSError as error: print(error, MARK_VARIABLE in os.environ)"
    said = started.python(f"{code}\n{before}\n{attempt}", started.mark).communicate(timeout=BEGIN_S)[0]
    assert message in said
    assert said.endswith("False\n")


def test_marks_are_new_and_stand_under_their_parents() -> None:
    above = new_mark()
    marks = {new_mark(above) for _ in range(100)}
    assert len(marks) == 100
    assert all(mark.startswith(f"{above}.") for mark in marks)
    assert above != new_mark()


@pytest.mark.parametrize(
    "mark",
    [
        pytest.param("", id="empty"),
        pytest.param("a/b", id="slash"),
        pytest.param("a b", id="space"),
        pytest.param("é", id="not ascii"),
        pytest.param("a" * 250, id="too long"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(new_mark, id="new_mark"),
        pytest.param(mark_this_process, id="mark_this_process"),
        pytest.param(marked_processes, id="marked_processes"),
        pytest.param(lambda mark: end_marked(mark, 0), id="end_marked"),
        pytest.param(start_guardian, id="start_guardian"),
    ],
)
def test_what_is_no_mark_is_refused(use: Callable[[str], Any], mark: str) -> None:
    with pytest.raises(ValueError, match=r"is not a mark: it has \d+ characters, .* take one from new_mark\(\)"):
        use(mark)
