"""Real workers on a real local Ray that really die, hang and are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from arena_ray import NotEnoughResourcesError, RunResult, evaluate
from arena_ray.errors import ConfigError
from tests.chaos.scenes import nothing_lives
from tests.comparing import outcome
from tests.local_cluster import LocalCluster, disconnect
from tests.worlds import walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]


def run(tmp_path: Path, *jobs: dict[str, Any], **flags: Any) -> RunResult:
    return evaluate({"jobs": list(jobs)}, video_base_dir=str(tmp_path / "runs"), **flags)


def events(result: RunResult, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.parametrize("deed", [pytest.param("exit", id="exit"), pytest.param("kill", id="sigkill")])
def test_a_worker_that_dies_once_loses_nothing(tmp_path: Path, local_ray: None, deed: str) -> None:
    job = walk_job(env_kwargs={"poison": [4], "deed": deed, "marker": str(tmp_path)}, num_envs=2)
    result = run(tmp_path, job, chunk_size=8, record_viewport_video=True)
    assert result.status == "completed"
    reference = run(tmp_path, walk_job(), inline=True)
    assert outcome(result) == outcome(reference)
    assert {record.episode: record.attempt for record in result.jobs["walk"].episodes}[4] == 2
    assert [event["cause"] for event in events(result, "worker_lost")] == ["died"]
    assert len(result.video_paths()) == 8
    assert list((result.run_dir / "walk").glob("*.partial.mp4")) == []


def test_a_poisonous_episode_is_recorded_and_fails_no_other_job(tmp_path: Path, local_ray: None) -> None:
    bad = walk_job("bad", env_kwargs={"poison": [1], "deed": "kill"}, num_episodes=3)
    good = walk_job("good")
    result = run(tmp_path, bad, good, max_attempts=2)
    assert result.status == "failed"
    assert (result.jobs["bad"].status, result.jobs["good"].status) == ("failed", "completed")
    record = next(record for record in result.jobs["bad"].episodes if record.episode == 1)
    assert (record.status, record.attempt) == ("error", 2)
    assert record.error is not None
    assert "died in attempt 2" in record.error.message
    assert "1" in str(result.jobs["bad"].error)
    assert outcome(result)[-8:] == [
        {**row, "job": "good"} for row in outcome(run(tmp_path, walk_job("good"), inline=True))
    ]


def test_with_continue_on_error_the_neighbours_are_all_completed(tmp_path: Path, local_ray: None) -> None:
    job = walk_job(env_kwargs={"poison": [1], "deed": "exit"}, num_envs=3)
    result = run(tmp_path, job, max_attempts=2, continue_on_error=True)
    assert result.jobs["walk"].counts == {"completed": 7, "error": 1, "timeout": 0}


@pytest.mark.parametrize(
    ("deadlines", "cause"),
    [
        pytest.param({"stall_timeout": 2}, "stalled", id="stall"),
        pytest.param({"episode_timeout": 2}, "episode_timeout", id="episode"),
    ],
)
def test_a_hang_ends_in_a_timeout_record(
    tmp_path: Path, local_ray: None, deadlines: dict[str, Any], cause: str
) -> None:
    job = walk_job(env_kwargs={"poison": [1], "deed": "hang"}, num_episodes=3)
    result = run(tmp_path, job, max_attempts=1, continue_on_error=True, **deadlines)
    assert [record.status for record in result.jobs["walk"].episodes] == ["completed", "timeout", "completed"]
    assert [event["cause"] for event in events(result, "worker_lost")] == [cause]
    assert len(events(result, "episode_timeout")) == 1


@pytest.mark.parametrize(
    ("entry_point", "fragment"),
    [
        pytest.param("tests.worlds:die_while_building", "did not start in 2 attempts", id="dies"),
        pytest.param("tests.worlds:hang_while_building", "not built after 12 s", id="hangs"),
        pytest.param("tests.worlds:raise_while_building", "this factory always raises", id="raises"),
        pytest.param("tests.nowhere:make", "no module 'tests.nowhere'", id="cannot-be-imported"),
    ],
)
def test_an_environment_that_cannot_be_built_fails_its_job(
    tmp_path: Path, local_ray: None, entry_point: str, fragment: str
) -> None:
    job = walk_job()
    job["env"] = {"entry_point": entry_point}
    result = run(tmp_path, job, max_attempts=2, start_timeout=12.0 if "hang" in entry_point else 60.0)
    assert result.jobs["walk"].status == "failed"
    assert fragment in str(result.jobs["walk"].error)
    assert result.jobs["walk"].episodes == ()


def test_what_no_node_can_run_is_refused_at_once(tmp_path: Path, local_ray: None) -> None:
    job = walk_job("huge", resources={"num_gpus": 8})
    with pytest.raises(NotEnoughResourcesError) as error:
        run(tmp_path, job)
    assert "huge" in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_ray_client_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--address auto"):
        run(tmp_path, walk_job(), address="ray://somewhere:10001")


def test_two_workers_run_side_by_side(tmp_path: Path, local_ray: None) -> None:
    job = walk_job(num_episodes=12, env_kwargs={"step_s": 0.01})
    result = run(tmp_path, job)
    assert len({record.worker.pid for record in result.jobs["walk"].episodes if record.worker}) == 2
    assert len(events(result, "worker_started")) >= 2


@pytest.mark.parametrize(
    ("isolation", "processes"),
    [pytest.param("run", 1, id="run"), pytest.param("job", 2, id="job"), pytest.param("chunk", 4, id="chunk")],
)
def test_isolation_says_how_long_a_process_is_reused(
    tmp_path: Path, local_ray: None, isolation: str, processes: int
) -> None:
    jobs = [walk_job(name, num_episodes=4) for name in ("a", "b")]
    result = run(tmp_path, *jobs, isolation=isolation, num_workers=1, chunk_size=2)
    assert result.status == "completed"
    assert len({record.worker.pid for record in result.records() if record.worker}) == processes


def test_a_cpu_worker_sees_no_gpu_and_a_gpu_worker_its_own(tmp_path: Path) -> None:
    """Fake GPUs, declared to Ray as in its own tests: the ids and the mask are real."""
    masks = {}
    with LocalCluster(num_cpus=2, num_gpus=2) as cluster:
        cluster.connect()
        for name, num_gpus in (("cpu", 0), ("gpu", 1), ("half", 0.5)):
            job = walk_job(name, num_episodes=2, resources={"num_gpus": num_gpus})
            job["env"] = {"entry_point": "tests.test_ray_faults:make_masked"}
            record = run(tmp_path, job, num_workers=1).jobs[name].episodes[0]
            assert record.worker is not None
            masks[name] = (record.worker.gpus, record.episode_return)
    assert masks["cpu"] == ((), 0.0)
    for name in ("gpu", "half"):
        gpus, visible = masks[name]
        assert len(gpus) == 1
        assert visible == 1.0


def make_masked() -> Any:
    """A walk whose reward is the number of GPUs that the worker may see."""
    import os

    from tests.worlds import Walk

    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "unset").split(",") if gpu]

    class Masked(Walk):
        def step(self, action: Any) -> Any:
            return self._observation(), float(len(visible) if visible != ["unset"] else 99), True, False, {}

    return Masked()


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    import socket

    disconnect()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=f"nobody listens at '127.0.0.1:{port}'"):
        run(tmp_path, walk_job(), address=f"127.0.0.1:{port}")


def test_workers_that_ask_for_nothing_are_counted_as_cores(tmp_path: Path, local_ray: None) -> None:
    job = walk_job(num_episodes=40, resources={"num_cpus": 0})
    result = run(tmp_path, job)
    assert result.status == "completed"
    assert len({record.worker.pid for record in result.records() if record.worker}) <= 2


@pytest.mark.parametrize(
    "video",
    [
        pytest.param({}, id="no-video"),
        pytest.param({"record_viewport_video": True, "encoder": "process"}, id="each-child-has-an-encoder"),
    ],
)
def test_a_child_that_hangs_dies_with_its_worker(tmp_path: Path, local_ray: None, video: dict[str, Any]) -> None:
    kwargs = {"poison": [1], "deed": "hang"}
    job = walk_job(num_episodes=2, num_envs=2, vectorization="async", env_kwargs=kwargs, video=video)
    job["env"]["entry_point"] = "tests.test_ray_faults:make_named"
    job["env"]["kwargs"]["log"] = str(tmp_path / "pids")
    result = run(tmp_path, job, max_attempts=1, continue_on_error=True, stall_timeout=3)
    assert result.jobs["walk"].counts["timeout"] >= 1
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert pids
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}/cmdline").exists() and b"forkserver" in _command(pid) for pid in pids):
        assert time.monotonic() < deadline, "a child is still alive"
        time.sleep(0.2)
    nothing_lives(result)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def make_named(log: str, render_mode: str | None = None, **kwargs: Any) -> Any:
    """A walk that writes down the process it is built in."""
    import os

    from tests.worlds import Walk

    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    return Walk(render_mode=render_mode, **kwargs)


def test_a_stop_does_not_wait_for_a_worker_that_cannot_start(tmp_path: Path, local_ray: None) -> None:
    """Other work holds a core, so that the second job's worker is never placed."""
    import ray

    remote: Any = ray.remote(_Holder)
    holder = remote.options(num_cpus=1).remote()
    ray.get(holder.ready.remote(), timeout=30)
    try:
        bad = walk_job("bad", num_episodes=20, env_kwargs={"poison": [0], "step_s": 0.5})
        result = run(tmp_path, bad, walk_job("waits"))
    finally:
        ray.kill(holder)
    assert result.status == "failed"
    assert (result.jobs["bad"].status, result.jobs["waits"].status) == ("failed", "incomplete")
    assert events(result, "worker_lost") == []


class _Holder:
    def ready(self) -> None: ...


def test_a_run_whose_every_worker_dies_at_start_is_ended_with_the_reason(tmp_path: Path, local_ray: None) -> None:
    jobs = [walk_job(f"job-{number}") for number in range(6)]
    for job in jobs:
        job["env"] = {"entry_point": "tests.worlds:die_while_building"}
    result = run(tmp_path, *jobs, max_attempts=1)
    assert result.status == "failed"
    assert [job.status for job in result.jobs.values()].count("incomplete") >= 2
    told = [event["message"] for event in events(result, "warning") if event.get("topic") == "no_worker_starts"]
    assert "workers in a row were lost before they were ready" in told[0]
