"""Runs cartpole.yaml from Python and works with what came back: metrics, records, videos.

Run it with ``python examples/collect_videos.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arena_ray import RunResult, evaluate

JOB_FILE = Path(__file__).with_name("cartpole.yaml")


def show_metrics(result: RunResult) -> None:
    """Print every metric of every job with its 95 % interval."""
    for job in result.jobs.values():
        for name, metric in job.metrics.items():
            if metric.value is None:  # CartPole does not say what success is, so there is no rate.
                print(f"{job.name}: {name} unknown")
            elif metric.low is None:  # A single episode has no interval.
                print(f"{job.name}: {name} {metric.value:.1f}")
            else:
                print(f"{job.name}: {name} {metric.value:.1f} [{metric.low:.1f}, {metric.high:.1f}], n = {metric.n}")


def show_episodes(result: RunResult) -> None:
    """Print each episode of a run with its videos."""
    for record in result.records():
        print(f"{record.job} episode {record.episode} (seed {record.seed}): return {record.episode_return:.0f}")
        for video in record.videos:
            print(f"  {video.kind}: {result.run_dir / video.path}, {video.frames} frames at {video.fps:g} fps")


def main() -> None:
    """Run the jobs and print what they came to."""
    parser = argparse.ArgumentParser(description="Run examples/cartpole.yaml and list its videos.")
    parser.add_argument("--video_base_dir", type=Path, default=Path("outputs"))
    parser.add_argument("--num_episodes", type=int, default=3, help="per job")
    parser.add_argument("--inline", action="store_true", help="run in this process, without Ray")
    args = parser.parse_args()
    result = evaluate(
        JOB_FILE,
        overrides=[f"*:num_episodes={args.num_episodes}"],
        video_base_dir=args.video_base_dir,
        inline=args.inline,
    )
    show_metrics(result)
    show_episodes(result)
    # Also: camera="front", success=False (the failures, where the environment reports success).
    for path in result.video_paths(job="cartpole-trained", kind="viewport"):
        print(path)


if __name__ == "__main__":
    main()
