from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from arena_ray import entry_points
from arena_ray.envs.base import check_actions
from arena_ray.errors import EntryPointError, PolicyError
from arena_ray.policies import open_policy
from arena_ray.policies.base import PolicyContext
from arena_ray.specs import EvalJob
from tests.worlds import walk_job

BOX = gymnasium.spaces.Box(np.array([0.5, -1.0], np.float32), np.array([1.0, 1.0], np.float32))
OBSERVATION = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
SLOTS = np.array([0, 2])


def context(action_space: gymnasium.Space[Any] = BOX, **changes: Any) -> PolicyContext:
    fields = {
        "observation_space": OBSERVATION,
        "action_space": action_space,
        "num_slots": 3,
        "device": "cpu",
        "language_instruction": "go",
    }
    return PolicyContext(**{**fields, **changes})


def job(**policy: Any) -> EvalJob:
    return EvalJob.model_validate({**walk_job(), "policy": policy})


SPACES = [
    pytest.param(BOX, id="box"),
    pytest.param(gymnasium.spaces.Discrete(3, start=2), id="discrete"),
    pytest.param(gymnasium.spaces.MultiDiscrete([2, 3]), id="multi-discrete"),
    pytest.param(gymnasium.spaces.MultiBinary(4), id="multi-binary"),
    pytest.param(gymnasium.spaces.Dict(arm=BOX, grip=gymnasium.spaces.Discrete(2)), id="dict"),
    pytest.param(gymnasium.spaces.Tuple((BOX, gymnasium.spaces.Discrete(2))), id="tuple"),
]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", [pytest.param("zero", id="zero"), pytest.param("random", id="random")])
def test_built_ins_answer_legally_in_every_space(space: gymnasium.Space[Any], kind: str) -> None:
    policy = open_policy(job(type=kind), context(space))
    policy.reset(SLOTS, [1, 2])
    batch = check_actions(policy.act(np.zeros((2, 3), np.float32), SLOTS), space, 2)
    for action in gymnasium.vector.utils.iterate(gymnasium.vector.utils.batch_space(space, 2), batch):
        assert space.contains(action)


def test_random_depends_on_the_episodes_seed_alone() -> None:
    space = gymnasium.spaces.Box(-1, 1, (4,))
    first, second = (open_policy(job(type="random"), context(space)) for _ in range(2))
    first.reset(np.array([0, 2]), [5, 9])
    second.reset(np.array([1]), [9])
    assert np.array_equal(first.act(None, np.array([0, 2]))[1], second.act(None, np.array([1]))[0])


def test_a_factory_gets_what_its_signature_names() -> None:
    policy = open_policy(job(entry_point="tests.test_policies:Recorder"), context())
    assert policy.act(None, SLOTS) == {"num_slots": 3, "device": "cpu", "language_instruction": "go"}
    with pytest.raises(EntryPointError, match="takes no argument 'devise'; did you mean 'device'"):
        open_policy(job(entry_point="tests.test_policies:Recorder", kwargs={"devise": 1}), context())


class Recorder:
    def __init__(self, num_slots: int, device: str, language_instruction: str | None) -> None:
        self.seen = {"num_slots": num_slots, "device": device, "language_instruction": language_instruction}

    def act(self, observations: Any, slots: Any) -> Any:
        return self.seen


def test_a_stateful_callable_is_built_once_per_slot() -> None:
    policy = open_policy(
        job(entry_point="tests.worlds:Follower"), context(gymnasium.spaces.Box(-1, 1, (1,), np.float32))
    )
    observations = np.zeros((2, 3), np.float32)
    policy.reset(SLOTS, [1, 2])
    policy.act(observations, SLOTS)
    policy.reset(np.array([2]), [3])
    assert policy.act(observations, SLOTS)[:, 0] == pytest.approx([0.2 + 0.02, 0.2 + 0.01])


@pytest.mark.parametrize(
    ("entry_point", "fragment"),
    [
        pytest.param("tests.worlds:Leanr", "did you mean 'Leaner'", id="attribute"),
        pytest.param("tests.wrlds:Leaner", "no module 'tests.wrlds'", id="module"),
        pytest.param("tests.worlds:NOT_CALLABLE", "cannot be called", id="not-callable"),
        pytest.param("tests.worlds:walk_job", "neither", id="neither-act-nor-callable"),
    ],
)
def test_what_is_no_policy_is_refused_with_a_hint(entry_point: str, fragment: str) -> None:
    with pytest.raises(EntryPointError) as error:
        open_policy(job(entry_point=entry_point), context())
    assert fragment in str(error.value) or "no act(observations, slots)" in str(error.value)


def test_an_error_inside_an_imported_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        entry_points.resolve("needs_more:x")


