"""Ray nodes as machines of their own: each in a network namespace with its own address, joined by a bridge.

What a node reaches, it reaches through the network, and, where it is asked for, a folder of the same path is another
one on each node (a mount namespace with a private tmpfs over it), so that nothing is shared by accident. It takes root
and Linux; `why_not` says what is missing. Everything is taken down again, whatever happens.

    with NodeCluster() as cluster:
        cluster.add_head(num_cpus=1)
        cluster.add_node(num_cpus=1, num_gpus=1, private=[folder])
        cluster.run_driver([...])  # a command in the head's namespace, which connects to cluster.address

The head may be this machine itself, so that this process can be a driver of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.local_cluster import LocalCluster

PORT = 6379

#: How long a node may take to join, and to end, seconds.
JOIN_S, END_S = 90.0, 15.0

#: Ray's own processes are slow on a busy machine; a node is not dead because of that.
PATIENT = {"RAY_health_check_failure_threshold": "20"}


@functools.cache
def why_not() -> str | None:
    """Return why namespaces cannot be made here, or ``None`` if they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces take root"
    name = f"arena-{uuid.uuid4().hex[:6]}"
    script = f"ip netns add {name} && ip link add {name} type bridge; code=$?; ip link del {name}; ip netns del {name}"
    probe = f"command -v ip unshare mount >/dev/null && unshare -m true && {script}; exit $code"
    tried = subprocess.run(["sh", "-c", probe], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"namespaces cannot be made here: {tried.stderr.strip() or 'no iproute2'}"


@dataclasses.dataclass(eq=False)
class Machine:
    """A node of a `NodeCluster`: its namespace, its address, and what `ray start` began.

    Attributes:
        name: Of its network namespace, and its host name.
        address: IPv4.
        process: Of its `ray start --block`.
        private: Folders that are its own.
        log: What its `ray start` said.
    """

    name: str
    address: str
    process: subprocess.Popen[bytes]
    private: tuple[Path, ...]
    log: Path

    def pids(self) -> list[int]:
        """Return all processes in its network namespace."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def enter(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs another one on this machine: in its network, with its folders."""
        return ["nsenter", f"--target={self.process.pid}", "--mount", "--net", "--uts", *command]

    def read(self, path: Path) -> list[str]:
        """Return the names that a folder holds on this machine."""
        listed = subprocess.run(self.enter(["ls", str(path)]), capture_output=True, text=True, check=True)
        return listed.stdout.split()


class NodeCluster:
    """A bridge, and machines on it. As a context it takes everything down at its end.

    Args:
        environment: Of all nodes, beside this process's own.

    Attributes:
        address: Of the head, ``HOST:PORT``.
        here: How the nodes reach this machine, IPv4.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._id = uuid.uuid4().hex[:4]
        self._bridge = f"arena-{self._id}"
        self._subnet = f"10.{200 + int(self._id[:2], 16) % 50}.{int(self._id[2:], 16)}"
        self.here = f"{self._subnet}.254"
        self._environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **PATIENT, **(environment or {})}
        self._stack = contextlib.ExitStack()
        self._machines: list[Machine] = []
        self.address = ""

    def __enter__(self) -> NodeCluster:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="arena-nodes-")))
        self._ip("link", "add", self._bridge, "type", "bridge", undo=("link", "del", self._bridge))
        self._ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        self._ip("link", "set", self._bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for machine in reversed(self._machines):
            self.end(machine)
        self._stack.close()

    def _ip(self, *words: str, undo: tuple[str, ...] = ()) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)
        if undo:
            self._stack.callback(subprocess.run, ["ip", *undo], check=False, capture_output=True)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines that have been added and not ended, the head first."""
        return tuple(self._machines)

    @property
    def head(self) -> Machine:
        """The machine that Ray's head runs on."""
        return self._machines[0]

    def add_head(self, **options: Any) -> Machine:
        """Start the head; see `add_node`."""
        return self._add(["--head", f"--port={PORT}", "--include-dashboard=false"], **options)

    def add_head_here(self, num_cpus: float = 1) -> LocalCluster:
        """Start the head on this machine, in no namespace, and return it; `machines` does not have it."""
        head = self._stack.enter_context(LocalCluster(num_cpus=num_cpus, node_ip_address=self.here))
        self.address = head.address
        return head

    def add_node(self, **options: Any) -> Machine:
        """Start a machine that joins the head, and wait until it has.

        Args:
            **options: `num_cpus`, `num_gpus` (declared, not there), `labels` and `environment` (mappings), and
                `private`: folders that are this machine's own, empty, whatever they hold elsewhere.
        """
        return self._add([f"--address={self.address}"], **options)

    def _add(
        self,
        how: list[str],
        num_cpus: float = 1,
        num_gpus: float = 0,
        labels: Mapping[str, str] | None = None,
        private: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        number = len(list(self._folder.glob("*.log"))) + 1
        name, address = f"{self._bridge}-{number}", f"{self._subnet}.{number}"
        self._connect(name, f"v{self._id}{number}", address)
        chosen = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        command = [
            *("ray", "start", "--block", *how, f"--node-ip-address={address}", f"--num-cpus={num_cpus}"),
            *(f"--num-gpus={num_gpus}", "--object-store-memory=80000000", "--disable-usage-stats"),
            "--include-log-monitor=false",
            *([f"--labels={chosen}"] if chosen else []),
        ]
        command[0] = str(Path(sys.executable).with_name("ray"))
        log = self._folder / f"{name}.log"
        process = self._start(name, command, private, log, environment or {})
        machine = Machine(name, address, process, tuple(private), log)
        self._machines.append(machine)
        self.address = self.address or f"{address}:{PORT}"
        self._await(machine)
        return machine

    def _connect(self, name: str, link: str, address: str) -> None:
        self._ip("netns", "add", name, undo=("netns", "del", name))
        self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._ip("link", "set", link, "master", self._bridge, "up")
        self._ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip("-n", name, "link", "set", "eth0", "up")
        self._ip("-n", name, "link", "set", "lo", "up")

    def _start(
        self, name: str, command: list[str], private: Sequence[Path], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a command in namespaces of its own; Ray's own folder is each machine's own, too."""
        session = self._folder / f"{name}-ray"
        session.mkdir()
        steps = [f"hostname {shlex.quote(name)}", "mount --make-rprivate /"]
        steps += [f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in private]
        for folder in private:
            folder.mkdir(parents=True, exist_ok=True)
        ray_folder = Path("/tmp/ray")
        ray_folder.mkdir(exist_ok=True)
        steps.append(f"mount --bind {shlex.quote(str(session))} {ray_folder}")
        steps.append("exec " + shlex.join(command))
        inside = ["unshare", "--mount", "--uts", "sh", "-ec", "; ".join(steps)]
        with log.open("wb") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", name, *inside],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self._environment, **environment},
                start_new_session=True,
            )

    def _await(self, machine: Machine) -> None:
        deadline = time.monotonic() + JOIN_S
        while machine.address not in self.alive():
            if machine.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{machine.name} has not joined:\n{machine.log.read_text()[-3000:]}")
            time.sleep(0.5)

    def alive(self) -> dict[str, str]:
        """Return the ids of the nodes that Ray's head counts as alive, by address."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        try:  # The bridge makes this machine their neighbour.
            nodes = GcsClient(address=self.address).get_all_node_info(timeout=5).values()
        except Exception:  # Ray's own errors, as long as nobody listens there.
            return {}
        return {node.node_manager_address: node.node_id.hex() for node in nodes if node.state == 0}

    def run_driver(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on the head's machine; `options` are those of `subprocess.run`."""
        environment = {**self._environment, **options.pop("env", {})}
        options.setdefault("timeout", 120)
        return subprocess.run(self.head.enter(list(command)), env=environment, **options)

    def start_driver(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command on the head's machine; `options` are those of `subprocess.Popen`."""
        environment = {**self._environment, **options.pop("env", {})}
        return subprocess.Popen(self.head.enter(list(command)), env=environment, **options)

    def drain(self, machine: Machine, deadline_s: int = 300) -> None:
        """Announce that a machine is about to go, as a cloud does before it takes a spot instance back."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.core.generated import autoscaler_pb2

        # What `ray drain-node` does, without the seconds that importing Ray takes.
        reason = autoscaler_pb2.DrainNodeReason.Value(  # type: ignore[attr-defined]
            "DRAIN_NODE_REASON_PREEMPTION"
        )
        until_ms = int((time.time() + deadline_s) * 1000)
        node_id = self.alive()[machine.address]
        accepted, problem = GcsClient(address=self.address).drain_node(node_id, reason, "as the test wants", until_ms)
        assert accepted, problem

    def lose(self, machine: Machine) -> None:
        """Let a machine fail: all its processes end at one moment."""
        for pid in machine.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        machine.process.wait(END_S)
        self._machines.remove(machine)

    def end(self, machine: Machine) -> None:
        """Stop a machine in an orderly way, then by force."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            machine.process.wait(3)
        self.lose(machine)
