"""The Slurm files: by shellcheck, dry with programs in the place of Slurm's and Ray's, and with a Ray that fails."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from tests.cluster.files import CLUSTER, PROGRAMS, VERSIONS
from tests.cluster.stand_ins import Programs

BATCH = CLUSTER / "slurm" / "arena.sbatch"
SCRIPTS = [BATCH, CLUSTER / "slurm" / "ray-node.sh", CLUSTER / "start-ray.sh", CLUSTER / "lock.sh"]

#: Runs the command once per node, and forwards SIGTERM to them, as `srun` does; with --kill-on-bad-exit, one that
#: fails ends the others.
SRUN = """
import signal, subprocess, time
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
nodes, share = int(os.environ["SLURM_JOB_NUM_NODES"]), {"SLURM_GPUS_ON_NODE": "4"}
tasks = [
    subprocess.Popen(words, env={**os.environ, **share, "SLURM_NODEID": str(node)}, start_new_session=True)
    for node in range(nodes)
]

def forward(number, frame):
    for task in tasks:
        os.killpg(task.pid, number)

signal.signal(signal.SIGTERM, forward)
while None in (codes := [task.poll() for task in tasks]):
    for task, code in zip(tasks, codes):
        if code is None and any(codes):
            os.killpg(task.pid, signal.SIGKILL)
    time.sleep(0.02)
sys.exit(max(abs(task.returncode) for task in tasks))
"""

#: `ray symmetric-run`, as Ray 2.60 behaves: a `ray start` that fails is printed, and the exit code is 0; on the first
#: node the command behind `--` runs, and its exit code is passed on.
RAY = """
import pathlib, subprocess, time
state = pathlib.Path(os.environ["ARENA_STATE"])
node = os.environ["SLURM_NODEID"]
if node in os.environ.get("TEST_START_FAILS", "").split(","):
    print("Failed to start Ray: Command '['ray', 'start']' returned non-zero exit status 1.", file=sys.stderr)
    sys.exit(0)
if node == "0":
    time.sleep(float(os.environ.get("TEST_HEAD_WAITS", "0")))
    sys.exit(subprocess.run(sys.argv[sys.argv.index("--") + 1 :]).returncode)
while not (state / "begun").exists():
    time.sleep(0.02)
while node not in os.environ.get("TEST_LEAVES", "") and not (state / "exit-code").exists():
    time.sleep(0.02)
