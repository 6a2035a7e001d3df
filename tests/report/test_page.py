"""What stands in report.html is what stands in the records, and nothing in it does anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pandas
import pytest

from arena_ray import RunResult, replay, resume
from arena_ray.cli import run_command
from arena_ray.config import load_plan
from arena_ray.errors import ConfigError
from arena_ray.records import Metric
from arena_ray.report import run_reader
from arena_ray.report.assets import embedded_json
from arena_ray.report.page import page_html, write_report
from arena_ray.report.run_reader import RunReader
from arena_ray.results import table
from tests.report.hostile import MARKUP, hostile_job
from tests.report.pages import Cells, data_of, rows_of


@pytest.fixture
def copy(run: RunResult, tmp_path: Path) -> Path:
    return shutil.copytree(run.run_dir, tmp_path / "copy")


def frame_of(run_dir: Path) -> pandas.DataFrame:
    return pandas.read_json(run_dir / "episodes.jsonl", lines=True)


def by_pandas(frame: pandas.DataFrame) -> dict[str, float | None]:
    """What pandas makes of episodes."""
    completed = frame[frame["status"] == "completed"]
    judged = completed["success"].dropna()
    return {
        "success_rate": judged.astype(float).mean() if len(judged) else None,
        "return": completed["return"].mean(),
        "length": completed["length"].mean(),
    }


def figures(html: str, table: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the metrics of a table by job (or group) and name."""
    return {
        (row.get("data-job", row.get("data-value-of", "")), cell["data-metric"]): {**cell, "text": text}
        for row, cell, text in Cells(html, table).cells
        if "data-metric" in cell
    }


def test_every_figure_is_that_of_the_summary_and_of_pandas(run: RunResult) -> None:
    html = (run.run_dir / "report.html").read_text()
    summary, frame = json.loads((run.run_dir / "summary.json").read_text()), frame_of(run.run_dir)
    shown = figures(html, "jobs-table")
    assert len(shown) == 3 * 4
    for (job, metric), cell in shown.items():
        expected = (summary["jobs"][job] if job else summary["overall"])["metrics"][metric]
        computed = by_pandas(frame[frame["job"] == job] if job else frame)[metric]
        assert_shows(cell, expected, computed, rate=metric == "success_rate")


def assert_shows(cell: dict[str, Any], expected: dict[str, Any], computed: float | None, *, rate: bool) -> None:
    assert int(cell["data-n"]) == expected["n"]
    if computed is None:
        assert (expected["value"], cell.get("data-value"), cell["text"]) == (None, None, "no data")
        return
    assert float(cell["data-value"]) == expected["value"] == pytest.approx(computed)
    assert (float(cell["data-low"]), float(cell["data-high"])) == (expected["low"], expected["high"])
    terminal = " ".join(table.interval(Metric(**expected), as_percent=rate))
    assert cell["text"] == terminal.replace("-", "\N{MINUS SIGN}")


def test_counts_groups_and_own_metrics_are_those_of_the_summary(run: RunResult) -> None:
    html = (run.run_dir / "report.html").read_text()
    summary, frame = json.loads((run.run_dir / "summary.json").read_text()), frame_of(run.run_dir)
    for row, cell, _ in Cells(html, "jobs-table").cells:
        if "data-count" in cell:
            mine = frame[frame["job"] == row["data-job"]] if row["data-job"] else frame
            completed = mine["status"] == "completed"
            wanted = completed if cell["data-count"] == "completed" else ~completed
            assert int(cell["data-value"]) == wanted.sum()
    for tag, values in summary["groups"].items():
        for (value, metric), cell in figures(html, tag).items():
            assert float(cell["data-value"]) == values[value]["metrics"][metric]["value"]
    every = figures(html, "metrics-table")
    assert {job for job, _ in every} == set(summary["jobs"])
    for (job, metric), cell in every.items():
        expected = summary["jobs"][job]["metrics"][metric]["value"]
        assert cell.get("data-value") == (None if expected is None else str(expected))
    assert ("reach", "distance") in every


