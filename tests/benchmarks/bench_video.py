"""What recording costs, against the same loop without recording and against Gymnasium's `RecordVideo`.

    python -m tests.benchmarks.bench_video [--repeats 5] [--only NAME] [--json FILE]

Every row of a table is measured in one process, the modes one after the other in each repeat; figures are medians over
the repeats of the ratio to the loop that only steps and renders. In 1 and 2 that loop runs directly before and directly
after each measured one, because a shared machine's pace changes within seconds; beside wall time stands the CPU time of
the thread that steps: what of it is ours, and not another process's that the machine has to carry as well.
`RecordVideo` needs moviepy. The time that the
encoding process takes to start, once per worker and beside the building of the environment, is a row of its own; the
loops begin when it is ready.

1. CartPole, 600x400, 500 steps in one episode, `close()` included: on two cores and on one;
2. CartPole, random actions, 20 episodes of 24 frames on average, a file each: on two cores and on one;
3. 16 streams of 256x256 beside a step of 20 ms;
4. resident memory of a stream of 5,000 frames of 640x480;
5. how many of the lengths from 1 to 600 frames are exact at 25, 30, 50 and 60 frames per second.
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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from arena_ray.specs import EncoderName, VideoRecordingCfg
from arena_ray.video import wrap_env_for_video
from arena_ray.video.encoder import VideoFormat, open_exactly

ROOT = Path(__file__).parents[2]
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
warnings.filterwarnings("ignore")
gymnasium.logger.min_level = gymnasium.logger.ERROR

Wrap = Callable[[Any, str], Any]


def ours(encoder: EncoderName, **settings: Any) -> Wrap:
    """Return what wraps an environment in our recorder."""

    def wrap(env: Any, folder: str) -> Any:
        cfg = VideoRecordingCfg(record_viewport_video=True, video_base_dir=folder, encoder=encoder, **settings)
        return wrap_env_for_video(env, cfg, num_episodes=1)

    return wrap


def record_video(env: Any, folder: str) -> Any:
    """Wrap an environment in Gymnasium's recorder, which records every episode."""
    from gymnasium.wrappers import RecordVideo

    return RecordVideo(env, folder, episode_trigger=lambda episode: True)


