"""The real server in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(target: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``arena-ray serve``; yields the address that it prints, and the process."""
    command = [sys.executable, "-m", "arena_ray.cli", "serve", str(target), *(words or ("--port", "0"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            yield address, process
        finally:
            process.kill()