def test_the_scripts_get_the_summary_and_every_record(run: RunResult) -> None:
    content = data_of((run.run_dir / "report.html").read_text())
    summary = json.loads((run.run_dir / "summary.json").read_text())
    for job in summary["jobs"].values():
        del job["videos"]
    assert content["summary"] == summary
    names = [job["name"] for job in content["jobs"]]
    for row, record in zip(rows_of(run.run_dir / "report.html"), run.records(), strict=True):
        assert (names[row["job"]], row["episode"], row["seed"]) == (record.job, record.episode, record.seed)
        assert (row["return"], row["length"]) == (record.episode_return, record.length)
        assert row["success"] == (None if record.success is None else int(record.success))
        assert [video[1] for video in row["videos"]] == [video.path for video in record.videos]
        assert all((run.run_dir / video[1]).is_file() for video in row["videos"])


def test_shares_of_the_time_are_those_of_the_summary(run: RunResult) -> None:
    html = (run.run_dir / "report.html").read_text()
    summary = json.loads((run.run_dir / "summary.json").read_text())
    shown = [(row, cell) for row, cell, _ in Cells(html, "usage-table").cells if "data-part" in cell]
    assert len(shown) == 5 * 3
    for row, cell in shown:
        share = summary["jobs"][row["data-job"]]["usage"]["shares"][cell["data-part"]]
        assert float(cell["data-value"]) == pytest.approx(share, abs=1e-4)


def test_the_page_is_one_file_that_asks_nothing_of_others(run: RunResult) -> None:
    html = (run.run_dir / "report.html").read_text()
    markup = re.sub(r"<(script|style|pre)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:|//)""", markup)
    assert "default-src 'none'" in unescape(html)
    assert str(run.run_dir) not in "".join(json.dumps(row) for row in rows_of(run.run_dir / "report.html"))
    assert html.count("Permission to use, copy, modify") == 2


def test_errors_have_traceback_and_log(run: RunResult) -> None:
    html = (run.run_dir / "report.html").read_text()
    section = html[html.index('data-error="RuntimeError"') :]
    assert "poisoned step" in section
    assert "Traceback (most recent call last)" in section
    log = re.search(r'href="\./(reach/logs/[^"]+\.log)"', section)
    assert log is not None
    assert (run.run_dir / log[1]).is_file()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("</script><script>alert(1)</script>", id="script"),
        pytest.param("<!--<script>", id="comment"),
        pytest.param("\u2028\u2029 &amp; '\"", id="separators"),
        pytest.param("\ud800", id="half-a-character"),
    ],
)
def test_data_cannot_leave_its_element(text: str) -> None:
    embedded = embedded_json({"text": text, text: 1})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {"text": text, text: 1}


def test_no_text_from_outside_becomes_markup(hostile: RunResult) -> None:
    html = (hostile.run_dir / "report.html").read_text()
    assert "<img" not in html
    assert html.count("<script") == html.count("</script") == 9
    assert "&lt;/script&gt;&lt;img src=x onerror=" in html
    errors = data_of(html)["errors"]
    assert errors[0][1] == MARKUP
    assert data_of(html)["jobs"][0]["instruction"] == MARKUP


def test_a_job_cannot_have_a_name_that_is_markup() -> None:
    with pytest.raises(ConfigError, match="name"):
        load_plan({"jobs": [{**hostile_job(), "name": MARKUP}]})


def test_the_plain_table_has_every_episode_failures_first(run: RunResult) -> None:
    html = (run.run_dir / "report.html").read_text()
    cells = [text for _, _, text in Cells(html, "plain-episodes").cells][8:]
    lines = [cells[first : first + 8] for first in range(0, len(cells), 8)]
    assert len(lines) == 28
    outcomes = list(dict.fromkeys(line[2] for line in lines))
    assert outcomes == ["error", "failure", "unknown", "success"]
    assert lines[0][:3] == ["reach", "3", "error"]
    assert "poisoned step" in lines[0][7]


