"""Real servers on loopback: an S3 (moto's), a Google Cloud Storage (an emulator), and an sshd."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

#: Two busy cores may take so long to start a server, seconds.
START_S = 60.0

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if os.path.exists("/usr/sbin/sshd") else None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A program that listens on a port of this machine; it can be stopped and started again."""

    def __init__(
        self, command: list[str], port: int, environment: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.host, self.port = host, port
        self._command, self._environment = command, {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, env=self._environment, start_new_session=True, **quiet)
        give_up = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            assert self._process.poll() is None, f"{self._command[0]} ended with {self._process.returncode}"
            assert time.monotonic() < give_up, f"{self._command[0]} does not listen"
            time.sleep(0.1)

    def stop(self) -> None:
        """End the program, and every connection that it has."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def signal(self, number: int) -> None:
        """Send a signal to the program and those that serve its connections."""
        assert self._process is not None
        session = self._process.pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if os.getsid(pid) == session or _parent(pid) == session:
                    os.kill(pid, number)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


class S3(Server):
    """An S3 with one bucket, ``videos``; what it holds is gone when it is stopped.

    Args:
        checks_credentials: Whether it refuses those that it does not know: everything after the bucket was made.
        host: The address of this machine at which it listens.
    """

    def __init__(self, checks_credentials: bool = False, host: str = "127.0.0.1") -> None:
        port = free_port()
        environment = {"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if checks_credentials else {}
        command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
        super().__init__(command, port, environment, host)

    def start(self) -> None:
        super().start()
        import boto3

        boto3.client("s3", region_name="us-east-1", **self.credentials()).create_bucket(Bucket="videos")

    def credentials(self) -> dict[str, str]:
        return {
            "endpoint_url": f"http://{self.host}:{self.port}",
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
        }

    def environment(self) -> dict[str, str]:
        """Return what tells a process where it is."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


class Gs(Server):
    """An emulated Google Cloud Storage with one bucket, ``videos``."""

    def __init__(self) -> None:
        port = free_port()
        program = str(Path(sys.executable).parent / "gcp-storage-emulator")
        super().__init__([program, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"], port)

    def start(self) -> None:
        super().start()
        body = json.dumps({"name": "videos"}).encode()
        bucket = f"http://127.0.0.1:{self.port}/storage/v1/b?project=tests"
        request = urllib.request.Request(bucket, data=body, headers={"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=20).close()

    def environment(self) -> dict[str, str]:
        """Return what tells a process where it is."""
        return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}", "FSSPEC_GS_TOKEN": "anon"}


class Sshd(Server):
    """An sshd with a key of its own, which lets this user in with another.

    Args:
        folder: Where its keys are made.
    """

    def __init__(self, folder: Path) -> None:
        assert SSHD is not None
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        port = free_port()
        key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
        (folder / "no_hosts").write_text("")
        self.folder = folder
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd changes its root to there; Debian's service makes it.
        settings = {
            "ListenAddress": "127.0.0.1",
            "PidFile": "none",
            "AuthorizedKeysFile": str(folder / "authorized_keys"),
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "prohibit-password",
            "Subsystem": "sftp internal-sftp",
        }
        words = [f"-o{name}={value}" for name, value in settings.items()]
        super().__init__([SSHD, "-D", "-f", "/dev/null", "-p", str(port), "-h", str(folder / "host"), *words], port)

    def environment(self, known_hosts: str = "known_hosts") -> dict[str, str]:
        """Return what tells a process how to get in."""
        return {
            "FSSPEC_SFTP_KEY_FILENAME": str(self.folder / "user"),
            "FSSPEC_SFTP_KNOWN_HOSTS": str(self.folder / known_hosts),
        }

    def uri(self, folder: Path) -> str:
        return f"sftp://{getpass.getuser()}@127.0.0.1:{self.port}{folder}"


@contextlib.contextmanager
def running(server: Server) -> Iterator[Any]:
    try:
        yield server
    finally:
        server.stop()


def need_sshd() -> None:
    """Skip where there is no sshd; where CI is set, that fails."""
    if SSHD is None:
        message = "no sshd here: apt-get install openssh-server (sh .ci/system-packages tests)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for this process, as if they had been there when fsspec was imported, and for its children."""
    import fsspec.config

    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        given: dict[str, Any] = {}
        fsspec.config.set_conf_env(given, {name: value for name, value in variables.items() if "FSSPEC" in name})
        for protocol, options in given.items():
            patch.setitem(fsspec.config.conf, protocol, options)
        yield
