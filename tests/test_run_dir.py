from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from arena_ray.errors import RunDirError
from arena_ray.json_files import LineLog, strict_json
from arena_ray.records import EpisodeError, EpisodeRecord, EpisodeReplay, VideoFile, WorkerInfo
from arena_ray.run_dir import RunDir, move_to_free_name, utc_text

NOW = datetime.datetime(2026, 6, 16, 14, 42, 54, tzinfo=datetime.timezone.utc)

RECORD = EpisodeRecord(
    job="a",
    episode=3,
    seed=5,
    status="error",
    success=None,
    episode_return=1.5,
    length=2,
    metrics={"distance": None, "energy": 2.0},
    videos=(VideoFile(kind="camera", camera="wrist", path="a/x.mp4", frames=3, fps=30.0, bytes=9),),
    worker=WorkerInfo(host="h", pid=1, gpus=("GPU-1",)),
    error=EpisodeError(type="ValueError", message="no", traceback="..."),
)


def test_two_runs_in_one_second_have_two_directories(tmp_path: Path) -> None:
    names = [RunDir.create(tmp_path / "new", NOW).path.name for _ in range(3)]
    assert names == ["2026-06-16_14-42-54", "2026-06-16_14-42-54_1", "2026-06-16_14-42-54_2"]


def test_a_base_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="choose another"):
        RunDir.create(tmp_path / "file", NOW)


def test_a_folder_without_run_json_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"no run\.json"):
        RunDir.open(tmp_path)


def test_records_survive_the_file(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    with LineLog(run_dir.episodes_file) as log:
        log.append(RECORD.to_json())
    assert list(run_dir.records()) == [RECORD]


def test_a_torn_last_line_is_passed_over_and_cut_off_on_append(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    whole = strict_json(RECORD.to_json()) + "\n"
    run_dir.episodes_file.write_text(whole + whole[:40])
    assert len(list(run_dir.records())) == 1
    with LineLog(run_dir.episodes_file) as log:
        log.append(RECORD.to_json())
    assert run_dir.episodes_file.read_text() == whole * 2


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    run_dir.episodes_file.write_text('{"job": \n{}\n')
    with pytest.raises(RunDirError, match="line 1"):
        list(run_dir.records())


def video(path: str, frames: int = 3) -> VideoFile:
    return VideoFile(kind="viewport", camera=None, path=path, frames=frames, fps=30.0, bytes=9)


def replayed(run_dir: RunDir, *videos: VideoFile, equal: bool = True, job: str = "a", episode: int = 3) -> None:
    replay = EpisodeReplay(job=job, episode=episode, equal=equal, videos=videos, differences={"length": (2, None)})
    with LineLog(run_dir.replays_file) as log:
        log.append(replay.to_json())
    assert list(run_dir.replays())[-1] == replay


def test_videos_of_equal_replays_stand_behind_the_records_own(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    with LineLog(run_dir.episodes_file) as log:
        log.append(RECORD.to_json())
    replayed(run_dir, video("a/new.mp4"), video("a/gone.mp4"))
    replayed(run_dir, video("a/unequal.mp4"), equal=False)
    replayed(run_dir, video("a/other-job.mp4"), job="b")
    replayed(run_dir, video("a/other-episode.mp4"), episode=4)
    replayed(run_dir, video("a/newer.mp4"))
    run_dir.job_folder("a").mkdir()
    for name in ("new", "unequal", "other-job", "other-episode", "newer"):
        (run_dir.job_folder("a") / f"{name}.mp4").touch()
    with run_dir.replays_file.open("a") as file:
        file.write('{"job": "a", "episode": 3, "equal": true, "vid')
    (record,) = run_dir.records()
    assert [one.path for one in record.videos] == ["a/x.mp4", "a/new.mp4", "a/newer.mp4"]


def test_a_video_made_again_under_the_name_of_a_deleted_one_stands_once(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    with LineLog(run_dir.episodes_file) as log:
        log.append(RECORD.to_json())
    replayed(run_dir, video("a/x.mp4", frames=8))
    run_dir.job_folder("a").mkdir()
    (run_dir.job_folder("a") / "x.mp4").touch()
    (record,) = run_dir.records()
    assert [(one.path, one.frames) for one in record.videos] == [("a/x.mp4", 8)]


def test_a_broken_line_of_replays_is_an_error(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    run_dir.replays_file.write_text("[]\n")
    with pytest.raises(RunDirError, match=r"replays\.jsonl, line 1, is not a replay"):
        list(run_dir.records())


@pytest.mark.parametrize(
    ("name", "second", "third"),
    [
        pytest.param("v-episode-3.mp4", "v-episode-3-replay1.mp4", "v-episode-3-replay2.mp4", id="whole"),
        pytest.param("v.b.2.partial.mp4", "v.b-replay1.2.partial.mp4", "v.b-replay2.2.partial.mp4", id="partial"),
        pytest.param("host.lan-7.log", "host.lan-7-replay1.log", "host.lan-7-replay2.log", id="log"),
        pytest.param("plain", "plain-replay1", "plain-replay2", id="no-suffix"),
    ],
)
def test_a_moved_file_overwrites_nothing(name: str, second: str, third: str, tmp_path: Path) -> None:
    for content in ("first", "second", "third"):
        (tmp_path / name).write_text(content)
        move_to_free_name(tmp_path / name, tmp_path / "to")
    contents = {path.name: path.read_text() for path in (tmp_path / "to").iterdir()}
    assert contents == {name: "first", second: "second", third: "third"}


def test_two_replays_never_share_a_folder(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    assert [run_dir.create_replay_folder("a").name for _ in range(3)] == [".replay-1", ".replay-2", ".replay-3"]


def test_times_are_utc_with_z() -> None:
    moment = datetime.datetime(2026, 1, 1, 1, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert utc_text(moment) == "2025-12-31T23:00:00.000Z"


def test_a_new_run_directory_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("arena_ray.run_dir.sync_folder", synced.append)
    RunDir.create(tmp_path / "base", NOW)
    assert synced == [tmp_path / "base"]


def test_events_are_read_back(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    assert list(run_dir.events()) == []
    run_dir.events_file.write_text('{"kind": "a"}\n{"kind": "b", "x": 1}\n{"kind": "c"')
    assert list(run_dir.events()) == [{"kind": "a"}, {"kind": "b", "x": 1}]
    run_dir.events_file.write_text('{"kind": "a"}\n3\n')
    with pytest.raises(RunDirError, match=r"events\.jsonl, line 2, is not an event"):
        list(run_dir.events())


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, NOW)
    lock = run_dir.lock()
    with pytest.raises(RunDirError, match="another process writes there"):
        run_dir.lock()
    run_dir.write_run({"driver": {"host": "far", "pid": 7}})
    with pytest.raises(RunDirError, match="process 7 on far writes there"):
        run_dir.lock()
    lock.release()
    run_dir.lock().release()


def test_a_run_directory_that_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="cannot write into the run directory"):
        RunDir(tmp_path / "gone").lock()
