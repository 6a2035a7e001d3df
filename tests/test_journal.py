"""When what the driver writes is forced to the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arena_ray import journal
from arena_ray.config import load_plan
from arena_ray.dispatch import Chunk
from tests.worlds import walk_job

JOBS = [walk_job("episodes"), walk_job("steps", num_episodes=None, num_steps=9)]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was forced to the disk."""
    names: list[str] = []

    def note(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", note)
    return names


@pytest.fixture
def open_journal(tmp_path: Path) -> journal.Journal:
    return journal.new_run(load_plan({"jobs": JOBS}, (), {"video_base_dir": str(tmp_path)}))({})


def test_records_and_events_are_forced_to_the_disk_now_and_then(
    open_journal: journal.Journal, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal:
        open_journal.tick()
        assert synced == []
        monkeypatch.setattr(journal, "SYNC_PERIOD_S", -1)
        open_journal.tick()
        assert synced == ["episodes.jsonl", "events.jsonl"]


def test_no_record_is_lost_after_the_line_that_a_budget_is_used_up(
    open_journal: journal.Journal, synced: list[str]
) -> None:
    jobs = load_plan({"jobs": JOBS}).jobs
    with open_journal:
        for job, expected in zip(jobs, ([], ["episodes.jsonl"]), strict=True):
            open_journal.event("chunk_finished", Chunk(job=job, index=0, episodes=()), cut_short=False)
            assert synced == expected
