"""The image: by hadolint, and by what nodes need in it."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster.files import CLUSTER, PROGRAMS, REPOSITORY, VERSIONS

DOCKERFILE = CLUSTER / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def instructions(word: str) -> list[str]:
    """Return what follows each instruction of a kind, its lines joined."""
    code = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    joined = code.replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in joined.splitlines() if line.startswith(f"{word} ")]


def locked() -> dict[str, str]:
    lines = (CLUSTER / "requirements.lock").read_text().splitlines()
    found = (re.match(r"([a-z0-9._-]+)(?:\[.*\])?==(\S+)", line) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


#: Where the image runs; what the lock was made for.
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}


#: Optional parts of this package; the image has all but what its tests need.
EXTRAS = set(importlib.metadata.metadata("arena-ray").get_all("Provides-Extra") or []) - {"dev"}


def requirements(name: str, extras: set[str]) -> Iterator[Requirement]:
    """Yield what an installed distribution needs in the image."""
    python = {"python_version": VERSIONS["PYTHON_VERSION"], "python_full_version": f"{VERSIONS['PYTHON_VERSION']}.14"}
    for text in importlib.metadata.requires(name) or []:
        needed = Requirement(text)
        marker = needed.marker
        if marker is None or any(marker.evaluate({**LINUX, **python, "extra": extra}) for extra in {"", *extras}):
            yield needed


def test_hadolint_finds_nothing() -> None:
    words = [str(PROGRAMS / "hadolint"), "--no-color", str(DOCKERFILE)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_a_mistake() -> None:
    text = TEXT.replace(VERSIONS["BASE_IMAGE"], "python:latest")
    done = subprocess.run([str(PROGRAMS / "hadolint"), "-"], input=text, capture_output=True, text=True, timeout=60)
    assert "DL3007" in done.stdout


def test_versions_are_the_ones_of_the_table() -> None:
    assert instructions("FROM") == [VERSIONS["BASE_IMAGE"]]
    assert VERSIONS["BASE_IMAGE"].startswith(f"python:{VERSIONS['PYTHON_VERSION']}.")
    assert f"TORCH=torch=={VERSIONS['TORCH_VERSION']}" in instructions("ARG")


@pytest.mark.parametrize(
    "package",
    [
        "tini",  # reaps
        "libegl1", "libgl1", "libopengl0", "libvulkan1",  # loaders of NVIDIA's driver
        "libosmesa6", "libgl1-mesa-dri",  # rendering without a GPU
        "openssh-client", "rsync",  # the autoscaler's, on the head
        "wget",  # probes of KubeRay before 1.6
    ],
)  # fmt: skip
def test_nodes_find_what_they_need(package: str) -> None:
    (install,) = (line for line in instructions("RUN") if line.startswith("apt-get"))
    assert package in install.split()


@pytest.mark.parametrize(
    ("name", "library"), [("10_nvidia.json", "libEGL_nvidia.so.0"), ("nvidia_icd.json", "libGLX_nvidia.so.0")]
)
def test_loaders_are_led_to_the_driver(name: str, library: str) -> None:
    assert json.loads((CLUSTER / "docker" / name).read_text())["ICD"]["library_path"] == library
    assert f"cluster/docker/{name}" in TEXT


def test_tini_reaps_and_the_user_has_a_number() -> None:
    assert instructions("ENTRYPOINT") == ['["/usr/bin/tini", "-g", "--"]']
    assert instructions("USER") == ["1000"]
    assert any("useradd --create-home --uid 1000" in line and line.endswith("/shared") for line in instructions("RUN"))
    assert VERSIONS["TOKEN_FILE"] == "/home/ray/.ray/auth_token"


def test_the_environment_asks_for_tokens_and_for_graphics() -> None:
    words = dict(word.split("=", 1) for line in instructions("ENV") for word in line.split())
    assert words["RAY_AUTH_MODE"] == "token"
    assert "graphics" in words["NVIDIA_DRIVER_CAPABILITIES"].split(",")
    assert words["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == VERSIONS["DRAIN_S"]


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    lines = (CLUSTER / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]
    for copy in instructions("COPY"):
        for source in [word for word in copy.split() if not word.startswith("--")][:-1]:
            assert (REPOSITORY / source).exists()
            assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


def test_every_locked_package_has_hashes() -> None:
    text = (CLUSTER / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert all("--hash=sha256:" in block for block in blocks[1:])
    assert len(blocks) > 50
    assert "--require-hashes --no-deps -r /opt/arena-ray/requirements.lock" in TEXT


def test_torch_and_its_cuda_are_the_images_choice() -> None:
    cuda = [name for name in locked() if name.startswith(("torch", "triton", "nvidia-", "cuda-"))]
    assert cuda == ["nvidia-ml-py"]


def test_the_lock_has_the_versions_that_ray_must_share() -> None:
    assert locked()["ray"] == VERSIONS["RAY_VERSION"]


def test_the_lock_satisfies_this_package_and_all_that_it_needs() -> None:
    versions = locked()
    waiting = [("arena-ray", EXTRAS)]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        for needed in requirements(name, extras):
            key = canonicalize_name(needed.name)
            if key.startswith(("torch", "triton", "nvidia-", "cuda-", "arena-ray")):
                continue
            assert key in versions, f"{name} needs {needed}: run cluster/lock.sh"
            assert needed.specifier.contains(versions[key], prereleases=True), f"{name} needs {needed}: {versions[key]}"
            # Another version may need other things; the one in the image is known here only if it is installed.
            if key not in seen and _installed_version(key) == versions[key]:
                waiting.append((key, set(needed.extras)))
            seen.add(key)
    assert {"ray", "gymnasium", "mujoco", "stable-baselines3"} <= seen


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
