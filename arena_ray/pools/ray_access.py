"""Whether this process may and can use a Ray cluster, said before Ray itself would try for many seconds.

Measured with Ray 2.60: with a wrong or missing token `ray.init` tries for 20 s and then says that it cannot connect;
at a port that is not the head's (that of the dashboard) for more than 40 s; where nobody listens for minutes.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import ray

from arena_ray.errors import ConfigError

#: How long the cluster's head may take to accept a connection, seconds.
CONNECT_S = 5.0

#: How long somebody who listens may take to say whether it is a web server, seconds.
ANSWER_S = 1.0

SAME_VERSIONS = "install the same versions of Ray, Python and arena-ray here and on every node"


def refuse_ray_client(address: str | None) -> None:
    """Refuse addresses of Ray Client, and those of the dashboard.

    Raises:
        ConfigError: Saying what to do instead.
    """
    if address is None or "://" not in address:
        return
    if address.startswith("ray://"):
        raise ConfigError(
            f"address {address!r}: Ray Client loses a run after 30 s without connection; run on a machine of the "
            "cluster with --address auto, or from anywhere with arena-ray submit JOBS --address http://HEAD:8265"
        )
    raise ConfigError(_is_dashboard(address))


def _is_dashboard(address: str) -> str:
    return (
        f"address {address!r} is a web server's, as Ray's dashboard is (port 8265): send the run there with arena-ray "
        "submit JOBS --address http://HEAD:8265, or give auto or HEAD:6379 on a machine of the cluster"
    )


def check_access(address: str) -> None:
    """Check that Ray's head listens at ``HOST:PORT`` and takes this process's token.

    Raises:
        ConfigError: If it does not.
    """
    check_own_token(address)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
            answer = _first_words(connection)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nobody listens at {address!r} ({error}); give the address that `ray start --head` printed, or leave "
            "--address out to start Ray on this machine"
        ) from error
    if answer.startswith(b"HTTP/1"):
        raise ConfigError(_is_dashboard(address))
    _check_token(address)


def _first_words(connection: socket.socket) -> bytes:
    """Return what a server answers to a web browser; Ray's head speaks gRPC, which answers something else."""
    connection.settimeout(ANSWER_S)
    try:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(16)
    except OSError:
        return b""


def _check_token(address: str) -> None:
    # Not public, but what `ray.init` itself begins with (Ray 2.60); without it a bad token is a lost connection.
    gcs_client = getattr(ray._raylet, "GcsClient", None)
    if gcs_client is None:
        return
    try:
        gcs_client(address=address)
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(token_problem(address)) from error
    except ray.exceptions.RayError:
        return  # `ray.init` will say what it is.


def token_problem(address: str) -> str:
    """Return that a cluster did not take this process's token, where tokens are looked for, and what to do."""
    mode = os.environ.get("RAY_AUTH_MODE")
    return (
        f"Ray at {address!r} did not take this process's token: RAY_AUTH_MODE is {mode or 'not set'}, and the token is "
        f"{token_source()}. Ray looks in RAY_AUTH_TOKEN, then in the file RAY_AUTH_TOKEN_PATH, then in "
        "~/.ray/auth_token: put the token of the head there (on the head `ray get-auth-token` prints it) and export "
        "RAY_AUTH_MODE=token"
    )


def check_own_token(address: str) -> None:
    """Check that this process has a token if it is to use one: Ray 2.60 ends the process (SIGABRT) if it has none.

    Raises:
        ConfigError: If it has none.
    """
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    found = os.environ.get("RAY_AUTH_TOKEN") or Path(path or Path.home() / ".ray" / "auth_token").is_file()
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and not found:
        raise ConfigError(token_problem(address))


def token_source() -> str:
    """Return where this process's token comes from, in words; the token itself is never told."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "that of the variable RAY_AUTH_TOKEN"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path:
        return f"that of the file {path} (RAY_AUTH_TOKEN_PATH)" + ("" if Path(path).is_file() else ", which is missing")
    if (Path.home() / ".ray" / "auth_token").is_file():
        return "that of ~/.ray/auth_token"
    return "nowhere to be found"
