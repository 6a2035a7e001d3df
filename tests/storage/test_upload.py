"""Uploads while servers fail."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from arena_ray.storage import open_storage
from arena_ray.storage.upload import Uploader, UploadError, put_whole
from tests.storage.servers import S3, environment, running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"pictures" * 10_000)
    return path


def test_a_server_that_is_away_for_a_while(source: Path, tmp_path: Path) -> None:
    with running(S3()) as server, environment(server.environment()):
        uploader = Uploader("s3://videos/run", patience_s=60.0)
        uploader.upload(source, "before.mp4")
        server.stop()
        uploads = [uploader.submit(source, f"{number}.mp4") for number in range(3)]
        time.sleep(1.5)
        assert not any(upload.done() for upload in uploads)
        server.start()
        for upload in uploads:
            upload.result(60)
        for number in range(3):
            open_storage("s3://videos/run").get(f"{number}.mp4", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == source.read_bytes()
        uploader.close()


def test_an_sshd_that_is_away_for_a_while(sshd: Any, source: Path, tmp_path: Path) -> None:
    uploader = Uploader(sshd.uri(tmp_path / "store"), patience_s=60.0)
    uploader.upload(source, "before.mp4")
    sshd.stop()
    upload = uploader.submit(source, "after.mp4")
    time.sleep(1.0)
    assert not upload.done()
    sshd.start()
    upload.result(60)
    assert (tmp_path / "store" / "after.mp4").read_bytes() == source.read_bytes()
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"before.mp4", "after.mp4"}
    uploader.close()


def test_a_server_that_stays_away_costs_one_patience(sshd: Any, source: Path, tmp_path: Path) -> None:
    uri = sshd.uri(tmp_path / "store")
    sshd.stop()
    try:
        uploader = Uploader(uri, patience_s=2.0)
        began = time.monotonic()
        with pytest.raises(UploadError, match="Unable to connect"):
            uploader.upload(source, "first.mp4")
        first_s = time.monotonic() - began
        for number in range(5):
            with pytest.raises(UploadError, match="Unable to connect"):
                uploader.upload(source, f"{number}.mp4")
        assert time.monotonic() - began - first_s < 2.0
        uploader.close()
    finally:
        sshd.start()


def test_a_source_that_is_gone_is_not_waited_for(s3: S3, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UploadError, match="FileNotFoundError"):
        Uploader(f"s3://videos/{uuid.uuid4().hex}", patience_s=60.0).upload(tmp_path / "none", "none.mp4")
    assert time.monotonic() - began < 20


def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_whole(tmp_path: Path) -> None:
    """The size is looked at first: what the storage has then is more."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    storage = open_storage(f"file://{tmp_path}/store")
    put = storage.put

    def put_after_growth(source: Path, path: str) -> int:
        source.write_bytes(b"xxx")
        return put(source, path)

    storage.put = put_after_growth  # type: ignore[method-assign]
    with pytest.raises(UploadError, match="3 of 1 bytes"):
        put_whole(storage, source, "video.mp4")


def test_threads_do_not_hinder_each_other(s3: S3, tmp_path: Path) -> None:
    uploader = Uploader(f"s3://videos/{uuid.uuid4().hex}", patience_s=5.0)
    sources = [tmp_path / f"{number}" for number in range(20)]
    for number, path in enumerate(sources):
        path.write_bytes(bytes([number]) * 5000)
    for upload in [uploader.submit(path, f"job/{path.name}") for path in sources]:
        upload.result(60)
    assert sum(thread.name.startswith("upload") for thread in threading.enumerate()) <= 2 + 2
    uploader.close()
