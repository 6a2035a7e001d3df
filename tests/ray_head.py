"""Real Ray heads, of which only their own processes are ended: one with dashboard and token, one with an autoscaler."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena_ray.processes import MARK_VARIABLE, end_marked, new_mark

REPOSITORY = Path(__file__).parent.parent

START_S = 90


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: str
    metrics_port: int
    environ: dict[str, str]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "arena_ray.cli", *words]

    def run(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``arena-ray`` with the head's token, or with other variables."""
        return subprocess.run(
            self.command(*words),
            env={**self.environ, **(environ or {})},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
        )


def _environ(**changes: str) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARENA_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), **changes}


@contextlib.contextmanager
def _started(folder: Path, environ: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``ray start --head``, which writes to `head.log`; whatever it started, nodes too, ends with it."""
    mark = new_mark()
    agent, metrics, client = free_ports(3)
    ports = [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    if not any(word.startswith("--metrics-export-port") for word in words):
        ports.append(f"--metrics-export-port={metrics}")
    # Not in `folder`: sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *words, *ports),
            *("--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"),
            f"--temp-dir={scratch}",
        ]
        with (
            (folder / "head.log").open("w") as log,
            subprocess.Popen(
                command, env={**environ, MARK_VARIABLE: mark}, stdout=log, stderr=log, start_new_session=True
            ) as process,
        ):
            try:
                yield process
            finally:
                end_marked(mark, 10)


@contextlib.contextmanager
def ray_head(folder: Path) -> Iterator[Head]:
    token = folder / "token"
    token.write_text(secrets.token_hex(16))
    token.chmod(0o600)
    environ = _environ(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_metrics_report_interval_ms="500")
    port, dashboard, metrics = free_ports(3)
    words = [
        *(f"--port={port}", "--num-cpus=2", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *("--include-dashboard=true", f"--metrics-export-port={metrics}"),
    ]
    with _started(folder, environ, *words) as process:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(url, token.read_text(), process, folder / "head.log")
        yield Head(_address_in(folder / "head.log", process), url, metrics, environ)


def _wait_for(url: str, token: str, process: subprocess.Popen[bytes], log: Path) -> None:
    version = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"})
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(version, timeout=5).close()
            return
        time.sleep(0.3)
    raise AssertionError(f"the head does not answer: {log.read_text()}")


def _address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return what ``ray start`` tells other nodes to give as the address: not the loopback one that it was given."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        assert process.poll() is None, log.read_text()
        found = re.search(r"ray start --address='([\d.:]+)'", log.read_text())
        if found is not None:
            return found[1]
        time.sleep(0.2)
    raise AssertionError(log.read_text())


#: The node that Ray's fake provider takes for the head.
HEAD_ID = "f" * 51 + "00000"

#: What `ray up` fills in, and Ray's monitor wants to find.
_FILLED_IN: dict[str, Any] = {
    **{f"{whose}_start_ray_commands": [] for whose in ("head", "worker")},
    **{f"{whose}setup_commands": [] for whose in ("", "head_", "worker_")},
    **{"initialization_commands": [], "cluster_synced_files": [], "auth": {}, "docker": {}, "file_mounts": {}},
}


@contextlib.contextmanager
def autoscaled_head(
    folder: Path, node_types: Mapping[str, Mapping[str, Any]], *, max_workers: int, idle_timeout_s: float
) -> Iterator[str]:
    """Start a head that runs nothing, with Ray's autoscaler, which adds raylets here as if they were machines.

    Args:
        folder: For its files.
        node_types: As in a file of ``ray up``.
        max_workers: As there.
        idle_timeout_s: A node with nothing to do goes after so long, seconds.

    Yields:
        Its address.
    """
    import ray

    port, dashboard, metrics = free_ports(3)
    gcs = f"{ray.util.get_node_ip_address()}:{port}"  # type: ignore[no-untyped-call]
    config = {
        **_FILLED_IN,
        "cluster_name": "grows",
        "max_workers": max_workers,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "upscaling_speed": 1.0,
        "provider": {
            # Ray's type `fake_multinode` lacks a file in the wheels; as an external one its class needs none.
            **{"type": "external", "module": "tests.fake_machines.FakeMachines", "disable_node_updaters": True},
            **{"gcs_address": gcs, "head_node_id": HEAD_ID, "launch_multiple": True},
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            **{name: {"node_config": {}, "min_workers": 0, **rest} for name, rest in node_types.items()},
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        },
    }
    (folder / "autoscaling.json").write_text(json.dumps(config))
    environ = _environ(
        RAY_AUTH_MODE="disabled",
        RAY_FAKE_CLUSTER="1",
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        AUTOSCALER_METRIC_PORT=str(metrics),
        # What `ray up` and KubeRay set on the head, too.
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=HEAD_ID,
        RAY_NODE_TYPE_NAME="ray.head.default",
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID,
    )
    words: Sequence[str] = [
        *(f"--port={port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"),
        *(f"--dashboard-port={dashboard}", f"--autoscaling-config={folder / 'autoscaling.json'}"),
    ]
    with _started(folder, environ, *words) as process:
        assert _address_in(folder / "head.log", process) == gcs
        yield gcs
