from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.servers import S3, Gs, Sshd, environment, need_sshd, running


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A real S3 server; this process and its children find it."""
    with running(S3()) as server, environment(server.environment()):
        yield server


@pytest.fixture(scope="module")
def gs() -> Iterator[Gs]:
    """An emulated Google Cloud Storage; this process and its children find it."""
    with running(Gs()) as server, environment(server.environment()):
        yield server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd; this process and its children get in."""
    need_sshd()
    with running(Sshd(tmp_path_factory.mktemp("sshd"))) as server, environment(server.environment()):
        yield server
