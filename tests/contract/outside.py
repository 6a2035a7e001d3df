"""The command and its files, seen from outside."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from signal import Signals
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).parent / "arena-ray")
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
ENVIRONMENT = {**CLEAN, "RAY_AUTH_MODE": "disabled", "COLUMNS": "120"}


@dataclass(frozen=True)
class Invocation:
    """What one call of the command came to."""

    code: int
    stdout: str
    stderr: str
    wall_s: float

    @property
    def run_dir(self) -> Path:
        """The last line of standard output."""
        return Path(self.stdout.splitlines()[-1])

    @property
    def said(self) -> str:
        """Both streams, spaces and line ends folded."""
        return " ".join((self.stdout + " " + self.stderr).split())


def invoke(argv: list[str], cwd: Path, timeout_s: float = 60, **environment: str) -> Invocation:
    began = time.monotonic()
    done = subprocess.run(
        argv, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return Invocation(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def arena_ray(*arguments: str | Path, cwd: Path = REPOSITORY, timeout_s: float = 60) -> Invocation:
    return invoke([COMMAND, *map(str, arguments)], cwd, timeout_s)


def arena_ray_here(*arguments: str | Path, cwd: Path) -> Invocation:
    """The installed command's own entry point, called in this process; quick, for what needs no fresh one."""
    (command,) = entry_points(group="console_scripts", name="arena-ray")
    main = command.load()
    argv, folder, began = sys.argv, Path.cwd(), time.monotonic()
    sys.argv = [COMMAND, *map(str, arguments)]
    os.chdir(cwd)
    try:
        with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
            try:
                code = main()
            except SystemExit as exit_:
                code = exit_.code
    finally:
        sys.argv = argv
        os.chdir(folder)
    return Invocation(int(code or 0), stdout.getvalue(), stderr.getvalue(), time.monotonic() - began)


class Started:
    """A call of the command that has not ended yet."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self._folder = folder
        self._began = time.monotonic()

    def signal(self, number: Signals) -> None:
        self._began = time.monotonic()
        self.process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """As a terminal does on Ctrl-C."""
        self._began = time.monotonic()
        os.killpg(self.process.pid, number)

    def ended(self, timeout_s: float = 30) -> Invocation:
        """Wait; `wall_s` counts from the last signal."""
        code = self.process.wait(timeout_s)
        wall_s = time.monotonic() - self._began
        stdout, stderr = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        return Invocation(code, stdout, stderr, wall_s)


@contextmanager
def started(*arguments: str | Path, folder: Path, cwd: Path = REPOSITORY) -> Iterator[Started]:
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=ENVIRONMENT,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        yield Started(process, folder)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], Any], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def write_jobs(path: Path, *jobs: dict[str, Any], **top: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"jobs": list(jobs), **top}
    path.write_text(json.dumps(document) if path.suffix == ".json" else yaml.safe_dump(document))
    return path


def corridor(name: str = "corridor", kwargs: dict[str, Any] | None = None, **job: Any) -> dict[str, Any]:
    """A job on `stage.Corridor`, with 3 episodes of the zero policy unless told otherwise."""
    return {
        "name": name,
        "env": {"entry_point": "tests.contract.stage:Corridor", "kwargs": kwargs or {}},
        "policy": {"type": "zero"},
        **({} if "num_steps" in job else {"num_episodes": 3}),
        **job,
    }


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not strict JSON")


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def read_json(path: Path) -> Any:
    return strict_json(path.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    assert text == "" or text.endswith("\n")
    return [strict_json(line) for line in text.splitlines()]


def records(run_dir: Path, job: str | None = None) -> list[dict[str, Any]]:
    """The episode records of a job, by episode."""
    rows = [row for row in read_lines(run_dir / "episodes.jsonl") if job in (None, row["job"])]
    return sorted(rows, key=lambda row: (str(row["job"]), int(row["episode"])))


def events(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    return [row for row in read_lines(run_dir / "events.jsonl") if kind in (None, row["kind"])]


def summary(run_dir: Path) -> dict[str, Any]:
    value: dict[str, Any] = read_json(run_dir / "summary.json")
    return value


def statuses(run_dir: Path, job: str) -> list[tuple[int, str]]:
    return [(row["episode"], row["status"]) for row in records(run_dir, job)]


def tape(path: Path, what: str | None = None) -> list[dict[str, Any]]:
    """What the actors of `stage` wrote down, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if what in (None, row["what"])]