def test_the_command_writes_the_page_without_ray_torch_or_a_simulator(run: RunResult, copy: Path) -> None:
    (copy / "report.html").unlink()
    heavy = "{'ray', 'torch', 'gymnasium', 'av', 'mujoco', 'aiohttp'} & set(sys.modules)"
    words = f"import sys; from arena_ray.cli import run_command; assert run_command(['report', {str(copy)!r}]) == 0"
    done = subprocess.run(
        [sys.executable, "-c", f"{words}; assert not {heavy}, {heavy}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(copy / "report.html")
    before, after = data_of((run.run_dir / "report.html").read_text()), data_of((copy / "report.html").read_text())
    for name in ("rows", "summary", "errors", "cameras"):
        assert before[name] == after[name]


def test_what_is_no_run_directory_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{}")
    assert run_command(["report", str(tmp_path)]) == 2
    assert "does not say jobs, status" in capsys.readouterr().err


def test_a_record_that_is_none_is_bad_input(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copy / "episodes.jsonl").open("a") as file:
        file.write('{"job": "reach"}\n')
    assert run_command(["report", str(copy)]) == 2
    assert "episodes.jsonl" in capsys.readouterr().err


def test_events_that_are_none_cost_the_timeline_only(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "events.jsonl").write_text("not JSON\n")
    assert len(rows_of(write_report(copy))) == 28
    assert "what ran where is known only in part" in caplog.text


def test_reading_piece_by_piece_comes_to_the_same(run: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "growing"
    shutil.copytree(run.run_dir, folder, ignore=shutil.ignore_patterns("*.jsonl"))
    reader = RunReader(folder)
    for name in ("events.jsonl", "episodes.jsonl"):
        content = (run.run_dir / name).read_bytes()
        for first in range(0, len(content), 700):  # Most pieces end in the middle of a line.
            with (folder / name).open("ab") as file:
                file.write(content[first : first + 700])
            reader.refresh()
    assert not reader.refresh()
    whole = RunReader(run.run_dir)
    whole.refresh()
    for name in ("rows", "summary", "timeline", "errors", "workers"):
        assert reader.document()[name] == whole.document()[name]
    assert page_html(reader) is not None


def test_changes_are_told_once_and_in_order(copy: Path) -> None:
    reader = RunReader(copy)
    reader.refresh()
    rows, cursor = reader.changes_since(0)
    assert (len(rows), cursor) == (28, reader.cursor)
    assert reader.changes_since(cursor) == ([], cursor)
    last = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)[-1]
    with (copy / "episodes.jsonl").open("ab") as file:
        file.write(last)
    assert reader.refresh()
    again, _ = reader.changes_since(cursor)
    assert again == rows[-1:]
    assert len(reader.rows()) == 28


def test_a_page_has_so_many_episodes_and_figures_of_all(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_reader, "MOST_ROWS", 20)
    content = data_of(write_report(copy).read_text())
    assert (len(content["rows"]), content["omitted"]) == (20, 8)
    assert content["summary"]["overall"]["episodes"] == {"completed": 27, "error": 1, "timeout": 0}


def test_a_file_that_became_shorter_is_read_anew(copy: Path) -> None:
    reader = RunReader(copy)
    reader.refresh()
    epoch = reader.epoch
    lines = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "episodes.jsonl").write_bytes(b"".join(lines[:5]))
    assert reader.refresh()
    assert reader.epoch != epoch
    assert len(reader.rows()) == 5


def test_resume_and_replay_bring_the_page_up_to_date(copy: Path) -> None:
    lines = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "episodes.jsonl").write_bytes(b"".join(lines[:20]))
    (copy / "report.html").unlink()
    resume(copy, inline=True, continue_on_error=True)
    assert len(rows_of(copy / "report.html")) == 28
    replay(copy, "push", [2], inline=True, record_viewport_video=True)
    filmed = [row for row in rows_of(copy / "report.html") if row["job"] == 1 and row["videos"]]
    assert [row["episode"] for row in filmed] == [2]
    assert (copy / filmed[0]["videos"][0][1]).is_file()


def test_the_timeline_says_who_ran_what(run: RunResult) -> None:
    content = data_of((run.run_dir / "report.html").read_text())
    events = [json.loads(line) for line in (run.run_dir / "events.jsonl").read_text().splitlines()]
    assert len(content["timeline"]["chunks"]) == sum(event["kind"] == "chunk_started" for event in events)
    for _, _, attempt, start, end, worker, lost, usage in content["timeline"]["chunks"]:
        assert (attempt, lost, worker) == (1, 0, 0)
        assert 0 <= start <= end
        assert len(usage) == 5
    assert content["timeline"]["omitted"] == 0
