"""Trackers: the real libraries write on this machine, and their own readers read it back."""

from __future__ import annotations

import datetime
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.cli import run_command
from arena_ray.config import load_plan
from arena_ray.errors import ConfigError
from arena_ray.eval_runner import Run
from arena_ray.journal import Journal
from arena_ray.pools import open_pool
from arena_ray.resume_runner import resume
from arena_ray.run_dir import RunDir
from arena_ray.trackers import FailureVideo, FinalResult, Point, TrackedRun, TrackerRun, Tracking, courier, tracking
from tests.worlds import walk_job

TRACKERS = ["tensorboard", "mlflow", "wandb"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for MLflow's database and wandb's files; the environment says so, as a user's would."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("HOME", str(folder))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def result(stores: Path) -> RunResult:
    """A run with successes, failures and an error, cut off after some episodes of `b`, and resumed."""
    jobs = [
        walk_job("a", num_episodes=6, metrics=["distance"], tags={"suite": "walks"}),
        walk_job("b.2", num_episodes=4, env_kwargs={"poison": [1]}),
    ]
    first = evaluate(
        {"jobs": jobs},
        inline=True,
        continue_on_error=True,
        record_viewport_video=True,
        trackers=TRACKERS,
        video_base_dir=str(stores / "runs"),
    )
    return resume(first.run_dir, ["a:num_episodes=12"])


def events(result: RunResult, kind: str) -> list[dict[str, Any]]:
    return [line for line in RunDir(result.run_dir).events() if line["kind"] == kind]


def running_rates(result: RunResult, job: str) -> list[float]:
    """Return the success rate after each episode, in the order of ``episodes.jsonl``."""
    outcomes: list[bool] = []
    rates = []
    for record in RunDir(result.run_dir).records():
        if record.job == job:
            outcomes += [] if record.success is None else [record.success]
            rates.append(sum(outcomes) / len(outcomes))
    return rates


def failures(result: RunResult, job: str) -> list[Path]:
    records = [record for record in result.jobs[job].episodes if not record.success]
    return [result.run_dir / video.path for record in records for video in record.videos][: tracking.VIDEOS_PER_JOB]


def test_every_tracker_began_once_went_on_when_resumed_and_none_complained(result: RunResult) -> None:
    begun = [(line["tracker"], line["id"]) for line in events(result, "tracker_started")]
    assert sorted(name for name, _ in begun) == sorted(TRACKERS * 2)
    assert len(set(begun)) == 3
    assert [line for line in events(result, "warning") if "tracker" in line] == []
    assert json.loads((result.run_dir / "run.json").read_text())["settings"]["trackers"] == TRACKERS


def test_tensorboard_reads_curves_videos_and_texts(result: RunResult) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(result.run_dir / "tensorboard"))
    board.Reload()
    rates = board.Scalars("a/success_rate")
    assert [point.step for point in rates] == list(range(1, 13))
    assert [point.value for point in rates] == pytest.approx(running_rates(result, "a"))
    assert [point.value for point in board.Scalars("b.2/errors")] == [0, 1, 1, 1]
    assert len(board.Scalars("b.2/return")) == 3
    assert [point.value for point in board.Scalars("a/metrics.distance")] == [0.0] * 12
    final = result.jobs["a"].metrics["success_rate"]
    assert board.Scalars("a/final/success_rate_low")[-1].value == pytest.approx(final.low)
    overall = None if result.overall is None else result.overall.metrics["return"].value
    assert board.Scalars("_overall/final/return")[-1].value == pytest.approx(overall)
    config = b"".join(board.Tensors("config")[0].tensor_proto.string_val).decode()
    assert json.loads(config)["jobs"]["a"]["tags"] == {"suite": "walks"}
    assert str(result.run_dir) in board.Tensors("result")[-1].tensor_proto.string_val[0].decode()
    images = board.Images("b.2/failures/viewport")
    assert len(images) == len(failures(result, "b.2")) > 0
    with Image.open(io.BytesIO(images[0].encoded_image_string)) as gif:
        assert (gif.format, gif.size) == ("GIF", (images[0].width, images[0].height)) == ("GIF", (48, 32))


