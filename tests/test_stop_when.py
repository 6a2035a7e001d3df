"""Jobs that stop when their success rate is known: the same stop and figures however they were run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_ray import EvalJob, RunResult, compare, evaluate, replay, resume
from arena_ray.chunking import rebuild_bounds
from arena_ray.cli import run_command
from arena_ray.config import json_schema, load_plan
from arena_ray.dispatch import Chunk
from arena_ray.errors import ConfigError
from arena_ray.ledger import Ledger, Loss
from arena_ray.records import EpisodeRecord, EpisodeStatus
from arena_ray.specs import StopWhen
from arena_ray.stopping import StopRule
from tests.comparing import outcome
from tests.interrupted import document, events, lines, state, torn
from tests.worlds import toss_job, walk_job

RULE = {"metric": "success_rate", "half_width": 0.15, "confidence": 0.9}


def run(folder: Path, *jobs: dict[str, Any], **flags: Any) -> RunResult:
    settings_ = {"inline": True, "continue_on_error": True, **flags}
    return evaluate({"jobs": [*jobs]}, video_base_dir=str(folder), **settings_)


def sure_job(**changes: Any) -> dict[str, Any]:
    """A job that stops early; one episode breaks, one says nothing."""
    return toss_job(**{"stop_when": RULE, "env_kwargs": {"poison": [4], "untold": [7]}, **changes})


def figures(result: RunResult) -> dict[str, Any]:
    """Return what a summary reports, without what lies beyond the stop."""
    summary = result.summary()
    for job in summary["jobs"].values():
        del job["usage"]
        assert job["stopped"].pop("beyond") >= 0
    return summary


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tmp_path_factory.mktemp("reference"), sure_job(), chunk_size=1)


def test_it_stops_at_the_first_episode_that_makes_it_sure(reference: RunResult) -> None:
    job = reference.jobs["toss"]
    assert job.stopped is not None
    assert (job.stopped.at, job.stopped.beyond, job.beyond) == (len(job.episodes), 0, ())
    assert job.counts == {"completed": job.stopped.at - 1, "error": 1, "timeout": 0}
    told = [record.success for record in job.episodes if record.status == "completed" and record.success is not None]
    assert len(told) == job.stopped.at - 2
    rule = StopRule(StopWhen.model_validate(RULE))
    stops = [rule.add(record.episode, record.status, record.success) for record in job.episodes]
    assert stops == [False] * (len(stops) - 1) + [True]
    rate = job.metrics["success_rate"]
    assert (rate.value, rate.n, rate.confidence) == (sum(told) / len(told), len(told), 0.9)
    assert rate.method == "confidence-sequence"
    assert rate.low is not None
    assert rate.high is not None
    assert rate.value is not None
    assert job.stopped.half_width == max(rate.value - rate.low, rate.high - rate.value)
    assert 0.1 < job.stopped.half_width <= 0.15
    assert job.status == "failed"  # Of the episodes that count, one broke.


@pytest.mark.parametrize(
    ("job", "flags"),
    [
        pytest.param({}, {}, id="auto"),
        pytest.param({}, {"chunk_size": 7}, id="chunks-of-7"),
        pytest.param({}, {"chunk_size": 400}, id="one-chunk"),
        pytest.param({"num_envs": 3}, {}, id="three-slots"),
        pytest.param({"num_envs": 3}, {"chunk_size": 11}, id="three-slots-chunks-of-11"),
        pytest.param({"num_envs": 3, "vectorization": "async"}, {"chunk_size": 40}, id="three-children"),
    ],
)
def test_stop_and_figures_are_the_same(
    tmp_path: Path, reference: RunResult, job: dict[str, Any], flags: dict[str, Any]
) -> None:
    result = run(tmp_path, sure_job(**job), **flags)
    assert figures(result) == figures(reference)
    assert outcome(result) == outcome(reference)
    found = result.jobs["toss"]
    assert found.stopped is not None
    assert len(found.beyond) == found.stopped.beyond
    assert len(lines(result.run_dir)) == found.stopped.at + found.stopped.beyond
    if flags.get("chunk_size") == 400:
        assert found.stopped.beyond == 400 - found.stopped.at
    else:
        assert found.stopped.beyond < 40
    assert RunResult.load(result.run_dir).summary() == json.loads((result.run_dir / "summary.json").read_text())


@pytest.mark.ray
@pytest.mark.heavy
def test_two_workers_stop_at_the_same_episode(tmp_path: Path, local_ray: None, reference: RunResult) -> None:
    result = run(tmp_path, sure_job(num_envs=2, env_kwargs={"poison": [4], "untold": [7]}), inline=False, num_workers=2)
    assert figures(result) == figures(reference)
    stopped = result.jobs["toss"].stopped
    assert stopped is not None
    assert stopped.at + stopped.beyond < 200
    assert len({record.worker.pid for record in result.records() if record.worker}) == 2


@pytest.mark.ray
@pytest.mark.heavy
def test_a_worker_that_dies_moves_no_stop(tmp_path: Path, local_ray: None) -> None:
    """Its episode is tried again, and the decision waits for it."""
    rule: dict[str, Any] = {"stop_when": RULE, "num_episodes": 400}
    undisturbed = run(tmp_path, walk_job(**rule))
    deed = {"poison": [11], "deed": "kill", "marker": str(tmp_path)}
    result = run(tmp_path, walk_job(**rule, env_kwargs=deed), inline=False, num_workers=2)
    assert len(events(result.run_dir, "worker_lost")) == 1
    assert result.jobs["walk"].episodes[11].attempt == 2
    assert figures(result) == figures(undisturbed)
    assert outcome(result) == outcome(undisturbed)


def test_a_stopped_job_is_completed_and_everything_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jobs.json"
    jobs = [toss_job("sure"), toss_job("open", num_episodes=9, stop_when=None, tags={"kind": "open"})]
    path.write_text(json.dumps({"jobs": jobs, "defaults": {"stop_when": RULE}}))
    assert run_command(["run", str(path), "--inline", "--video_base_dir", str(tmp_path / "runs")]) == 0
    out, err = capfd.readouterr()
    run_dir = Path(out.splitlines()[-1])
    summary = json.loads((run_dir / "summary.json").read_text())
    stopped = summary["jobs"]["sure"]["stopped"]
    assert summary["jobs"]["sure"]["status"] == "completed"
    assert summary["jobs"]["sure"]["episodes"] == {
        "requested": 400,
        "completed": stopped["at"],
        "error": 0,
        "timeout": 0,
    }
    assert document(run_dir)["stopped"] == {"sure": stopped}
    assert summary["jobs"]["open"]["stopped"] is None
    assert summary["jobs"]["open"]["metrics"]["success_rate"]["method"] == "wilson"
    assert summary["groups"]["kind"]["open"]["metrics"]["success_rate"]["method"] == "wilson"
    assert summary["overall"]["metrics"]["success_rate"]["method"] == "confidence-sequence"
    (event,) = events(run_dir, "stopped_early")
    assert (event["job"], event["at"], event["half_width"]) == ("sure", stopped["at"], stopped["half_width"])
    assert f"sure stopped after {stopped['at']} of 400 episodes: its success rate is known to within" in out
    assert "stopped_early sure: success_rate is known to within 0.148 after 51 episodes" in err
    assert "60/60 episodes" in err


def test_the_figures_are_those_of_the_first_lines(tmp_path: Path) -> None:
    """What anybody computes from the file, of the episodes with an index below `at`."""
    result = run(tmp_path, sure_job(), chunk_size=60)
    job = result.jobs["toss"]
    assert job.stopped is not None
    assert job.stopped.beyond > 0
    counted = [line for line in lines(result.run_dir) if line["episode"] < job.stopped.at]
    outcomes = [line["success"] for line in counted if line["status"] == "completed" and line["success"] is not None]
    assert job.metrics["success_rate"].value == sum(outcomes) / len(outcomes)
    assert len(result.to_pandas()) == len(counted) == job.stopped.at


def test_a_budget_that_is_used_up_is_reported_with_the_sequence_too(tmp_path: Path) -> None:
    job = run(tmp_path, toss_job(num_episodes=20, stop_when=RULE)).jobs["toss"]
    assert (job.stopped, job.status, job.counts["completed"]) == (None, "completed", 20)
    assert job.metrics["success_rate"].method == "confidence-sequence"


def test_what_breaks_beyond_the_stop_counts_for_nothing(tmp_path: Path, reference: RunResult) -> None:
    at = reference.jobs["toss"].stopped
    assert at is not None
    poison = {"poison": [at.at + 1], "untold": [4, 7]}
    result = run(tmp_path, sure_job(env_kwargs=poison), chunk_size=100, continue_on_error=False)
    job = result.jobs["toss"]
    assert [record.status for record in job.beyond].count("error") == 1
    assert (result.status, job.status, job.error, job.counts["error"]) == ("completed", "completed", None, 0)
    whole = state(result.run_dir)
    assert resume(result.run_dir, retry_failed=True).status == "completed"
    assert state(result.run_dir) == whole
    (replayed,) = replay(result.run_dir, "toss", [at.at], inline=True).replays
    assert replayed.equal
    with pytest.raises(ConfigError, match=r"episode 399: .* it has not run: the job stopped before"):
        replay(result.run_dir, "toss", [399], inline=True)


def test_a_stopped_run_is_left_untouched(tmp_path: Path) -> None:
    result = run(tmp_path, toss_job(stop_when=RULE))
    whole = state(result.run_dir)
    assert resume(result.run_dir) == result
    assert state(result.run_dir) == whole


@pytest.mark.parametrize("keep", [pytest.param(keep, id=str(keep)) for keep in (0, 13, 1000)])
def test_an_interrupted_run_comes_to_the_same(tmp_path: Path, reference: RunResult, keep: int) -> None:
    run_dir = torn(run(tmp_path, sure_job(num_envs=3), chunk_size=30).run_dir, keep, num_events=1)
    result = resume(run_dir, chunk_size="auto")
    assert figures(result) == figures(reference)
    assert len(events(run_dir, "stopped_early")) == 1
    assert len(lines(run_dir)) < 120
    assert set(document(run_dir)["stopped"]) == {"toss"}


def test_an_error_that_ended_the_run_may_turn_out_to_lie_beyond(tmp_path: Path, reference: RunResult) -> None:
    at = reference.jobs["toss"].stopped
    assert at is not None
    job = sure_job(env_kwargs={"poison": [at.at + 5], "untold": [4, 7]})
    run_dir = run(tmp_path, job, chunk_size=100, continue_on_error=False).run_dir
    early = [line for line in lines(run_dir) if line["episode"] < 9 or line["status"] == "error"]
    torn(run_dir, 0, num_events=1)
    (run_dir / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in early))
    assert RunResult.load(run_dir).jobs["toss"].status == "failed"
    result = resume(run_dir, chunk_size="auto")
    assert (result.status, result.jobs["toss"].counts["error"]) == ("completed", 0)
    assert result.jobs["toss"].stopped is not None
    assert result.jobs["toss"].stopped.at == at.at


def test_a_rule_can_be_tightened_and_not_loosened(tmp_path: Path) -> None:
    first = run(tmp_path, toss_job(stop_when=RULE), chunk_size=50)
    at = first.jobs["toss"].stopped
    assert at is not None
    whole = state(first.run_dir)
    for override, told in (
        ("toss:stop_when.half_width=0.2", "stop_when.half_width: was 0.15, is now 0.2 .once episodes have run"),
        ("toss:stop_when.confidence=0.8", "stop_when.confidence: was 0.9, is now 0.8"),
        ("toss:stop_when=null", "stop_when.*is now None"),
    ):
        with pytest.raises(ConfigError, match=told):
            resume(first.run_dir, [override])
    assert state(first.run_dir) == whole
    result = resume(first.run_dir, ["toss:stop_when.half_width=0.08", "toss:stop_when.confidence=0.95"])
    tight = result.jobs["toss"].stopped
    assert tight is not None
    assert tight.at > at.at
    assert result.status == "completed"
    (note,) = result.notes
    assert "stop_when was half_width 0.15 and is 0.08" in note
    assert "holds with 95 % by itself, with 85 % together" in note
    fresh = run(tmp_path / "fresh", toss_job(stop_when={"half_width": 0.08}))
    assert figures(fresh)["jobs"] == figures(result)["jobs"]
    assert [event["at"] for event in events(first.run_dir, "stopped_early")] == [at.at, tight.at]


def test_a_budget_that_was_too_small_can_be_extended(tmp_path: Path, reference: RunResult) -> None:
    result = run(tmp_path, sure_job(num_episodes=20))
    assert result.jobs["toss"].stopped is None
    again = resume(result.run_dir, ["toss:num_episodes=400"])
    assert figures(again) == figures(reference)


def test_more_budget_changes_nothing_once_it_is_sure(tmp_path: Path) -> None:
    result = run(tmp_path, toss_job(stop_when=RULE))
    again = resume(result.run_dir, ["toss:num_episodes=500"])
    assert again.jobs["toss"].requested == 500
    assert again.jobs["toss"].stopped == result.jobs["toss"].stopped
    assert outcome(again) == outcome(result)
    assert resume(result.run_dir).jobs["toss"].requested == 500


def test_failed_episodes_may_be_tried_again_and_move_the_stop(tmp_path: Path) -> None:
    marker = tmp_path / "jobs.json"
    marker.write_text(json.dumps({"jobs": [sure_job()]}))
    result = evaluate(marker, inline=True, continue_on_error=True, video_base_dir=str(tmp_path / "runs"))
    at = result.jobs["toss"].stopped
    assert at is not None
    again = resume(result.run_dir, retry_failed=True)
    assert again.jobs["toss"].stopped == at  # It broke again.
    assert again.status == "failed"
    assert [line["episode"] for line in lines(result.run_dir)].count(4) == 2


def test_a_comparison_says_that_a_run_stopped_early(tmp_path: Path) -> None:
    a, b = (run(tmp_path, toss_job(skill=skill, stop_when=RULE)) for skill in (0.8, 0.5))
    comparison = compare(a, b)
    ends = [result.jobs["toss"].stopped for result in (a, b)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert comparison.overall["success_rate"].n == min(ends[0].at, ends[1].at)
    assert [note.split(";")[0] for note in comparison.notes] == [
        f"A: job 'toss' stopped by its rule after {ends[0].at} episodes",
        f"B: job 'toss' stopped by its rule after {ends[1].at} episodes",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"half_width": 0}, "stop_when.half_width: found 0; must be more than 0", id="no-width"),
        pytest.param({"half_width": 0.5}, "stop_when.half_width: found 0.5; must be less than 0.5", id="wide"),
        pytest.param({"half_width": "5 %"}, "stop_when.half_width: found '5 %'; must be a number", id="text"),
        pytest.param({"half_width": None}, "stop_when.half_width: found None", id="none"),
        pytest.param({"confidence": 1}, "stop_when.confidence: found 1; must be less than 1", id="certain"),
        pytest.param({"confidence": 0}, "stop_when.confidence: found 0; must be more than 0", id="not-at-all"),
        pytest.param(
            {"metric": "return"}, "stop_when.metric: .*'return' cannot stop a job: .*'success_rate'", id="return"
        ),
        pytest.param({"width": 0.1}, "unknown key 'stop_when.width' .*did you mean 'half_width'", id="key"),
    ],
)
def test_bad_rules_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_plan({"jobs": [toss_job(stop_when={**RULE, **change})]})
    with pytest.raises(ConfigError, match=told):
        load_plan({"jobs": [toss_job()], "defaults": {"stop_when": {**RULE, **change}}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"stop_when": {}}, "missing required key 'stop_when.half_width'", id="empty"),
        pytest.param({"stop_when": 0.05}, "found 0.05; must be a mapping; write 'stop_when: {metric", id="number"),
        pytest.param({"num_episodes": None, "num_steps": 9, "stop_when": RULE}, "give 'num_episodes', not", id="steps"),
        pytest.param({"num_rebuilds": 4, "stop_when": RULE}, "its 'num_rebuilds' 4 builds", id="rebuilds"),
    ],
)  # fmt: skip
def test_jobs_that_cannot_stop_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load_plan({"jobs": [toss_job(**change)]})
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"jobs": [toss_job(**change)]}))
    assert run_command(["run", str(path), "--inline", "--video_base_dir", str(tmp_path / "runs")]) == 2
    assert not (tmp_path / "runs").exists()


def test_a_rule_has_defaults_and_a_schema() -> None:
    rule = EvalJob.model_validate(toss_job(stop_when={"half_width": 0.05})).stop_when
    assert rule == StopWhen(metric="success_rate", half_width=0.05, confidence=0.95)
    properties = json_schema()["$defs"]["StopWhen"]["properties"]
    assert (properties["half_width"]["exclusiveMinimum"], properties["half_width"]["exclusiveMaximum"]) == (0, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 1.0), st.integers(1, 12))
def test_the_order_of_records_does_not_matter(seed: int, rate: float, spread: int) -> None:
    rng = random.Random(seed)
    told: list[tuple[int, EpisodeStatus, bool | None]] = [
        (episode, "error", None) if rng.random() < 0.1 else (episode, "completed", rng.random() < rate)
        for episode in range(150)
    ]
    disordered = sorted(told, key=lambda item: item[0] + rng.uniform(0, spread))
    in_order, in_disorder = StopRule(StopWhen.model_validate(RULE)), StopRule(StopWhen.model_validate(RULE))
    for one, other in zip(told, disordered, strict=True):
        in_order.add(*one)
        in_disorder.add(*other)
    assert in_order.stopped() == in_disorder.stopped()
    assert in_order.errors == in_disorder.errors


def ledger(**changes: Any) -> Ledger:
    job = EvalJob.model_validate(toss_job(**{"stop_when": RULE, "num_episodes": 10_000, **changes}))
    return Ledger(
        [job],
        chunk_length=lambda remaining, *_: remaining,
        rebuild_bounds=rebuild_bounds,
        max_attempts=1,
        continue_on_error=False,
    )


def tell(book: Ledger, chunk: Chunk, episode: int, success: bool) -> None:
    record = EpisodeRecord(
        job="toss", episode=episode, seed=0, status="completed", success=success, chunk=chunk.index, duration_s=1.0
    )
    assert book.record(record)


def test_far_fewer_episodes_are_started_than_the_budget_has() -> None:
    """The next chunk never takes more than half of what is probably needed still."""
    book, sizes = ledger(), []
    while (chunk := book.take("toss", 1)) is not None:
        sizes.append(len(chunk.episodes))
        for episode in chunk.episodes:
            tell(book, chunk, episode, episode % 10 < 7)
        book.finished_chunk("toss", chunk.index, cut_short=False)
    stopped = book.stopped_jobs()["toss"]
    assert stopped.beyond <= 2
    assert len(sizes) < 12
    assert book.completed
    assert book.finished


def test_what_was_in_flight_at_the_stop_is_not_tried_again() -> None:
    book = ledger()
    chunks = [chunk for _ in range(10) if (chunk := book.take("toss", 1)) is not None]
    *others, last = chunks
    for chunk in others:
        for episode in chunk.episodes:
            tell(book, chunk, episode, True)
        book.finished_chunk("toss", chunk.index, cut_short=False)
    stopped = book.stopped_jobs()["toss"]
    assert stopped.at <= last.episodes[0]
    assert not book.finished
    assert book.lost_chunk("toss", last.index, "died", "signal 9") == Loss()
    assert (book.finished, book.completed, book.stopped) == (True, True, None)


def test_an_episode_in_flight_is_waited_for_where_the_decision_needs_it() -> None:
    book = ledger()
    first, second = book.take("toss", 1), book.take("toss", 1)
    assert first is not None
    assert second is not None
    for _ in range(5):
        chunk = book.take("toss", 1)
        assert chunk is not None
        for episode in chunk.episodes:
            tell(book, chunk, episode, True)
    for episode in (*first.episodes, *second.episodes[1:]):
        tell(book, first if episode in first.episodes else second, episode, True)
    assert not book.stopped_jobs()
    loss = book.lost_chunk("toss", second.index, "preempted", "the machine is gone")
    assert loss.suspects == second.episodes[:1]
    book.release("toss")
    again = book.take("toss", 1)
    assert again is not None
    assert again.episodes == second.episodes[:1]
    tell(book, again, again.episodes[0], True)
    assert book.stopped_jobs()["toss"].at > again.episodes[0]
