"""Camera observations on several GPUs: does each worker render on its own?

    python -m tests.benchmarks.bench_gpus [--repeats 3] [--gpus 4] [--json FILE]

MuJoCo's HalfCheetah with a 640x480 camera through EGL, a worker per GPU with 4 slots in child processes, through
``arena-ray run`` on local Ray. Ratios of frames per second measured in one run, medians over the repeats; a run's rate
is its frames over the time from its first episode's start to its last one's end, so Ray's start is not in it.

* all GPUs over one GPU (a renderer that stays on GPU 0 gives about 1);
* all GPUs with camera videos over without.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from arena_ray import RunResult
from tests.benchmarks.workloads import WORKLOADS

STEPS = 100


def rate(num_workers: int, episodes: int, video: bool) -> float:
    """Run episodes on so many GPUs; return frames per second."""
    job = {
        "name": "cheetah",
        "env": {"entry_point": WORKLOADS + "camera_cheetah", "kwargs": {"max_episode_steps": STEPS}},
        "policy": {"type": "random"},
        "num_episodes": episodes * num_workers,
        "num_envs": 4,
        "vectorization": "async",
        "resources": {"num_gpus": 1, "num_cpus": 6},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "jobs.json")
        file.write_text(json.dumps({"jobs": [job]}))
        flags = ["--num_workers", str(num_workers), "--video_base_dir", folder]
        command = [sys.executable, "-m", "arena_ray.eval_runner", str(file), *flags]
        command += ["--record_camera_video"] if video else []
        environ = {**os.environ, "MUJOCO_GL": "egl", "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=500, env=environ)
        result = RunResult.load(done.stdout.splitlines()[-1])
        records = result.jobs["cheetah"].episodes
        assert result.status == "completed", result
        assert len({record.worker.pid for record in records if record.worker}) == num_workers
        assert len(result.video_paths()) == (len(records) if video else 0)
        starts = [datetime.datetime.fromisoformat(str(record.started_at).rstrip("Z")) for record in records]
        pairs = zip(starts, records, strict=True)
        ends = [start + datetime.timedelta(seconds=record.duration_s or 0) for start, record in pairs]
        frames = sum(1 + (record.length or 0) for record in records)
        return frames / (max(ends) - min(starts)).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=40, help=f"per GPU, of {STEPS} steps each")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    settings = {"one GPU": (1, False), "all GPUs": (given.gpus, False), "all GPUs, camera videos": (given.gpus, True)}
    rates: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(given.repeats):
        for name, (workers, video) in settings.items():
            rates[name].append(rate(workers, given.episodes, video))
            print(f"{name:28} {rates[name][-1]:8.1f} frames/s", flush=True)
    one, every, filmed = (statistics.median(rates[name]) for name in settings)
    results: dict[str, Any] = {
        "gpus": given.gpus,
        "frames_per_s": rates,
        "all_over_one": every / one,
        "wall_with_videos_over_without": every / filmed,
    }
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    results["hardware"] = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    for key in ("all_over_one", "wall_with_videos_over_without", "hardware"):
        print(f"{key:32} {results[key]}")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
