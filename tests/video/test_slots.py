from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from arena_ray.video.slots import autoreset_mode, chosen_slots, declared_num_slots, done_flags, frames_per_second
from tests.video.envs import BatchEnv, IsaacEnv, StepEnv

MASK = np.array([False, True, True])


def test_slots_are_counted_as_the_environment_declares_them() -> None:
    assert declared_num_slots(StepEnv()) is None
    assert declared_num_slots(IsaacEnv((3, 2))) == 2
    assert declared_num_slots(gymnasium.Wrapper(IsaacEnv((3,)))) == 1
    assert declared_num_slots(BatchEnv(AutoresetMode.DISABLED, (3, 2, 1))) == 3


@pytest.mark.parametrize(
    ("asked", "declared", "expected"),
    [
        pytest.param(12.5, 50, 12.5, id="asked-wins"),
        pytest.param(None, 50, 50.0, id="declared"),
        pytest.param(None, 12.5, 12.5, id="fraction-is-kept"),
        pytest.param(None, None, 30.0, id="neither"),
        pytest.param(None, 0, 30.0, id="zero-is-none"),
        pytest.param(None, "fast", 30.0, id="nonsense"),
    ],
)
def test_frame_rate(asked: float | None, declared: Any, expected: float) -> None:
    assert frames_per_second(SimpleNamespace(metadata={"render_fps": declared}), asked) == expected


def test_frame_rate_without_metadata() -> None:
    assert frames_per_second(SimpleNamespace(metadata=None), None) == 30.0


@pytest.mark.parametrize(
    ("env", "terminated", "expected"),
    [
        pytest.param(StepEnv(), True, AutoresetMode.DISABLED, id="env"),
        pytest.param(IsaacEnv(), torch.tensor([True, False]), AutoresetMode.SAME_STEP, id="isaac"),
        pytest.param(BatchEnv(AutoresetMode.SAME_STEP), np.array([True]), AutoresetMode.SAME_STEP, id="declared"),
        pytest.param(gymnasium.wrappers.Autoreset(StepEnv()), True, AutoresetMode.NEXT_STEP, id="autoreset-wrapper"),
    ],
)
def test_autoreset_mode(env: Any, terminated: Any, expected: AutoresetMode) -> None:
    assert autoreset_mode(env, terminated) is expected


def test_autoreset_mode_of_a_vector_env_that_does_not_say() -> None:
    env = BatchEnv(AutoresetMode.SAME_STEP)
    env.metadata = {}
    assert autoreset_mode(env, MASK) is AutoresetMode.NEXT_STEP


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        pytest.param(True, False, [True], id="single"),
        pytest.param(np.array([True, False]), np.array([False, False]), [True, False], id="numpy"),
        pytest.param(torch.tensor([False, False]), torch.tensor([False, True]), [False, True], id="torch"),
    ],
)
def test_done_is_terminated_or_truncated(terminated: Any, truncated: Any, expected: list[bool]) -> None:
    assert list(done_flags(terminated, truncated)) == expected


@pytest.mark.parametrize(
    ("options", "keywords", "expected"),
    [
        pytest.param(None, {}, None, id="all"),
        pytest.param({"other": 1}, {}, None, id="other-options"),
        pytest.param({"reset_mask": MASK}, {}, {1, 2}, id="mask"),
        pytest.param({"reset_mask": torch.as_tensor(MASK)}, {}, {1, 2}, id="mask-tensor"),
        pytest.param({"env_idx": torch.tensor([2])}, {}, {2}, id="maniskill"),
        pytest.param(None, {"env_ids": [0, 2]}, {0, 2}, id="isaac-list"),
        pytest.param(None, {"env_ids": (1,)}, {1}, id="isaac-tuple"),
        pytest.param(None, {"env_ids": torch.tensor([0])}, {0}, id="isaac-tensor"),
        pytest.param(None, {"env_ids": []}, set(), id="isaac-empty"),
        pytest.param(None, {"env_ids": None}, None, id="isaac-none"),
    ],
)
def test_which_slots_a_reset_chooses(options: Any, keywords: dict[str, Any], expected: set[int] | None) -> None:
    assert chosen_slots(options, keywords) == expected
