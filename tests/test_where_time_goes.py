"""Runs of which it is known how long each call takes: where their time went stands in events, summary and result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate, resume
from arena_ray.envs import episode_slot
from arena_ray.envs.base import Outcome, Ticket
from arena_ray.envs.episode_slot import OUTCOME, TICKETS, EpisodeSlot
from arena_ray.results.usage import PARTS
from arena_ray.specs import SuccessSpec, VideoRecordingCfg
from arena_ray.video import video_recorders, wrap_env_for_video
from tests.interrupted import events, torn
from tests.paced import Paced, make_vector, paced_job

# From Python 3.12 on, forking a process that has threads (torch's) warns; AsyncVectorEnv does that.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

STEP_S, RESET_S, ACT_S, RENDER_S = 0.004, 0.01, 0.002, 0.006

#: 4 episodes of 10 steps.
EPISODES, STEPS = 4, 40
FRAMES = STEPS + EPISODES

TIMES = {"step_s": STEP_S, "reset_s": RESET_S, "render_s": RENDER_S}

FILMED = {"record_viewport_video": True, "encoder": "inline"}

#: Least time, seconds, of environment, policy and recording; each is more by what sleeping overshoots.
Least = tuple[float, float, float]

JOBS: dict[str, tuple[dict[str, Any], int, Least]] = {
    "one-slot": (
        paced_job("one-slot", ACT_S, env_kwargs=TIMES),
        STEPS,
        (STEPS * STEP_S + EPISODES * RESET_S, STEPS * ACT_S, 0.0),
    ),
    "filmed": (
        paced_job("filmed", ACT_S, env_kwargs=TIMES, video=FILMED),
        STEPS,
        (STEPS * STEP_S + EPISODES * RESET_S, STEPS * ACT_S, FRAMES * RENDER_S),
    ),
    "four-slots": (
        paced_job("four-slots", ACT_S, env_kwargs=TIMES, video=FILMED, num_envs=4),
        10,
        (STEPS * STEP_S + EPISODES * RESET_S, 10 * ACT_S, FRAMES * RENDER_S),
    ),
    "batched": (
        paced_job("batched", ACT_S, "make_vector", env_kwargs={**TIMES, "mode": "Disabled"}, video=FILMED),
        20,
        (STEPS * STEP_S + EPISODES * RESET_S, 20 * ACT_S, FRAMES * RENDER_S),
    ),
    "idle": (paced_job("idle", 0.02, num_episodes=1), 10, (0.0, 10 * 0.02, 0.0)),
}


def usages(run_dir: Path, job: str) -> list[dict[str, Any]]:
    return [event["usage"] for event in events(run_dir, "chunk_finished") if event["job"] == job]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    jobs = [job for job, _, _ in JOBS.values()]
    return evaluate({"jobs": jobs}, inline=True, chunk_size=4, video_base_dir=str(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in JOBS])
def test_each_part_takes_what_it_must(result: RunResult, name: str) -> None:
    (usage,) = usages(result.run_dir, name)
    _, calls, (environment_s, policy_s, recording_s) = JOBS[name]
    assert usage["policy_calls"] == calls
    assert usage["policy_s"] >= policy_s
    assert usage["environment_s"] + usage["recording_s"] >= environment_s + recording_s
    # Who of the two took what is known up to the machine's load, which stretches both.
    assert usage["environment_s"] >= 0.9 * environment_s
    assert usage["recording_s"] >= 0.9 * recording_s
    assert all(usage[f"{part}_s"] >= 0 for part in PARTS)


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in JOBS])
def test_the_parts_sum_to_the_wall_time(result: RunResult, name: str) -> None:
    (usage,) = usages(result.run_dir, name)
    assert sum(usage[f"{part}_s"] for part in PARTS) == pytest.approx(usage["wall_s"], abs=0.001)


def test_shares_are_those_of_the_known_times(result: RunResult) -> None:
    plain, filmed = (result.jobs[name].usage for name in ("one-slot", "filmed"))
    assert plain is not None
    assert filmed is not None
    assert (plain.steps, plain.slots, plain.chunks, plain.batch) == (STEPS, 1, 1, 1.0)
    assert plain.recording_s == 0
    assert plain.shares["environment"] == pytest.approx(0.2 / 0.28, abs=0.12)
    assert plain.shares["policy"] == pytest.approx(0.08 / 0.28, abs=0.12)
    assert filmed.shares["recording"] == pytest.approx(0.264 / 0.544, abs=0.15)
    four = result.jobs["four-slots"].usage
    assert four is not None
    assert (four.slots, four.batch) == (4, 4.0)


def test_summary_and_result_are_what_the_events_say(result: RunResult) -> None:
    summary = json.loads((result.run_dir / "summary.json").read_text())["jobs"]
    loaded = RunResult.load(result.run_dir)
    for name, job in result.jobs.items():
        assert job.usage is not None
        assert loaded.jobs[name].usage == job.usage
        told = usages(result.run_dir, name)
        for key in ("wall_s", *(f"{part}_s" for part in PARTS), "steps", "policy_calls"):
            assert summary[name]["usage"][key] == pytest.approx(sum(usage[key] for usage in told), abs=1e-4)
        assert summary[name]["usage"]["gpu_utilization"] is None
        assert job.bottleneck is None  # These figures are of less than a second.


def test_a_resumed_run_adds_to_what_was_there(tmp_path: Path) -> None:
    job = paced_job(env_kwargs=TIMES)
    whole = evaluate({"jobs": [job]}, inline=True, chunk_size=1, video_base_dir=str(tmp_path))
    kept = [line["kind"] for line in events(whole.run_dir, "chunk_finished")][:2]
    lines = (whole.run_dir / "events.jsonl").read_text().splitlines()
    second = [number for number, line in enumerate(lines) if '"chunk_finished"' in line][1]
    before = usages(whole.run_dir, "paced")[:2]
    resumed = resume(torn(whole.run_dir, records=2, num_events=second + 1))
    told = usages(whole.run_dir, "paced")
    assert told[: len(kept)] == before
    usage = resumed.jobs["paced"].usage
    assert usage is not None
    assert usage.chunks == len(told) >= 3
    assert usage.steps == sum(chunk["steps"] for chunk in told) == STEPS
    assert RunResult.load(whole.run_dir).jobs["paced"].usage == usage


@pytest.mark.heavy
def test_children_tell_their_time_too(tmp_path: Path) -> None:
    """Two environments step beside each other, so the worker waits for half of their time."""
    job = paced_job(env_kwargs=TIMES, video=FILMED, num_envs=2, vectorization="async")
    result = evaluate({"jobs": [job]}, inline=True, chunk_size=4, video_base_dir=str(tmp_path))
    (usage,) = usages(result.run_dir, "paced")
    assert usage["slots"] == 2
    assert usage["environment_s"] + usage["recording_s"] >= 0.9 * (STEPS * STEP_S + FRAMES * RENDER_S) / 2
    assert usage["recording_s"] / (usage["environment_s"] + usage["recording_s"]) == pytest.approx(0.57, abs=0.15)
    assert sum(usage[f"{part}_s"] for part in PARTS) == pytest.approx(usage["wall_s"], abs=0.001)


@pytest.mark.ray
def test_workers_behind_ray_add_up(tmp_path: Path, local_ray: None) -> None:
    job = paced_job(act_s=ACT_S, env_kwargs=TIMES)
    result = evaluate({"jobs": [job]}, num_workers=2, chunk_size=1, video_base_dir=str(tmp_path))
    told = usages(result.run_dir, "paced")
    assert len(told) == EPISODES
    usage = result.jobs["paced"].usage
    assert usage is not None
    assert (usage.chunks, usage.steps, usage.policy_calls) == (EPISODES, STEPS, STEPS)
    assert usage.environment_s >= STEPS * STEP_S + EPISODES * RESET_S
    assert usage.waiting_s >= 0


def make_slot(folder: Path, **kwargs: Any) -> EpisodeSlot:
    """A slot that records its viewport if it is to take time."""

    def record(env: Any) -> Any:
        cfg = VideoRecordingCfg(record_viewport_video=bool(kwargs.get("render_s")), video_base_dir=str(folder))
        return wrap_env_for_video(env, cfg, num_episodes=1)

    return EpisodeSlot(lambda: Paced("rgb_array", **kwargs), record, 0, SuccessSpec(), ())


def play(slot: EpisodeSlot, episode: int = 0) -> Outcome:
    _, info = slot.reset(options={TICKETS: {0: Ticket(episode=episode, seed=1)}})
    while OUTCOME not in info:
        *_, info = slot.step(0)
    outcome: Outcome = info[OUTCOME]
    return outcome


def test_an_episode_knows_its_time_in_environment_and_recorders(tmp_path: Path) -> None:
    slot = make_slot(tmp_path, **TIMES)
    for episode in range(2):  # Recorders add up over episodes; an episode has its own part only.
        outcome = play(slot, episode)
        assert outcome.recording_s >= 11 * RENDER_S
        assert outcome.busy_s >= 10 * STEP_S + RESET_S + outcome.recording_s
        assert outcome.duration_s is not None
        assert outcome.busy_s <= outcome.duration_s + 0.001
    slot.close()


def test_an_episode_that_raised_keeps_its_time(tmp_path: Path) -> None:
    slot = make_slot(tmp_path, fail_at=4, **TIMES)
    for episode in range(2):  # The second in an environment that was built anew, and in new recorders.
        outcome = play(slot, episode)
        assert outcome.error is not None
        assert outcome.recording_s >= 4 * RENDER_S
        assert outcome.busy_s >= 3 * STEP_S + RESET_S + outcome.recording_s
        assert outcome.duration_s is not None
        assert outcome.busy_s <= outcome.duration_s + 0.001  # and so not that of both episodes
    slot.close()


def test_light_steps_pay_two_looks_at_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            looks.append("clock")
            return time.perf_counter()

    def counted(find: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def search(env: Any) -> Any:
            looks.append("recorders")
            return find(env)

        return search

    slot = make_slot(tmp_path, length=1000)
    monkeypatch.setattr(episode_slot, "time", Clock)
    monkeypatch.setattr(episode_slot, "video_recorders", counted(video_recorders))
    outcome = play(slot)
    assert outcome.length == 1000
    assert outcome.recording_s == 0
    assert looks.count("clock") <= 2 * 1000 + 10
    assert looks.count("recorders") <= 10
    slot.close()


@pytest.mark.parametrize(
    "parallel",
    [pytest.param(False, id="one-after-the-other"), pytest.param(True, id="children", marks=pytest.mark.heavy)],
)
def test_recorders_inside_sub_environments_count_wall_time(tmp_path: Path, parallel: bool) -> None:
    """Two sub-environments of 10 steps: 22 frames; those of children are taken beside each other."""
    env: Any = make_vector("rgb_array", parallel=parallel, length=10, render_s=RENDER_S)
    cfg = VideoRecordingCfg(record_viewport_video=True, video_base_dir=str(tmp_path), encoder="inline")
    env = wrap_env_for_video(env, cfg, num_episodes=2)
    started = time.perf_counter()
    env.reset(seed=0)
    for _ in range(10):
        env.step(env.action_space.sample())
    videos = [video for slot in range(2) for video in env.take_videos(slot)]
    wall_s = time.perf_counter() - started
    assert [video.frames for video in videos] == [11, 11]
    assert env.recording_s >= (11 if parallel else 22) * RENDER_S
    assert env.recording_s <= wall_s
    env.close()
