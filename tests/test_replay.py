"""Replaying episodes: equal ones gain videos, unequal ones are told, and nothing of the run is touched."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_ray import EvalJob, ReplayResult, RunResult, evaluate, replay
from arena_ray.config import EvalPlan
from arena_ray.dispatch import Chunk, WorkerSetup
from arena_ray.errors import ArenaError, ConfigError, NotEnoughResourcesError, RunDirError
from arena_ray.pools import ChunkEvents, ChunkFinished, Place, PoolEvent
from arena_ray.pools.inline import InlinePool
from arena_ray.records import EpisodeError, EpisodeRecord, VideoFile, WorkerInfo
from arena_ray.replay_runner import differences
from arena_ray.worker_events import Notice
from tests.comparing import decode, shown_steps
from tests.worlds import Walk, walk_job

CAMERAS = {"cameras": ["front", "wrist"]}


def run(tmp_path: Path, *jobs: dict[str, Any], **flags: Any) -> RunResult:
    """Evaluate jobs, by default without video."""
    return evaluate({"jobs": list(jobs)}, inline=True, video_base_dir=str(tmp_path / "runs"), **flags)


def again(result: RunResult, job: str, episodes: Any, **flags: Any) -> ReplayResult:
    if "pool" not in flags:
        flags["inline"] = True
    return replay(result.run_dir, job, episodes, **flags)


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mp4"))


def lines(result: RunResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.run_dir / "replays.jsonl").read_text().splitlines()]


def assert_nothing_hidden(run_dir: Path) -> None:
    assert not list(run_dir.rglob(".*"))


def assert_whole(run_dir: Path, record: EpisodeRecord) -> None:
    """Every video of the record shows its T steps and the reset."""
    assert record.length is not None
    for video in record.videos:
        assert video.frames == record.length + 1
        assert shown_steps(decode(run_dir / video.path)) == list(range(record.length + 1))
        assert video.bytes == (run_dir / video.path).stat().st_size


def weathered(tmp_path: Path, value: float, **changes: Any) -> dict[str, Any]:
    """A job whose episodes 1 and 4 depend on what stands in a file, which now says `value`."""
    (tmp_path / "weather").write_text(str(value))
    kwargs = {"weather": str(tmp_path / "weather"), "touchy": [1, 4]}
    job = walk_job(env_kwargs=kwargs, **changes)
    job["env"]["entry_point"] = "tests.worlds:Weathered"
    return job


class NotingPool(InlinePool):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[Chunk] = []

    def submit(self, chunk: Chunk, avoid: Place | None = None) -> None:
        self.chunks.append(chunk)
        super().submit(chunk, avoid)


class UnusedPool(InlinePool):
    """Must not be touched."""

    def check(self, jobs: Any) -> None:
        raise AssertionError("something started")


class Watcher:
    """An observer that remembers, and does something at the first record."""

    def __init__(self, deed: Any = None) -> None:
        self.plan: EvalPlan | None = None
        self.run_dir: Path | None = None
        self.records: list[EpisodeRecord] = []
        self.events: list[Mapping[str, Any]] = []
        self.result: RunResult | None = None
        self._deed = deed

    def started(self, run_dir: Path, plan: EvalPlan) -> None:
        self.run_dir, self.plan = run_dir, plan

    def recorded(self, record: EpisodeRecord) -> None:
        self.records.append(record)
        if self._deed is not None and len(self.records) == 1:
            self._deed()

    def event(self, line: Mapping[str, Any]) -> None:
        self.events.append(line)

    def tick(self) -> None: ...

    def finished(self, result: RunResult) -> None:
        self.result = result


def test_equal_episodes_gain_whole_videos_for_every_reader(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job("other"), walk_job(num_envs=2, env_kwargs=CAMERAS, metrics=["distance"]))
    before, recorded = files(result.run_dir), result.jobs["walk"].episodes
    done = again(result, "walk", "1,4-5", record_viewport_video=True, record_camera_video=True)
    assert done.equal
    assert [(one.episode, one.equal, dict(one.differences)) for one in done.replays] == [
        (episode, True, {}) for episode in (1, 4, 5)
    ]
    after = files(result.run_dir)
    for name in ("episodes.jsonl", "run.json", "events.jsonl"):
        assert after[name] == before[name]
    loaded = RunResult.load(result.run_dir)
    for record, own in zip(loaded.jobs["walk"].episodes, recorded, strict=True):
        assert dataclasses.replace(record, videos=()) == own
        assert {video.camera for video in record.videos} == (
            {None, "front", "wrist"} if record.episode in (1, 4, 5) else set()
        )
        assert_whole(result.run_dir, record)
    paths = [video.path for one in done.replays for video in one.videos]
    assert len(paths) == 9
    assert list(loaded.jobs["walk"].videos) == paths
    assert loaded.video_paths() == done.video_paths() == [result.run_dir / path for path in paths]
    assert len(loaded.video_paths(camera="wrist")) == 3
    frame = loaded.to_pandas()
    assert [video["path"] for videos in frame["videos"] for video in videos] == paths
    old, new = json.loads(before["summary.json"]), json.loads(after["summary.json"])
    assert new["jobs"]["walk"].pop("videos") == paths
    assert old["jobs"]["walk"].pop("videos") == []
    assert new == old
    assert sorted((line["job"], line["episode"], line["equal"]) for line in lines(result)) == [
        ("walk", episode, True) for episode in (1, 4, 5)
    ]
    keys = {"job", "episode", "equal", "videos"}
    assert all(line.keys() == keys for line in lines(result))
    assert_nothing_hidden(result.run_dir)


@pytest.mark.parametrize(
    ("video", "flags", "kinds"),
    [
        pytest.param({}, {}, {None}, id="viewport-by-default"),
        pytest.param({"record_camera_video": True}, {}, {"front", "wrist"}, id="what-the-job-says"),
        pytest.param({"record_camera_video": True, "record": "none"}, {}, {"front", "wrist"}, id="said-none"),
        pytest.param({"record_camera_video": True, "record": "first:1"}, {}, {"front", "wrist"}, id="said-the-first"),
        pytest.param({"record_camera_video": True}, {"record_viewport_video": True}, {None}, id="flag-wins"),
        pytest.param({}, {"record_camera_video": True}, {"front", "wrist"}, id="camera-flag"),
        pytest.param({"record": "none"}, {}, {None}, id="nothing-asked-for"),
    ],
)
def test_what_is_recorded(video: dict[str, Any], flags: dict[str, Any], kinds: set[str | None], tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(env_kwargs=CAMERAS, num_episodes=3))
    document = json.loads((result.run_dir / "run.json").read_text())
    document["jobs"][0]["video"].update(video)
    (result.run_dir / "run.json").write_text(json.dumps(document))
    done = again(result, "walk", [2], **flags)
    assert {one.camera for one in done.replays[0].videos} == kinds


def test_a_taken_name_is_never_overwritten(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(), record_viewport_video=True)
    before = files(result.run_dir, "*.mp4")
    for _ in range(2):
        assert again(result, "walk", [2]).equal
    after = files(result.run_dir, "*.mp4")
    assert {name: after[name] for name in before} == before
    record = RunResult.load(result.run_dir).jobs["walk"].episodes[2]
    stem = "walk/viewport-env0-episode-2"
    assert [video.path for video in record.videos] == [f"{stem}.mp4", f"{stem}-replay1.mp4", f"{stem}-replay2.mp4"]
    assert_whole(result.run_dir, record)
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary["jobs"]["walk"]["videos"].count(f"{stem}-replay2.mp4") == 1
    assert summary["jobs"]["walk"]["videos"] == list(RunResult.load(result.run_dir).jobs["walk"].videos)
    (result.run_dir / f"{stem}-replay1.mp4").unlink()
    record = RunResult.load(result.run_dir).jobs["walk"].episodes[2]
    assert [video.path for video in record.videos] == [f"{stem}.mp4", f"{stem}-replay2.mp4"]


def test_what_came_to_something_else_is_put_aside_and_told(tmp_path: Path) -> None:
    result = run(tmp_path, weathered(tmp_path, 0.0))
    weathered(tmp_path, 0.5)
    done = again(result, "walk", [0, 1, 4, 5])
    assert not done.equal
    assert done.missing == ()
    assert [(one.episode, one.equal) for one in done.replays] == [(0, True), (1, False), (4, False), (5, True)]
    own = result.jobs["walk"].episodes
    for line, problem in zip([line for line in lines(result) if not line["equal"]], done.problems(), strict=True):
        record = own[line["episode"]]
        assert record.length is not None
        assert record.episode_return is not None
        assert line["differences"].keys() == {"return"}
        recorded, replayed = line["differences"]["return"]
        assert recorded == record.episode_return
        assert replayed == pytest.approx(recorded + 0.5 * record.length)
        assert problem == f"episode {record.episode}: return {replayed}, recorded was {recorded}"
        (video,) = line["videos"]
        assert video["path"] == f"walk/unequal-replays/viewport-env0-episode-{record.episode}.mp4"
        assert len(decode(result.run_dir / video["path"])) == record.length + 1
    joined = {record.episode: len(record.videos) for record in RunResult.load(result.run_dir).records()}
    assert [episode for episode, count in joined.items() if count] == [0, 5]
    assert len(json.loads((result.run_dir / "summary.json").read_text())["jobs"]["walk"]["videos"]) == 2
    assert not again(result, "walk", [4]).equal
    aside = result.run_dir / "walk" / "unequal-replays"
    assert names(aside) == [
        *("viewport-env0-episode-1.mp4", "viewport-env0-episode-4-replay1.mp4", "viewport-env0-episode-4.mp4"),
    ]
    assert_nothing_hidden(result.run_dir)


def test_an_environment_that_ignores_its_seed_is_named_as_the_cause(tmp_path: Path) -> None:
    job = walk_job("deaf")
    job["env"]["entry_point"] = "tests.worlds:Unseeded"
    result = run(tmp_path, job, weathered(tmp_path, 0.0))
    weathered(tmp_path, 1.0)
    done = again(result, "deaf", [3])
    assert not done.equal
    told, cause = done.problems()
    assert told.startswith("episode 3: ")
    assert "to be expected: job 'deaf'" in cause
    assert "env.seed_hook" in cause
    (told,) = again(result, "walk", [0, 1]).problems()
    assert told.startswith("episode 1: return ")


def test_an_episode_that_broke_breaks_again_and_holds_up_no_other(tmp_path: Path) -> None:
    kwargs = {"poison": [1], "poison_step": 2}
    result = run(tmp_path, walk_job(env_kwargs=kwargs), continue_on_error=True, record_viewport_video=True)
    broken = [record.episode for record in result.jobs["walk"].episodes if record.status == "error"]
    assert broken == [1]
    done = again(result, "walk", [0, 1, 2])
    assert done.equal
    assert done.problems() == []
    record = RunResult.load(result.run_dir).jobs["walk"].episodes[1]
    assert [(Path(video.path).name, video.partial) for video in record.videos] == [
        ("viewport-env0-episode-1.1.partial.mp4", True),
        ("viewport-env0-episode-1-replay1.1.partial.mp4", True),
    ]
    assert shown_steps(decode(result.run_dir / record.videos[1].path)) == [0, 1]


def make_infinite(render_mode: str | None = None) -> Walk:
    class Infinite(Walk):
        def step(self, action: Any) -> Any:
            return self._observation(), float("nan"), True, False, {"distance": float("inf")}

    return Infinite(render_mode)


def test_numbers_that_json_cannot_hold_are_equal_to_themselves(tmp_path: Path) -> None:
    job = walk_job(num_episodes=2, metrics=["distance"])
    job["env"] = {"entry_point": "tests.test_replay:make_infinite"}
    job["policy"] = {"type": "zero"}
    result = run(tmp_path, job)
    assert result.jobs["walk"].episodes[1].episode_return is None
    assert again(result, "walk", [1]).equal


RECORD = EpisodeRecord(
    job="a",
    episode=3,
    seed=5,
    status="completed",
    success=True,
    episode_return=1.5,
    length=2,
    metrics={"distance": float("nan")},
    terminated=True,
)
BROKEN = dataclasses.replace(RECORD, status="error", error=EpisodeError(type="ValueError", message="no", traceback="x"))
LOST = dataclasses.replace(BROKEN, error=EpisodeError(type="WorkerLost", message="died in attempt 3: process 17"))


@pytest.mark.parametrize(
    ("recorded", "changes", "expected"),
    [
        pytest.param(RECORD, {}, {}, id="nothing"),
        pytest.param(RECORD, {"seed": None}, {"seed": (5, None)}, id="seed"),
        pytest.param(RECORD, {"success": None}, {"success": (True, None)}, id="success"),
        pytest.param(RECORD, {"episode_return": 2.5}, {"return": (1.5, 2.5)}, id="return"),
        pytest.param(RECORD, {"length": 3}, {"length": (2, 3)}, id="length"),
        pytest.param(
            RECORD,
            {"terminated": False, "truncated": True},
            {"terminated": (True, False), "truncated": (False, True)},
            id="how-it-ended",
        ),
        pytest.param(RECORD, {"metrics": {"distance": 1.0}}, {"metrics.distance": (None, 1.0)}, id="metric"),
        pytest.param(
            RECORD,
            {"status": "error", "error": EpisodeError(type="E", message="m")},
            {"status": ("completed", "error"), "error.type": (None, "E"), "error.message": (None, "m")},
            id="broke",
        ),
        pytest.param(
            BROKEN,
            {"error": EpisodeError(type="ValueError", message="other", traceback="x")},
            {"error.message": ("no", "other")},
            id="message",
        ),
        pytest.param(
            BROKEN,
            {"error": EpisodeError(type="KeyError", message="no")},
            {"error.type": ("ValueError", "KeyError")},
            id="type-of-error",
        ),
        pytest.param(
            BROKEN, {"error": EpisodeError(type="ValueError", message="no", traceback="other")}, {}, id="traceback"
        ),
        pytest.param(
            LOST, {"error": EpisodeError(type="WorkerLost", message="died in attempt 1: process 18")}, {}, id="lost"
        ),
        pytest.param(LOST, {"status": "timeout"}, {"status": ("error", "timeout")}, id="lost-otherwise"),
        pytest.param(
            RECORD,
            {
                "videos": (VideoFile(kind="viewport", camera=None, path="x", frames=1, fps=1.0, bytes=1),),
                "started_at": "now",
                "duration_s": 3.0,
                "chunk": 7,
                "attempt": 2,
                "slot": 1,
                "worker": WorkerInfo(host="h", pid=1),
            },
            {},
            id="where-and-when",
        ),
    ],
)
def test_what_counts_as_a_difference(
    recorded: EpisodeRecord, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert differences(recorded, dataclasses.replace(recorded, **changes)) == expected


def test_episodes_of_a_step_budget_are_replayed_by_index(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(num_episodes=None, num_steps=60, num_envs=2))
    episodes = [record.episode for record in result.jobs["walk"].episodes]
    count = episodes[-1] + 1
    (cut_off,) = set(range(count)) - set(episodes)
    done = again(result, "walk", [1, count - 1])
    assert done.equal
    assert len(done.video_paths()) == 2
    assert RunResult.load(result.run_dir).status == "completed"
    with pytest.raises(ConfigError, match=f"no episode {count}: it has episodes 0 to {count - 1}"):
        again(result, "walk", f"1-{count}")
    with pytest.raises(ConfigError, match=f"episode {cut_off}: .* the budget of steps cut it off"):
        again(result, "walk", [cut_off])


def test_each_episode_is_run_in_its_own_build_with_the_jobs_slots(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(num_episodes=7, num_rebuilds=3, num_envs=2))
    pool = NotingPool()
    assert again(result, "walk", "2-4,6", pool=pool, chunk_size=10).equal
    assert [(chunk.episodes, chunk.rebuild) for chunk in pool.chunks] == [((2,), 0), ((3, 4), 1), ((6,), 2)]
    assert {chunk.job.num_envs for chunk in pool.chunks} == {2}


def test_a_moved_directory_is_replayed_and_moved_again(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    moved = Path(shutil.move(result.run_dir, tmp_path / "elsewhere"))
    assert replay(moved, "walk", [6], inline=True).equal
    last = Path(shutil.move(moved, tmp_path / "last"))
    (path,) = RunResult.load(last).video_paths()
    assert path.is_file()
    assert path.is_relative_to(last)


def test_a_directory_behind_a_link_is_replayed(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(num_episodes=2))
    (tmp_path / "link").symlink_to(result.run_dir.parent)
    done = replay(tmp_path / "link" / result.run_dir.name, "walk", [0], inline=True)
    assert done.equal
    assert len(RunResult.load(result.run_dir).video_paths()) == 1


@pytest.mark.parametrize(
    ("job", "episodes", "flags", "words"),
    [
        pytest.param("wlak", [1], {}, ["wlak", "did you mean 'walk'"], id="unknown-job"),
        pytest.param("walk", "", {}, ["''", "3,7,10-12"], id="no-episodes"),
        pytest.param("walk", "1,,2", {}, ["'1,,2'"], id="a-gap"),
        pytest.param("walk", "one", {}, ["'one'"], id="a-word"),
        pytest.param("walk", "3-1", {}, ["'3-1'"], id="descending"),
        pytest.param("walk", "-1", {}, ["'-1'"], id="negative"),
        pytest.param("walk", "1-", {}, ["'1-'"], id="open-range"),
        pytest.param("walk", "1.5", {}, ["'1.5'"], id="half-an-episode"),
        pytest.param("walk", "9" * 5000, {}, ["9999"], id="very-many-digits"),
        pytest.param("walk", [], {}, ["[]"], id="empty-list"),
        pytest.param("walk", [-1], {}, ["[-1]"], id="negative-index"),
        pytest.param("walk", ["1"], {}, ["['1']"], id="text-in-a-list"),
        pytest.param("walk", 1, {}, ["found 1"], id="a-number"),
        pytest.param("walk", [1, 8], {}, ["no episode 8", "0 to 7"], id="beyond-the-job"),
        pytest.param("walk", "0-999999999999999999", {}, ["999999999999999999", "0 to 7"], id="far-beyond"),
        pytest.param("walk", "1,5-7", {}, ["episodes 6, 7: ", "arena-ray resume"], id="without-record"),
        pytest.param("empty", "0", {}, ["empty", "its budget of steps ended"], id="step-budget-without-episode"),
        pytest.param("walk", [1], {"chunk_size": 0}, ["chunk_size", "0"], id="bad-flag"),
        pytest.param("walk", [1], {"num_worker": 2}, ["num_worker", "num_workers"], id="unknown-flag"),
        pytest.param("walk", [1], {"video_base_dir": "x"}, ["video_base_dir", "run directory"], id="no-base-dir"),
        pytest.param("walk", [1], {"record_camera_video": "yes"}, ["record_camera_video", "yes"], id="flag-a-word"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    job: str, episodes: Any, flags: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    """The run is one that goes on: episodes 6 and 7 have no record yet."""
    result = run(tmp_path, walk_job(), walk_job("empty", num_episodes=None, num_steps=1, seed=6))
    cut(result, 6, "running")
    before = files(tmp_path)
    with pytest.raises(ConfigError) as raised:
        again(result, job, episodes, pool=UnusedPool(), **flags)
    missing = [word for word in words if word not in str(raised.value)]
    assert not missing, f"{missing} not in: {raised.value}"
    assert len(str(raised.value)) < 500
    assert files(tmp_path) == before
    assert_nothing_hidden(result.run_dir)


def cut(result: RunResult, records: int, status: str) -> None:
    """Make a run one that has got only so far."""
    path = result.run_dir / "episodes.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:records]))
    document = json.loads((result.run_dir / "run.json").read_text())
    (result.run_dir / "run.json").write_text(json.dumps({**document, "status": status, "finished_at": None}))
    (result.run_dir / "summary.json").unlink()


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunDirError, match=r"no run\.json"):
            replay(folder, "walk", [0], pool=UnusedPool())
    (tmp_path / "run.json").write_text('{"jobs": [{"name": "walk", "num_episodes": 3}]}')
    with pytest.raises(RunDirError, match="its jobs cannot be read"):
        replay(tmp_path, "walk", [0], pool=UnusedPool())
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunDirError, match="its jobs cannot be read"):
        replay(tmp_path, "walk", [0], pool=UnusedPool())


def test_a_run_that_goes_on_keeps_its_summary_for_itself(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    cut(result, 6, "running")
    assert again(result, "walk", [5]).equal
    assert not (result.run_dir / "summary.json").exists()
    loaded = RunResult.load(result.run_dir)
    assert loaded.status == "running"
    assert len(loaded.jobs["walk"].videos) == 1


def test_a_run_that_ends_after_a_replay_has_its_videos_in_the_summary(tmp_path: Path) -> None:
    done: list[ReplayResult] = []

    def replay_now() -> None:
        assert watcher.run_dir is not None
        done.append(replay(watcher.run_dir, "walk", [0], inline=True))

    watcher = Watcher(replay_now)
    result = run(tmp_path, walk_job(), observer=watcher, record_viewport_video=True)
    assert done[0].equal
    paths = json.loads((result.run_dir / "summary.json").read_text())["jobs"]["walk"]["videos"]
    assert paths[:3] == [f"walk/viewport-env0-episode-{name}.mp4" for name in ("0", "0-replay1", "1")]
    assert result == RunResult.load(result.run_dir)
    assert result.jobs["walk"].counts["completed"] == 8


def test_an_interrupted_replay_keeps_what_it_has_judged(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    watcher = Watcher(lambda: os.kill(os.getpid(), signal.SIGINT))
    done = again(result, "walk", "0-7", observer=watcher, chunk_size=1)
    assert done.signal == signal.SIGINT
    assert not done.equal
    assert [one.episode for one in done.replays] == [0]
    assert done.missing == (1, 2, 3, 4, 5, 6, 7)
    assert done.problems() == ["not replayed: episodes 1, 2, 3, 4, 5, 6, 7"]
    assert len(RunResult.load(result.run_dir).video_paths()) == 1
    assert_nothing_hidden(result.run_dir)


class BrokenPool(InlinePool):
    """Fails when it is about to start, or after its first record, with a video half written."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def check(self, jobs: Any) -> None:
        if self._at == "check":
            raise NotEnoughResourcesError("no node")

    def open(self, setup: WorkerSetup) -> None:
        super().open(setup)
        if self._at == "open":
            raise ArenaError("no start")

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        events = super().wait(timeout_s)
        records = [item for event in events if isinstance(event, ChunkEvents) for item in event.events]
        if self._at == "wait" and any(isinstance(item, EpisodeRecord) for item in records):
            raise ArenaError("no more")
        return events