def test_mlflow_reads_them_from_sqlite(result: RunResult) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("arena_ray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == result.run_dir.name
    assert run.info.status == "FAILED"
    assert run.data.tags["arena_ray.run_dir"] == str(result.run_dir)
    assert (run.data.params["a/env"], run.data.params["a/tags.suite"]) == ("tests.worlds:Walk", "walks")
    history = client.get_metric_history(run.info.run_id, "a/success_rate")
    assert [(point.step, point.value) for point in history] == list(enumerate(running_rates(result, "a"), start=1))
    rate = result.jobs["a"].metrics["success_rate"]
    assert run.data.metrics["a/final/success_rate_high"] == rate.high
    sent = {Path(artifact.path).name for artifact in client.list_artifacts(run.info.run_id, "failures/b.2")}
    assert sent == {path.name for path in failures(result, "b.2")}
    summary = client.download_artifacts(run.info.run_id, "summary.json")
    assert json.loads(Path(summary).read_text())["jobs"] == json.loads(json.dumps(result.summary()["jobs"]))


def test_wandb_writes_offline(result: RunResult, stores: Path) -> None:
    rows, config, summary, steps = read_wandb(stores)
    assert steps[r"b\.2/return"] == r"b\.2/finished"
    assert steps[r"a/metrics\.distance"] == "a/finished"
    curve = [(row["a/finished"], row["a/success_rate"]) for row in rows if "a/success_rate" in row]
    assert curve == list(enumerate(running_rates(result, "a"), start=1))
    assert config["jobs"]["b.2"]["num_episodes"] == 4
    assert summary["a/final/success_rate"] == result.jobs["a"].metrics["success_rate"].value
    assert [row["_step"] for row in rows] == list(range(1, len(curve) + 5))
    sizes = [row["b.2/failures/viewport/size"] for row in rows if "b.2/failures/viewport/size" in row]
    assert sizes == [path.stat().st_size for path in failures(result, "b.2")]
    assert not [key for row in rows for key in row if key.startswith("b/")]
    media = {path.stat().st_size for path in stores.glob("wandb/offline-run-*/files/media/**/*.mp4")}
    assert set(sizes) <= media


def read_wandb(stores: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return history, configuration, summary, and what metrics are drawn over, of all files, the oldest first."""
    from wandb.proto import wandb_internal_pb2

    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    steps: dict[str, str] = {}
    ids = set()
    for file in sorted(stores.glob("wandb/offline-run-*/run-*.wandb")):
        for line in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(line)
            rows += [items_of(record.history.item)] if record.HasField("history") else []
            config |= items_of(record.run.config.update) if record.HasField("run") else {}
            summary |= items_of(record.summary.update) if record.HasField("summary") else {}
            steps |= {record.metric.name: record.metric.step_metric} if record.HasField("metric") else {}
            ids |= {record.run.run_id} if record.HasField("run") else set()
    assert len(ids) == 1
    return rows, config, summary, steps


def log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a wandb file: LevelDB's log format (blocks of 32 KiB) behind a head of 7 bytes."""
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def items_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


class Unhelpful:
    """A tracker that does what trackers do when a network is gone: raise, or take its time."""

    def __init__(self, raises_in: str = "", sleeps_in: str = "", sleep_s: float = 0.0) -> None:
        self.points: list[Point] = []
        self.final: FinalResult | None = None
        self.threads: set[str] = set()
        self._raises_in, self._sleeps_in, self._sleep_s = raises_in, sleeps_in, sleep_s

    def _do(self, what: str) -> None:
        self.threads.add(threading.current_thread().name)
        if what == self._sleeps_in:
            time.sleep(self._sleep_s)
        if what == self._raises_in:
            raise ConnectionError("the server is gone")

    def start(self, run: TrackedRun) -> TrackerRun:
        self._do("start")
        return TrackerRun(id="1", where="here")

    def log(self, points: Sequence[Point]) -> None:
        self._do("log")
        self.points += points

    def log_video(self, video: FailureVideo) -> None:
        self._do("log_video")

    def finish(self, final: FinalResult) -> None:
        self._do("finish")
        self.final = final


def run_with(tmp_path: Path, trackers: Mapping[str, Any], **changes: Any) -> RunResult:
    document = {"jobs": [walk_job(num_episodes=30, **changes)]}
    flags = {"inline": True, "video_base_dir": str(tmp_path), "record_viewport_video": True}
    plan = load_plan(document, (), flags)
    told = Tracking(trackers)

    def open_journal(hardware: Mapping[str, Any]) -> Journal:
        now = datetime.datetime.now(datetime.timezone.utc)
        return Journal(plan, RunDir.create(tmp_path, now), hardware, now, tracking=told)

    return Run(plan, open_journal).execute(open_pool(plan.settings))


@pytest.mark.parametrize("where", ["start", "log", "log_video", "finish"])
def test_a_tracker_that_fails_is_warned_of_once_and_costs_the_run_nothing(tmp_path: Path, where: str) -> None:
    broken, sound = Unhelpful(raises_in=where), Unhelpful()
    result = run_with(tmp_path, {"broken": broken, "sound": sound})
    assert result.status == "completed"
    (warning,) = events(result, "warning")
    assert (warning["tracker"], warning["topic"]) == (
        "broken",
        "tracker_video" if where == "log_video" else "tracker_failed",
    )
    assert "ConnectionError: the server is gone" in warning["message"]
    assert [point.step for point in sound.points] == list(range(1, 31))
    assert sound.final is not None
    assert sound.threads == {"tracker-sound"}
    assert [*RunDir(result.run_dir).events()][-1]["kind"] == "run_finished"


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CONCLUDE_S", 0.3)
    slow = Unhelpful(sleeps_in="start", sleep_s=4)
    began = time.monotonic()
    result = run_with(tmp_path, {"slow": slow})
    assert time.monotonic() - began < 3
    assert [line["topic"] for line in events(result, "warning")] == ["tracker_late"]


def test_what_a_slow_tracker_cannot_take_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "MOST_WAITING", 5)
    slow = Unhelpful(sleeps_in="start", sleep_s=1)
    result = run_with(tmp_path, {"slow": slow})
    (warning,) = events(result, "warning")
    assert warning["topic"] == "tracker_slow"
    assert 0 < len(slow.points) <= 5
    assert f" {30 - len(slow.points)} episodes and " in warning["message"]


def test_a_server_that_nobody_runs_costs_only_the_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://somebody:secret@127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        result = evaluate({"jobs": [walk_job()]}, inline=True, trackers=["mlflow"], video_base_dir=str(tmp_path))
    assert result.status == "completed"
    (warning,) = events(result, "warning")
    assert warning["topic"] == "tracker_failed"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_library_is_found_before_anything_starts(tmp_path: Path, name: str) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"jobs": [walk_job()], "run": {"trackers": [name]}}))
    script = f"""
import sys
sys.modules[{name!r}] = None  # As Python says it where a module is not installed.
from arena_ray.cli import main
main(["run", {str(jobs)!r}, "--inline", "--video_base_dir", {str(tmp_path / "runs")!r}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f'pip install "arena-ray[{name}]"' in done.stderr
    assert not (tmp_path / "runs").exists()


def test_wandb_does_not_ask_for_a_key(tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": [walk_job()]}))
    words = [sys.executable, "-m", "arena_ray.cli", "run", "jobs.json", "--inline", "--trackers", "wandb"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=tmp_path, env={**environment, **home}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "WANDB_MODE=offline" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        pytest.param(["tensorbord"], "did you mean 'tensorboard'", id="misspelt"),
        pytest.param(["mlflow", "mlflow"], "'mlflow' named twice", id="twice"),
        pytest.param("wandb", "must be a list", id="no-list"),
    ],
)
def test_names_are_checked(given: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        load_plan({"jobs": [walk_job()], "run": {"trackers": given}})


def test_the_flag_takes_names_with_commas(tmp_path: Path, stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.json").write_text(
        json.dumps({"jobs": [walk_job(num_episodes=2)], "run": {"trackers": ["wandb"]}})
    )
    command = ["run", str(tmp_path / "jobs.json"), "--inline", "--video_base_dir", str(tmp_path)]
    assert run_command([*command, "--trackers", "tensorboard,mlflow"]) == 0
    result = RunResult.load(capsys.readouterr().out.split()[-1])
    assert sorted(line["tracker"] for line in events(result, "tracker_started")) == ["mlflow", "tensorboard"]
    assert run_command([*command, "--trackers", ""]) == 0
    result = RunResult.load(capsys.readouterr().out.split()[-1])
    assert events(result, "tracker_started") == []


def test_a_replay_does_not_take_trackers(result: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", str(result.run_dir), "--job", "a", "--episodes", "0"]
    assert run_command([*command, "--trackers", "mlflow"]) == 2
    assert "there is no flag --trackers" in capsys.readouterr().err


def test_metric_names_of_any_form_reach_mlflow(stores: Path) -> None:
    from mlflow.tracking import MlflowClient

    from arena_ray.trackers.mlflow import MlflowTracker

    tracker = MlflowTracker()
    config = {"jobs": {"j": {"env": {"id": "X-v0"}, "policy": {"type": "zero"}}}}
    begun = tracker.start(TrackedRun(name="n", run_dir=stores, config=config))
    values = {f"metrics.{name}": 1.0 for name in ("a/b", "a b", "../up", "größe", "x(y)", "k" * 300)}
    tracker.log([Point(job="j", step=1, run_step=1, time_s=1.0, values=values)])
    names = MlflowClient().get_run(begun.id).data.metrics
    assert {"j/metrics.a_2f_b", "j/metrics.a b", "j/metrics.gr_f6__df_e"} <= set(names)
    assert len(names) == 6


def test_trackers_do_not_need_torch_or_ray(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from arena_ray.trackers import Point, TrackedRun, open_tracking
from arena_ray.trackers.tensorboard import TensorBoardTracker
open_tracking(["tensorboard", "mlflow", "wandb"])
tracker = TensorBoardTracker()
tracker.start(TrackedRun(name="n", run_dir=Path({str(tmp_path)!r}), config={{"jobs": {{}}}}))
tracker.log([Point(job="j", step=1, run_step=1, time_s=1.0, values={{"return": 1.0}})])
assert not {{"ray", "torch", "gymnasium"}} & set(sys.modules)
"""
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment, cwd=tmp_path)
