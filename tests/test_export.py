from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas
import pytest

from arena_ray import RunResult, evaluate
from arena_ray.cli import run_command
from arena_ray.export import csv_text, lerobot_document
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


@pytest.mark.parametrize(
    ("form", "name"),
    [pytest.param("lerobot", "eval_info.json", id="lerobot"), pytest.param("csv", "episodes.csv", id="csv")],
)
def test_the_command_writes_where_it_is_told(
    result: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, name: str
) -> None:
    command = ["export", str(result.run_dir), "--format", form]
    assert run_command([*command, "--output", str(tmp_path / "out")]) == 0
    assert run_command(command) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out"), str(result.run_dir / name)]
    assert (tmp_path / "out").read_bytes() == (result.run_dir / name).read_bytes()
    assert run_command([*command, "--output", "-"]) == 0
    assert capsys.readouterr().out == (tmp_path / "out").read_text()
    assert run_command(["export", str(tmp_path), "--format", form]) == 2
    assert run_command([*command, "--output", str(tmp_path / "no" / "out")]) == 2
