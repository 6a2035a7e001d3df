"""Storages, against real servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray.errors import ConfigError
from arena_ray.storage import open_storage, prove_storage
from arena_ray.storage.object_store import PART_BYTES
from tests.storage.servers import S3, environment, running

SERVERS = [pytest.param(scheme, id=scheme) for scheme in ("file", "sftp", "s3", "gs")]


@pytest.fixture
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet."""
    scheme = request.param
    if scheme == "file":
        return f"file://{tmp_path}/store/new"
    if scheme == "sftp":
        return str(request.getfixturevalue("sshd").uri(tmp_path / "store" / "new"))
    request.getfixturevalue(scheme)
    return f"{scheme}://videos/{uuid.uuid4().hex}"


@pytest.mark.parametrize("uri", SERVERS, indirect=True)
@pytest.mark.parametrize(
    "size",
    [pytest.param(0, id="empty"), pytest.param(1000, id="small"), pytest.param(2 * PART_BYTES + 12345, id="in-parts")],
)
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # gcsfs does, aiohttp warns.
def test_what_is_put_is_got(uri: str, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    storage = open_storage(uri)
    assert storage.put(source, "job/video.mp4") == size
    storage.get("job/video.mp4", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("uri", SERVERS, indirect=True)
def test_a_file_is_replaced_and_removed(uri: str, tmp_path: Path) -> None:
    storage = open_storage(uri)
    for text in ("first", "second one"):
        (tmp_path / "source").write_text(text)
        assert storage.put(tmp_path / "source", "run.json") == len(text)
    storage.get("run.json", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "second one"
    storage.remove("run.json")
    with pytest.raises(FileNotFoundError):
        storage.get("run.json", tmp_path / "back")


@pytest.mark.parametrize("uri", SERVERS, indirect=True)
def test_a_storage_that_works_is_proven_and_left_clean(uri: str, tmp_path: Path) -> None:
    assert prove_storage(uri) is None
    if (tmp_path / "store").exists():
        assert list((tmp_path / "store" / "new").iterdir()) == []


def test_no_temporary_file_is_left_where_a_folder_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("text")
    (tmp_path / "store" / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        open_storage(f"file://{tmp_path}/store").put(tmp_path / "source", "taken")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["taken"]


@pytest.mark.parametrize("scheme", [pytest.param("s3", id="s3"), pytest.param("gs", id="gs")])
def test_a_bucket_that_is_not_there_is_found(request: pytest.FixtureRequest, scheme: str) -> None:
    request.getfixturevalue(scheme)
    problem = prove_storage(f"{scheme}://no-such-bucket/runs")
    assert problem is not None
    assert "FileNotFoundError" in problem


@pytest.fixture
def strict_s3() -> Iterator[S3]:
    with running(S3(checks_credentials=True)) as server, environment(server.environment()):
        yield server


def test_wrong_credentials_are_found(strict_s3: S3) -> None:
    problem = prove_storage("s3://videos/runs")
    assert problem is not None
    assert "Access" in problem or "Forbidden" in problem


def test_an_unknown_host_key_is_refused(sshd: Any, tmp_path: Path) -> None:
    with environment(sshd.environment(known_hosts="no_hosts")):
        problem = prove_storage(sshd.uri(tmp_path / "store"))
    assert problem is not None
    assert "not found in known_hosts" in problem
    assert not (tmp_path / "store").exists()


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "paramiko", None)
    monkeypatch.delitem(__import__("sys").modules, "fsspec.implementations.sftp", raising=False)
    with pytest.raises(ConfigError, match=r"pip install \"arena-ray\[storage\]\""):
        open_storage("sftp://host/folder")
