"""On a GPU, too, a record depends on job and episode alone. Skipped without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from arena_ray import RunResult, evaluate
from tests.comparing import outcome

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.heavy,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

HERE = "tests.test_gpu_records:"


class Pendulums(gymnasium.Env[Any, Any]):
    """Adds up what the policy says, so that a return shows how each answer was rounded."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (256,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(5, 40))
        self._state = self.np_random.standard_normal(256).astype(np.float32)
        return self._state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._state = np.roll(self._state, 1)
        self._state[:8] += action
        self._left -= 1
        return self._state, float(np.float64(action).sum()), self._left <= 0, False, {}


def wide(hidden: int = 4096) -> Any:
    """A module whose products cuBLAS cuts differently for different numbers of rows."""
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.Linear(256, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 8))


def run(folder: Path, compile: bool = False, **flags: Any) -> RunResult:
    job = {
        "name": "wide",
        "env": {"entry_point": HERE + "Pendulums"},
        "policy": {"type": "torch", "kwargs": {"entry_point": HERE + "wide", "compile": compile}},
        "num_episodes": 40,
        "num_envs": 8,
        "resources": {"num_gpus": 1, "num_cpus": 2},
    }
    return evaluate({"jobs": [job]}, video_base_dir=str(folder), **flags)


@pytest.mark.parametrize("compile", [pytest.param(False, id="eager"), pytest.param(True, id="compiled")])
def test_records_are_equal_for_any_number_of_gpus_and_any_chunks(tmp_path: Path, compile: bool) -> None:
    reference = run(tmp_path, compile, num_workers=1, chunk_size=40)
    assert reference.status == "completed"
    assert reference.jobs["wide"].episodes[0].worker is not None
    assert reference.jobs["wide"].episodes[0].worker.gpus
    layouts = [{"num_workers": 1, "chunk_size": 5}]
    layouts += [{"num_workers": torch.cuda.device_count(), "chunk_size": size} for size in (3, 8)]
    for layout in layouts:
        result = run(tmp_path, compile, **layout)
        assert outcome(result) == outcome(reference), layout
    gpus = {record.worker.gpus for record in result.jobs["wide"].episodes if record.worker}
    assert len(gpus) == torch.cuda.device_count()


def test_a_row_depends_on_the_shape_of_its_batch_which_is_why_batches_are_filled_up() -> None:
    module, rows = wide().to("cuda").eval(), torch.randn(8, 256, device="cuda")
    with torch.inference_mode():
        answers = {size: module(rows[:size])[0] for size in range(1, 9)}
        assert any(not torch.equal(answers[8], answer) for answer in answers.values())
        for other in range(1, 8):
            mixed = torch.cat([rows[:1], torch.randn(other, 256, device="cuda"), rows[: 7 - other]])
            assert torch.equal(module(mixed)[0], answers[8])