@pytest.mark.parametrize(
    ("actions", "fragment"),
    [
        pytest.param(np.zeros((3, 2)), r"answered shape \(3, 2\) to 2 observations", id="rows"),
        pytest.param(np.zeros((2, 3)), r"here \(2, 2\)", id="width"),
        pytest.param(np.zeros(()), "2 observations", id="scalar"),
        pytest.param(None, r"answered shape \(\) to 2", id="none"),
        pytest.param("left", "not a batch", id="text"),
    ],
)
def test_what_is_no_batch_of_actions_is_refused(actions: Any, fragment: str) -> None:
    with pytest.raises(PolicyError, match=fragment):
        check_actions(actions, BOX, 2)


def test_actions_get_the_dtype_of_the_space() -> None:
    assert check_actions(torch.ones(2, 2, dtype=torch.float64), BOX, 2).dtype == np.float32


class Scores(torch.nn.Module):
    def __init__(self, action_space: gymnasium.spaces.Discrete) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, int(action_space.n))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(observations)
        return out


DISCRETE = gymnasium.spaces.Discrete(4, start=1)


def saved_scores(folder: Path) -> tuple[Scores, Path]:
    torch.manual_seed(0)
    module = Scores(DISCRETE)
    torch.save(module.state_dict(), folder / "weights.pt")
    return module, folder / "weights.pt"


def test_torch_policy_loads_weights_and_takes_the_best_score(tmp_path: Path) -> None:
    module, _ = saved_scores(tmp_path)
    kwargs = {"entry_point": "tests.test_policies:Scores", "state_dict": "weights.pt"}
    policy = open_policy(job(type="torch", kwargs=kwargs), context(DISCRETE, folders=(str(tmp_path),)))
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    slots = np.arange(5)
    expected = module(torch.as_tensor(observations)).argmax(1).numpy() + 1
    assert policy.act(observations, slots).tolist() == expected.tolist()


def test_torch_policy_answers_a_row_alike_in_every_batch(tmp_path: Path) -> None:
    saved_scores(tmp_path)
    kwargs = {"entry_point": "torch.nn:Linear", "kwargs": {"in_features": 3, "out_features": 2}}
    torch.manual_seed(0)
    policy = open_policy(job(type="torch", kwargs=kwargs), context())
    observations = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    together = policy.act(observations, np.arange(7))
    alone = np.concatenate([policy.act(observations[row : row + 1], np.array([row])) for row in range(7)])
    assert np.array_equal(together, alone)


class Flattening(torch.nn.Module):
    """Cannot answer an empty batch, as many modules cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(observations.reshape(observations.shape[0], -1))
        return out


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # Of torch's compiler, about itself.
def test_a_compiled_torch_policy_answers_as_one_that_is_not() -> None:
    def opened(**kwargs: Any) -> Any:
        torch.manual_seed(0)
        kwargs = {"entry_point": "tests.test_policies:Flattening", **kwargs}
        return open_policy(job(type="torch", kwargs=kwargs), context(batch_rows=3))

    compiled, plain = opened(compile=True), opened()
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    answers = compiled.act(observations, np.arange(5))
    assert answers == pytest.approx(plain.act(observations, np.arange(5)), abs=1e-6)
    assert np.array_equal(answers[3:4], compiled.act(observations[3:4], np.array([3])))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # It was compiled before it was asked.


def test_torch_policy_runs_torchscript(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(tmp_path / "policy.pt")  # type: ignore[no-untyped-call]
    policy = open_policy(job(type="torch", kwargs={"path": "policy.pt"}), context(folders=(str(tmp_path),)))
    observations = np.ones((1, 3), np.float32)
    with torch.inference_mode():
        expected = module(torch.as_tensor(observations)).numpy()
    assert policy.act(observations, np.array([0])) == pytest.approx(np.clip(expected, BOX.low, BOX.high))


def test_torch_weights_that_are_code_are_refused(tmp_path: Path) -> None:
    torch.save(Recorder(1, "cpu", None), tmp_path / "weights.pt")
    kwargs = {"entry_point": "tests.test_policies:Scores", "state_dict": "weights.pt"}
    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported"):
        open_policy(job(type="torch", kwargs=kwargs), context(DISCRETE, folders=(str(tmp_path),)))


@pytest.mark.parametrize(
    ("kwargs", "fragment"),
    [
        pytest.param({}, "either 'path'", id="neither"),
        pytest.param({"path": "no.pt"}, "no file 'no.pt'", id="missing"),
        pytest.param({"pth": "no.pt"}, "unexpected keyword argument 'pth'", id="unknown"),
    ],
)
def test_torch_policy_says_what_it_needs(kwargs: dict[str, Any], fragment: str) -> None:
    with pytest.raises(EntryPointError, match=fragment):
        open_policy(job(type="torch", kwargs=kwargs), context())
