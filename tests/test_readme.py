"""What the README says is so."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from arena_ray import RunResult, evaluate
from arena_ray.config import load_plan
from arena_ray.specs import VideoRecordingCfg
from tests.local_cluster import LocalCluster

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the README, with this Python's programs instead of those of a fresh environment."""
    program = Path(sys.executable).parent / Path(words[0]).name
    return subprocess.run([str(program), *words[1:]], cwd=folder, capture_output=True, text=True, timeout=170)


@pytest.fixture
def running_ray(local_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find a Ray that runs already; that of the main job starts its own."""
    monkeypatch.setenv("RAY_ADDRESS", local_cluster.address)


def test_ci_runs_the_test_command() -> None:
    _, test_command = blocks("bash")[:2]
    assert test_command.strip() in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.ray
@pytest.mark.heavy
def test_the_main_job_gives_videos_and_a_summary(tmp_path: Path) -> None:
    command = blocks("bash")[0].split("&&")[-1].strip()
    words = [*shlex.split(command), "--video_base_dir", str(tmp_path / "outputs"), "*:num_episodes=6"]
    done = run(words, REPOSITORY)
    assert done.returncode == 0, done.stderr
    run_dir = Path(done.stdout.strip().splitlines()[-1])
    result = RunResult.load(run_dir)
    assert result.status == "completed"
    assert len(result.video_paths(kind="viewport")) == 12
    assert all(path.stat().st_size > 1000 for path in result.video_paths())
    summary = json.loads((run_dir / "summary.json").read_text())
    shown = re.search(r"^ cartpole-trained .* ([\d.]+)$", README, flags=re.MULTILINE)
    assert shown is not None
    assert summary["jobs"]["cartpole-trained"]["metrics"]["return"]["value"] == pytest.approx(float(shown[1]), abs=20)


def test_the_job_file_is_valid() -> None:
    plan = load_plan(yaml.safe_load(blocks("yaml")[0]))
    assert plan.jobs[0].num_episodes == 100


def test_the_video_settings_are_valid_and_all_there() -> None:
    written = yaml.safe_load(blocks("yaml")[1])["video"]
    job = {"name": "a", "env": {"id": "CartPole-v1"}, "policy": {"type": "zero"}, "num_episodes": 1, "video": written}
    cfg = load_plan({"jobs": [job]}).jobs[0].video
    assert (cfg.record, cfg.cameras, cfg.max_resolution) == ("failures", ("wrist",), 480)
    names = {field.name for field in dataclasses.fields(VideoRecordingCfg)}
    assert set(written) == names - {"video_base_dir", "camera_name_prefix", "save_partial_episodes"}


def test_the_recorder_alone_writes_what_record_video_would(tmp_path: Path) -> None:
    code = blocks("python")[2] + "\nenv.reset(seed=0)\nwhile not any(env.step(0)[2:4]): pass\nenv.close()\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["rl-video-episode-0.mp4"]


@pytest.mark.parametrize("line", [pytest.param(line, id=line.split()[0]) for line in blocks("bash")[2].splitlines()])
@pytest.mark.heavy
def test_single_policy_commands_work(tmp_path: Path, running_ray: None, line: str) -> None:
    done = run(shlex.split(line), tmp_path)
    assert done.returncode == 0, done.stderr
    assert RunResult.load(done.stdout.strip().splitlines()[-1]).jobs["policy"].counts["completed"] == 10


@pytest.mark.ray
@pytest.mark.heavy
def test_the_replay_command_adds_videos(tmp_path: Path, running_ray: None) -> None:
    job, env = "cartpole-random", {"id": "CartPole-v1"}
    document = {"jobs": [{"name": job, "env": env, "policy": {"type": "random"}, "num_episodes": 20}]}
    run_dir = evaluate(document, inline=True, video_base_dir=str(tmp_path)).run_dir
    words = shlex.split(blocks("bash")[3])
    done = run([word if word != "outputs/2026-11-22_19-37-27" else str(run_dir) for word in words], tmp_path)
    assert done.returncode == 0, done.stderr
    paths = RunResult.load(run_dir).video_paths(job=job)
    assert [path.stem for path in paths] == [f"viewport-env0-episode-{episode}" for episode in (3, 7, 10, 11, 12)]


@pytest.mark.heavy
def test_the_resume_command_finishes_and_extends_a_run(tmp_path: Path) -> None:
    job, env = "cartpole-random", {"id": "CartPole-v1"}
    document = {"jobs": [{"name": job, "env": env, "policy": {"type": "random"}, "num_episodes": 20}]}
    run_dir = evaluate(document, inline=True, video_base_dir=str(tmp_path)).run_dir
    records = (run_dir / "episodes.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "episodes.jsonl").write_text("".join(records[:7]))
    words = [word.replace("outputs/2026-11-22_19-37-27", str(run_dir)) for word in shlex.split(blocks("bash")[4])]
    extension = re.search(r"`(cartpole-random:num_episodes=\d+)`", README)
    assert extension is not None
    for more, number in ([], 20), ([extension[1]], 30):
        done = run([*words, *more], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(run_dir)
        assert RunResult.load(run_dir).jobs[job].counts["completed"] == number


@pytest.mark.heavy
def test_the_page_commands_work(tmp_path: Path) -> None:
    document = {"jobs": [{"name": "a", "env": {"id": "CartPole-v1"}, "policy": {"type": "zero"}, "num_episodes": 1}]}
    run_dir = evaluate(document, inline=True, video_base_dir=str(tmp_path / "outputs")).run_dir
    (run_dir / "report.html").unlink()
    report, serve = (
        line.replace("outputs/2026-11-22_19-37-27", str(run_dir)) for line in blocks("bash")[5].splitlines()
    )
    assert run(shlex.split(report), tmp_path).stdout.strip() == str(run_dir / "report.html")
    assert (run_dir / "report.html").is_file()
    program, *words = shlex.split(serve)
    with subprocess.Popen(
        [Path(sys.executable).parent / program, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=20) as answer:
                assert run_dir.name in answer.read().decode()
        finally:
            process.terminate()
        assert process.wait(timeout=20) == 0


def test_the_status_command_says_how_far_a_run_is(tmp_path: Path) -> None:
    document = {"jobs": [{"name": "a", "env": {"id": "CartPole-v1"}, "policy": {"type": "zero"}, "num_episodes": 2}]}
    run_dir = evaluate(document, inline=True, video_base_dir=str(tmp_path)).run_dir
    command = next(line for block in blocks("bash") for line in block.splitlines() if "arena-ray status" in line)
    done = run([*shlex.split(command)[:2], str(run_dir)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout


@pytest.mark.ray
@pytest.mark.heavy
def test_the_python_lines_work(tmp_path: Path, running_ray: None) -> None:
    code = blocks("python")[0].replace("examples/", f"{REPOSITORY}/examples/")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("viewport-env") == 2


@pytest.mark.heavy
def test_the_tracker_command_writes_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    command = next(block for block in blocks("bash") if "--trackers" in block).strip()
    words = [word if word != "examples/cartpole.yaml" else str(REPOSITORY / word) for word in shlex.split(command)]
    done = run([*words, "--inline", "*:num_episodes=2", "*:video.record=none"], tmp_path)
    assert done.returncode == 0, done.stderr
    run_dir = Path(done.stdout.strip().splitlines()[-1])
    board = EventAccumulator(str(run_dir / "tensorboard"))
    board.Reload()
    assert [point.step for point in board.Scalars("cartpole-random/return")] == [1, 2]
    assert (tmp_path / "mlflow.db").is_file()
    assert "warning" not in done.stderr


def test_the_written_env_and_policy_work(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks("python")[1])
    job = {
        "name": "mine",
        "env": {"entry_point": "mine:make_env", "kwargs": {"size": 4}},
        "policy": {"entry_point": "mine:Patrol"},
        "num_episodes": 3,
        "num_envs": 2,
    }
    (tmp_path / "jobs.json").write_text(json.dumps({"jobs": [job]}))
    done = run(["arena-ray", "run", str(tmp_path / "jobs.json"), "--inline"], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "link", [pytest.param(link, id=link) for link in re.findall(r"\]\((?!http)([^)#]+)\)", README)]
)
def test_links_lead_somewhere(link: str) -> None:
    assert (REPOSITORY / link).exists()
