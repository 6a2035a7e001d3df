"""Where a run comes from: command, source code, versions, hardware."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

#: Packages whose versions results may depend on.
_PACKAGES = (
    "arena-ray",
    "ray",
    "torch",
    "gymnasium",
    "numpy",
    "av",
    "mujoco",
    "gymnasium-robotics",
    "stable-baselines3",
)

#: How the names of environment variables begin that a run may depend on.
_VARIABLES = re.compile("ARENA_|CUDA_|EGL_|GYM|HF_|JAX_|MKL_|MUJOCO_|NVIDIA_|OMP_|PYTHON|RAY_|TORCH|XLA_")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a run comes from; stands in ``run.json``.

    Attributes:
        argv: The command.
        git: Commit and cleanness of the work tree it was started in, if it was one.
        versions: Of Python and packages.
        hardware: What it runs on.
        environment: Names of environment variables that it may depend on.
    """

    argv: tuple[str, ...]
    git: Mapping[str, Any] | None
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    environment: tuple[str, ...] = ()

    @classmethod
    def of_this_process(cls, argv: Sequence[str] | None, hardware: Mapping[str, Any]) -> Provenance:
        """Return where a run comes from that this process drives.

        Args:
            argv: The command; by default this process's.
            hardware: What it runs on.
        """
        command = tuple(sys.argv if argv is None else argv)
        return cls(
            argv=command,
            git=git_state(Path.cwd()),
            versions=versions(),
            hardware=hardware,
            environment=environment_names(),
        )

    @classmethod
    def from_run(cls, run: Mapping[str, Any]) -> Provenance:
        """Return what the content of a ``run.json`` says.

        Raises:
            KeyError: If it says nothing of that.
        """
        return cls(
            argv=tuple(run["argv"]),
            git=run.get("git"),
            versions=run["versions"],
            hardware=run["hardware"],
            environment=tuple(run.get("environment", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in ``run.json``."""
        return {**dataclasses.asdict(self), "argv": [*self.argv], "environment": [*self.environment]}


def environment_names() -> tuple[str, ...]:
    """Return which environment variables are set that a run may depend on: their names, for values may be secret."""
    return tuple(sorted(name for name in os.environ if _VARIABLES.match(name)))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanness of the git work tree that `folder` lies in, or ``None``."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Return the installed versions that results may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
