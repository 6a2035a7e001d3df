"""Trackers: the real libraries write on this machine, and their own readers read it back."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
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
    rows, config, summary = read_wandb(stores)
    curve = [(row["a/finished"], row["a/success_rate"]) for row in rows if "a/success_rate" in row]
    assert curve == list(enumerate(running_rates(result, "a"), start=1))
    assert config["jobs"]["b.2"]["num_episodes"] == 4
    assert summary["a/final/success_rate"] == result.jobs["a"].metrics["success_rate"].value
    videos = [row["b.2/failures/viewport"] for row in rows if "b.2/failures/viewport" in row]
    assert [video["size"] for video in videos] == [path.stat().st_size for path in failures(result, "b.2")]
    media = {path.stat().st_size for path in stores.glob("wandb/offline-run-*/files/media/**/*.mp4")}
    assert {video["size"] for video in videos} <= media


def read_wandb(stores: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Return history, configuration and summary of all of wandb's files, the oldest first."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    rows: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    ids = set()
    for file in sorted(stores.glob("wandb/offline-run-*/run-*.wandb")):
        store = DataStore()
        store.open_for_scan(str(file))
        while (line := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(line)
            rows += [items_of(record.history.item)] if record.HasField("history") else []
            config |= items_of(record.run.config.update) if record.HasField("run") else {}
            summary |= items_of(record.summary.update) if record.HasField("summary") else {}
            ids |= {record.run.run_id} if record.HasField("run") else set()
    assert len(ids) == 1
    return rows, config, summary


def items_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
