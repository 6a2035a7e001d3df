"""Files in pieces: what is put together is what was taken apart, and nothing lands outside of the run directory."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from arena_ray.records import EpisodeRecord, VideoFile
from arena_ray.storage import NOT_DELIVERED, FileCollector
from arena_ray.storage.base import PIECE_BYTES
from arena_ray.storage.pieces import read_pieces
from arena_ray.worker_events import FilePiece

SENDER = ("job", 3)


def record(*paths: str) -> EpisodeRecord:
    videos = tuple(VideoFile(kind="viewport", camera=None, path=path, frames=2, fps=10, bytes=9) for path in paths)
    return EpisodeRecord(job="job", episode=0, seed=1, status="completed", videos=videos)


def pieces_of(folder: Path, content: bytes) -> list[FilePiece]:
    (folder / "job").mkdir(parents=True, exist_ok=True)
    (folder / "job" / "v.mp4").write_bytes(content)
    return list(read_pieces(folder, "job/v.mp4"))


@pytest.mark.parametrize(
    ("size", "number"),
    [
        pytest.param(0, 1, id="empty"),
        pytest.param(1000, 1, id="small"),
        pytest.param(PIECE_BYTES, 1, id="one-piece"),
        pytest.param(3 * PIECE_BYTES + 1, 4, id="four-pieces"),
    ],
)
def test_a_file_arrives_as_it_was(tmp_path: Path, size: int, number: int) -> None:
    content = os.urandom(size)
    pieces = pieces_of(tmp_path / "there", content)
    assert len(pieces) == number
    assert max(len(piece.data) for piece in pieces) <= PIECE_BYTES
    collector = FileCollector(tmp_path / "here")
    target = tmp_path / "here" / "job" / "v.mp4"
    for piece in pieces:
        assert not target.exists()
        collector.take(SENDER, piece)
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["v.mp4"]
    assert collector.judged(SENDER, record("job/v.mp4")) == record("job/v.mp4")


def spoil(pieces: list[FilePiece], how: str) -> list[FilePiece]:
    if how == "digest":
        other = bytes([pieces[-1].data[0] ^ 1]) + pieces[-1].data[1:]
        return [*pieces[:-1], dataclasses.replace(pieces[-1], data=other)]
    if how == "gap":
        return [pieces[0], *pieces[2:]]
    return [dataclasses.replace(piece, path=how) for piece in pieces]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        pytest.param("digest", "digest", id="another-digest"),
        pytest.param("gap", "arrived where", id="a-piece-is-missing"),
        pytest.param("job/../../outside.mp4", "no path", id="dots"),
        pytest.param("/tmp/outside.mp4", "no path", id="absolute"),
        pytest.param("run.json", "no path", id="document"),
        pytest.param("link/outside.mp4", "leads out", id="link"),
    ],
)
def test_what_is_wrong_costs_the_file_and_is_said(tmp_path: Path, how: str, why: str) -> None:
    pieces = spoil(pieces_of(tmp_path / "there", os.urandom(2 * PIECE_BYTES + 5)), how)
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (here / "link").symlink_to(tmp_path / "elsewhere")
    collector = FileCollector(here)
    for piece in pieces:
        collector.take(SENDER, piece)
    (video,) = collector.judged(SENDER, record(pieces[0].path)).videos
    assert video.bytes == 0
    assert video.error is not None
    assert video.error.startswith(NOT_DELIVERED)
    assert why in video.error
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parts[-3] != "there"] == []


def test_a_worker_that_dies_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    pieces = pieces_of(tmp_path / "there", os.urandom(2 * PIECE_BYTES))
    collector = FileCollector(tmp_path / "here")
    collector.take(SENDER, pieces[0])
    assert len(list((tmp_path / "here" / "job").iterdir())) == 1
    collector.drop(SENDER)
    assert list((tmp_path / "here" / "job").iterdir()) == []


def test_a_folder_that_takes_nothing_costs_the_file(tmp_path: Path) -> None:
    (pieces,) = [pieces_of(tmp_path / "there", b"x" * 100)]
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "job").write_text("a file where the folder should be")
    collector = FileCollector(tmp_path / "here")
    for piece in pieces:
        collector.take(SENDER, piece)
    (video,) = collector.judged(SENDER, record("job/v.mp4")).videos
    assert NOT_DELIVERED in (video.error or "")
