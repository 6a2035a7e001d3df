"""`submit`, `--address` and `doctor --address` against a real head with dashboard and token."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from arena_ray import RunResult, evaluate
from arena_ray.run_status import RunStatus
from tests.comparing import outcome
from tests.ray_head import Head, ray_head

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

#: Code that no node has but what was sent with the run.
SCENE = """
import pathlib
import time
import gymnasium


class Patrol:
    def __init__(self):
        self.weights = pathlib.Path(__file__).with_name("weights.txt").read_text()

    def act(self, observations, slots):
        return [int(self.weights) for _ in slots]


def make_slow():
    class Slow(gymnasium.Wrapper):
        def step(self, action):
            time.sleep(0.2)
            return super().step(action)
    return Slow(gymnasium.make("CartPole-v1"))


def make_broken():
    class Broken(gymnasium.Wrapper):
        def step(self, action):
            raise RuntimeError("a joint broke")
    return Broken(gymnasium.make("CartPole-v1"))
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head")) as started:
        yield started


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    policy = {"entry_point": "scene:Patrol"}
    job = {"name": "patrol", "env": {"id": "CartPole-v1"}, "policy": policy, "num_episodes": 4, "seed": 5}
    (folder / "jobs.yaml").write_text(yaml.safe_dump({"jobs": [job]}))
    (folder / "scene.py").write_text(SCENE)
    (folder / "weights.txt").write_text("1")
    return folder


def submit(head: Head, *words: str) -> subprocess.CompletedProcess[str]:
    return head.run("submit", "--address", head.dashboard, *words)


def test_a_submitted_run_gives_the_records_of_an_inline_one(head: Head, project: Path, tmp_path: Path) -> None:
    base = str(tmp_path / "base")
    done = submit(head, str(project / "jobs.yaml"), "--video_base_dir", base, "--chunk_size", "2", "patrol:seed=6")
    assert done.returncode == 0, done.stderr
    result = RunResult.load(done.stdout.splitlines()[-1])
    assert result.run_dir.parent == Path(base)
    reference = evaluate(project / "jobs.yaml", overrides=["patrol:seed=6"], inline=True, video_base_dir=str(tmp_path))
    assert outcome(result) == outcome(reference)
    assert "4/4 episodes" in done.stderr
    assert "run directory: " in done.stderr
    assert "Warning" not in done.stderr
    logs = list((result.run_dir / "patrol" / "logs").iterdir())
    assert logs
    _check_no_token(head, done.stdout + done.stderr + (result.run_dir / "run.json").read_text())
    steps = sum(record.length or 0 for record in result.records())
    metrics = _wait_for_metrics(head, "episodes_total completed", "steps_total", "chunk_seconds_count")
    assert metrics["episodes_total completed"] == 4
    assert metrics["steps_total"] == steps
    assert metrics["chunk_seconds_count"] == 2


def _check_no_token(head: Head, text: str) -> None:
    assert Path(head.environ["RAY_AUTH_TOKEN_PATH"]).read_text() not in text


