from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_ray.chunking import chunk_length, rebuild_bounds
from arena_ray.dispatch import Chunk
from arena_ray.ledger import FAULTS, JobHistory, Ledger, Loss
from arena_ray.records import EpisodeRecord, EpisodeStatus
from arena_ray.specs import EvalJob
from tests.worlds import walk_job


def job(name: str = "a", **changes: Any) -> EvalJob:
    return EvalJob.model_validate(walk_job(name, **changes))


def ledger(*jobs: EvalJob, size: int = 3, max_attempts: int = 3, continue_on_error: bool = False) -> Ledger:
    return Ledger(
        jobs,
        chunk_length=lambda *_: size,
        rebuild_bounds=rebuild_bounds,
        max_attempts=max_attempts,
        continue_on_error=continue_on_error,
    )


def record(chunk: Chunk, episode: int, status: Any = "completed") -> EpisodeRecord:
    return EpisodeRecord(
        job=chunk.job.name,
        episode=episode,
        seed=0,
        status=status,
        chunk=chunk.index,
        attempt=chunk.attempt,
        duration_s=1.0,
    )


def lose(book: Ledger, name: str, index: int, cause: str, reason: str) -> Loss:
    """Lose a worker, and wait for as long as the ledger says."""
    loss = book.lost_chunk(name, index, cause, reason)
    if loss.back_off_s:
        book.release(name)
    return loss


def take(book: Ledger, name: str = "a") -> Chunk:
    chunk = book.take(name, num_workers=2)
    assert chunk is not None
    return chunk


def deliver(book: Ledger, chunk: Chunk) -> None:
    book.ready(chunk.job.name, chunk.index)
    for episode in chunk.episodes:
        book.started(chunk.job.name, chunk.index, episode)
        assert book.record(record(chunk, episode))
    book.finished_chunk(chunk.job.name, chunk.index, cut_short=False)


def test_chunks_cover_the_job_once_and_are_numbered() -> None:
    book = ledger(job(num_episodes=8))
    chunks = [take(book) for _ in range(3)]
    assert [chunk.episodes for chunk in chunks] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert [chunk.probe_seeding for chunk in chunks] == [True, False, False]
    assert book.take("a", 2) is None
    for chunk in chunks:
        deliver(book, chunk)
    assert book.finished
    assert book.completed


def test_a_second_record_of_an_episode_is_refused() -> None:
    book = ledger(job())
    chunk = take(book)
    assert book.record(record(chunk, 0))
    assert not book.record(record(chunk, 0))
    assert book.jobs["a"].counts.completed == 1


def test_only_episodes_in_flight_are_charged_and_they_are_tried_alone() -> None:
    book = ledger(job(num_envs=2), size=6)
    chunk = take(book)
    book.ready("a", chunk.index)
    for episode in (0, 1, 2):
        book.started("a", chunk.index, episode)
    book.record(record(chunk, 0))
    loss = lose(book, "a", chunk.index, "died", "signal 9")
    assert loss.suspects == (1, 2)
    assert loss.requeued == (3, 4, 5)
    again = [take(book) for _ in range(3)]
    assert [(piece.episodes, piece.attempt) for piece in again] == [((1,), 2), ((2,), 2), ((3, 4, 5), 1)]


def test_episodes_that_have_ended_are_not_charged_for_what_happens_before_their_records_come() -> None:
    book = ledger(job(num_episodes=4, num_envs=2), size=4, max_attempts=1, continue_on_error=True)
    chunk = take(book)
    book.ready("a", chunk.index)
    for episode in (0, 1, 2):
        book.started("a", chunk.index, episode)
    book.ended("a", chunk.index, [0, 1])
    loss = lose(book, "a", chunk.index, "died", "killed")
    assert [one.episode for one in loss.exhausted] == [2, 3]
    assert loss.requeued == (0, 1)
    assert book.record(record(take(book), 0))