@pytest.mark.parametrize("at", ["check", "open", "wait"])
def test_a_replay_that_fails_leaves_nothing_half_done(at: str, tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    with pytest.raises(ArenaError, match=r"no (node|start|more)"):
        again(result, "walk", "0-3", pool=BrokenPool(at))
    assert_nothing_hidden(result.run_dir)
    assert names(result.run_dir / "walk") == []
    assert (result.run_dir / "replays.jsonl").exists() == (at != "check")


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(num_episodes=1))
    (result.run_dir / "replays.jsonl").symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(RunDirError, match=r"cannot write .*replays\.jsonl"):
        again(result, "walk", [0])
    shutil.move(result.run_dir / "walk", tmp_path / "moved")
    (result.run_dir / "walk").write_text("")
    with pytest.raises(RunDirError, match="cannot write into the run directory"):
        again(result, "walk", [0])


def test_a_disk_that_takes_no_more_ends_the_replay(tmp_path: Path) -> None:
    result = run(tmp_path, weathered(tmp_path, 0.0))
    weathered(tmp_path, 1.0)
    (result.run_dir / "walk" / "unequal-replays").write_text("in the way")
    done = again(result, "walk", "0-5", chunk_size=1)
    assert [one.episode for one in done.replays] == [0]
    assert done.missing == (1, 2, 3, 4, 5)
    (problem,) = done.problems()
    assert "not replayed: episodes 1, 2, 3, 4, 5: " in problem
    assert "takes no more" in problem
    assert_nothing_hidden(result.run_dir)


