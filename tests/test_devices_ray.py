"""What processes of a run really see, on a Ray that is told of two GPUs that are not there, and in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arena_ray import evaluate
from arena_ray.devices.assignment import PINNED
from tests.worlds import Walk, walk_job

NAMES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION")


class Reporter(Walk):
    """Writes down what its process sees.

    Args:
        folder: Gets a file per process.
        device: Offered.
        kit_args: Offered.
    """

    def __init__(self, folder: str, device: str, kit_args: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        seen = {name: os.environ.get(name) for name in NAMES}
        content = {**seen, "device": device, "kit_args": kit_args, "is_pinned": PINNED in os.environ}
        Path(folder, f"{os.getpid()}.json").write_text(json.dumps(content))


def reporting_job(folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir(parents=True)
    job = walk_job(env_kwargs={"folder": str(folder)}, name=folder.name, num_episodes=2, **changes)
    job["env"]["entry_point"] = "tests.test_devices_ray:Reporter"
    return job


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


_RUN = """
import json, logging, ray, sys
from arena_ray import evaluate
ray.init(address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, object_store_memory=100_000_000)
result = evaluate({"jobs": json.loads(sys.argv[1])}, video_base_dir=sys.argv[2])
assert result.status == "completed", result
"""


@pytest.mark.ray
@pytest.mark.heavy
def test_workers_on_ray_see_their_own_gpu_and_no_other(tmp_path: Path) -> None:
    jobs = [
        reporting_job(tmp_path / "whole", resources={"num_gpus": 1}),
        reporting_job(tmp_path / "children", resources={"num_gpus": 0.5}, num_envs=2, vectorization="async"),
        reporting_job(tmp_path / "cpu"),
    ]
    own = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    environ = {name: value for name, value in os.environ.items() if name not in NAMES}
    words = [sys.executable, "-c", _RUN, json.dumps(jobs), str(tmp_path / "runs")]
    done = subprocess.run(words, env={**environ, **own}, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr

    whole, children = reports(tmp_path / "whole"), reports(tmp_path / "children")
    assert len(children) >= 2
    for report in (*whole, *children):
        assert report["CUDA_VISIBLE_DEVICES"] in ("0", "1")
        assert report["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
        assert report["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        assert report["kit_args"].endswith("--/physics/cudaDevice=0")
        assert report["is_pinned"]
    assert {report["XLA_PYTHON_CLIENT_MEM_FRACTION"] for report in whole} == {None}
    assert {report["XLA_PYTHON_CLIENT_MEM_FRACTION"] for report in children} == {"0.375"}
    for report in reports(tmp_path / "cpu"):
        assert report["CUDA_VISIBLE_DEVICES"] == ""
        assert report["XLA_PYTHON_CLIENT_PREALLOCATE"] is None
        assert (report["device"], report["kit_args"], report["is_pinned"]) == ("cpu", "", False)

    (run_dir,) = (tmp_path / "runs").iterdir()
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    started = [event for event in events if event["kind"] == "worker_started"]
    mappings = {event["job"]: event.get("devices") for event in started}
    assert mappings["cpu"] is None
    assert mappings["whole"]["gpu_ids"] in (["0"], ["1"])
    assert mappings["whole"]["kept"] == own
    assert any("devices: {'gpu_ids'" in path.read_text() for path in run_dir.glob("whole/logs/*.log"))


def test_a_run_in_this_process_is_pinned_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    before = dict(os.environ)
    job = reporting_job(tmp_path / "inline", resources={"num_gpus": 1})
    result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), inline=True)
    (report,) = reports(tmp_path / "inline")
    assert report["CUDA_VISIBLE_DEVICES"] == "7,8"
    assert report["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert report["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    events = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    (mapping,) = [event["devices"] for event in events if event["kind"] == "worker_started"]
    assert mapping["gpu_ids"] == ["7"]
    assert mapping["kept"] == {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    assert dict(os.environ) == before