def test_a_poisonous_episode_is_given_up_and_its_neighbours_lose_nothing() -> None:
    book = ledger(job(num_episodes=4), size=4, continue_on_error=True)
    attempts = []
    while not book.finished:
        chunk = take(book)
        book.ready("a", chunk.index)
        for episode in chunk.episodes:
            book.started("a", chunk.index, episode)
            if episode == 1:
                attempts.append(chunk.attempt)
                for exhausted in lose(book, "a", chunk.index, "died", "signal 11").exhausted:
                    assert (exhausted.episode, exhausted.attempt, exhausted.status) == (1, 3, "error")
                    book.record(record(chunk, 1, "error"))
                break
            book.record(record(chunk, episode))
        else:
            book.finished_chunk("a", chunk.index, cut_short=False)
    assert attempts == [1, 2, 3]
    assert (book.jobs["a"].counts.completed, book.jobs["a"].counts.error) == (3, 1)
    assert book.jobs["a"].status == "failed"


def test_an_exhausted_episode_fails_its_job_but_no_other() -> None:
    book = ledger(job("a"), job("b"), max_attempts=1)
    chunk = take(book)
    book.ready("a", chunk.index)
    book.started("a", chunk.index, 0)
    loss = lose(book, "a", chunk.index, "died", "signal 9")
    assert loss.job_failed is not None
    assert "signal 9" in loss.job_failed
    assert book.take("a", 2) is None
    assert take(book, "b").episodes == (0, 1, 2)


@pytest.mark.parametrize(
    "cause", [pytest.param(cause, id=cause) for cause, rule in FAULTS.items() if rule.retried and not rule.charged]
)
def test_what_is_nobodys_fault_charges_nothing_however_often(cause: str) -> None:
    book = ledger(job(num_episodes=1), max_attempts=1)
    for attempt in range(1, 6):
        chunk = take(book)
        assert (chunk.episodes, chunk.attempt) == ((0,), attempt)
        book.ready("a", chunk.index)
        book.started("a", chunk.index, 0)
        assert lose(book, "a", chunk.index, cause, "gone").exhausted == ()
    deliver(book, take(book))
    assert book.completed


def test_a_worker_that_never_starts_fails_the_job_after_the_attempts() -> None:
    book = ledger(job(), max_attempts=2)
    for _ in range(2):
        loss = lose(book, "a", take(book).index, "died", "exit code 7")
        assert loss.exhausted == ()
    assert loss.job_failed is not None
    assert "2 attempts: exit code 7" in loss.job_failed
    assert book.finished
    assert book.jobs["a"].status == "failed"


def test_an_error_of_environment_or_policy_stops_the_run_unless_told_otherwise() -> None:
    for cause, continue_on_error in itertools.product(("environment_error", "policy_error"), (False, True)):
        book = ledger(job("a"), job("b"), continue_on_error=continue_on_error)
        chunk = take(book)
        broken = record(chunk, 0, "error")
        book.record(broken)
        book.episode_failed(broken, cause)
        assert (book.take("b", 2) is None) is not continue_on_error


def test_a_factory_that_raises_leaves_other_jobs_incomplete() -> None:
    book = ledger(job("a"), job("b"))
    chunk = take(book)
    book.fail_job("a", "RuntimeError: no")
    book.finished_chunk("a", chunk.index, cut_short=True)
    assert book.finished
    assert (book.jobs["a"].status, book.jobs["b"].status) == ("failed", "incomplete")
    assert book.jobs["a"].failed == "RuntimeError: no"


def test_rebuilds_cut_chunks_at_their_bounds() -> None:
    book = ledger(job(num_episodes=5, num_rebuilds=2), size=10)
    pieces = [take(book), take(book)]
    assert [(piece.episodes, piece.rebuild) for piece in pieces] == [((0, 1, 2), 0), ((3, 4), 1)]


def test_a_step_budget_is_one_chunk_that_is_tried_as_a_whole() -> None:
    book = ledger(job(num_episodes=None, num_steps=100), max_attempts=2)
    chunk = take(book)
    assert (chunk.episodes, chunk.num_steps) == ((), 100)
    assert book.take("a", 2) is None
    book.ready("a", chunk.index)
    assert book.record(record(chunk, 0))
    assert lose(book, "a", chunk.index, "died", "x").job_failed is None
    again = take(book)
    assert again.attempt == 2
    book.ready("a", again.index)
    assert not book.record(record(again, 0))
    book.finished_chunk("a", again.index, cut_short=False)
    assert book.completed


