"""What the main job's machinery costs, against the bare loops that it replaces.

    python -m tests.benchmarks.bench_main_job [--repeats 3] [--json FILE]

Three tables, each a ratio or a split measured in one run, medians over the repeats:

1. wall time with 2 workers over the ideal (serial stepping time / 2), CPU-bound environment of about 20 s serial;
2. cost per episode for 5,000 one-step episodes, against a bare Python loop over the same environment;
3. time from the command to the first environment step, split into imports, `ray.init` and ours;

and the ledger alone: 1,000,000 episodes in 10,000 chunks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from arena_ray import evaluate
from arena_ray.chunking import episode_seed, rebuild_bounds
from arena_ray.ledger import Ledger
from arena_ray.records import EpisodeRecord
from arena_ray.specs import EvalJob

STEP_S = 0.002
EPISODE_STEPS = 50
NUM_EPISODES = 200


class Busy(gymnasium.Env[Any, Any]):
    """Computes for `step_s` of CPU time a step; its first step leaves a time stamp."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, step_s: float = STEP_S, steps: int = EPISODE_STEPS, stamp: str | None = None) -> None:
        self._step_s, self._steps, self._stamp = step_s, steps, stamp
        self._observation = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._t = 0
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._stamp is not None:
            Path(self._stamp).write_text(str(time.time()))
            self._stamp = None
        end = time.thread_time() + self._step_s
        while time.thread_time() < end:
            pass
        self._t += 1
        return self._observation, 1.0, self._t >= self._steps, False, {}


def job(num_episodes: int, **env_kwargs: Any) -> dict[str, Any]:
    return {
        "name": "busy",
        "env": {"entry_point": "tests.benchmarks.bench_main_job:Busy", "kwargs": env_kwargs},
        "policy": {"type": "zero"},
        "num_episodes": num_episodes,
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_loop(num_episodes: int, **env_kwargs: Any) -> float:
    """Step the episodes one after the other, with the seeds that the job would use."""
    env = Busy(**env_kwargs)

    def loop() -> None:
        for episode in range(num_episodes):
            env.reset(seed=episode_seed(0, episode))
            done = False
            while not done:
                _, _, terminated, truncated, _ = env.step(0)
                done = terminated or truncated

    return seconds(loop)


def two_workers(folder: str) -> dict[str, float]:
    serial = bare_loop(NUM_EPISODES)
    started = time.time()
    total = seconds(lambda: evaluate({"jobs": [job(NUM_EPISODES)]}, video_base_dir=folder))
    records = sorted(Path(folder).iterdir())[-1] / "episodes.jsonl"
    begun = min(line["started_at"] for line in map(json.loads, records.read_text().splitlines()))
    first = np.datetime64(begun.rstrip("Z")).astype("datetime64[ms]").astype(int) / 1000 - started
    last = _last_end(records) - started
    return {
        "serial_s": serial,
        "wall_s": total,
        "ratio_with_start": total / (serial / 2),
        "ratio_from_first_reset_to_last_record": (last - first) / (serial / 2),
    }


def _last_end(records: Path) -> float:
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    ends = [
        np.datetime64(line["started_at"].rstrip("Z")).astype("datetime64[ms]").astype(int) / 1000 + line["duration_s"]
        for line in lines
    ]
    return float(max(ends))


def one_step_episodes(folder: str) -> dict[str, float]:
    kwargs: dict[str, Any] = {"step_s": 0.0, "steps": 1}
    n = 5000
    bare = bare_loop(n, **kwargs)
    inline = seconds(lambda: evaluate({"jobs": [job(n, **kwargs)]}, video_base_dir=folder, inline=True))
    on_ray = seconds(lambda: evaluate({"jobs": [job(n, **kwargs)]}, video_base_dir=folder))
    return {
        "bare_us_per_episode": bare / n * 1e6,
        "inline_us_per_episode": inline / n * 1e6,
        "ray_2_workers_us_per_episode_with_start": on_ray / n * 1e6,
    }


def time_to_first_step(folder: str) -> dict[str, float]:
    stamp = Path(folder, "stamp")
    jobs = Path(folder, "jobs.json")
    jobs.write_text(json.dumps({"jobs": [job(1, stamp=str(stamp))]}))
    imports = _child("import time; t = time.perf_counter(); import arena_ray.eval_runner, arena_ray.pools.ray_actors")
    init = _child(
        "import time, ray; t = time.perf_counter(); "
        "ray.init(address='local', include_dashboard=False, log_to_driver=False, logging_level='ERROR')"
    )
    started = time.time()
    command = [sys.executable, "-m", "arena_ray.cli", "run", str(jobs), "--video_base_dir", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    total = float(stamp.read_text()) - started
    return {"total_s": total, "imports_s": imports, "ray_init_s": init, "ours_s": total - imports - init}


def _child(code: str) -> float:
    script = f"{code}\nprint(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    return float(done.stdout.splitlines()[-1])


def ledger_alone(folder: str) -> dict[str, float]:
    spec = EvalJob.model_validate(job(1_000_000))
    book = Ledger(
        [spec], chunk_length=lambda *_: 100, rebuild_bounds=rebuild_bounds, max_attempts=3, continue_on_error=False
    )

    def everything() -> None:
        while (chunk := book.take("busy", 2)) is not None:
            book.ready("busy", chunk.index)
            for episode in chunk.episodes:
                book.started("busy", chunk.index, episode)
                book.record(EpisodeRecord(job="busy", episode=episode, seed=0, status="completed", chunk=chunk.index))
            book.finished_chunk("busy", chunk.index, cut_short=False)

    return {"million_episodes_s": seconds(everything)}


MEASURES = {
    "two workers, CPU-bound": two_workers,
    "5,000 one-step episodes": one_step_episodes,
    "command to first step": time_to_first_step,
    "ledger": ledger_alone,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    results: dict[str, dict[str, float]] = {}
    for title, measure in MEASURES.items():
        runs = []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(folder))
        results[title] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(title)
        for name, value in results[title].items():
            print(f"  {name:<42} {value:10.3f}")
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