def _metrics(head: Head) -> dict[str, float]:
    """Return this package's metrics by name, those with a status with it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(r'^ray_arena_(\w+){.*?job="patrol"(.*)} (\S+)$', text, flags=re.MULTILINE)
    return {" ".join([name, *re.findall(r'status="(\w+)"', rest)]): float(value) for name, rest, value in lines}


def _wait_for_metrics(head: Head, *names: str) -> dict[str, float]:
    give_up = time.monotonic() + 15
    while not set(names) <= (found := _metrics(head)).keys():
        assert time.monotonic() < give_up, found
        time.sleep(0.5)
    return found


def test_a_run_that_fails_can_be_left_alone_and_says_so_when_asked(head: Head, project: Path, tmp_path: Path) -> None:
    words = ["patrol:env={entry_point: 'scene:make_broken'}", "--video_base_dir", str(tmp_path)]
    sent = submit(head, str(project / "jobs.yaml"), *words, "--detach")
    assert sent.returncode == 0, sent.stderr
    submission_id = sent.stdout.strip()
    assert f"--attach {submission_id}" in sent.stderr
    done = submit(head, "--attach", submission_id)
    assert done.returncode == 1, done.stderr
    result = RunResult.load(done.stdout.splitlines()[-1])
    assert "a joint broke" in str(result.jobs["patrol"].error)


def test_what_the_cluster_cannot_run_has_exit_code_3(head: Head, project: Path, tmp_path: Path) -> None:
    words = ["patrol:resources={num_gpus: 8}", "--video_base_dir", str(tmp_path)]
    done = submit(head, str(project / "jobs.yaml"), *words)
    assert done.returncode == 3, done.stderr
    assert "no node can ever run a worker" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_when_it_is_no_longer_followed_until_it_is_stopped(
    head: Head, project: Path, tmp_path: Path
) -> None:
    words = [
        "patrol:env={entry_point: 'scene:make_slow'}",
        "patrol:num_episodes=200",
        "--video_base_dir",
        str(tmp_path),
    ]
    following = subprocess.Popen(
        head.command("submit", "--address", head.dashboard, str(project / "jobs.yaml"), *words),
        env=head.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run_dir = _wait_for_records(tmp_path)
        following.send_signal(signal.SIGINT)
        _, log = following.communicate(timeout=30)
    finally:
        following.kill()
    assert following.returncode == 130
    assert "detached: the run goes on" in log
    found = re.search(r"submitted as (\w+);", log)
    assert found is not None
    status = RunStatus.read(run_dir)
    assert (status.status, status.driver_lives) == ("running", True)
    assert status.workers
    assert 0 < status.jobs[0].done < 200
    assert _wait_for_metrics(head, "workers")["workers"] >= 1
    _follow_and_interrupt_twice(head, found[1])
    assert submit(head, "--attach", found[1]).returncode == 143
    assert json.loads((run_dir / "run.json").read_text())["status"] == "interrupted"
    assert RunStatus.read(run_dir).driver_lives is False


def _follow_and_interrupt_twice(head: Head, submission_id: str) -> None:
    words = head.command("submit", "--address", head.dashboard, "--attach", submission_id)
    with subprocess.Popen(words, env=head.environ, stderr=subprocess.PIPE, text=True) as following:
        assert following.stderr is not None
        try:
            for line in following.stderr:  # Its first line is Ray's; then it follows.
                if "Running entrypoint" in line or "detached" in line:
                    following.send_signal(signal.SIGINT)
                if "is STOPPED" in line:
                    break
            assert following.wait(timeout=30) == 130
        finally:
            following.kill()


def _wait_for_records(base: Path) -> Path:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        for file in base.glob("*/episodes.jsonl"):
            if file.stat().st_size:
                return file.parent
        time.sleep(0.2)
    raise AssertionError("no record in a minute")


WRONG = {"RAY_AUTH_TOKEN": "0123456789abcdef0123"}


@pytest.mark.parametrize(
    ("command", "environ", "said"),
    [
        pytest.param("submit", WRONG, "that of the variable RAY_AUTH_TOKEN", id="submit-wrong"),
        pytest.param("run", WRONG, "that of the variable RAY_AUTH_TOKEN", id="run-wrong"),
        pytest.param("run", {"RAY_AUTH_TOKEN_PATH": "/nonexistent"}, "/nonexistent .*is missing", id="run-missing"),
        pytest.param("submit", {"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is disabled", id="submit-off"),
    ],
)
def test_a_token_that_is_not_the_clusters_is_refused_at_once(
    head: Head, project: Path, tmp_path: Path, command: str, environ: dict[str, str], said: str
) -> None:
    address = head.dashboard if command == "submit" else head.address
    words = [command, str(project / "jobs.yaml"), "--address", address, "--video_base_dir", str(tmp_path)]
    done = head.run(*words, environ=environ)
    assert done.returncode == 2, done.stderr
    assert re.search(f"did not take this process's token.*{said}.*ray get-auth-token", done.stderr)
    _check_no_token(head, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_the_server_does_not_know_cannot_be_stopped(head: Head) -> None:
    done = submit(head, "--stop", "raysubmit_none")
    assert done.returncode == 2
    assert "knows no job 'raysubmit_none'" in done.stderr


def test_the_port_of_the_dashboard_is_not_that_of_the_head(head: Head, project: Path) -> None:
    address = head.dashboard.removeprefix("http://")
    done = head.run("run", str(project / "jobs.yaml"), "--address", address)
    assert done.returncode == 2
    assert "arena-ray submit JOBS --address http://HEAD:8265" in done.stderr


def test_doctor_looks_at_each_node(head: Head) -> None:
    done = head.run("doctor", "--address", head.address, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    on_node = {finding["topic"]: finding for finding in document["findings"] if finding["node"]}
    assert {"versions", "clock", "NVIDIA driver", "renderer: classic control", "encoder: inline"} <= set(on_node)
    assert on_node["versions"]["ok"]
    assert on_node["clock"]["ok"]
    assert any(topic.startswith("disk: ") and on_node[topic]["ok"] for topic in on_node)
