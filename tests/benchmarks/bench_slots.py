"""How busy slots keep a worker: against a bare loop, against lockstep batches, against the best fixed setting.

    python -m tests.benchmarks.bench_slots [--repeats 3] [--json FILE] [--rows light,tails,busy,auto,vit]

Ratios are of rates measured in one run, interleaved, medians over the repeats. Rates are of the rollout itself, from
its first reset to its last step, as the run's own events tell (`usage`); starting and stopping is not in them.

* ``light``: CartPole, `sync`, 16 slots, a policy of three products: steps/s over a bare Gymnasium vector loop.
* ``tails``: 8 slots in child processes, episodes of log-normal length: wall over ideal (total steps / slots, at the
  rate that episodes of equal length have in the same run); lockstep batches are the comparison.
* ``busy``: 4 ms of CPU a step, 8 slots a core, a policy of 5 ms a batch that is waited for: achieved over the smaller
  of what the environments alone and the policy alone give.
* ``auto``: `num_envs: auto, vectorization: auto` over the best fixed setting, for three workloads.
* ``vit`` (needs a GPU): a policy of ViT-B's size and environments on the CPU: achieved over the smaller of what the
  environments alone and the policy alone give, and over one call per environment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from arena_ray import evaluate
from tests.benchmarks.workloads import WORKLOADS, Balance, median_s, vit_b

#: Cores that this process may use.
CORES = len(os.sched_getaffinity(0))

LIGHT = {"env": {"id": "CartPole-v1"}, "policy": {"entry_point": WORKLOADS + "Balance"}}


def usage_of(job: Mapping[str, Any]) -> dict[str, float]:
    """Run a job in this process; return the sums over its chunks, and `steps_per_s`."""
    asked = {"name": "bench", "resources": {"num_gpus": 0, "num_cpus": CORES}, **job}
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate({"jobs": [asked]}, inline=True, video_base_dir=folder)
        assert result.status == "completed", result
        lines = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
        tuning = json.loads((result.run_dir / "run.json").read_text())["tuning"].get("bench", {})
    chunks = [line["usage"] for line in lines if line["kind"] == "chunk_finished"]
    sums = {key: sum(chunk[key] for chunk in chunks) for key in ("wall_s", "policy_s", "environment_s", "steps")}
    sums["num_envs"], sums["is_async"] = tuning.get("num_envs", 0), tuning.get("vectorization") == "async"
    return {**sums, "steps_per_s": sums["steps"] / sums["wall_s"]}


def bare_rate(num_steps: int, slots: int = 16) -> float:
    """Return the steps per second of Gymnasium's vector loop with the same policy."""
    make = [lambda: gymnasium.make("CartPole-v1", disable_env_checker=True)] * slots
    env, policy, rows = SyncVectorEnv(make), Balance(), np.arange(slots)
    observations, _ = env.reset(seed=0)
    started = time.perf_counter()
    for _ in range(num_steps // slots):
        observations, *_ = env.step(policy.act(observations, rows))
    rate = num_steps / (time.perf_counter() - started)
    env.close()
    return rate


def light(repeats: int) -> dict[str, Any]:
    """Return the rates on a light environment."""
    bare, ours = [], []
    for _ in range(repeats):
        bare.append(bare_rate(80_000))
        ours.append(usage_of({**LIGHT, "num_episodes": 160, "num_envs": 16})["steps_per_s"])
    return {
        "bare_steps_per_s": statistics.median(bare),
        "steps_per_s": statistics.median(ours),
        "ratio": statistics.median(one / other for one, other in zip(ours, bare, strict=True)),
    }


def tails(repeats: int, episodes: int = 600) -> dict[str, Any]:
    """Return wall over ideal for heavy-tailed episodes, ours and in lockstep."""

    def run(heavy: bool, chunk_size: int | None = None, count: int = episodes) -> dict[str, float]:
        kwargs = {"step_s": 0.002, "mean_length": 40, "heavy_tail": heavy, "sleeps": True}
        env = {"entry_point": WORKLOADS + "Working", "kwargs": kwargs}
        job = {"env": env, "policy": {"type": "zero"}, "num_envs": 8, "vectorization": "async"}
        asked = {"jobs": [{"name": "bench", **job, "num_episodes": count}]}
        with tempfile.TemporaryDirectory() as folder:
            flags: dict[str, Any] = {} if chunk_size is None else {"chunk_size": chunk_size}
            result = evaluate(asked, inline=True, video_base_dir=folder, **flags)
            usage = result.jobs["bench"].usage
            assert usage is not None
            return {"wall_s": usage.wall_s, "steps": usage.steps}

    ours: list[float] = []
    lockstep: list[float] = []
    for _ in range(repeats):
        even = run(heavy=False, count=episodes // 3)
        second_per_step = even["wall_s"] / even["steps"]
        for heavy, ratios in ((run(heavy=True), ours), (run(heavy=True, chunk_size=8), lockstep)):
            ratios.append(heavy["wall_s"] / (heavy["steps"] * second_per_step))
    return {"ours_over_ideal": statistics.median(ours), "lockstep_over_ideal": statistics.median(lockstep)}


AUTO_WORKLOADS: dict[str, dict[str, Any]] = {
    "CartPole, 3 products": LIGHT,
    "5 ms of CPU, policy 10 ms a call": {
        "env": {"entry_point": WORKLOADS + "Working", "kwargs": {"step_s": 0.005}},
        "policy": {"entry_point": WORKLOADS + "Timed", "kwargs": {"call_s": 0.01}},
    },
    "20 ms of waiting, policy 1 ms a call": {
        "env": {"entry_point": WORKLOADS + "Working", "kwargs": {"step_s": 0.02, "sleeps": True}},
        "policy": {"entry_point": WORKLOADS + "Timed", "kwargs": {"call_s": 0.001}},
    },
}

FIXED = [(1, "sync"), (8, "sync"), (32, "sync"), (2, "async"), (8, "async"), (32, "async"), (64, "async")]


def auto(repeats: int) -> dict[str, Any]:
    """Return the rate of `auto` over that of the best fixed setting."""
    rows = {}
    for name, job in AUTO_WORKLOADS.items():
        rates: dict[Any, list[float]] = {}
        chosen = ""
        for _ in range(repeats):
            for slots, vectorization in FIXED:
                fixed = {"num_envs": slots, "vectorization": vectorization, "num_episodes": 3 * slots + 3}
                found = usage_of({**job, **fixed})
                rates.setdefault((slots, vectorization), []).append(found["steps_per_s"])
            found = usage_of({**job, "num_envs": "auto", "vectorization": "auto", "num_episodes": 96})
            rates.setdefault("auto", []).append(found["steps_per_s"])
            chosen = f"{found['num_envs']} {'async' if found['is_async'] else 'sync'}"
        medians = {key: statistics.median(values) for key, values in rates.items()}
        best = max((key for key in medians if key != "auto"), key=lambda key: medians[key])
        rows[name] = {
            "best_fixed": f"{best[0]} {best[1]}",
            "best_steps_per_s": medians[best],
            "chosen": chosen,
            "auto_steps_per_s": medians["auto"],
            "ratio": medians["auto"] / medians[best],
        }
    return rows


def busy(repeats: int) -> dict[str, Any]:
    """Return what environments that compute and a policy that is waited for (as for a GPU) come to together."""
    slots, call_s = 8 * CORES, 0.005
    env = {"entry_point": WORKLOADS + "Working", "kwargs": {"step_s": 0.004, "mean_length": 100}}
    apart = {"env": env, "num_envs": slots, "vectorization": "async", "num_episodes": 2 * slots}
    policy = {"entry_point": WORKLOADS + "Timed", "kwargs": {"call_s": call_s}}
    alone: list[float] = []
    together: list[float] = []
    for _ in range(repeats):
        alone.append(usage_of({**apart, "policy": {"type": "zero"}})["steps_per_s"])
        together.append(usage_of({**apart, "policy": policy})["steps_per_s"])
    policy_rate = slots / 2 / call_s
    pairs = zip(alone, together, strict=True)
    return {
        "environments": statistics.median(alone),
        "policy": policy_rate,
        "achieved": statistics.median(together),
        "achieved_over_smaller_supply": statistics.median(both / min(one, policy_rate) for one, both in pairs),
    }


def vit(repeats: int, slots: int, groups: int, step_s: float, episodes: int) -> dict[str, Any]:
    """Return what a policy of ViT-B's size and environments on the CPU come to on one GPU.

    The two supplies are measured with the same slots: the environments with a policy that answers at once, the policy
    on batches of a group's size, with nothing beside it.
    """
    import torch

    kwargs = {"step_s": step_s, "pixels": 112, "mean_length": 100}
    env = {"entry_point": WORKLOADS + "Working", "kwargs": kwargs}
    gpu = {"num_gpus": 1, "num_cpus": CORES}
    apart = {"env": env, "num_envs": slots, "vectorization": "async", "num_episodes": episodes, "resources": gpu}
    tunable, apart = apart, {**apart, "num_groups": groups}
    policy = {"type": "torch", "kwargs": {"entry_point": WORKLOADS + "vit_b"}}
    compiled = {"type": "torch", "kwargs": {"entry_point": WORKLOADS + "vit_b", "compile": True}}
    short = {**env, "kwargs": {**kwargs, "mean_length": 20}}
    single = {"entry_point": WORKLOADS + "OneCallEach"}
    module = vit_b().to("cuda").eval()
    batch = np.zeros((slots // groups, 112, 112, 3), np.uint8)

    def answer() -> None:
        with torch.inference_mode():
            module(torch.as_tensor(batch).to("cuda")).cpu()

    median_s(answer, 10)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        achieved = usage_of({**apart, "policy": policy})
        rates = {
            "environments": usage_of({**apart, "policy": {"type": "zero"}})["steps_per_s"],
            "policy": len(batch) / median_s(answer, 50),
            "achieved": achieved["steps_per_s"],
            "percent_in_policy": 100 * achieved["policy_s"] / achieved["wall_s"],
            "percent_waiting_for_environments": 100 * achieved["environment_s"] / achieved["wall_s"],
            "one_call_each": usage_of({**apart, "env": short, "policy": single, "num_episodes": slots})["steps_per_s"],
        }
        rates["compiled"] = usage_of({**apart, "policy": compiled})["steps_per_s"]
        tuned = usage_of({**tunable, "policy": policy, "num_envs": "auto", "vectorization": "auto"})
        rates["auto"] = tuned["steps_per_s"]
        print({key: round(rate) for key, rate in rates.items()}, flush=True)
        for key, rate in rates.items():
            found.setdefault(key, []).append(rate)
    rates = {key: statistics.median(values) for key, values in found.items()}
    return {
        **rates,
        "auto_num_envs": tuned["num_envs"],
        "achieved_over_smaller_supply": rates["achieved"] / min(rates["environments"], rates["policy"]),
        "compiled_over_smaller_supply": rates["compiled"] / min(rates["environments"], rates["policy"]),
        "achieved_over_one_call_each": rates["achieved"] / rates["one_call_each"],
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
    }


def show(name: str, row: Mapping[str, Any], indent: int = 0) -> None:
    """Print a row of results."""
    print(f"{'  ' * indent}{name}")
    for key, value in row.items():
        if isinstance(value, Mapping):
            show(key, value, indent + 1)
        else:
            print(f"{'  ' * indent}  {key:32} {value:.4g}" if isinstance(value, float) else f"  {key:34} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", default="light,tails,busy,auto")
    parser.add_argument("--slots", type=int, default=128, help="of the row vit")
    parser.add_argument("--groups", type=int, default=4, help="of these slots")
    parser.add_argument("--step_s", type=float, default=0.0035, help="of the row vit: CPU time of a step")
    parser.add_argument("--episodes", type=int, default=768, help="of the row vit, each of 100 steps")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: dict[str, Any] = {"cores": CORES}
    for name in given.rows.split(","):
        if name == "vit":
            results[name] = vit(given.repeats, given.slots, given.groups, given.step_s, given.episodes)
        else:
            results[name] = {"light": light, "tails": tails, "auto": auto, "busy": busy}[name](given.repeats)
        show(name, results[name])
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
