"""Folders: ``sftp://`` on another machine, and ``file:///``. A file gets its name when it is complete."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arena_ray.storage.base import PIECE_BYTES

#: A server that does not answer is given up after so long, seconds.
CONNECT_S, READ_S = 10, 60


class RemoteFolder:
    """A folder that another machine, or this one, offers.

    Of ``sftp://`` the server's key must be known (``~/.ssh/known_hosts``); keys come from ``~/.ssh``, an agent, or
    fsspec's configuration (``FSSPEC_SFTP_KEY_FILENAME`` ...), as does everything that paramiko's `connect` takes.

    Args:
        uri: ``sftp://[USER@]HOST[:PORT]/FOLDER`` or ``file:///FOLDER``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._folder = urlsplit(self.uri).path
        self._made: set[str] = set()
        self._files: Any = _connect(uri)

    def put(self, source: Path, path: str) -> int:
        """Store a local file; see `Storage`."""
        target = f"{self._folder}/{path}"
        folder, _, name = target.rpartition("/")
        if folder not in self._made:
            self._files.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self._files.put_file(str(source), temporary)
            self._replace(temporary, target)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(temporary)
            raise
        return int(self._files.info(target)["size"])

    def _replace(self, temporary: str, target: str) -> None:
        if hasattr(self._files, "ftp"):
            self._files.ftp.posix_rename(temporary, target)
        else:
            Path(temporary).replace(target)

    def get(self, path: str, target: Path) -> None:
        """Fetch into a local file; see `Storage`."""
        with self._files.open(f"{self._folder}/{path}", "rb") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, PIECE_BYTES)

    def remove(self, path: str) -> None:
        """Remove a file; see `Storage`."""
        self._files.rm_file(f"{self._folder}/{path}")


def _connect(uri: str) -> Any:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        import fsspec

        return fsspec.filesystem("file", skip_instance_cache=True)
    named = {"username": parts.username, "port": parts.port}
    given = {name: value for name, value in named.items() if value is not None}
    options = {"timeout": CONNECT_S, "banner_timeout": CONNECT_S, "auth_timeout": CONNECT_S, **given}
    return _known_hosts_sftp()(parts.hostname, skip_instance_cache=True, **options)


def _known_hosts_sftp() -> Any:
    from fsspec.implementations.sftp import SFTPFileSystem
    from paramiko import RejectPolicy, SSHClient

    class KnownHostsSftp(SFTPFileSystem):  # type: ignore[misc]  # fsspec has no types
        """fsspec's file system, which would trust any server, with the keys that ``ssh`` knows."""

        def _connect(self) -> None:
            options = dict(self.ssh_kwargs)
            known_hosts = options.pop("known_hosts", None)
            self.client = SSHClient()
            self.client.load_system_host_keys(known_hosts)
            self.client.set_missing_host_key_policy(RejectPolicy())
            self.client.connect(self.host, **options)
            self.ftp = self.client.open_sftp()
            self.ftp.get_channel().settimeout(READ_S)

        def __del__(self) -> None:
            with contextlib.suppress(Exception):
                self.client.close()

    return KnownHostsSftp