def test_resuming_hands_out_only_what_has_no_record() -> None:
    book = ledger(job(num_episodes=6), size=2)
    book.take_over({"a": JobHistory(recorded=[(0, "completed"), (3, "completed")])})
    chunks = []
    while (chunk := book.take("a", 2)) is not None:
        chunks.append(chunk.episodes)
    assert chunks == [(1, 2), (4, 5)]


def test_recorded_episodes_leave_the_others_in_their_rebuilds() -> None:
    book = ledger(job(num_episodes=5_000, num_rebuilds=2_500), size=10)
    recorded: list[tuple[int, EpisodeStatus]] = [
        (episode, "completed") for episode in range(5_000) if episode not in (3, 4998, 4999)
    ]
    book.take_over({"a": JobHistory(recorded=recorded)})
    pieces = [take(book), take(book)]
    assert [(piece.episodes, piece.rebuild) for piece in pieces] == [((3,), 1), ((4998, 4999), 2499)]
    assert not any(piece.probe_seeding for piece in pieces)
    for piece in pieces:
        deliver(book, piece)
    assert book.finished
    assert book.completed


def test_the_mean_duration_is_that_of_the_episodes_that_were_timed() -> None:
    means: list[float | None] = []

    def length(remaining: int, workers: int, slots: int, episode_s: tuple[float, float] | None) -> int:
        means.append(None if episode_s is None else episode_s[0])
        return 1

    book = Ledger([job()], chunk_length=length, rebuild_bounds=rebuild_bounds, max_attempts=1, continue_on_error=True)
    book.take_over({"a": JobHistory(recorded=[(episode, "completed") for episode in range(5)])})
    while not book.finished:
        deliver(book, take(book))
    assert means == [None, 1.0, 1.0]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), num_episodes=st.integers(1, 30), num_envs=st.integers(1, 4), max_attempts=st.integers(1, 3))
def test_whatever_dies_every_episode_is_committed_once_and_it_ends(
    data: st.DataObject, num_episodes: int, num_envs: int, max_attempts: int
) -> None:
    """Random histories: workers deliver in slot order, and die of any cause at any point, at start too."""
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    book = Ledger(
        [job(num_episodes=num_episodes, num_envs=num_envs)],
        chunk_length=lambda remaining, *_: rng.randint(1, remaining),
        rebuild_bounds=rebuild_bounds,
        max_attempts=max_attempts,
        continue_on_error=True,
    )
    committed: list[int] = []
    running: list[Chunk] = []
    facts = 0
    while not book.finished:
        facts += 1
        assert facts < 100 * num_episodes * max_attempts + 100, "it does not end"
        chunk = book.take("a", 3) if len(running) < 3 else None
        if chunk is not None:
            assert chunk.episodes
            running.append(chunk)
            continue
        chunk = running.pop(rng.randrange(len(running)))
        _play(book, chunk, rng, committed)
    failed_at_start = book.jobs["a"].failed is not None
    assert len(committed) == len(set(committed))
    assert failed_at_start or sorted(committed) == list(range(num_episodes))


def _play(book: Ledger, chunk: Chunk, rng: random.Random, committed: list[int]) -> None:
    """Let a worker run a chunk, or die on the way."""
    causes = sorted(cause for cause, rule in FAULTS.items() if rule.retried)
    if rng.random() < 0.1:
        given_up = lose(book, "a", chunk.index, rng.choice(causes), "at start").exhausted
        committed.extend(one.episode for one in given_up if book.record(record(chunk, one.episode, one.status)))
        return
    book.ready("a", chunk.index)
    waiting = list(chunk.episodes)
    flying: list[int] = []
    while waiting or flying:
        while waiting and len(flying) < chunk.job.num_slots:
            flying.append(waiting.pop(0))
            book.started("a", chunk.index, flying[-1])
        if rng.random() < 0.2:
            given_up = lose(book, "a", chunk.index, rng.choice(causes), "on the way").exhausted
            committed.extend(one.episode for one in given_up if book.record(record(chunk, one.episode, one.status)))
            return
        episode = flying.pop(rng.randrange(len(flying)))
        if book.record(record(chunk, episode)):
            committed.append(episode)
    book.finished_chunk("a", chunk.index, cut_short=False)


