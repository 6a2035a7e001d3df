"""A torch module as a policy: a TorchScript file, or a factory with a state dict."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector.utils import create_empty_array

from arena_ray import entry_points
from arena_ray.errors import EntryPointError
from arena_ray.policies.base import PolicyContext

logger = logging.getLogger(__name__)


class TorchPolicy:
    """Runs a torch module on observations.

    For a `Discrete` action space whose module answers with one score per action, the action is the highest score's.
    On a CPU rows are answered one at a time: a matrix product over several rows may round a row differently, and then
    an episode would depend on how many slots run beside it. On a GPU batches are filled up to one shape instead.

    Args:
        module: Takes ``float32[k, ...]`` observations (a dict of such for dict observations), gives ``[k, ...]``.
        context: Spaces, device, and rows of a batch.

    Attributes:
        pad_batches: Whether batches are to be filled up.
    """

    def __init__(self, module: Any, context: PolicyContext) -> None:
        self._module = module
        self._observation_space, self._action_space = context.observation_space, context.action_space
        self._device = context.device
        self._one_by_one = context.device == "cpu"
        self.pad_batches = not self._one_by_one

    def warm_up(self, rows: int) -> None:
        """Answer a batch of zeros, so that what is compiled or loaded at the first call is so now."""
        rows = 1 if self._one_by_one else rows
        self.act(create_empty_array(self._observation_space, n=rows, fn=np.zeros), np.arange(rows))

    def act(self, observations: Any, slots: npt.NDArray[np.int64]) -> Any:
        """Return one action per row."""
        import torch

        with torch.inference_mode():
            if self._one_by_one and len(slots) > 1:
                answers = torch.cat([self._answer(_one_row(observations, at)) for at in range(len(slots))])
            else:
                answers = self._answer(observations)
        return self._actions(answers.cpu().numpy())

    def _answer(self, observations: Any) -> Any:
        return self._module(_tensors(observations, self._device))

    def _actions(self, answers: npt.NDArray[Any]) -> Any:
        space = self._action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            if answers.ndim == 2 and answers.shape[1] == space.n:
                return answers.argmax(axis=1) + space.start
            return answers.reshape(len(answers))
        if isinstance(space, gymnasium.spaces.Box):
            return np.clip(answers.reshape(len(answers), *space.shape), space.low, space.high)
        return answers


def open_torch(
    context: PolicyContext,
    path: str | None = None,
    entry_point: str | None = None,
    state_dict: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    compile: bool = False,
) -> TorchPolicy:
    """Build the policy of type ``torch``.

    Args:
        context: Spaces and device.
        path: A TorchScript file.
        entry_point: A factory of a module; it gets `kwargs`, and the two spaces if its signature names them.
        state_dict: The module's weights, loaded with ``weights_only=True``.
        kwargs: Of the factory.
        compile: Whether to compile the module (`torch.compile`) for the one shape that its batches have; on a GPU into
            a CUDA graph, so that an answer costs one launch.

    Raises:
        EntryPointError: If neither or both of `path` and `entry_point` are given, a file cannot be found, or the
            module cannot be compiled.
    """
    import torch

    if (path is None) == (entry_point is None):
        raise EntryPointError(
            "policy type 'torch' takes either 'path' (a TorchScript file) or 'entry_point' (a factory of a module) "
            "with 'state_dict'"
        )
    if path is not None:
        with warnings.catch_warnings():
            # torch 2.13 deprecates TorchScript; its files are part of our interface and still load.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(context.find(path)), map_location=context.device)  # type: ignore[no-untyped-call]
    else:
        offered = {"observation_space": context.observation_space, "action_space": context.action_space}
        module = entry_points.call_factory(str(entry_point), kwargs or {}, offered)
        if state_dict is not None:
            weights = torch.load(context.find(state_dict), map_location=context.device, weights_only=True)
            module.load_state_dict(weights)
        module = module.to(context.device)
    module.eval()
    if not compile:
        policy = TorchPolicy(module, context)
        if context.device != "cpu":
            _warm_up_if_it_can(policy, context.batch_rows)
        return policy
    mode = None if context.device == "cpu" else "reduce-overhead"
    policy = TorchPolicy(torch.compile(module, dynamic=False, mode=mode), context)
    try:
        policy.warm_up(context.batch_rows)
    except Exception as error:
        raise EntryPointError(
            f"policy type 'torch': the module cannot be compiled ({type(error).__name__}: {error}); install a C++ "
            "compiler (apt-get install g++) if that is what it lacks, or leave out 'compile'"
        ) from error
    return policy


def _warm_up_if_it_can(policy: TorchPolicy, rows: int) -> None:
    """Let the GPU's libraries start and choose their kernels now, which takes a second, and not in the first episode.

    A module may refuse a batch of zeros; then its first real batch takes longer, and says what is wrong, if anything.
    """
    try:
        policy.warm_up(rows)
    except Exception as error:
        logger.debug("the policy was not warmed up: %s: %s", type(error).__name__, error)


def _one_row(batch: Any, index: int) -> Any:
    if isinstance(batch, dict):
        return {key: _one_row(part, index) for key, part in batch.items()}
    return batch[index : index + 1]


def _tensors(batch: Any, device: str) -> Any:
    import torch

    if isinstance(batch, dict):
        return {key: _tensors(part, device) for key, part in batch.items()}
    tensor = torch.as_tensor(batch)
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
