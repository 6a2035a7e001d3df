from __future__ import annotations

import base64
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.errors import RunDirError
from arena_ray.records import EpisodeRecord
from arena_ray.results import JobTally, notebook
from arena_ray.specs import EvalJob
from tests.worlds import walk_job


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    jobs = [
        walk_job("cams", env_kwargs={"cameras": ["front", "wrist"]}, num_envs=2, metrics=["distance"]),
        walk_job("plain", num_episodes=3, tags={"suite": "x"}),
    ]
    return evaluate(
        {"jobs": jobs},
        inline=True,
        record_camera_video=True,
        record_viewport_video=True,
        video_base_dir=str(tmp_path_factory.mktemp("runs")),
    )


def test_a_loaded_result_is_the_returned_one_wherever_the_directory_lies(result: RunResult, tmp_path: Path) -> None:
    moved = shutil.copytree(result.run_dir, tmp_path / "elsewhere")
    loaded = RunResult.load(moved)
    assert loaded.status == result.status == "completed"
    assert loaded == result
    assert loaded.jobs.keys() == result.jobs.keys()
    for name, job in result.jobs.items():
        assert loaded.jobs[name].metrics == job.metrics
        assert loaded.jobs[name].episodes == job.episodes
        assert loaded.jobs[name].videos == job.videos
    assert all(path.is_file() and path.is_relative_to(moved) for path in loaded.video_paths())


def test_the_summary_file_holds_the_same_numbers(result: RunResult) -> None:
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary == result.summary()
    assert summary["jobs"]["cams"]["episodes"] == {"requested": 8, "completed": 8, "error": 0, "timeout": 0}
    metric = summary["jobs"]["cams"]["metrics"]["success_rate"]
    successes = sum(bool(record.success) for record in result.jobs["cams"].episodes)
    assert (metric["value"], metric["n"], metric["method"]) == (successes / 8, 8, "wilson")


def test_videos_are_filtered_and_in_episode_order(result: RunResult) -> None:
    wrist = result.video_paths(job="cams", camera="wrist")
    assert [path.name.split("-episode-")[1] for path in wrist] == [f"{episode}.mp4" for episode in range(8)]
    won = result.video_paths(job="cams", camera="wrist", success=True)
    lost = result.video_paths(job="cams", camera="wrist", success=False)
    assert sorted(won + lost) == sorted(wrist)
    assert len(won) == sum(bool(record.success) for record in result.jobs["cams"].episodes)
    assert len(result.video_paths(kind="viewport")) == 11
    assert len(result.video_paths()) == 8 * 3 + 3
    with pytest.raises(KeyError, match="did you mean 'cams'"):
        result.video_paths(job="cam")


def test_pandas_has_a_row_per_episode(result: RunResult) -> None:
    frame = result.to_pandas()
    assert len(frame) == 11
    cams = frame[frame["job"] == "cams"]
    assert cams["return"].mean() == pytest.approx(result.jobs["cams"].metrics["return"].value)
    assert list(cams["metrics.distance"]) == [0.0] * 8


def test_it_shows_as_a_table_and_in_a_notebook(result: RunResult) -> None:
    text = str(result)
    assert "cams" in text
    assert "8/8" in text
    assert "distance" in text
    assert max(map(len, text.splitlines()[1:])) <= 80