@pytest.mark.parametrize(
    ("cause", "waits"),
    [
        pytest.param("died", [1.0, 2.0, 4.0], id="failed-start"),
        pytest.param("preempted", [1.0, 2.0, 4.0], id="preempted"),
        pytest.param("start_timeout", [0.0, 0.0, 0.0], id="start-timeout"),
    ],
)
def test_the_wait_after_a_loss_doubles(cause: str, waits: list[float]) -> None:
    book = ledger(job(), max_attempts=9)
    seen = []
    for _ in waits:
        loss = book.lost_chunk("a", take(book).index, cause, "gone")
        assert not book.finished
        if loss.back_off_s:
            assert book.take("a", 2) is None
            book.release("a")
        seen.append(loss.back_off_s)
    assert seen == waits
    chunk = take(book)
    book.ready("a", chunk.index)
    assert book.lost_chunk("a", chunk.index, "out_of_memory", "gone").back_off_s == 2.0
    assert book.take("a", 2) is None


def test_a_worker_that_is_ready_ends_the_row_of_losses() -> None:
    book = ledger(job(), max_attempts=9)
    lose(book, "a", take(book).index, "died", "gone")
    deliver(book, take(book))
    assert book.lost_chunk("a", take(book).index, "died", "gone").back_off_s == 1.0


def test_a_back_off_has_an_end() -> None:
    book = ledger(job(), max_attempts=10_000)
    waits = [lose(book, "a", take(book).index, "node_lost", "gone").back_off_s for _ in range(2_000)]
    assert max(waits) == waits[-1] == 30.0


def test_a_run_whose_every_worker_dies_at_start_is_ended() -> None:
    book = ledger(*(job(f"job-{number}") for number in range(50)), max_attempts=3)
    losses = 0
    while not book.finished:
        name = next(one.job.name for one in book.waiting_jobs())
        losses += 1
        lose(book, name, take(book, name).index, "died", "exit code 7")
    assert losses == 9
    assert book.stopped is not None
    assert "9 workers in a row were lost before they were ready" in book.stopped
    assert "exit code 7" in book.stopped
    assert [one.status for one in book.jobs.values()] == ["failed"] * 3 + ["incomplete"] * 47


def test_the_breaker_waits_for_every_worker_of_a_wide_run() -> None:
    book = ledger(*(job(f"job-{number}") for number in range(50)), max_attempts=2)
    chunks = [take(book, f"job-{number}") for number in range(20)]
    for chunk in chunks:
        assert book.stopped is None
        lose(book, chunk.job.name, chunk.index, "died", "gone")
    assert book.stopped is None
    deliver(book, take(book, "job-49"))
    for chunk in [take(book, f"job-{number}") for number in range(20)]:
        lose(book, chunk.job.name, chunk.index, "died", "gone")
    assert book.stopped is None


def test_a_disk_that_takes_no_more_ends_the_run_whatever_was_asked() -> None:
    book = ledger(job(), continue_on_error=True)
    book.storage_failed("no room")
    assert (book.stopped, book.take("a", 1)) == ("no room", None)


def test_what_a_dead_driver_had_handed_out_is_tried_again_under_new_attempts() -> None:
    book = ledger(job(num_episodes=10, num_rebuilds=2), size=2)
    history = JobHistory(recorded=[(0, "completed"), (6, "error")], handed_out={1: 1, 2: 1, 4: 2, 5: 2}, next_chunk=7)
    book.take_over({"a": history})
    chunks = []
    while (chunk := book.take("a", 2)) is not None:
        chunks.append(chunk)
    assert [(chunk.index, chunk.rebuild, chunk.attempt, chunk.episodes) for chunk in chunks] == [
        (7, 0, 2, (1, 2)),
        (8, 0, 1, (3,)),
        (9, 0, 3, (4,)),
        (10, 1, 3, (5,)),
        (11, 1, 1, (7, 8)),
        (12, 1, 1, (9,)),
    ]


def test_steps_that_a_dead_driver_had_begun_are_run_again() -> None:
    steps = job("a", num_episodes=None, num_steps=50)
    book = ledger(steps)
    book.take_over({"a": JobHistory(recorded=[(0, "completed")], handed_out={0: 1}, next_chunk=1)})
    chunk = take(book)
    assert (chunk.index, chunk.attempt, chunk.num_steps) == (1, 2, 50)
    assert not book.record(record(chunk, 0))
    done = ledger(steps)
    done.take_over({"a": JobHistory(recorded=[(0, "completed")], steps_done=True)})
    assert (done.finished, done.jobs["a"].status) == (True, "completed")


