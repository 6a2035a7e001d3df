"""What stands in a run directory that is resumed: torn, broken, left over, and what of it is written anew."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, resume
from arena_ray.cli import run_command
from arena_ray.errors import RunDirError
from arena_ray.resume_runner import Resumption
from tests.comparing import outcome
from tests.interrupted import (
    REPOSITORY,
    NotingPool,
    Watcher,
    assert_attempts_and_chunks,
    assert_whole,
    change_document,
    cut,
    document,
    events,
    killed_run,
    lines,
    run,
    state,
    torn,
    undisturbed,
    write_jobs,
)
from tests.worlds import Walk, walk_job


def test_a_torn_last_line_at_every_offset_is_none(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(num_episodes=3, env_kwargs={"max_length": 3}), records=2)
    for name in ("episodes.jsonl", "events.jsonl"):
        path = run_dir / name
        whole = path.read_bytes()
        last = whole.splitlines(keepends=True)[-1]
        for missing in range(len(last) + 1):
            path.write_bytes(whole[: len(whole) - missing])
            is_torn = name == "episodes.jsonl" and missing > 0
            with Resumption(run_dir) as resumption:
                assert resumption._history.left == 1 + is_torn, missing
            assert path.read_bytes() == whole[: len(whole) - missing]
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in ("episodes.jsonl", "events.jsonl")])
@pytest.mark.parametrize(
    "missing",
    [pytest.param(number, id=f"{number}-bytes") for number in (1, 2, 60, 300)] + [pytest.param(None, id="all-but-one")],
)
def test_a_torn_last_line_is_cut_off(tmp_path: Path, name: str, missing: int | None) -> None:
    job = walk_job(env_kwargs={"max_length": 3})
    run_dir = killed_run(tmp_path, job, records=4)
    cut(run_dir / "events.jsonl", 6)
    path = run_dir / name
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: len(whole) - min(missing or len(last) - 1, len(last) - 1)])
    result = resume(run_dir)
    assert outcome(result) == undisturbed(tmp_path, job)
    assert path.read_bytes().startswith(whole[: -len(last)])
    assert len(lines(run_dir)) == 8
    assert_attempts_and_chunks(run_dir)


@pytest.mark.parametrize(
    ("name", "bad", "told"),
    [
        pytest.param("episodes.jsonl", '{"job": "wal', r"episodes\.jsonl, line 3, is not an episode", id="record"),
        pytest.param("events.jsonl", "[]", r"events\.jsonl, line 3, is not an event", id="event"),
        pytest.param("events.jsonl", '{"kind": 3}', r"events\.jsonl, line 3, is not an event", id="event-kind"),
        pytest.param(
            "events.jsonl",
            '{"kind": "chunk_started", "job": "walk", "chunk": 1, "attempt": 1, "indices": "1-x"}',
            r"events\.jsonl, line 3, is not an event",
            id="indices",
        ),
    ],
)
def test_a_whole_line_that_is_broken_is_named(tmp_path: Path, name: str, bad: str, told: str) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=5)
    rows = (run_dir / name).read_text().splitlines(keepends=True)
    (run_dir / name).write_text("".join([*rows[:2], bad + "\n", *rows[3:]]))
    whole = state(run_dir)
    with pytest.raises(RunDirError, match=told):
        resume(run_dir)
    assert state(run_dir) == whole


@pytest.mark.parametrize(
    "changes", [pytest.param({"episode": 8}, id="too-high"), pytest.param({"job": "other"}, id="no-such-job")]
)
def test_a_record_that_is_none_of_the_run_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=5)
    with (run_dir / "episodes.jsonl").open("a") as file:
        file.write(json.dumps({**lines(run_dir)[0], **changes}) + "\n")
    with pytest.raises(RunDirError, match="which is none of the run"):
        resume(run_dir)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "has no run.json.* it ended before anything was run; then start it again", id="missing"),
        pytest.param("", "cannot read .*run.json", id="empty"),
        pytest.param('{"schema": 1, "status": "runn', "cannot read .*run.json", id="half"),
        pytest.param("[]", "holds no JSON object", id="list"),
        pytest.param('{"status": "running"}', "does not say jobs, settings, .*start it again", id="keys-missing"),
    ],
)
def test_a_run_json_that_says_nothing_is_refused(tmp_path: Path, content: str | None, told: str) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=0)
    (run_dir / "run.json").unlink()
    if content is not None:
        (run_dir / "run.json").write_text(content)
    whole = state(run_dir)
    with pytest.raises(RunDirError, match=told):
        resume(run_dir)
    assert state(run_dir) == whole


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"jobs": [{"name": "walk"}]}, id="jobs"),
        pytest.param({"settings": {"max_attempts": "many"}}, id="settings"),
        pytest.param({"source": {"flags": 3}}, id="source"),
    ],
)
def test_a_run_json_with_nonsense_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    change_document(run_dir, **changes)
    with pytest.raises(RunDirError, match=r"run\.json: "):
        resume(run_dir)


def test_what_is_no_run_directory_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["resume", str(tmp_path)]) == 2
    assert "is not a run directory" in capfd.readouterr().err
    assert run_command(["resume"]) == 2
    assert "no run directory; give the folder" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [pytest.param(place, id=place) for place in ("walk", "walk/logs", "events.jsonl")])
def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path, place: str) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    outside = tmp_path / "outside"
    shutil.move(run_dir / place, outside)
    (run_dir / place).symlink_to(outside)
    whole = [state(run_dir), outside.is_file() or state(outside)]
    with pytest.raises(RunDirError, match=f"{place} is a link to {outside}, outside"):
        resume(run_dir)
    assert [state(run_dir), outside.is_file() or state(outside)] == whole


def test_a_directory_behind_a_link_and_links_inside_are_no_trouble(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    shutil.move(run_dir / "walk", run_dir / "elsewhere")
    (run_dir / "walk").symlink_to("elsewhere")
    (tmp_path / "link").symlink_to(run_dir)
    assert outcome(resume(tmp_path / "link")) == undisturbed(tmp_path, walk_job())


def test_a_moved_directory_is_resumed(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3, record_viewport_video=True)
    for path in run_dir.glob("walk/*.mp4"):
        if path.name not in {Path(video["path"]).name for line in lines(run_dir) for video in line["videos"]}:
            path.unlink()
    moved = Path(shutil.move(run_dir, tmp_path / "moved"))
    result = resume(moved)
    assert not run_dir.exists()
    assert outcome(result) == undisturbed(tmp_path, walk_job())
    assert_whole(result)


def test_entry_points_beside_the_job_file_are_found_when_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_it.py").write_text("from tests.worlds import Walk\n")
    job = walk_job()
    job["env"]["entry_point"] = "beside_it:Walk"
    run_dir = killed_run(tmp_path, job, records=3)
    (tmp_path / "jobs.json").unlink()
    monkeypatch.delitem(sys.modules, "beside_it")
    assert resume(run_dir).status == "completed"
    assert document(run_dir)["python_path"] == [str(tmp_path), str(Path.cwd())]
    assert document(run_dir)["source"]["job_file"] == str(tmp_path / "jobs.json")


def test_a_finished_run_is_left_untouched(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = run(tmp_path, walk_job(), walk_job("steps", num_episodes=None, num_steps=30)).run_dir
    (tmp_path / "jobs.json").write_text((tmp_path / "jobs.json").read_text())
    whole = state(run_dir)
    for words in ([], ["--retry_failed"], ["--num_workers", "3"], ["walk:num_episodes=8"]):
        assert run_command(["resume", str(run_dir), *words]) == 0
        out, err = capfd.readouterr()
        assert out.splitlines()[-1] == str(run_dir)
        assert "walk   completed       8/8" in out
        assert err == f"{run_dir} is finished: every requested episode has a record; nothing to do\n"
    pool = NotingPool()
    assert resume(run_dir, pool=pool).status == "completed"
    assert (pool.closed, pool.chunks) == (True, [])
    assert state(run_dir) == whole


def test_a_finished_run_with_errors_says_how_to_retry(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = walk_job(env_kwargs={"poison": [2, 5]})
    run_dir = run(tmp_path, job, continue_on_error=True).run_dir
    whole = state(run_dir)
    assert run_command(["resume", str(run_dir)]) == 1
    assert "nothing to do; 2 of them are recorded as error or timeout, and can be run again with --retry_failed" in (
        capfd.readouterr().err
    )
    assert state(run_dir) == whole


@pytest.mark.parametrize("number", [pytest.param(0, id="all-completed"), pytest.param(1, id="one-error")])
@pytest.mark.parametrize("at", [pytest.param(at, id=at) for at in ("before-summary", "before-run-json", "interrupted")])
def test_a_driver_killed_at_the_very_end_leaves_the_last_files(tmp_path: Path, at: str, number: int) -> None:
    whole = run(tmp_path, walk_job(env_kwargs={"poison": [2] * number}), continue_on_error=True)
    run_dir = whole.run_dir
    summary = (run_dir / "summary.json").read_bytes()
    if at == "before-summary":
        (run_dir / "summary.json").unlink()
    before = document(run_dir)
    status = {"before-summary": "running", "before-run-json": "running", "interrupted": "interrupted"}[at]
    settings = {**before["settings"], "inline": False}  # Nothing is to be run: no Ray is started.
    change_document(run_dir, status=status, finished_at=None, settings=settings, hardware={"pool": "ray"}, argv=["x"])
    records = (run_dir / "episodes.jsonl").read_bytes()
    result = resume(run_dir)
    assert result == dataclasses.replace(whole)
    assert (run_dir / "summary.json").read_bytes() == summary
    assert (run_dir / "episodes.jsonl").read_bytes() == records
    after = document(run_dir)
    assert (after["status"], after["hardware"], after["argv"]) == (before["status"], {"pool": "ray"}, ["x"])
    assert after["finished_at"] is not None
    kinds = [line["kind"] for line in lines(run_dir, "events.jsonl")]
    assert kinds[kinds.index("run_finished") + 1 :] == ["run_resumed", "run_finished"]
    untouched = state(run_dir)
    resume(run_dir)
    assert state(run_dir) == untouched


def test_notes_are_kept_and_stand_once(tmp_path: Path) -> None:
    job = walk_job()
    job["env"]["entry_point"] = "tests.worlds:Unseeded"
    result = run(tmp_path, job)
    (note,) = result.notes
    torn(result.run_dir, 0)
    change_document(result.run_dir, notes=["an old one", note])
    again = resume(result.run_dir)
    assert list(again.notes) == document(result.run_dir)["notes"] == ["an old one", note]
    assert list(RunResult.load(result.run_dir).notes) == ["an old one", note]


def test_other_versions_are_noted(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    before = document(run_dir)
    now = before["versions"]
    old = {**{name: version for name, version in now.items() if name != "av"}, "torch": "0.1", "gone": "3"}
    change_document(run_dir, versions=old, argv=["old"], hardware={"pool": "old"})
    note = f"resumed with torch {now['torch']} (was 0.1), av {now['av']} (was not there), no gone (was 3)"
    watcher = Watcher()
    result = resume(run_dir, observer=watcher)
    after = document(run_dir)
    assert list(result.notes) == after["notes"] == [note]
    assert (after["versions"], after["hardware"]) == (now, before["hardware"])
    assert after["argv"] == sys.argv
    assert [event["message"] for event in watcher.events if event["kind"] == "warning"] == [note]


def test_a_run_says_who_drives_it(tmp_path: Path) -> None:
    after = document(run(tmp_path, walk_job(num_episodes=1)).run_dir)
    assert after["driver"] == {"host": os.uname().nodename, "pid": os.getpid()}
    assert after["mark"].startswith("arena-ray-")
    assert after["resumed_at"] == []


class Dying(Walk):
    """Kills its process in the middle of an episode."""

    def step(self, action: Any) -> Any:
        if os.path.exists("die") and self._t == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


@pytest.mark.heavy
def test_leftover_videos_are_salvaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an episode that stays without a record, for its environment raises before it begins."""
    job = {**walk_job(num_envs=2), "env": {"entry_point": "tests.test_resume_files:Dying"}}
    path = write_jobs(tmp_path, job)
    (tmp_path / "die").touch()
    command = [sys.executable, "-m", "arena_ray.cli", "run", str(path), "--inline", "--record_viewport_video"]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run([*command, "--video_base_dir", "runs"], cwd=tmp_path, env=environ, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    (run_dir,) = (tmp_path / "runs").iterdir()
    left = sorted((run_dir / "walk").glob("*.partial.mp4"))
    assert left
    hidden = run_dir / "walk" / ".replay-1" / "walk" / left[0].name
    hidden.parent.mkdir(parents=True)
    shutil.copy(left[0], hidden)
    (run_dir / "walk" / "empty-env0-episode-1.1.partial.mp4").touch()
    (run_dir / "walk" / f".{left[0].name}.1.tmp").touch()
    hidden_bytes = hidden.read_bytes()
    assert b"moof" in hidden_bytes
    seen: dict[str, bytes] = {}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "die").unlink()
    salvaged = Watcher(lambda: seen.update({path.name: path.read_bytes() for path in left if path.exists()}))
    result = resume(run_dir, observer=salvaged)
    (event,) = [event for event in salvaged.events if event["kind"] == "salvaged"]
    assert event["number"] == len(left)
    assert event["paths"] == [path.relative_to(run_dir).as_posix() for path in left]
    assert all(b"moof" not in content for content in seen.values())
    assert hidden.read_bytes() == hidden_bytes
    shutil.rmtree(hidden.parent.parent)
    assert outcome(result) == undisturbed(tmp_path, walk_job())
    assert_whole(result)