class Page(HTMLParser):
    """The tags of a page with their attributes, and its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def videos(self) -> list[str]:
        return [str(attributes["src"]) for tag, attributes in self.tags if tag == "video"]


def test_a_notebook_shows_failures_first_inside_the_page(result: RunResult) -> None:
    page = Page(result._repr_html_())
    assert "8/8" in page.texts
    assert len(page.videos) == notebook.MOST_VIDEOS
    assert f"and {len(result.video_paths()) - notebook.MOST_VIDEOS} videos more, in the run directory" in page.texts
    failed = result.video_paths(success=False)
    assert len(failed) > notebook.MOST_VIDEOS
    shown = [base64.b64decode(video.removeprefix("data:video/mp4;base64,")) for video in page.videos]
    assert shown == [path.read_bytes() for path in failed[: len(shown)]]
    captions = [text for text in page.texts if text.startswith("cams ")]
    assert captions[0] == f"cams {first_failure(result)} (viewport): failure, {steps(result)} steps"


def first_failure(result: RunResult) -> int:
    return next(record.episode for record in result.jobs["cams"].episodes if not record.success)


def steps(result: RunResult) -> int | None:
    return result.jobs["cams"].episodes[first_failure(result)].length


def test_a_notebook_names_large_videos_by_path(
    result: RunResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notebook, "MOST_BYTES_TOGETHER", 1)
    monkeypatch.chdir(result.run_dir.parent)
    videos = Page(result._repr_html_()).videos
    assert videos[0].startswith(f"{result.run_dir.name}/cams/")
    assert all(Path(video).is_file() for video in videos)


def test_hostile_texts_stay_texts(result: RunResult, tmp_path: Path) -> None:
    hostile = shutil.copytree(result.run_dir, tmp_path / "<img src=x onerror=alert(1)>")
    lines = (hostile / "episodes.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    error = {"type": "E", "message": "\x1b]0;owned\x07</td><script>alert(1)</script>\r" + "x" * 5000, "traceback": None}
    for video in record["videos"]:
        video["camera"] = '"><script>alert(2)</script>'
    lines[-1] = json.dumps({**record, "status": "error", "success": None, "error": error})
    (hostile / "episodes.jsonl").write_text("".join(f"{line}\n" for line in lines))
    loaded = RunResult.load(hostile)
    tags = {tag for tag, _ in Page(loaded._repr_html_()).tags}
    assert tags == {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "br", "figure", "figcaption", "video"}
    assert str(loaded).replace("\n", "").isprintable()
    assert "alert(1)" in str(loaded)
    assert len(str(loaded)) < 2500


def table_of(**counts: Any) -> str:
    """Return the table of one job with many jobs beside it."""
    tally = JobTally([])
    for episode in range(counts.get("n", 40)):
        value = counts.get("scale", 1.0) * (episode % 7 - 3)
        tally.add(
            EpisodeRecord(
                job="a", episode=episode, seed=0, status="completed", success=episode % 3 == 0, episode_return=value,
                length=int(counts.get("steps", 10)) + episode,
            )
        )  # fmt: skip
    jobs = [EvalJob.model_validate(walk_job(name, num_episodes=10_000)) for name in counts["names"]]
    tallies = dict.fromkeys(counts["names"], tally)
    return str(RunResult.from_tallies(Path("/runs/x"), "failed", jobs, tallies, {}))


@pytest.mark.parametrize(
    ("scale", "length"),
    [
        pytest.param(1.0, 10, id="small"),
        pytest.param(12345.678, 999_000, id="large"),
        pytest.param(-3.2e7, 5_000_000, id="huge"),
        pytest.param(1e-9, 10, id="tiny"),
    ],
)
def test_the_table_has_80_columns_whatever_stands_in_it(scale: float, length: int) -> None:
    names = ["a", "n" * 100, "libero_spatial_pick_up_the_black_bowl_between_the_plate_and_the_ramekin"]
    lines = table_of(names=names, scale=scale, steps=length).splitlines()
    assert max(map(len, lines)) <= 80
    assert " " + "n" * 79 in lines
    assert f" {names[2]}" in lines
    ends = {len(line) for line in lines[5:] if line.endswith(("]", ","))}
    assert ends <= {max(ends), max(ends) - 1}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError):
        RunResult.load(tmp_path)


def test_a_run_that_was_cut_off_loads_without_a_summary(result: RunResult, tmp_path: Path) -> None:
    cut = shutil.copytree(result.run_dir, tmp_path / "cut")
    (cut / "summary.json").unlink()
    lines = (cut / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "episodes.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    loaded = RunResult.load(cut)
    assert loaded.jobs["cams"].counts["completed"] == 4
    assert loaded.jobs["cams"].status == "incomplete"


def test_the_newest_record_of_an_episode_counts() -> None:
    tally = JobTally(["energy"])
    tally.add(EpisodeRecord(job="a", episode=1, seed=0, status="error"))
    tally.add(
        EpisodeRecord(job="a", episode=0, seed=0, status="completed", success=False, episode_return=4.0, length=2)
    )
    tally.add(
        EpisodeRecord(
            job="a",
            episode=1,
            seed=0,
            status="completed",
            success=True,
            episode_return=2.0,
            length=4,
            metrics={"energy": 1.0},
        )
    )
    assert tally.counts() == {"completed": 2, "error": 0, "timeout": 0}
    metrics = tally.metrics()
    assert (metrics["success_rate"].value, metrics["return"].value, metrics["energy"].value) == (0.5, 3.0, 1.0)
    assert metrics["energy"].n == 1


def test_errors_are_never_failures() -> None:
    tally = JobTally([])
    tally.add(EpisodeRecord(job="a", episode=0, seed=0, status="error", success=None))
    assert tally.metrics()["success_rate"].value is None
    assert tally.counts()["error"] == 1


def test_tags_and_all_jobs_together_stand_in_the_summary(result: RunResult) -> None:
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary["overall"]["jobs"] == ["cams", "plain"]
    assert summary["overall"]["episodes"] == {"completed": 11, "error": 0, "timeout": 0}
    assert summary["groups"] == {"suite": {"x": {**summary["groups"]["suite"]["x"], "jobs": ["plain"]}}}
    plain = summary["jobs"]["plain"]["metrics"]
    assert summary["groups"]["suite"]["x"]["metrics"] == plain
    returns = [record.episode_return for record in result.records()]
    overall = summary["overall"]["metrics"]
    assert overall["return"]["value"] == pytest.approx(sum(value or 0 for value in returns) / 11)
    assert (overall["success_rate"]["n"], overall["return_iqm"]["n"]) == (11, 11)
    assert overall["return_iqm"]["method"] == "stratified bootstrap"
    assert plain["return_iqm"]["value"] == pytest.approx(sorted(returns[8:], key=lambda value: value or 0)[1], abs=10)
