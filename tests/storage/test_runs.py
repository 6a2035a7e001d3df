"""Runs whose videos go elsewhere: the same records, the same videos, read from both sides."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_ray import ConfigError, RunResult, compare, evaluate, replay, resume
from arena_ray.errors import RunDirError
from arena_ray.storage import NOT_DELIVERED
from tests.chaos.scenes import wait_until
from tests.comparing import decode, outcome, shown_steps
from tests.storage.servers import S3, environment, running
from tests.worlds import walk_job

REPOSITORY = Path(__file__).parents[2]

JOBS = {
    "jobs": [
        walk_job(
            num_envs=2,
            env_kwargs={"cameras": ["wrist"], "max_length": 12},
            video={"record_viewport_video": True, "record_camera_video": True},
        )
    ]
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return evaluate(JOBS, inline=True, video_base_dir=str(tmp_path_factory.mktemp("plain")))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process stages; it must be empty at the end."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store"
    if request.param == "sftp":
        return str(request.getfixturevalue("sshd").uri(tmp_path / "store"))
    request.getfixturevalue("s3")
    return f"s3://videos/{uuid.uuid4().hex}"


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place(request, tmp_path)


def hold_videos_to(result: RunResult, num_videos: int = 16) -> None:
    """Check that both videos of every completed episode are there, and whole."""
    assert len(result.video_paths()) == num_videos
    for record in (record for record in result.records() if record.status == "completed"):
        assert record.length is not None
        assert {(video.kind, video.partial, video.error) for video in record.videos} == {
            ("viewport", False, None),
            ("camera", False, None),
        }
        for path, video in zip(result.fetched(video.path for video in record.videos), record.videos, strict=True):
            assert path.stat().st_size == video.bytes
            assert shown_steps(decode(path)) == list(range(record.length + 1))


SERVERS = [pytest.param("file", id="file"), pytest.param("sftp", id="sftp"), pytest.param("s3", id="s3")]


@pytest.mark.parametrize("storage", SERVERS, indirect=True)
def test_a_run_into_a_storage_is_the_plain_run(tmp_path: Path, storage: str, plain: RunResult) -> None:
    result = evaluate(JOBS, inline=True, video_base_dir=str(tmp_path / "runs"), storage=storage)
    assert outcome(result) == outcome(plain)
    assert not list(result.run_dir.rglob("*.mp4"))
    uri = f"{storage}/{result.run_dir.name}"
    assert result.storage == uri
    assert result.video_uris(job="walk", kind="camera")[0].startswith(f"{uri}/walk/robot-cam-env")
    far = RunResult.load(uri)
    assert outcome(far) == outcome(plain)
    assert far.status == "completed"
    assert far.summary() == json.loads((result.run_dir / "summary.json").read_text())
    assert far.run_dir != result.run_dir
    hold_videos_to(far)
    near = RunResult.load(result.run_dir)
    hold_videos_to(near)
    assert all(path.is_relative_to(result.run_dir) for path in near.video_paths())
    assert compare(uri, plain.run_dir).overall["success_rate"].difference == 0


def test_only_the_videos_that_are_asked_for_are_fetched(tmp_path: Path) -> None:
    result = evaluate(JOBS, inline=True, video_base_dir=str(tmp_path / "runs"), storage=f"file://{tmp_path}/store")
    chosen = result.video_paths(kind="viewport", success=True)
    assert sorted(result.run_dir.rglob("*.mp4")) == sorted(chosen)
    assert 0 < len(chosen) < 8
    assert result._repr_html_().count("<video") > 4
    (tmp_path / "store").rename(tmp_path / "moved")
    assert result.video_paths(kind="viewport", success=True) == chosen
    moved = RunResult.load(f"file://{tmp_path}/moved/{result.run_dir.name}")
    assert len(moved.video_paths()) == 16


def test_logs_and_documents_are_there_too(tmp_path: Path) -> None:
    result = evaluate(JOBS, inline=True, video_base_dir=str(tmp_path / "runs"), storage=f"file://{tmp_path}/store")
    far = tmp_path / "store" / result.run_dir.name
    for name in ("run.json", "summary.json", "episodes.jsonl", "report.html"):
        assert (far / name).read_bytes() == (result.run_dir / name).read_bytes()
    events = [json.loads(line)["kind"] for line in (far / "events.jsonl").read_text().splitlines()]
    assert events[0] == "run_started"
    assert events[-1] == "run_finished"
    assert any("chunk ends" in path.read_text() for path in (far / "walk" / "logs").iterdir())


def test_a_server_that_goes_away_in_the_middle(tmp_path: Path, sshd: Any, plain: RunResult) -> None:
    """What is sent meanwhile arrives when it is back."""
    (walk,) = JOBS["jobs"]
    job = {"jobs": [walk_job(video=walk["video"], env_kwargs={**walk["env"]["kwargs"], "step_s": 0.03})]}
    back = threading.Timer(3.0, sshd.start)

    class Outage:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def recorded(self, record: Any) -> None:
            if record.episode == 1:
                sshd.stop()
                back.start()

    base = str(tmp_path / "runs")
    result = evaluate(
        job,
        inline=True,
        video_base_dir=base,
        storage=sshd.uri(tmp_path / "store"),
        observer=Outage(),
        storage_timeout=60.0,
    )
    back.join()
    assert back.finished.is_set()
    assert outcome(result) == outcome(plain)
    hold_videos_to(result)


def test_a_storage_that_stays_away_costs_the_videos_and_says_so(tmp_path: Path, sshd: Any, plain: RunResult) -> None:
    class Outage:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def started(self, *_: Any) -> None:
            sshd.stop()

    try:
        base = str(tmp_path / "runs")
        result = evaluate(
            JOBS,
            inline=True,
            video_base_dir=base,
            storage=sshd.uri(tmp_path / "s"),
            observer=Outage(),
            storage_timeout=1.0,
        )
    finally:
        sshd.start()
    assert outcome(result) == outcome(plain)
    videos = [video for record in result.records() for video in record.videos]
    assert len(videos) == 16
    assert all((video.error or "").startswith(NOT_DELIVERED) and video.bytes == 0 for video in videos)
    assert result.video_paths() == []
    events = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    told = [event for event in events if event.get("topic") == "not_delivered"]
    assert len(told) == 16
    assert any(event.get("topic") == "not_mirrored" for event in events)


def test_a_server_that_hangs_keeps_no_driver_that_is_to_end(tmp_path: Path) -> None:
    with running(S3()) as server, environment(server.environment()):
        slow = {
            "jobs": [walk_job(num_episodes=200, env_kwargs={"step_s": 0.02}, video={"record_viewport_video": True})]
        }
        (tmp_path / "jobs.json").write_text(json.dumps(slow))
        words = ["run", str(tmp_path / "jobs.json"), "--inline", "--video_base_dir", str(tmp_path / "runs")]
        command = [sys.executable, "-m", "arena_ray.cli", *words, "--storage", "s3://videos/runs"]
        driver = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert wait_until(lambda: any(len(path.read_text()) for path in tmp_path.glob("runs/*/episodes.jsonl")), 90)
            server.signal(signal.SIGSTOP)
            time.sleep(1)
            began = time.monotonic()
            driver.send_signal(signal.SIGTERM)
            assert driver.wait(30) == 143
            assert time.monotonic() - began < 15  # A second for the last copy, and what two busy cores take.
        finally:
            server.signal(signal.SIGCONT)
            driver.kill()
            driver.wait(10)
        (run_dir,) = (tmp_path / "runs").iterdir()
        assert RunResult.load(run_dir).status == "interrupted"
        assert not list(Path("/tmp").glob(f"{json.loads((run_dir / 'run.json').read_text())['mark']}*"))


def test_a_resumed_run_goes_on_in_its_storage(tmp_path: Path, s3: S3, plain: RunResult) -> None:
    storage, base = f"s3://videos/{uuid.uuid4().hex}", str(tmp_path / "runs")
    few = {"jobs": [{**JOBS["jobs"][0], "num_episodes": 3}]}
    first = evaluate(few, inline=True, video_base_dir=base, storage=storage)
    moved = first.run_dir.rename(tmp_path / "renamed")
    result = resume(moved, ["walk:num_episodes=8"])
    assert result.storage == first.storage
    assert outcome(result) == outcome(plain)
    hold_videos_to(RunResult.load(str(first.storage)))


def test_videos_of_a_replay_join_the_others(tmp_path: Path, s3: S3) -> None:
    storage, base = f"s3://videos/{uuid.uuid4().hex}", str(tmp_path / "runs")
    job = walk_job(env_kwargs={"max_length": 12})
    first = evaluate({"jobs": [job]}, inline=True, video_base_dir=base, storage=storage)
    assert first.video_uris() == []
    assert replay(first.run_dir, "walk", [1, 3], inline=True).equal
    far = RunResult.load(str(first.storage))
    assert [path.name for path in far.video_paths()] == [f"viewport-env0-episode-{episode}.mp4" for episode in (1, 3)]
    assert all(len(decode(path)) > 1 for path in far.video_paths())


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        pytest.param("s3://no-such-bucket/runs", "bucket does not exist", id="no-bucket"),
        pytest.param("file:///proc/nowhere", "FileNotFoundError|PermissionError", id="no-place"),
        pytest.param("sftp://127.0.0.1:1/runs", "Unable to connect", id="nobody-listens"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_at_once(s3: S3, tmp_path: Path, storage: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        evaluate(JOBS, inline=True, video_base_dir=str(tmp_path / "runs"), storage=storage)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        pytest.param(["--storage", "ftp://host/x"], "s3://BUCKET/FOLDER", id="scheme"),
        pytest.param(["--storage", "/mnt/videos"], "file:///FOLDER", id="path"),
        pytest.param(["--storage", "sftp://me:secret@host/x"], "password", id="password"),
        pytest.param(["--storage", "s3:///x"], "s3://BUCKET/FOLDER", id="no-bucket"),
        pytest.param(["--storage", "file:///x", "--collect"], "not both", id="both-ways"),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path: Path, flags: list[str], why: str) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(JOBS))
    words = [sys.executable, "-m", "arena_ray.cli", "run", str(tmp_path / "jobs.json"), "--inline", *flags]
    ran = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert why in ran.stderr


def test_collecting_in_this_process_needs_no_detour(tmp_path: Path, plain: RunResult) -> None:
    result = evaluate(JOBS, inline=True, video_base_dir=str(tmp_path / "runs"), collect=True)
    assert outcome(result) == outcome(plain)
    assert len(list(result.run_dir.rglob("*.mp4"))) == 16


def test_a_uri_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"it has no run\.json"):
        RunResult.load(f"file://{tmp_path}/nothing")