"""


@dataclasses.dataclass
class Slurm:
    """A job on two nodes, of which nothing is real but our two scripts."""

    programs: Programs
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        return self.programs.environment(
            SLURM_SUBMIT_DIR=str(self.folder),
            SLURM_JOB_ID="77",
            SLURM_JOB_NUM_NODES="2",
            SLURM_CPUS_PER_TASK="32",
            ARENA_CLUSTER_DIR=str(CLUSTER),
            ARENA_HEAD_IP="10.0.0.1",
            **more,
        )

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(BATCH), *words],
            env=self.environment(**more),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """Return the exit code of the batch script and all that was printed."""
        process = self.start(*words, **more)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    programs = Programs(tmp_path)
    programs.add("srun", SRUN)
    venv = Programs(tmp_path / ".venv")
    (venv.folder / "python").symlink_to(sys.executable)
    slurm = Slurm(programs, tmp_path)
    add_arena_ray(slurm, "sys.exit(int(os.environ.get('TEST_EXIT_CODE', '0')))")
    # The environment's programs come before others on PATH, so Ray's must be there too.
    programs.add("ray", RAY)
    shutil.move(programs.folder / "ray", venv.folder / "ray")
    return slurm


def add_arena_ray(slurm: Slurm, body: str) -> None:
    slurm.programs.add("arena-ray", f"{body}\n")
    shutil.move(slurm.programs.folder / "arena-ray", slurm.folder / ".venv" / "bin" / "arena-ray")


@pytest.mark.parametrize("script", [pytest.param(path, id=path.name) for path in SCRIPTS])
def test_shellcheck_finds_nothing(script: Path) -> None:
    words = [str(PROGRAMS / "shellcheck"), "-x", "--source-path", str(CLUSTER.parent), str(script)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def test_a_run_takes_all_nodes_and_ends_with_its_exit_code(slurm: Slurm) -> None:
    code, output = slurm.run("run", "jobs.yaml", "--video_base_dir", "/shared/outputs", "*:num_episodes=5")
    assert (code, output) == (0, "")
    (words,) = slurm.programs.words("arena-ray")
    assert words == ["run", "jobs.yaml", "--video_base_dir", "/shared/outputs", "*:num_episodes=5", "--address", "auto"]
    assert list(slurm.folder.glob(".arena-ray-*")) == []


def test_each_node_gets_its_share_of_the_machine(slurm: Slurm) -> None:
    slurm.run("run", "jobs.yaml")
    (srun,) = slurm.programs.words("srun")
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32", "--kill-on-bad-exit=1"} <= set(srun)
    calls = slurm.programs.words("ray")
    assert len(calls) == 2
    for words in calls:
        assert words[:5] == ["symmetric-run", "--address", f"10.0.0.1:{VERSIONS['PORT_GCS']}", "--min-nodes", "2"]
        given = curate_and_validate_ray_start_args(words[1 : words.index("--")])
        options = start.make_context("start", given).params
        assert (options["num_cpus"], options["num_gpus"]) == (32, 4)


def test_nodes_share_a_token_that_nobody_else_reads_and_wait_long_enough(slurm: Slurm) -> None:
    add_arena_ray(slurm, "print(oct(os.stat(os.environ['ARENA_STATE']).st_mode & 0o777))")
    _, output = slurm.run("run", "jobs.yaml")
    assert output == "0o700\n"
    for environment in (call["environment"] for call in slurm.programs.calls("ray")):
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"].startswith(environment["ARENA_STATE"])
        assert environment["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"] == VERSIONS["NODES_WAIT_S"]
        assert len(environment["RAY_TMPDIR"]) < 40  # sockets below it: 107 bytes


@pytest.mark.parametrize("code", ["1", "3", "143"])
def test_the_exit_code_of_the_run_is_the_jobs(slurm: Slurm, code: str) -> None:
    assert slurm.run("run", "jobs.yaml", TEST_EXIT_CODE=code)[0] == int(code)


@pytest.mark.parametrize("node", [pytest.param("0", id="head"), pytest.param("1", id="worker"), "0,1"])
def test_a_ray_that_does_not_start_fails_the_job(slurm: Slurm, node: str) -> None:
    code, output = slurm.run("run", "jobs.yaml", TEST_START_FAILS=node, TEST_HEAD_WAITS="20")
    assert code != 0
    assert "ray-node.sh: no run on" in output
    assert "arena-ray did not run to an end" in output
    assert slurm.programs.calls("arena-ray") == []


def test_a_node_that_is_lost_later_does_not(slurm: Slurm) -> None:
    add_arena_ray(slurm, "import time\ntime.sleep(1)")
    code, output = slurm.run("run", "jobs.yaml", TEST_LEAVES="1")
    assert code == 0
    assert "left the run (symmetric-run: 0); the others go on" in output


def test_a_driver_that_is_killed_fails_the_job(slurm: Slurm) -> None:
    add_arena_ray(slurm, "import signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert slurm.run("run", "jobs.yaml")[0] == 137


def test_the_end_of_time_reaches_the_driver_and_it_may_finish(slurm: Slurm) -> None:
    add_arena_ray(
        slurm,
        """
import pathlib, signal, time
def end(number, frame):
    time.sleep(1)
    pathlib.Path("flushed").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path("running").touch()
time.sleep(50)
""",
    )
    process = slurm.start("run", "jobs.yaml")
    deadline = time.monotonic() + 30
    while not (slurm.folder / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == 143
    assert (slurm.folder / "flushed").exists()


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        pytest.param([], {}, "nothing to do", id="words"),
        pytest.param(["run"], {"ARENA_VENV": "/nowhere"}, "no /nowhere/bin/arena-ray: set", id="environment"),
    ],
)
def test_what_is_missing_is_told_before_anything_starts(
    slurm: Slurm, words: list[str], more: dict[str, str], message: str
) -> None:
    code, output = slurm.run(*words, **more)
    assert (code, message in output) == (2, True)
    assert slurm.programs.calls("srun") == []


def _own_namespaces() -> bool:
    """Return whether processes can be hidden here: symmetric-run ends with `ray stop`, for every Ray that it sees."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "true"]
    try:
        return subprocess.run(words, capture_output=True, timeout=10).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.heavy
@pytest.mark.ray
@pytest.mark.skipif(not _own_namespaces(), reason="needs namespaces of its own, or it would stop other tests' Ray")
def test_ray_itself_exits_with_zero_and_the_job_fails_all_the_same(slurm: Slurm) -> None:
    (slurm.folder / ".venv" / "bin" / "ray").unlink()
    (slurm.folder / ".venv" / "bin" / "ray").symlink_to(PROGRAMS / "ray")
    # A number of CPUs that no `ray start` takes.
    environment = slurm.environment() | {"SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "-1"}
    environment["ARENA_HEAD_IP"] = "127.0.0.1"
    shell = f"ip link set lo up; exec bash {BATCH} run jobs.yaml"
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "bash", "-c", shell]
    done = subprocess.run(words, env=environment, cwd=slurm.folder, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert "Failed to start Ray" in done.stderr
    assert "no run on" in done.stderr
    assert "(symmetric-run: 0)" in done.stderr
    assert slurm.programs.calls("arena-ray") == []
