"""Runs that were interrupted, to be resumed: killed as they ran, or cut down to what a killed driver leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arena_ray import RunResult, evaluate
from arena_ray.config import EvalPlan
from arena_ray.dispatch import Chunk
from arena_ray.index_ranges import parse_ranges
from arena_ray.pools.inline import InlinePool
from arena_ray.records import EpisodeRecord
from tests.comparing import decode, outcome, shown_steps

REPOSITORY = Path(__file__).parent.parent


SLOW = {"step_s": 0.01, "max_length": 12}


def write_jobs(tmp_path: Path, *jobs: dict[str, Any], **top: Any) -> Path:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"jobs": list(jobs), **top}))
    return path


def run(tmp_path: Path, *jobs: dict[str, Any], **flags: Any) -> RunResult:
    return evaluate(write_jobs(tmp_path, *jobs), inline=True, video_base_dir=str(tmp_path / "runs"), **flags)


def undisturbed(tmp_path: Path, *jobs: dict[str, Any], **flags: Any) -> list[dict[str, Any]]:
    base = str(tmp_path / "undisturbed")
    return outcome(evaluate({"jobs": list(jobs)}, inline=True, video_base_dir=base, **flags))


def document(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return content


def change_document(run_dir: Path, **changes: Any) -> None:
    content = {**document(run_dir), **changes}
    (run_dir / "run.json").write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def lines(run_dir: Path, name: str = "episodes.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines(run_dir, "events.jsonl") if line["kind"] == kind]


def torn(run_dir: Path, records: int, num_events: int | None = None) -> Path:
    """Make of a whole run one whose driver was killed when so many records (and events) had been written."""
    cut(run_dir / "episodes.jsonl", records)
    if num_events is not None:
        cut(run_dir / "events.jsonl", num_events)
    (run_dir / "summary.json").unlink()
    change_document(run_dir, status="running", finished_at=None)
    return run_dir


def cut(path: Path, keep: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:keep]))


def killed_run(tmp_path: Path, *jobs: dict[str, Any], records: int, **flags: Any) -> Path:
    return torn(run(tmp_path, *jobs, **flags).run_dir, records)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


def assert_whole(result: RunResult) -> None:
    """Every record has its video of T+1 frames, and nothing else is left."""
    named = set()
    for record in result.records():
        assert record.length is not None
        for video in record.videos:
            path = result.run_dir / video.path
            assert shown_steps(decode(path)) == list(range(record.length + 1))
            assert (video.frames, video.bytes) == (record.length + 1, path.stat().st_size)
            named.add(path)
    assert named == set(result.run_dir.rglob("*.mp4"))
    assert not list(result.run_dir.rglob(".*"))


def assert_attempts_and_chunks(run_dir: Path) -> None:
    """No chunk index is used twice, and no episode is handed out twice as the same attempt."""
    started = events(run_dir, "chunk_started")
    chunks = [(event["job"], event["chunk"]) for event in started]
    assert len(set(chunks)) == len(chunks)
    handed_out = [
        (event["job"], episode, event["attempt"]) for event in started for episode in parse_ranges(event["indices"])
    ]
    assert len(set(handed_out)) == len(handed_out)


class NotingPool(InlinePool):
    """Remembers what it was given, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[Chunk] = []
        self.closed = False

    def submit(self, chunk: Chunk, *others: Any) -> None:
        self.chunks.append(chunk)
        super().submit(chunk, *others)

    def close(self) -> None:
        self.closed = True
        super().close()


class Watcher:
    """An observer that remembers, and does something at the first record."""

    def __init__(self, deed: Callable[[], Any] | None = None) -> None:
        self.told: list[str] = []
        self.records: list[EpisodeRecord] = []
        self.events: list[Mapping[str, Any]] = []
        self._deed = deed

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        self.told.append("started")

    def recorded(self, record: EpisodeRecord) -> None:
        self.records.append(record)
        if self._deed is not None and len(self.records) == 1:
            self._deed()

    def event(self, line: Mapping[str, Any]) -> None:
        self.told.append(line["kind"])
        self.events.append(line)

    def tick(self) -> None: ...

    def finished(self, result: RunResult) -> None:
        self.told.append("finished")
