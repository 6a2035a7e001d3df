from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from pyarrow import parquet

from arena_ray import RunResult, evaluate
from arena_ray.cli import run_command
from arena_ray.export import csv_text, lerobot_document, parquet_bytes
from tests.worlds import walk_job


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    jobs = [
        walk_job("one", tags={"suite": "walks"}, metrics=["distance"]),
        walk_job("two", num_episodes=4, tags={"suite": "walks"}, env_kwargs={"poison": [1]}),
        walk_job("alone", num_episodes=2),
    ]
    base = str(tmp_path_factory.mktemp("runs"))
    return evaluate(
        {"jobs": jobs}, inline=True, continue_on_error=True, record_viewport_video=True, video_base_dir=base
    )


def test_lerobot_has_its_structure_and_nothing_made_up(result: RunResult) -> None:
    document = lerobot_document(result)
    assert [(task["task_group"], task["task_id"], task["task"]) for task in document["per_task"]] == [
        ("walks", 0, "one"),
        ("walks", 1, "two"),
        ("alone", 0, "alone"),
    ]
    two = document["per_task"][1]
    records = [record for record in result.jobs["two"].episodes if record.status == "completed"]
    assert len(records) == 3
    assert two["metrics"]["sum_rewards"] == [record.episode_return for record in records]
    assert two["metrics"]["successes"] == [record.success for record in records]
    assert two["metrics"]["max_rewards"] is None
    assert [entry["episode_ix"] for entry in two["per_episode"]] == [0, 2, 3]
    assert [entry["seed"] for entry in two["per_episode"]] == [record.seed for record in records]
    assert document["per_group"].keys() == {"walks", "alone"}
    overall = document["overall"]
    rate = result.overall.metrics["success_rate"] if result.overall else None
    assert rate is not None
    assert overall["pc_success"] == pytest.approx(100 * (rate.value or 0))
    assert (overall["n_episodes"], overall["avg_max_reward"], len(overall["video_paths"])) == (13, None, 13)
    assert overall["eval_s"] > 0
    json.dumps(document, allow_nan=False)


def test_outcomes_that_nobody_told_are_no_failures(tmp_path: Path) -> None:
    document = {"name": "cart", "env": {"id": "CartPole-v1"}, "policy": {"type": "zero"}, "num_episodes": 2}
    result = evaluate({"jobs": [document]}, inline=True, video_base_dir=str(tmp_path))
    exported = lerobot_document(result)
    assert exported["per_task"][0]["metrics"]["successes"] is None
    assert (exported["overall"]["pc_success"], exported["overall"]["n_success"]) == (None, None)


def test_csv_has_a_line_per_record(result: RunResult) -> None:
    text = csv_text(result)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["job"], int(row["episode"])) for row in rows] == [(r.job, r.episode) for r in result.records()]
    failed = next(row for row in rows if row["status"] == "error")
    assert (failed["job"], failed["success"], failed["return"]) == ("two", "", "")
    assert json.loads(failed["error"])["message"] == "poisoned step"
    frame = pandas.read_csv(io.StringIO(text))
    assert frame["return"].mean() == pytest.approx(result.to_pandas()["return"].mean())
    assert frame[frame["job"] == "one"]["metrics.distance"].tolist() == [0.0] * 8


def test_parquet_has_typed_columns(result: RunResult, tmp_path: Path) -> None:
    path = tmp_path / "episodes.parquet"
    path.write_bytes(parquet_bytes(result))
    table = parquet.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["success"], types["return"], types["length"]) == ("bool", "double", "int64")
    assert (types["started_at"], types["metrics.distance"]) == ("timestamp[ms, tz=UTC]", "double")
    assert types["videos"].startswith("list<element: struct<kind: string, camera: string, path: string, frames: int64")
    rows = table.to_pylist()
    assert [(row["job"], row["episode"]) for row in rows] == [(r.job, r.episode) for r in result.records()]
    for row, record in zip(rows, result.records(), strict=True):
        assert (row["success"], row["return"], row["length"]) == (record.success, record.episode_return, record.length)
        assert [video["path"] for video in row["videos"]] == [video.path for video in record.videos]
        assert row["metrics.distance"] == record.metrics.get("distance")
        assert record.started_at is not None
        assert row["started_at"].isoformat(timespec="milliseconds").replace("+00:00", "Z") == record.started_at
    (failed,) = [row for row in rows if row["status"] == "error"]
    assert (failed["success"], failed["error"]["message"]) == (None, "poisoned step")
    frame = pandas.read_parquet(path)
    assert frame["return"].mean() == pytest.approx(result.to_pandas()["return"].mean())
    assert frame.columns.tolist() == result.to_pandas().columns.tolist()


def test_parquet_of_nothing_has_its_columns_too(result: RunResult, tmp_path: Path) -> None:
    empty = tmp_path / "run"
    empty.mkdir()
    (empty / "run.json").write_bytes((result.run_dir / "run.json").read_bytes())
    table = parquet.read_table(io.BytesIO(parquet_bytes(RunResult.load(empty))))
    assert (table.num_rows, str(table.schema.field("success").type)) == (0, "bool")


def test_parquet_without_its_library_says_what_to_install(result: RunResult, tmp_path: Path) -> None:
    words = ["export", str(result.run_dir), "--format", "parquet", "--output", str(tmp_path / "out")]
    script = f"import sys; sys.modules['pyarrow'] = None; from arena_ray.cli import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert 'pip install "arena-ray[parquet]"' in done.stderr


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param("lerobot", "eval_info.json", id="lerobot"),
        pytest.param("csv", "episodes.csv", id="csv"),
        pytest.param("parquet", "episodes.parquet", id="parquet"),
    ],
)
def test_the_command_writes_where_it_is_told(
    result: RunResult, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], form: str, name: str
) -> None:
    command = ["export", str(result.run_dir), "--format", form]
    assert run_command([*command, "--output", str(tmp_path / "out")]) == 0
    assert run_command(command) == 0
    assert capsysbinary.readouterr().out.decode().split() == [str(tmp_path / "out"), str(result.run_dir / name)]
    assert (tmp_path / "out").read_bytes() == (result.run_dir / name).read_bytes()
    assert run_command([*command, "--output", "-"]) == 0
    assert capsysbinary.readouterr().out == (tmp_path / "out").read_bytes()
    assert run_command(["export", str(tmp_path), "--format", form]) == 2
    assert run_command([*command, "--output", str(tmp_path / "no" / "out")]) == 2