@pytest.mark.heavy
def test_a_million_episodes_in_ten_thousand_chunks() -> None:
    """Not timed closely: it must not be quadratic. Measured: see tests/benchmarks."""
    book = ledger(job(num_episodes=1_000_000), size=100)
    started = time.monotonic()
    while not book.finished:
        deliver(book, take(book))
    assert book.completed
    assert time.monotonic() - started < 60


def test_chunk_length_shrinks_towards_the_end() -> None:
    remaining, lengths = 100, []
    while remaining:
        lengths.append(chunk_length(remaining, num_workers=2, num_slots=1, episode_s=(0.1, 0.1)))
        remaining -= lengths[-1]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 25
    assert lengths[-1] == 1


def test_episodes_that_wait_to_be_run_alone_are_not_charged() -> None:
    book = ledger(job(num_envs=3), size=6)
    chunk = take(book)
    book.ready("a", chunk.index)
    for episode in (0, 1, 2):
        book.started("a", chunk.index, episode)
    book.returned("a", chunk.index, (0, 1, 2))
    book.started("a", chunk.index, 1)
    loss = lose(book, "a", chunk.index, "died", "signal 9")
    assert loss.suspects == (1,)
    assert loss.requeued == (0, 2, 3, 4, 5)


def test_what_was_to_run_alone_does_so_although_its_worker_retired() -> None:
    book = ledger(job(num_envs=2), size=4)
    chunk = take(book)
    book.ready("a", chunk.index)
    for episode in (0, 1):
        book.started("a", chunk.index, episode)
    book.returned("a", chunk.index, (0, 1))
    book.finished_chunk("a", chunk.index, cut_short=False)
    assert sorted(take(book).episodes for _ in range(3)) == [(0,), (1,), (2, 3)]


def test_workers_lost_at_one_moment_are_one_incident() -> None:
    book = ledger(job(num_episodes=30), size=3)
    chunks = [take(book) for _ in range(8)]
    for chunk in chunks:
        book.ready("a", chunk.index)
    waits = [book.lost_chunk("a", chunk.index, "node_lost", "gone").back_off_s for chunk in chunks]
    assert waits == [1.0] + [0.0] * 7
    assert book.take("a", 8) is None
    book.release("a")
    assert book.take("a", 8) is not None


@pytest.mark.parametrize("ready", [pytest.param(True, id="at-work"), pytest.param(False, id="at-start")])
def test_an_episode_that_takes_machines_down_is_charged_in_the_end(ready: bool) -> None:
    book = ledger(job(num_episodes=4, num_envs=2), size=4, continue_on_error=True)
    losses = 0
    committed: list[int] = []
    while not book.finished:
        chunk = take(book)
        if ready:
            book.ready("a", chunk.index)
        if 1 not in chunk.episodes:
            for episode in chunk.episodes:
                committed.append(episode)
                assert book.record(record(chunk, episode))
            book.finished_chunk("a", chunk.index, cut_short=False)
            continue
        losses += 1
        assert losses < 40, "it does not end"
        for one in lose(book, "a", chunk.index, "node_lost", "gone").exhausted:
            committed.append(one.episode)
            assert book.record(record(chunk, one.episode, one.status))
    if ready:
        assert sorted(committed) == [0, 1, 2, 3]
        assert book.jobs["a"].counts.completed == 3
    else:
        assert "did not start" in str(book.jobs["a"].failed)


def test_what_a_worker_out_of_reach_still_had_gets_a_new_attempt() -> None:
    book = ledger(job(num_episodes=3), size=3)
    chunk = take(book)
    book.ready("a", chunk.index)
    book.started("a", chunk.index, 0)
    lose(book, "a", chunk.index, "unreachable", "gone")
    attempts = {}
    while (again := book.take("a", 1)) is not None:
        attempts.update(dict.fromkeys(again.episodes, again.attempt))
    assert attempts == {0: 2, 1: 2, 2: 2}
