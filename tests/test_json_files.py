from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from arena_ray.json_files import LineLog, replace_json


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files and folders that were forced to the disk."""
    paths: list[str] = []
    sync = os.fsync

    def note_and_sync(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_and_sync)
    return paths


def test_a_torn_line_longer_than_a_block_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("{}\n" + "x" * 200_000)
    LineLog(path).close()
    assert path.read_text() == "{}\n"
    path.write_text("y" * 200_000)
    LineLog(path).close()
    assert path.read_text() == ""


def test_json_is_strict_and_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    replace_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_is_on_the_disk_and_so_is_its_name(tmp_path: Path, synced: list[str]) -> None:
    replace_json(tmp_path / "x.json", {"a": 1})
    assert synced == [str(tmp_path / f".x.json.{os.getpid()}.tmp"), str(tmp_path)]


def test_the_name_of_a_new_log_is_on_the_disk(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "log"
    with LineLog(path) as log:
        assert synced == [str(tmp_path)]
        log.append({"a": 1})
    assert synced == [str(tmp_path), str(path)]
    LineLog(path).close()
    assert synced == [str(tmp_path), str(path), str(path)]


def test_a_folder_that_cannot_be_forced_to_the_disk_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    replace_json(tmp_path / "x.json", {"a": 1})
    LineLog(tmp_path / "log").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "x.json"]
