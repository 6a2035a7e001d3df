"""``arena-ray submit``: sends a run to Ray's job server, follows it there, and returns its exit code."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arena_ray import __version__
from arena_ray.config import load_plan
from arena_ray.errors import ClusterError, ConfigError
from arena_ray.pools.ray_jobs import JobEnd, JobServer
from arena_ray.submission.code_package import CodePackage
from arena_ray.submission.log_splitter import LogSplitter

#: After Ctrl-C a second one within so long ends the run, seconds.
SECOND_S = 5.0

#: Exit codes of a run that was ended from outside, and of one that is followed no longer.
STOPPED, DETACHED = 143, 130


def submit(
    jobs: str,
    overrides: Sequence[str],
    flags: Mapping[str, Any],
    *,
    address: str,
    working_dir: str | None = None,
    excludes: Sequence[str] = (),
    python: str = "python3",
    detach: bool = False,
) -> int:
    """Send a run, and unless it is to be left alone, follow it to its end.

    Args:
        jobs: Path of the job file.
        overrides: ``NAME:key=value`` each.
        flags: Settings of the run that were given.
        address: ``http://HEAD:8265``.
        working_dir: The folder that travels; ``None``: that of the job file.
        excludes: Patterns of what stays here.
        python: The Python on the head.
        detach: Whether to return when it has been sent.

    Returns:
        The run's exit code; of one that is left alone 0.

    Raises:
        ConfigError: If anything of this is wrong; nothing was sent.
        ClusterError: If the cluster takes no jobs.
    """
    plan = load_plan(jobs, overrides, flags)
    if plan.settings.inline:
        raise ConfigError("inline: a run that is submitted is run on the cluster; leave it out")
    file = Path(jobs).absolute()
    folder = file.parent if working_dir is None else Path(working_dir).absolute()
    package = CodePackage.of(folder, excludes)
    name = os.path.relpath(file, folder)
    if name not in dict(package.files):
        raise ConfigError(
            f"the job file {jobs!r} is not among what is sent of {str(folder)!r}; give another --working_dir"
        )
    server = JobServer(address)
    words = ["run", name, *_flag_words(flags), "--address", "auto", *overrides]
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "code.zip")
        package.write_zip(archive)
        _say(f"sending {len(package.files)} files, {archive.stat().st_size / 1e6:.1f} MB, to {address}")
        entrypoint = _entrypoint(python, words, plan.settings.video_base_dir)
        submission_id = server.submit(entrypoint, archive, {"arena_ray": __version__, "job_file": name})
    _say(f"submitted as {submission_id}; {_how_to(submission_id, address)}")
    if detach:
        sys.stdout.write(f"{submission_id}\n")
        return 0
    return _follow(server, submission_id)


def _flag_words(flags: Mapping[str, Any]) -> list[str]:
    """Return settings as they are written on a command line."""
    words: list[str] = []
    for name, value in flags.items():
        if name in ("address", "video_base_dir"):
            continue
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words += [f"--{name}", ",".join(value) if isinstance(value, (list, tuple)) else str(value)]
    return words


def _entrypoint(python: str, words: Sequence[str], base: str) -> str:
    """Return the shell command for the head.

    Ray removes the folder that was sent when the job is over, so a relative base is the home folder's there.
    """
    shell_base = shlex.quote(base) if os.path.isabs(base) else f'"$HOME"/{shlex.quote(base)}'
    command = shlex.join([python, "-m", "arena_ray.submission.on_head", __version__, *words[:2]])
    return f"exec {command} --video_base_dir {shell_base} {shlex.join(words[2:])}"


def attach(submission_id: str, *, address: str) -> int:
    """Follow a run that was sent before, from the beginning of its log; return its exit code."""
    server = JobServer(address)
    server.state(submission_id)
    return _follow(server, submission_id)


def stop(submission_id: str, *, address: str) -> int:
    """End a run that was sent: it writes down what it has, and can be resumed."""
    end = JobServer(address).stop(submission_id)
    _say(f"{submission_id} is {end.status}; what was recorded stays, and arena-ray resume RUN_DIR finishes it")
    return 0 if end.is_over else 1


def _follow(server: JobServer, submission_id: str) -> int:
    splitter = LogSplitter(sys.stderr)
    try:
        end = server.follow(submission_id, splitter.write)
    except KeyboardInterrupt:
        return _interrupted(server, submission_id)
    splitter.close()
    if splitter.output is None:
        _raise_if_it_never_ran(end)
    sys.stdout.write(splitter.output or "")
    sys.stdout.flush()
    return _exit_code(end)


def _exit_code(end: JobEnd) -> int:
    if end.status == "STOPPED":
        return STOPPED
    if end.exit_code is None:
        _say(f"error: the run did not say how it ended: {end.message}")
        return 0 if end.status == "SUCCEEDED" else 1
    return end.exit_code if end.exit_code >= 0 else 128 - end.exit_code


def _raise_if_it_never_ran(end: JobEnd) -> None:
    """Raise if a job ended before there was a run.

    Raises:
        ClusterError: If the head lacks Python or the package, or could not set the job up.
    """
    missing = re.search("No module named '?arena_ray", end.message)
    if missing or end.exit_code == 127:
        raise ClusterError(
            "the head's Python has no arena_ray: install it there (and on every node), or name the Python that has it "
            "with --python PATH"
        )
    if end.status == "FAILED" and end.exit_code is None:
        raise ClusterError(f"the cluster could not start the run: {end.message}")


def _interrupted(server: JobServer, submission_id: str) -> int:
    """Leave the run alone, unless the user presses Ctrl-C again."""
    try:
        _say(f"\ndetached: the run goes on as {submission_id}; Ctrl-C again within {SECOND_S:g} s ends it")
        time.sleep(SECOND_S)
    except KeyboardInterrupt:
        stop(submission_id, address=server.address)
        return DETACHED
    _say(_how_to(submission_id, server.address))
    return DETACHED


def _how_to(submission_id: str, address: str) -> str:
    command = f"arena-ray submit --address {shlex.quote(address)}"
    return f"follow it with: {command} --attach {submission_id}; end it with: {command} --stop {submission_id}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