def make_once(marker: str) -> Walk:
    """Builds one environment in a lifetime."""
    Path(marker).touch(exist_ok=False)
    return Walk()


def test_an_environment_that_cannot_be_built_any_more_is_told(tmp_path: Path) -> None:
    job = walk_job()
    job["env"] = {"entry_point": "tests.test_replay:make_once", "kwargs": {"marker": str(tmp_path / "marker")}}
    result = run(tmp_path, job)
    done = again(result, "walk", "2-3")
    assert not done.equal
    (problem,) = done.problems()
    assert problem.startswith("not replayed: episodes 2, 3: FileExistsError")
    assert RunResult.load(result.run_dir) == result


MODULE = """
from tests.worlds import Walk

def make_mine(render_mode=None):
    return Walk(render_mode=render_mode)
"""


def test_entry_points_beside_the_job_file_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "replay_mine.py").write_text(MODULE)
    job = walk_job(num_episodes=2)
    job["env"] = {"entry_point": "replay_mine:make_mine"}
    (tmp_path / "jobs" / "jobs.json").write_text(json.dumps({"jobs": [job]}))
    result = evaluate(tmp_path / "jobs" / "jobs.json", inline=True, video_base_dir=str(tmp_path / "runs"))
    assert result.status == "completed"
    del sys.modules["replay_mine"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert again(result, "walk", [1]).equal


@pytest.mark.parametrize(
    ("flags", "warned"),
    [pytest.param({}, False, id="without"), pytest.param({"episode_timeout": 99.0}, True, id="with")],
)
def test_deadlines_are_those_of_the_run(flags: dict[str, Any], warned: bool, tmp_path: Path) -> None:
    """Inline they are not kept, which is told where there are any."""
    result = run(tmp_path, walk_job(num_episodes=1), **flags)
    watcher = Watcher()
    assert again(result, "walk", [0], observer=watcher).equal
    assert any(event.get("topic") == "no_deadlines" for event in watcher.events) == warned


def test_the_observer_sees_a_run_of_the_chosen_episodes(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    watcher = Watcher()
    again(result, "walk", [6, 2, 2], observer=watcher)
    assert watcher.plan is not None
    assert [(job.name, job.num_episodes) for job in watcher.plan.jobs] == [("walk", 2)]
    assert [record.episode for record in watcher.records] == [2, 6]
    assert watcher.run_dir == result.run_dir
    assert watcher.result is not None
    assert len(watcher.result.jobs["walk"].videos) == 2
    assert not [event for event in watcher.events if event["kind"] == "warning"]


def test_an_episode_without_video_is_told(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    watcher = Watcher()
    done = again(result, "walk", [2], observer=watcher, record_camera_video=True)
    assert done.equal
    assert done.video_paths() == []
    assert "episode 2: no video was recorded" in [event.get("message") for event in watcher.events]


class ClippingPool(InlinePool):
    """As for an environment whose viewport shows all slots at once: a clip ends with the chunk."""

    def open(self, setup: WorkerSetup) -> None:
        super().open(setup)
        self._clip = Path(setup.run_dir) / "walk" / "viewport-chunk0.mp4"

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        events = super().wait(timeout_s)
        if isinstance(events[0], ChunkFinished):
            self._clip.write_text("clip")
            notice = Notice(topic="chunk_video", message="walk/viewport-chunk0.mp4")
            events.insert(0, ChunkEvents(events[0].chunk, (notice,)))
        return events


def test_a_clip_of_all_slots_is_kept_where_its_episodes_belong(tmp_path: Path) -> None:
    result = run(tmp_path, weathered(tmp_path, 0.0))
    weathered(tmp_path, 1.0)
    (result.run_dir / "walk" / "viewport-chunk0.mp4").write_text("of the run")
    watcher = Watcher()
    again(result, "walk", [2], pool=ClippingPool(), observer=watcher)
    again(result, "walk", [1, 2], pool=ClippingPool(), chunk_size=2, observer=watcher)
    paths = [event["path"] for event in watcher.events if event["kind"] == "chunk_video"]
    assert paths == ["walk/viewport-chunk0-replay1.mp4", "walk/unequal-replays/viewport-chunk0.mp4"]
    assert [(result.run_dir / path).read_text() for path in paths] == ["clip", "clip"]
    assert (result.run_dir / "walk" / "viewport-chunk0.mp4").read_text() == "of the run"


def test_the_workers_logs_stay(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job())
    before = files(result.run_dir / "walk" / "logs")
    again(result, "walk", [2])
    after = files(result.run_dir / "walk" / "logs")
    (new,) = after.keys() - before.keys()
    assert b"[walk chunk 0] chunk begins: 1 episodes" in after[new]
    assert {name: after[name] for name in before} == before


def test_it_prints_the_job_and_what_was_replayed(tmp_path: Path) -> None:
    result = run(tmp_path, walk_job(), walk_job("other"))
    text = str(again(result, "walk", "0-7"))
    assert "8/8" in text
    assert "other" not in text
    assert "replayed 8 of 8 episodes, 8 equal" in text
    assert "  walk/viewport-env0-episode-7.mp4" in text


@pytest.mark.ray
def test_on_ray(local_ray: None, tmp_path: Path) -> None:
    """Recorded by one worker inline; replayed by two with two slots each; one episode comes to something else."""
    job = weathered(tmp_path, 0.0, num_envs=2, num_episodes=10)
    result = run(tmp_path, job)
    weathered(tmp_path, 0.25)
    done = replay(result.run_dir, "walk", "0-3,6-9", num_workers=2)
    assert [(one.episode, one.equal) for one in done.replays] == [
        (episode, episode != 1) for episode in (0, 1, 2, 3, 6, 7, 8, 9)
    ]
    loaded = RunResult.load(result.run_dir).jobs["walk"]
    assert [record.episode for record in loaded.episodes if record.videos] == [0, 2, 3, 6, 7, 8, 9]
    for record in loaded.episodes:
        assert_whole(result.run_dir, record)
    assert names(result.run_dir / "walk" / "unequal-replays") == [
        Path(done.replays[1].videos[0].path).name,
    ]
    assert_nothing_hidden(result.run_dir)


def test_any_iterable_of_indices_is_taken(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    result = run(tmp_path, walk_job(num_episodes=3))
    assert [one.episode for one in again(result, "walk", numpy.array([2, 0])).replays] == [0, 2]
    job = EvalJob.model_validate(json.loads((result.run_dir / "run.json").read_text())["jobs"][0])
    assert job.video.enabled is False
