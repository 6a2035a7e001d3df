"""A worker that hangs with its GPU full is gone, and its GPU empty, before the next one starts. Needs a GPU."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arena_ray import evaluate
from tests.worlds import Walk, walk_job

pytestmark = [pytest.mark.ray, pytest.mark.heavy]

#: What a policy and a child of its environment take on the GPU.
TAKEN_BYTES = 8_000_000_000

_CHILD = (
    "import sys, time, torch\n"
    f"held = torch.empty({TAKEN_BYTES}, dtype=torch.uint8, device='cuda')\n"
    "torch.cuda.synchronize(); print('held', flush=True); time.sleep(10_000)"
)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class HangsFull(Walk):
    """A walk that, when poisoned, hangs in C, with a child in a session of its own that holds memory of the GPU.

    Args:
        log: File to which each worker writes how much of the GPU's memory was free when it was built, bytes.
    """

    def __init__(self, log: str, **kwargs: Any) -> None:
        super().__init__(deed="own", **kwargs)
        import torch

        free, total = torch.cuda.mem_get_info()
        with open(log, "a") as file:
            file.write(json.dumps({"free": free, "total": total}) + "\n")
        self._held = torch.empty(TAKEN_BYTES, dtype=torch.uint8, device="cuda")

    def _do_deed(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", _CHILD], start_new_session=True, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        ctypes.PyDLL(None).sleep(100_000)


def test_the_gpu_is_empty_before_the_next_worker_starts(tmp_path: Path) -> None:
    if not _has_gpu():
        pytest.skip("no GPU")
    log = tmp_path / "free"
    job = walk_job(num_episodes=4, env_kwargs={"poison": [1], "log": str(log)}, resources={"num_gpus": 1})
    job["env"]["entry_point"] = "tests.test_gpu_release:HangsFull"
    flags: dict[str, Any] = {"stall_timeout": 5.0, "max_attempts": 3, "continue_on_error": True}
    result = evaluate({"jobs": [job]}, video_base_dir=str(tmp_path / "runs"), **flags)
    assert result.jobs["walk"].counts == {"completed": 3, "error": 0, "timeout": 1}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) >= 3
    assert min(line["free"] for line in lines) > lines[0]["total"] - TAKEN_BYTES / 2
    events = [json.loads(line) for line in (result.run_dir / "events.jsonl").read_text().splitlines()]
    held = [event.get("gpu_mb") for event in events if event["kind"] in ("worker_started", "chunk_finished")]
    assert max(mb or 0 for mb in held) * 1e6 >= TAKEN_BYTES
