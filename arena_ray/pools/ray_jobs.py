"""Ray's job server (its dashboard, port 8265): sends a run there, follows its log, and ends it.

Facts about Ray 2.60 that this rests on: a client's address is overridden by `RAY_API_SERVER_ADDRESS` and
`RAY_ADDRESS`; the token is read from where `ray_access.token_problem` says and sent with each request; a log is told
from its beginning each time; a stop is SIGTERM to all processes of the job, and SIGKILL 3 s later.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from arena_ray.errors import ClusterError, ConfigError
from arena_ray.pools.ray_access import CONNECT_S, check_own_token, token_problem

#: Variables that would win over the address that the user gave.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

#: How long a server that was there may be away while a log is followed, seconds.
AWAY_S = 300.0

#: How often it is tried meanwhile, and a job that ends is looked at, seconds.
LOOK_S = 0.5

#: How long after its log a job may take to say how it ended, seconds.
END_S = 30.0

#: What is thrown where the connection, or the server, is gone.
_LOST = (ConnectionError, OSError, RuntimeError, asyncio.TimeoutError)


@dataclasses.dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job stands.

    Attributes:
        status: Ray's word: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``.
        exit_code: Of its command, if that ended by itself.
        message: What Ray says of it.
    """

    status: str
    exit_code: int | None
    message: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class JobServer:
    """The job server of a cluster.

    Args:
        address: ``http://HEAD:8265``.

    Raises:
        ConfigError: If the address or the token cannot be used, or a library is missing here.
        ClusterError: If the server there cannot take jobs.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        _check_address(address)
        check_own_token(address)
        try:
            from ray.job_submission import JobSubmissionClient

            _quieten()
            with _no_overrides(), self._told():
                self._client: Any = JobSubmissionClient(address)
        except (ImportError, RuntimeError) as error:
            if isinstance(error, ImportError) or "ray[default]" in str(error):
                raise ConfigError(
                    f'submit needs what ray[default] installs ({error}): pip install "arena-ray[cluster]"'
                ) from error
            raise ClusterError(f"the server at {address!r} takes no jobs: {error}") from error

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say of a connection or token that fails what to do."""
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError(token_problem(self.address)) from error
        except (ConnectionError, OSError) as error:
            raise ConfigError(f"cannot reach the job server at {self.address!r}: {error}") from error

    def submit(self, entrypoint: str, package: Path, metadata: dict[str, str]) -> str:
        """Upload a package, start a command in a copy of it, and return the submission's id.

        Args:
            entrypoint: Shell command, run on the head.
            package: Zip file.
            metadata: Shown by Ray beside the job.

        Raises:
            ClusterError: If the server refuses it.
        """
        with self._told():
            try:
                return str(
                    self._client.submit_job(
                        entrypoint=entrypoint, runtime_env={"working_dir": str(package)}, metadata=metadata
                    )
                )
            except RuntimeError as error:
                raise ClusterError(f"the job server at {self.address!r} refuses the run: {error}") from error

    def state(self, submission_id: str) -> JobEnd:
        """Return how a job stands.

        Raises:
            ConfigError: If there is no such job.
        """
        with self._told():
            try:
                details = self._client.get_job_info(submission_id)
            except RuntimeError as error:
                raise ConfigError(
                    f"the job server at {self.address!r} knows no job {submission_id!r} ({error}); `ray job list "
                    f"--address {self.address}` shows those it has"
                ) from error
        return JobEnd(str(details.status.value), details.driver_exit_code, details.message or "")

    def follow(self, submission_id: str, write: Callable[[str], None]) -> JobEnd:
        """Hand a job's log on until it ends; a connection that is lost is made again.

        Args:
            submission_id: The job.
            write: Called with pieces of text, in order.
        """
        log = _Log(self._client, submission_id, write)
        lost_at: float | None = None
        while True:
            try:
                asyncio.run(log.tail())
                end, lost_at = self.state(submission_id), None
            except (*_LOST, ConfigError) as error:
                lost_at = time.monotonic() if lost_at is None else lost_at
                if time.monotonic() - lost_at > AWAY_S:
                    raise ClusterError(f"the job server at {self.address!r} is gone: {error}") from error
            else:
                if end.is_over:
                    log.finish()
                    return end
            time.sleep(LOOK_S)

    def stop(self, submission_id: str) -> JobEnd:
        """End a job, and return how it stands then."""
        self.state(submission_id)
        with self._told():
            self._client.stop_job(submission_id)
        give_up = time.monotonic() + END_S
        while not (end := self.state(submission_id)).is_over and time.monotonic() < give_up:
            time.sleep(LOOK_S)
        return end


class _Log:
    """A job's log, of which each part is handed on once, although it is told from its beginning each time."""

    def __init__(self, client: Any, submission_id: str, write: Callable[[str], None]) -> None:
        self._client, self._submission_id, self._write = client, submission_id, write
        self._seen = 0

    async def tail(self) -> None:
        told = 0
        async for text in self._client.tail_job_logs(self._submission_id):
            new = text[max(0, self._seen - told) :]
            told += len(text)
            if new:
                self._seen = told
                self._write(new)

    def finish(self) -> None:
        """Hand on what came after the last look."""
        with contextlib.suppress(*_LOST):
            self._write(self._client.get_job_logs(self._submission_id)[self._seen :])


@contextlib.contextmanager
def _no_overrides() -> Iterator[None]:
    values = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)


def _quieten() -> None:
    """Keep what Ray's client tells of its own steps from the log of the run."""
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _check_address(address: str) -> None:
    if address.startswith("ray://"):
        raise ConfigError(f"address {address!r}: Ray Client takes no jobs; give the dashboard's, http://HEAD:8265")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise ConfigError(
            f"address {address!r} is none of a job server; give that of the dashboard, http://HEAD:8265, or run on a "
            "machine of the cluster: arena-ray run JOBS --address auto"
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(
            f"nobody listens at {address!r} ({error}); start the head with --include-dashboard true, and reach its "
            "port 8265 from here, e.g. with ssh -L 8265:localhost:8265 HEAD"
        ) from error
