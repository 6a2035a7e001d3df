"""Undecided comparisons are decided by more episodes in both runs, on the same seeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arena_ray import RunResult, compare, evaluate, resume
from arena_ray.cli import run_command
from arena_ray.comparison import UNDECIDED
from arena_ray.comparison.verdicts import Judge
from arena_ray.errors import ConfigError, ExtensionError
from arena_ray.extension_runner import extend
from arena_ray.statistics import PairedRates
from tests.comparing import outcome
from tests.interrupted import Watcher, change_document, document, events, state, torn
from tests.worlds import toss_job

INLINE = {"inline": True}


def run(folder: Path, *jobs: dict[str, Any], **flags: Any) -> RunResult:
    return evaluate({"jobs": [*jobs]}, video_base_dir=str(folder), **{**INLINE, **flags})


def two_runs(folder: Path, a: float = 0.5, b: float = 0.6, num_episodes: int = 20, **job: Any) -> tuple[Path, Path]:
    """Return two runs of which B is better by as many points; few episodes do not show it."""
    jobs = [toss_job(skill=skill, num_episodes=num_episodes, **job) for skill in (a, b)]
    first, second = (run(folder, job).run_dir for job in jobs)
    return first, second


def lengths(*run_dirs: Path) -> list[int]:
    return [job["num_episodes"] for run_dir in run_dirs for job in document(run_dir)["jobs"]]


def test_both_are_extended_by_what_would_decide_and_judged_by_that_alone(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    metric = compare(a, b).overall["success_rate"]
    assert metric.verdict == "undecided"
    assert metric.episodes_needed is not None
    found = extend(a, b, flags=INLINE)
    more = metric.n + metric.episodes_needed
    assert lengths(a, b) == [20 + more] * 2
    assert found.done == f"ran {more} more episodes of each policy, to be judged by themselves"
    assert (found.problems, found.signal) == ((), None)
    assert found.comparison.since == {"toss": 20}
    assert found.comparison.overall["success_rate"].n == more
    assert found.comparison.verdict == "better"
    assert min(flip.episode for flip in found.comparison.flipped) >= 20
    assert "added after an undecided comparison (toss from 20)" in " ".join(str(found.comparison).split())
    assert compare(a, b).to_json() == found.comparison.to_json()  # Whoever looks later is told the same.
    assert found.comparison.to_json()["since"] == {"toss": 20}
    for run_dir, skill in ((a, 0.5), (b, 0.6)):
        whole = run(tmp_path / "whole", toss_job(skill=skill, num_episodes=20 + more))
        assert outcome(RunResult.load(run_dir)) == outcome(whole)
        (event,) = events(run_dir, "run_extended")
        assert event["reason"] == UNDECIDED


def test_a_verdict_is_not_extended(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, 0.2, 0.9)
    whole = state(a), state(b)
    found = extend(a, b, flags=INLINE)
    assert (found.done, found.comparison.verdict) == (None, "better")
    assert (state(a), state(b)) == whole


def test_what_one_run_lacks_is_run_and_nothing_else(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    torn(b, 7)
    assert compare(a, b).overall["success_rate"].n == 7
    watcher = Watcher()
    found = extend(a, b, flags=INLINE, observer=lambda: watcher)
    assert found.done == "ran the episodes that B lacked"
    assert [record.episode for record in watcher.records] == list(range(7, 20))
    assert (found.comparison.since, found.comparison.overall["success_rate"].n) == ({}, 20)


def test_an_extension_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    """A was extended, B was not: what is left is run, and only the new episodes are judged."""
    a, b = two_runs(tmp_path)
    untouched = shutil.copytree(b, tmp_path / "b")
    extend(a, b, num_episodes=30, flags=INLINE)
    assert not compare(a, untouched).comparable
    found = extend(a, untouched, flags=INLINE)
    assert found.done == "ran the episodes that B lacked"
    assert lengths(a, untouched) == [50, 50]
    assert (found.comparison.since, found.comparison.overall["success_rate"].n) == ({"toss": 20}, 30)


def test_a_run_that_somebody_made_longer_is_followed(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    resume(a, ["toss:num_episodes=40"], inline=True)
    found = extend(a, b, flags=INLINE)
    assert (lengths(a, b), found.comparison.since) == ([40, 40], {})
    assert found.comparison.overall["success_rate"].n == 40


def test_each_further_look_has_new_episodes(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, 0.5, 0.5)
    for number, since in ((10, 20), (25, 30)):
        found = extend(a, b, num_episodes=number, flags=INLINE, margin=0.0)
        assert found.comparison.since == {"toss": since}
        assert found.comparison.overall["success_rate"].n == number
        assert found.comparison.verdict == "undecided"


def test_several_jobs_share_the_episodes(tmp_path: Path) -> None:
    jobs = [[toss_job("one", skill, num_episodes=20), toss_job("two", skill, num_episodes=10)] for skill in (0.5, 0.55)]
    a, b = (run(tmp_path, *both).run_dir for both in jobs)
    found = extend(a, b, num_episodes=9, max_episodes=7, flags=INLINE)
    assert found.done is not None
    assert found.done.startswith("ran 7 more episodes of each policy")
    assert found.done.endswith("(9 were asked for, but --max_episodes is 7)")
    assert lengths(a, b) == [25, 12, 25, 12]
    with pytest.raises(ConfigError, match="1 more episodes cannot be shared by 2 jobs"):
        extend(a, b, num_episodes=1, flags=INLINE, margin=0.0)
    assert found.comparison.since == {"one": 20, "two": 10}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"seed": 1}, "not on the same seeds .job 'toss': seed is 0 in A and 1 in B", id="seeds"),
        pytest.param({"env_kwargs": {"step_s": 1e-9}}, "not comparable, .*env.kwargs.step_s", id="environment"),
        pytest.param({"name": "other"}, "not comparable, .*job 'toss' is only in run A", id="jobs"),
        pytest.param({"stop_when": {"half_width": 0.3}}, "job 'toss' of B has stopped because .*stop_when", id="sure"),
    ],
)
def test_what_more_episodes_cannot_decide_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    a = run(tmp_path, toss_job(skill=0.5, num_episodes=20)).run_dir
    b = run(tmp_path, toss_job(**{"skill": 0.5, "num_episodes": 20, **change})).run_dir
    whole = state(a), state(b)
    with pytest.raises(ExtensionError, match=told):
        extend(a, b, flags=INLINE, margin=0.01)
    assert (state(a), state(b)) == whole


def test_nothing_is_known_from_nothing(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, env_kwargs={"untold": list(range(20))})
    change = {"metric": "return"}
    assert compare(a, b).metric == change["metric"]
    with pytest.raises(ExtensionError, match="both are the run in"):
        extend(a, a, flags=INLINE)
    with pytest.raises(ConfigError, match="num_episodes: found 0"):
        extend(a, b, num_episodes=0, flags=INLINE)
    with pytest.raises(ConfigError, match="max_episodes: found -1"):
        extend(a, b, max_episodes=-1, flags=INLINE)


def test_code_that_is_gone_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_that_goes.py").write_text("from tests.worlds import Skilled\n")
    policy = {"entry_point": "mine_that_goes:Skilled", "kwargs": {"skill": 0.55}}
    a = run(tmp_path, toss_job(skill=0.5, num_episodes=20)).run_dir
    b = run(tmp_path, toss_job(num_episodes=20, policy=policy)).run_dir
    (tmp_path / "mine_that_goes.py").unlink()
    with pytest.raises(ExtensionError, match=r"'mine_that_goes:Skilled', which .* is no more: no module"):
        extend(a, b, flags=INLINE)
    assert lengths(a, b) == [20, 20]


def test_jobs_that_have_changed_leave_both_runs_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"jobs": [toss_job(skill=0.6, num_episodes=20)]}))
    a = run(tmp_path, toss_job(skill=0.5, num_episodes=20)).run_dir
    b = evaluate(path, inline=True, video_base_dir=str(tmp_path)).run_dir
    path.write_text(json.dumps({"jobs": [toss_job(skill=0.7, num_episodes=20)]}))
    whole = state(a), state(b)
    with pytest.raises(ConfigError, match=r"policy.kwargs.skill: was 0.6, is now 0.7"):
        extend(a, b, flags=INLINE)
    assert (state(a), state(b)) == whole


def test_a_run_that_breaks_is_told(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path, env_kwargs={"poison": [25]})
    found = extend(a, b, num_episodes=10, flags=INLINE)
    assert found.problems == (f"{a}: toss: episode 25: RuntimeError: poisoned toss",)
    assert lengths(a, b) == [30, 20]


def test_the_command_extends_and_gates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a, b = two_runs(tmp_path)
    words = ["compare", str(a), str(b)]
    assert run_command([*words, "--extend", "40", "--gate", "--inline", "--json", str(tmp_path / "found.json")]) in (
        0,
        4,
    )
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == compare(a, b).headline
    assert err.splitlines()[-2].startswith("Undecided: success")
    assert err.splitlines()[-1] == "ran 40 more episodes of each policy, to be judged by themselves"
    assert json.loads((tmp_path / "found.json").read_text())["since"] == {"toss": 20}
    assert run_command([*words, "--inline", "--gate", "--extend"]) == 0
    assert run_command([*words, "--extend"]) == 0
    assert "nothing was run: there is a verdict" in capfd.readouterr().err


def test_the_command_says_why_it_cannot_extend(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a = run(tmp_path, toss_job(skill=0.5, num_episodes=20)).run_dir
    b = run(tmp_path, toss_job(skill=0.6, num_episodes=20, seed=1)).run_dir
    assert run_command(["compare", str(a), str(b), "--extend"]) == 2
    out, err = capfd.readouterr()
    assert out.startswith("Undecided")
    assert "error: cannot be extended: the runs are not on the same seeds" in err
    assert run_command(["compare", str(a), str(b), "--extend", "--gate"]) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["--inline"], "--inline is about episodes to be run; give --extend", id="inline"),
        pytest.param(["--max_episodes", "5"], "--max_episodes is about episodes", id="max"),
        pytest.param(["--extend", "many"], "'many' is no number of episodes", id="word"),
        pytest.param(["--extend", "0"], "num_episodes: found 0", id="none"),
    ],
)
def test_bad_words_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    a, b = two_runs(tmp_path)
    assert run_command(["compare", str(a), str(b), *words]) == 2
    assert told in capfd.readouterr().err


def test_events_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    with (a / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "run_extended", "reason": UNDECIDED, "num_episodes": 3}) + "\n")
    with pytest.raises(Exception, match="run_extended cannot be read"):
        compare(a, b)


@pytest.mark.ray
@pytest.mark.heavy
def test_runs_are_extended_on_ray(tmp_path: Path, local_ray: None) -> None:
    a, b = two_runs(tmp_path)
    for run_dir in (a, b):
        settings = {**document(run_dir)["settings"], "inline": False}
        change_document(run_dir, settings=settings)
    found = extend(a, b, num_episodes=30, flags={"num_workers": 2})
    assert found.problems == ()
    assert found.comparison.overall["success_rate"].n == 30


def error_rates(runs: int, looks: Mapping[str, Any]) -> dict[str, float]:
    """Return how often a second look finds a difference between equals, by what it looks at."""
    rng = np.random.default_rng(5)
    judge = Judge(margin=0.0, confidence=0.95)
    wrong, extended = dict.fromkeys(looks, 0), 0
    for _ in range(runs):
        first = PairedRates(0, *rng.multinomial(60, [0.25, 0.25, 0.5]).tolist())
        verdict = judge.single("success_rate", first)
        if verdict.verdict != "undecided" or (verdict.p_value or 1) > 0.3:
            continue  # Somebody who wants a result goes on where it is near.
        extended += 1
        more = min(verdict.episodes_needed or 200, 200)
        second = PairedRates(0, *rng.multinomial(more, [0.25, 0.25, 0.5]).tolist())
        for name, look in looks.items():
            wrong[name] += judge.single("success_rate", look(first, second)).verdict != "undecided"
    assert extended > 500
    return {name: count / extended for name, count in wrong.items()}


def test_a_second_look_at_new_episodes_errs_no_more_often_than_it_says() -> None:
    """Among equal policies; all episodes together would err more often where only what is near is extended."""
    looks = {"new": lambda _, second: second, "together": lambda first, second: first + second}
    found = error_rates(4000, looks)
    assert found["new"] <= 0.05
    assert found["together"] > 0.06
