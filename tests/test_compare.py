"""Two runs compared: real runs, and run directories written by hand where every outcome is to be chosen."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from arena_ray import Comparison, RunResult, compare, evaluate
from arena_ray.chunking import episode_seed
from arena_ray.cli import run_command
from arena_ray.errors import ConfigError, RunDirError
from arena_ray.records import EpisodeRecord
from tests.interrupted import torn
from tests.worlds import walk_job

#: What an episode came to: success, nothing said, or an error.
Outcome = bool | None | str

VERDICTS = {"better", "worse", "no_difference", "undecided"}


def written(
    folder: Path,
    outcomes: Mapping[str, Sequence[Outcome]],
    *,
    seed: int = 0,
    returns: Mapping[str, Sequence[float]] | None = None,
    **changes: Any,
) -> Path:
    """Write a finished run with these outcomes."""
    folder.mkdir(parents=True)
    jobs = [walk_job(name, num_episodes=max(1, len(found)), seed=seed, **changes) for name, found in outcomes.items()]
    run = {"status": "completed", "jobs": jobs, "notes": [], "versions": {"numpy": "2"}, "hardware": {}}
    (folder / "run.json").write_text(json.dumps(run))
    records = [
        EpisodeRecord(
            job=name,
            episode=episode,
            seed=episode_seed(seed, episode),
            status="error" if outcome == "error" else "completed",
            success=outcome if isinstance(outcome, bool) else None,
            episode_return=None if outcome == "error" else (returns or {}).get(name, [1.0] * 1000)[episode],
            length=None if outcome == "error" else 10,
        )
        for name, found in outcomes.items()
        for episode, outcome in enumerate(found)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return folder


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[Outcome], list[Outcome]]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return [*a], [*b]


def compared(tmp_path: Path, counts: tuple[int, int, int, int], **options: Any) -> Comparison:
    a, b = pairs(*counts)
    return compare(written(tmp_path / "a", {"job": a}), written(tmp_path / "b", {"job": b}), **options)


def run(tmp_path: Path, *jobs: dict[str, Any], **flags: Any) -> RunResult:
    return evaluate({"jobs": [*jobs]}, inline=True, video_base_dir=str(tmp_path / "runs"), **flags)


def leaner(gain: float) -> dict[str, Any]:
    return {"entry_point": "tests.worlds:Leaner", "kwargs": {"gain": gain}}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunResult]:
    """One policy that leans with the noise and one that leans against it; the environment decides about success."""
    folder = tmp_path_factory.mktemp("real")
    jobs = [walk_job("walk", num_episodes=30, policy=leaner(gain), metrics=["distance"]) for gain in (0.5, -5.0)]
    first, second = (run(folder, job) for job in jobs)
    return first, second


def test_real_runs_are_paired_by_seed(real: tuple[RunResult, RunResult]) -> None:
    comparison = compare(*real)
    assert comparison.comparable
    assert comparison.paired
    assert comparison.differences == ()
    walk = comparison.jobs["walk"]
    assert list(walk) == ["success_rate", "return", "length", "distance"]
    a, b = ([record.episode_return or 0.0 for record in result.jobs["walk"].episodes] for result in real)
    assert walk["return"].n == 30
    assert walk["return"].difference == pytest.approx(sum(b) / 30 - sum(a) / 30)
    assert walk["return"].verdict == "worse"
    # Only the seed decides about success in this environment.
    assert (walk["success_rate"].agreeing, walk["success_rate"].difference, comparison.flipped) == (30, 0.0, ())


def test_a_run_is_no_better_and_no_worse_than_itself(real: tuple[RunResult, RunResult]) -> None:
    comparison = compare(real[0], real[0])
    found = {metric.verdict for metrics in comparison.jobs.values() for metric in metrics.values()}
    assert found <= {"no_difference", "undecided"}
    assert comparison.gate_code in (0, 4)


def test_other_seeds_are_compared_unpaired(real: tuple[RunResult, RunResult], tmp_path: Path) -> None:
    other = run(tmp_path, walk_job("walk", num_episodes=30, seed=1, policy=leaner(-5.0), metrics=["distance"]))
    comparison = compare(real[0], other)
    assert comparison.comparable
    assert comparison.paired is False
    success = comparison.jobs["walk"]["success_rate"]
    assert (success.test, success.n_a, success.n_b) == ("Boschloo", 30, 30)
    k_a, k_b = (sum(bool(r.success) for r in result.jobs["walk"].episodes) for result in (real[0], other))
    assert success.p_value == pytest.approx(stats.boschloo_exact([[k_b, k_a], [30 - k_b, 30 - k_a]]).pvalue)
    assert "seeds of the runs do not match" in str(comparison)
    assert [(difference.key, difference.decisive) for difference in comparison.differences] == [("seed", False)]


def test_other_questions_are_not_comparable(real: tuple[RunResult, RunResult], tmp_path: Path) -> None:
    shorter = walk_job("walk", num_episodes=20, env_kwargs={"max_length": 3}, success={"when": "any"})
    comparison = compare(real[0], run(tmp_path, shorter, walk_job("more", num_episodes=1)))
    assert not comparison.comparable
    assert (comparison.paired, comparison.jobs, comparison.flipped, comparison.gate_code) == (None, {}, (), 5)
    decisive = {(difference.job, difference.key) for difference in comparison.differences if difference.decisive}
    keys = {("walk", "env.kwargs.max_length"), ("walk", "num_episodes"), ("walk", "success.when"), ("more", "job")}
    assert decisive == keys
    assert str(comparison).splitlines()[0] == "Not comparable: job 'more' is only in run B (and 3 more)"


def test_versions_are_listed_and_decide_nothing(tmp_path: Path) -> None:
    a, b = pairs(20, 5, 5, 20)
    first, second = written(tmp_path / "a", {"job": a}), written(tmp_path / "b", {"job": b})
    document = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**document, "versions": {"numpy": "3"}}))
    comparison = compare(first, second)
    assert comparison.comparable
    assert [str(difference) for difference in comparison.differences] == ["versions.numpy is '2' in A and '3' in B"]


@pytest.mark.parametrize(
    ("counts", "verdict", "code"),
    [
        pytest.param((90, 34, 6, 70), "worse", 1, id="worse"),
        pytest.param((90, 6, 34, 70), "better", 0, id="better"),
        pytest.param((120, 1, 1, 78), "no_difference", 0, id="no-difference"),
        pytest.param((25, 8, 5, 12), "undecided", 4, id="undecided"),
        pytest.param((0, 0, 0, 0), "undecided", 4, id="nothing"),
    ],
)
def test_verdicts_and_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: tuple[int, int, int, int], verdict: str, code: int
) -> None:
    comparison = compared(tmp_path, counts)
    success = comparison.overall["success_rate"]
    assert (success.verdict, comparison.verdict, comparison.gate_code) == (verdict, verdict, code)
    assert (success.episodes_needed is None) == (verdict != "undecided" or not success.n)
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert run_command(words) == 0
    assert run_command([*words, "--gate", "--json", str(tmp_path / "found.json")]) == code
    assert comparison.headline == capsys.readouterr().out.splitlines()[0]
    found = json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail)
    assert found == comparison.to_json()
    assert found["overall"]["success_rate"]["verdict"] == verdict
    keys = {"n", "a", "b", "difference", "low", "high", "p_value", "test", "verdict"}
    assert keys <= found["jobs"]["job"]["success_rate"].keys()


def test_the_sentence_says_what_was_found(tmp_path: Path) -> None:
    assert compared(tmp_path / "1", (90, 34, 6, 70)).headline == (
        "B is worse: success 62 % -> 48 % (-14 points, 95 % [-19.9, -7.9]), exact McNemar p <0.0001, "
        "200 paired episodes"
    )
    assert compared(tmp_path / "2", (25, 8, 5, 12)).headline == (
        "Undecided: success 66 % -> 60 % (-6 points, 95 % [-20.3, +8.7]), exact McNemar p = 0.58, 50 paired episodes; "
        "37 of 50 pairs agree; about 550 more episodes in each run would probably decide"
    )
    assert compared(tmp_path / "3", (0, 0, 0, 0)).headline == (
        "Undecided: no completed episodes with the same seed in both runs"
    )


def test_the_text_fits_into_80_columns(real: tuple[RunResult, RunResult]) -> None:
    lines = str(compare(*real)).splitlines()
    assert max(map(len, lines[1:])) <= 80


def test_without_success_the_return_decides(tmp_path: Path) -> None:
    nothing: dict[str, list[Outcome]] = {"job": [None] * 30}
    a = written(tmp_path / "a", nothing, returns={"job": [float(e % 5) for e in range(30)]})
    b = written(tmp_path / "b", nothing, returns={"job": [float(e % 5) + 1 + e % 2 for e in range(30)]})
    comparison = compare(a, b)
    success = comparison.jobs["job"]["success_rate"]
    assert (success.a, success.b, success.difference, success.p_value, success.n) == (None, None, None, None, 0)
    assert (comparison.metric, comparison.verdict) == ("return", "better")
    assert comparison.headline.startswith("B is better: mean return 2 -> 3.5 (+1.5, 95 % [")


def test_errors_are_excluded_and_counted(tmp_path: Path) -> None:
    a, b = pairs(10, 5, 5, 10)
    first = written(tmp_path / "a", {"job": ["error", "error", *a[2:]]})
    second = written(tmp_path / "b", {"job": [*b[:-1], "error"]})
    comparison = compare(first, second)
    assert comparison.excluded["job"] == {"a_failed": 2, "b_failed": 1, "a_alone": 0, "b_alone": 0}
    assert comparison.jobs["job"]["success_rate"].n == 27
    text = " ".join(str(comparison).split())
    assert "2 recorded as error or timeout in A, 1 recorded as error or timeout in B" in text


def test_an_interrupted_run_counts_as_far_as_it_went(real: tuple[RunResult, RunResult], tmp_path: Path) -> None:
    job = walk_job("walk", num_episodes=30, policy=leaner(-5.0), metrics=["distance"])
    cut = torn(run(tmp_path, job).run_dir, 12)
    with (cut / "episodes.jsonl").open("a") as file:
        file.write('{"schema": 1, "job": "walk", "epis')
    comparison = compare(real[0], cut)
    assert comparison.paired
    assert comparison.jobs["walk"]["return"].n == 12
    assert comparison.excluded["walk"]["a_alone"] == 18
    assert comparison.notes == ("B: the run is running; what it has recorded so far counts",)


def test_flipped_episodes_come_with_both_videos(tmp_path: Path) -> None:
    """One outcome is made to flip by hand."""
    runs = [run(tmp_path, walk_job("walk", num_episodes=4), record_viewport_video=True) for _ in range(2)]
    lines = [json.loads(line) for line in (runs[1].run_dir / "episodes.jsonl").read_text().splitlines()]
    flipped = [{**line, "success": not line["success"]} if line["episode"] == 2 else line for line in lines]
    (runs[1].run_dir / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in flipped))
    comparison = compare(*runs)
    (flip,) = comparison.flipped
    was = runs[0].jobs["walk"].episodes[2].success
    assert (flip.job, flip.episode, flip.a, flip.b) == ("walk", 2, was, not was)
    (a,), (b,) = comparison.videos(flip)
    assert (a.name, b.name) == ("viewport-env0-episode-2.mp4",) * 2
    assert (a.is_relative_to(runs[0].run_dir), b.is_relative_to(runs[1].run_dir), b.is_file()) == (True, True, True)


def test_many_jobs_are_corrected_for(tmp_path: Path) -> None:
    """One job in which B seems worse by chance does not make a regression among twenty."""
    names = [f"job-{index}" for index in range(20)]
    a, b = pairs(20, 8, 1, 21)
    same, _ = pairs(28, 0, 0, 22)
    one = compare(written(tmp_path / "a1", {"x": a}), written(tmp_path / "b1", {"x": b}))
    assert (one.jobs["x"]["success_rate"].verdict, one.jobs["x"]["success_rate"].confidence) == ("worse", 0.95)
    first = written(tmp_path / "a", {name: a if name == "job-3" else same for name in names})
    second = written(tmp_path / "b", {name: b if name == "job-3" else same for name in names})
    many = compare(first, second)
    alone, among = one.jobs["x"]["success_rate"], many.jobs["job-3"]["success_rate"]
    assert among.verdict == "undecided"
    assert among.confidence == pytest.approx(1 - 0.05 / 20)
    assert among.p_value == alone.p_value
    assert among.p_corrected == pytest.approx(20 * (alone.p_value or 0))
    assert "20 jobs: their intervals and verdicts are corrected" in str(many)
    assert many.overall["success_rate"].n == 1000


def test_a_job_that_is_worse_is_a_regression_of_the_whole(tmp_path: Path) -> None:
    (a, b), (c, d) = pairs(60, 40, 2, 20), pairs(10, 2, 80, 60)
    names = {"lost": a, "won": c}, {"lost": b, "won": d}
    comparison = compare(*(written(tmp_path / f"{index}", names[index]) for index in range(2)))
    assert comparison.overall["success_rate"].verdict == "better"
    assert (comparison.verdict, comparison.worse_jobs, comparison.gate_code) == ("worse", ("lost",), 1)
    assert comparison.headline.startswith("B is worse in lost; over all jobs: b is better: success")


def test_metrics_without_a_direction_get_no_verdict(tmp_path: Path) -> None:
    outcomes: dict[str, list[Outcome]] = {"job": [True] * 30}
    a, b = (written(tmp_path / name, outcomes) for name in "ab")
    lines = [json.loads(line) for line in (b / "episodes.jsonl").read_text().splitlines()]
    (b / "episodes.jsonl").write_text("".join(json.dumps({**line, "length": 5}) + "\n" for line in lines))
    assert compare(a, b).jobs["job"]["length"].verdict is None
    assert compare(a, b, lower_is_better=["length"]).jobs["job"]["length"].verdict == "better"
    assert compare(a, b, higher_is_better=["length"]).jobs["job"]["length"].verdict == "worse"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[st.integers(0, 25)] * 4), st.booleans())
def test_a_comparison_mirrors(
    tmp_path_factory: pytest.TempPathFactory, counts: tuple[int, int, int, int], paired: bool
) -> None:
    folder = tmp_path_factory.mktemp("mirror")
    a, b = pairs(*counts)
    first, second = written(folder / "a", {"job": a}), written(folder / "b", {"job": b}, seed=0 if paired else 1)
    there, back = compare(first, second).jobs["job"], compare(second, first).jobs["job"]
    opposite = {"better": "worse", "worse": "better"}
    for name, metric in there.items():
        mirrored = back[name]
        assert metric.verdict in VERDICTS
        assert mirrored.verdict == opposite.get(metric.verdict, metric.verdict)
        assert (metric.a, metric.b, metric.n) == (mirrored.b, mirrored.a, mirrored.n)
        if metric.low is not None and mirrored.high is not None:
            assert metric.low == pytest.approx(-mirrored.high, abs=1e-9)
            assert (metric.verdict in opposite) == (not metric.low <= 0 <= (metric.high or 0.0))


@pytest.mark.parametrize(
    "options",
    [pytest.param({"margin": -0.1}, id="margin"), pytest.param({"confidence": 95}, id="confidence")],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="found"):
        compared(tmp_path, (1, 1, 1, 1), **options)


def test_bad_input_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a", {"job": [True]})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text('{"jobs": 3}')
    for b in (tmp_path / "nowhere", tmp_path / "broken"):
        assert run_command(["compare", str(a), str(b)]) == 2
    assert run_command(["compare", str(a), str(a), "--margin", "5"]) == 2
    assert run_command(["compare", str(a), str(a), "--json", str(tmp_path / "no" / "folder.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
    with pytest.raises(RunDirError):
        compare(a, tmp_path / "nowhere")


def test_json_on_standard_output_is_all_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a", {"job": [True, False]})
    assert run_command(["compare", str(a), str(a), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["comparable"] is True


def test_plan_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "--baseline", "0.6", "--difference", "0.1", "--discordant", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  other seeds (unpaired): 375 episodes of each policy"
    assert lines[2] == "  same seeds (paired):    168 episodes of each policy, if 20 % of the pairs differ"
    assert run_command(["plan", "--baseline", "0.6", "--difference", "0.1", "--paired"]) == 0
    assert "unpaired" not in capsys.readouterr().out
    for wrong in (["--difference", "0.9"], ["--difference", "0.1", "--discordant", "0.01"], ["--difference", "0"]):
        assert run_command(["plan", "--baseline", "0.6", *wrong]) == 2
    assert run_command(["plan", "--baseline", "0.6", "--difference", "0.1", "--power", "80"]) == 2


def test_the_readme_shows_what_is_printed(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert compared(tmp_path, (90, 34, 6, 70)).headline in readme
    words = shlex.split(next(part for part in readme.split("`") if part.startswith("arena-ray plan --")))
    assert run_command(words[1:]) == 0
