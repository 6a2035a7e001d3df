"""Real `torchrun` on gloo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from arena_ray import RunResult, evaluate
from tests.comparing import outcome

REPOSITORY = Path(__file__).parent.parent


def torchrun(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "arena_ray.policy_runner", *words, "--video_base_dir", str(tmp_path / "runs")]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)


WALK = ("--env", "tests.worlds:Walk", "--policy", "tests.worlds:Leaner", "--num_episodes", "7")


@pytest.mark.heavy
def test_all_ranks_share_one_run_directory_and_rank_0_merges(tmp_path: Path) -> None:
    done = torchrun(tmp_path, *WALK, "--record_viewport_video")
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert done.stdout.strip().splitlines()[-1] == str(run_dir)
    result = RunResult.load(run_dir)
    assert result.status == "completed"
    reference = evaluate(
        {
            "jobs": [
                {
                    "name": "policy",
                    "env": {"entry_point": WALK[1]},
                    "policy": {"entry_point": WALK[3]},
                    "num_episodes": 7,
                }
            ]
        },
        inline=True,
        video_base_dir=str(tmp_path / "reference"),
    )
    assert outcome(result) == outcome(reference)
    assert len(result.video_paths(kind="viewport")) == 7
    assert {record.chunk for record in result.jobs["policy"].episodes} == {0, 1}
    assert len({record.worker.pid for record in result.jobs["policy"].episodes if record.worker}) == 2
    assert not (run_dir / "ranks").exists()
    for rank in (0, 1):
        assert re.search(rf"\[Rank {rank}/2\] .*episode {rank}: completed", done.stderr)
    lines = [json.loads(line) for line in (run_dir / "episodes.jsonl").read_text().splitlines()]
    assert [line["episode"] for line in lines] == list(range(7))
    usage = result.jobs["policy"].usage
    assert usage is not None
    assert (usage.chunks, usage.steps) == (2, sum(line["length"] for line in lines))


@pytest.mark.heavy
def test_a_failing_episode_on_one_rank_gives_exit_code_1_everywhere(tmp_path: Path) -> None:
    done = torchrun(tmp_path, *WALK, "--env_kwargs", '{"poison": [3]}', "--continue_on_error")
    assert done.returncode == 1
    (run_dir,) = (tmp_path / "runs").iterdir()
    counts = RunResult.load(run_dir).jobs["policy"].counts
    assert counts == {"completed": 6, "error": 1, "timeout": 0}


def test_a_step_budget_cannot_be_divided(tmp_path: Path) -> None:
    environ = {**os.environ, "RANK": "0", "WORLD_SIZE": "2"}
    command = [
        sys.executable,
        "-m",
        "arena_ray.policy_runner",
        "--env",
        "CartPole-v1",
        "--policy",
        "zero",
        "--num_steps",
        "5",
    ]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert "give --num_episodes" in done.stderr
    assert list(tmp_path.iterdir()) == []
