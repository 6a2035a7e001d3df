"""The files of `cluster/`, as the tests read them."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"

#: Where programs of the Python environment are: shellcheck and hadolint come as wheels.
PROGRAMS = Path(sysconfig.get_path("scripts"))


def _versions() -> dict[str, str]:
    lines = (CLUSTER / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


VERSIONS = _versions()


def load(name: str) -> Any:
    """Return the one document of a YAML file in `cluster/`, with everything a plain value."""
    return yaml.safe_load((CLUSTER / name).read_text())


def written() -> list[Path]:
    """Return every file of `cluster/` that people wrote."""
    made = {CLUSTER / "requirements.lock"}
    return sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path not in made)


def without_comments(path: Path) -> str:
    """Return what of a file means something to a machine (`#` begins a comment in all of their languages)."""
    lines = [line.split(" #")[0] for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines)
