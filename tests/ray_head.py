"""A real Ray head with dashboard and token, of which only its own processes are ended."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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


@contextlib.contextmanager
def ray_head(folder: Path) -> Iterator[Head]:
    token = folder / "token"
    token.write_text(secrets.token_hex(16))
    token.chmod(0o600)
    program = Path(sys.executable).parent
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARENA_"))}
    mark = new_mark()
    environ |= {
        MARK_VARIABLE: mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_metrics_report_interval_ms": "500",
        "PATH": f"{program}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    port, dashboard, agent, metrics, client = free_ports(5)
    # Not in `folder`: sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        words = [
            *("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"),
            *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"),
            *(f"--ray-client-server-port={client}", "--object-store-memory=100000000", "--disable-usage-stats"),
            f"--temp-dir={scratch}",
        ]
        with (
            (folder / "head.log").open("w") as log,
            subprocess.Popen(
                [str(program / "ray"), *words], env=environ, stdout=log, stderr=log, start_new_session=True
            ) as process,
        ):
            try:
                url = f"http://127.0.0.1:{dashboard}"
                _wait_for(url, token.read_text(), process, folder / "head.log")
                yield Head(_address_in(folder / "head.log"), url, metrics, environ)
            finally:
                end_marked(mark, 10)


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


def _address_in(log: Path) -> str:
    """Return what ``ray start`` tells other nodes to give as the address: not the loopback one that it was given."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        found = re.search(r"ray start --address='([\d.:]+)'", log.read_text())
        if found is not None:
            return found[1]
        time.sleep(0.2)
    raise AssertionError(log.read_text())