def test_videos_that_belong_to_a_record_are_left_alone(tmp_path: Path) -> None:
    job = walk_job(env_kwargs={"poison": [1]})
    result = run(tmp_path, job, continue_on_error=True, record_viewport_video=True)
    (video,) = result.jobs["walk"].episodes[1].videos
    before = state(result.run_dir)[video.path]
    torn(result.run_dir, 5)
    resume(result.run_dir)
    assert state(result.run_dir)[video.path] == before
    assert events(result.run_dir, "salvaged") == []


def test_without_leftovers_no_video_library_is_loaded(tmp_path: Path) -> None:
    run_dir = killed_run(tmp_path, walk_job(), records=3)
    code = (
        "import sys; from arena_ray.config import load_plan; from arena_ray.resume_runner import _salvage\n"
        "from arena_ray.run_dir import RunDir; from tests.worlds import walk_job\n"
        "assert list(_salvage(RunDir(sys.argv[1]), load_plan({'jobs': [walk_job()]}), ())) == []\n"
        "assert 'av' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run_dir)], cwd=REPOSITORY, check=True, timeout=60)


def test_records_that_ranks_left_are_merged(tmp_path: Path) -> None:
    run_dir = run(tmp_path, walk_job()).run_dir
    rows = (run_dir / "episodes.jsonl").read_text().splitlines(keepends=True)
    torn(run_dir, 1, 1)
    (run_dir / "ranks").mkdir()
    (run_dir / "ranks" / "episodes-0.jsonl").write_text(rows[0] + rows[2] + rows[4])
    (run_dir / "ranks" / "episodes-1.jsonl").write_text(rows[3] + rows[5][:50])
    pool = NotingPool()
    watcher = Watcher()
    result = resume(run_dir, pool=pool, observer=watcher)
    assert sorted(episode for chunk in pool.chunks for episode in chunk.episodes) == [1, 5, 6, 7]
    assert {chunk.attempt for chunk in pool.chunks} == {2}
    assert (watcher.events[0]["left"], watcher.events[0]["jobs"]["walk"]["done"]) == (4, 1)
    assert len(watcher.records) == 7
    assert outcome(result) == undisturbed(tmp_path, walk_job())
    assert len(lines(run_dir)) == 8
    assert not (run_dir / "ranks").exists()


def test_ranks_that_had_everything_are_merged_without_a_worker(tmp_path: Path) -> None:
    run_dir = run(tmp_path, walk_job()).run_dir
    rows = (run_dir / "episodes.jsonl").read_text()
    torn(run_dir, 0, 1)
    (run_dir / "ranks").mkdir()
    (run_dir / "ranks" / "episodes-0.jsonl").write_text(rows)
    pool = NotingPool()
    assert resume(run_dir, pool=pool).status == "completed"
    assert pool.chunks == []
    assert (run_dir / "episodes.jsonl").read_text() == rows