class RenderOnly(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Renders each frame and throws it away."""

    def reset(self, **keywords: Any) -> Any:
        result = self.env.reset(**keywords)
        self.env.render()
        return result

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.env.render()
        return result


def render_only(env: Any, folder: str) -> Any:
    """Wrap an environment in what records nothing."""
    return RenderOnly(env)


MODES: dict[str, Wrap] = {
    "render only": render_only,
    "RecordVideo": record_video,
    "ours, auto": ours("auto"),
    "ours, inline": ours("inline"),
    "ours, process": ours("process"),
}


class Upright(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole that goes on after it fell, so that an episode lasts 500 steps."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._steps = 0

    def reset(self, **keywords: Any) -> Any:
        self._steps = 0
        return self.env.reset(**keywords)

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = self.env.step(action)
        self._steps += 1
        state = self.env.unwrapped.state  # type: ignore[attr-defined]
        self.env.unwrapped.state = np.clip(state, [-2, -9, -0.2, -9], [2, 9, 0.2, 9])  # type: ignore[attr-defined]
        return observation, reward, self._steps >= 500, False, info


def cartpole(wrapper: Any = None) -> Any:
    """Return CartPole as it is, or in a wrapper."""
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array", disable_env_checker=True).unwrapped
    return env if wrapper is None else wrapper(env)


def run_episodes(env: Any, seeds: range, warm: bool) -> npt.NDArray[np.float64]:
    """Run episodes and close; return the seconds of wall time and of this thread's CPU time.

    `warm`: the encoding process gets the time to start before.
    """
    if warm:
        time.sleep(0.5)
    actions = np.random.default_rng(0)
    wall, cpu = time.perf_counter(), time.thread_time()
    for seed in seeds:
        env.reset(seed=seed)
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(int(actions.integers(2)))
            ended = terminated or truncated
    env.close()
    return np.array([time.perf_counter() - wall, time.thread_time() - cpu])


def measure_episodes(wrapper: Any, seeds: range, repeats: int) -> dict[str, float]:
    """Return the medians of each mode: wall time, and the ratios of wall and CPU time to the loop that only renders."""

    def run(mode: str) -> npt.NDArray[np.float64]:
        with tempfile.TemporaryDirectory() as folder:
            return run_episodes(MODES[mode](cartpole(wrapper), folder), seeds, warm=mode.startswith("ours"))

    found: dict[str, float] = {}
    for mode in MODES:
        pairs = [(run("render only"), run(mode), run("render only")) for _ in range(repeats + 1)][
            1:
        ]  # The first warms up.
        wall, cpu = np.median([mine / ((before + after) / 2) for before, mine, after in pairs], axis=0)
        base_s, mine_s = np.median([((before + after) / 2, mine) for before, mine, after in pairs], axis=0)[:, 0]
        found[f"{mode} ms an episode"] = 1e3 * mine_s / len(seeds)
        found[f"{mode} ms more an episode"] = 1e3 * (mine_s - base_s) / len(seeds)
        found[f"{mode} over render only"] = wall
        found[f"{mode} over render only, CPU time"] = cpu
    return {key: float(value) for key, value in found.items()}


def _ratios(times: list[float], base: list[float]) -> list[float]:
    return [one / other for one, other in zip(times, base, strict=True)]


def long_episode(repeats: int) -> dict[str, float]:
    """Measure one episode of 500 steps."""
    return measure_episodes(Upright, range(1), repeats)


def short_episodes(repeats: int) -> dict[str, float]:
    """Measure 20 short episodes."""
    return measure_episodes(None, range(20), repeats)


class Streams(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """16 slots whose step computes for 20 ms; the viewport gives a real picture per slot."""

    metadata = {"render_fps": 30, "autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}  # noqa: RUF012
    num_envs = 16
    render_mode = "rgb_array"
    single_observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    single_action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        noise = np.random.default_rng(0)
        texture = noise.integers(0, 255, (64, 64, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        self._frames = [np.ascontiguousarray(texture[2 * i : 2 * i + 256, 100:356]) for i in range(60)]
        self._t = 0
        self._zeros = np.zeros(16, bool)

    def reset(self, **keywords: Any) -> Any:
        self._t = 0
        return np.zeros((16, 1)), {}

    def step(self, actions: Any) -> Any:
        self._t += 1
        end, total = time.perf_counter() + 0.020, 0
        while time.perf_counter() < end:
            total += 1
        return np.zeros((16, 1)), np.zeros(16), np.full(16, self._t >= 60), self._zeros, {}

    def render(self) -> Any:
        return tuple(self._frames[(self._t + slot) % 60] for slot in range(16))


def _record_streams(env: Any, folder: str) -> Any:
    """Record as Gymnasium does: one tiled video of all slots."""
    from gymnasium.wrappers.vector import RecordVideo

    return RecordVideo(env, folder, episode_trigger=lambda episode: True)


def streams(repeats: int) -> dict[str, float]:
    """Measure 60 steps of 16 streams."""
    modes: dict[str, Wrap] = {
        "render only": lambda env, folder: env,
        "RecordVideo (one tiled video)": _record_streams,
        "ours, auto": ours("auto"),
        "ours, inline": ours("inline"),
    }
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    for repeat in range(repeats + 1):
        for mode, wrap in modes.items():
            with tempfile.TemporaryDirectory() as folder:
                env = wrap(Streams(), folder)
                time.sleep(0.5)
                start = time.perf_counter()
                env.reset(seed=0)
                for _ in range(60):
                    env.step(np.zeros(16, int))
                    if mode == "render only":
                        env.render()
                env.close()
                if repeat:
                    times[mode].append(time.perf_counter() - start)
    return {f"{mode} over render only": statistics.median(_ratios(times[mode], times["render only"])) for mode in modes}


MEMORY = """
import sys, time, gymnasium, numpy as np
from pathlib import Path
from tests.benchmarks.bench_video import MODES
noise = np.random.default_rng(0)
texture = noise.integers(0, 255, (128, 128, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)

class Film(gymnasium.Env):
    metadata = {"render_fps": 30}
    render_mode = "rgb_array"
    observation_space = action_space = gymnasium.spaces.Discrete(2)
    t = 0
    def reset(self, **keywords): self.t = 0; return 0, {}
    def step(self, action): self.t += 1; return 0, 0.0, False, False, {}
    def render(self): return texture[self.t % 500 : self.t % 500 + 480, 100:740].copy()

def resident(pid="self"):
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

def helpers():
    pids = Path("/proc/self/task").glob("*/children")
    return sum(resident(pid) for task in pids for pid in task.read_text().split())

env = MODES[sys.argv[1]](Film(), sys.argv[2])
time.sleep(1.0)
before = resident()
env.reset()
peak = most = 0.0
for step in range(4999):
    env.step(0)
    if step % 100 == 50:
        peak, most = max(peak, resident() - before), max(most, helpers())
print(peak, most)
env.close()
"""


def memory(repeats: int) -> dict[str, float]:
    """Measure how much a process grows, and how large the encoding process beside it is."""
    found = {}
    for mode in ("RecordVideo", "ours, process", "ours, inline"):
        growths, helpers = [], []
        for _ in range(1 if mode == "RecordVideo" else repeats):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", MEMORY, mode, folder]
                done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            growth, helper = map(float, done.stdout.split())
            growths.append(growth)
            helpers.append(helper)
        found[f"{mode}: growth, MiB"] = statistics.median(growths)
        if mode == "ours, process":
            found[f"{mode}: the encoding process itself, MiB"] = statistics.median(helpers)
    return found


def exact_lengths(repeats: int) -> dict[str, float]:
    """Count the lengths that come out exact, of 600 at each rate."""
    from tests.video.test_record_video_stand_in import frame_counts

    found = {}
    for fps in (25, 30, 50, 60):
        with tempfile.TemporaryDirectory() as folder:
            counts = frame_counts(Path(folder), fps, range(1, 601))
        found[f"exact of 600 at {fps} fps"] = float(sum(frames == length for length, frames in counts.items()))
    return found


def start_of_the_process(repeats: int) -> dict[str, float]:
    """Measure from asking for the encoding process to its first finished video of one frame."""
    times = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            backend = open_exactly("process")
            encoder = backend.open(Path(folder, "a.mp4"), VideoFormat(width=64, height=64, fps=30.0))
            encoder.write(np.zeros((64, 64, 3), np.uint8))
            encoder.close()
            times.append(time.perf_counter() - start)
            backend.close()
    return {"ms": 1e3 * statistics.median(times)}


TABLES: dict[str, tuple[Callable[[int], dict[str, float]], int]] = {
    "500 steps, two cores": (long_episode, 2),
    "500 steps, one core": (long_episode, 1),
    "short episodes, two cores": (short_episodes, 2),
    "short episodes, one core": (short_episodes, 1),
    "16 streams, two cores": (streams, 2),
    "memory of 5,000 frames": (memory, 2),
    "exact lengths": (exact_lengths, 2),
    "start of the encoding process": (start_of_the_process, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.only:
        measure, cores = TABLES[options.only]
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        print(json.dumps(measure(options.repeats)))
        return
    found = {}
    for name in TABLES:
        command = [sys.executable, "-m", __spec__.name, "--only", name, "--repeats", str(options.repeats)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name)
        for row, value in found[name].items():
            print(f"    {row:48s} {value:10.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
