"""Programs on PATH in the place of Slurm's and Ray's, which write down what they were called with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_RECORDER = """#!{python}
import json, os, sys
record = {{"program": {name!r}, "words": sys.argv[1:], "environment": dict(os.environ)}}
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(record) + "\\n")
"""


class Programs:
    """A folder of programs, and the calls of those of them that record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir(parents=True)
        self._calls = folder / "calls.jsonl"

    def add(self, name: str, body: str = "") -> None:
        """Add a program that records its call and then runs `body`, Python that knows `record`."""
        path = self.folder / name
        head = _RECORDER.format(python=sys.executable, name=name, calls=str(self._calls))
        path.write_text(head + body)
        path.chmod(0o755)

    def words(self, name: str) -> list[list[str]]:
        """Return the words of each call of a program, in the order of the calls."""
        return [call["words"] for call in self.calls(name)]

    def calls(self, name: str) -> list[dict[str, Any]]:
        """Return each call of a program: `words`, and `environment`."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call for call in map(json.loads, lines) if call["program"] == name]

    def environment(self, **more: str) -> dict[str, str]:
        """Return an environment in which these programs come first."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "PYTHONPATH") if name in os.environ}
        return {**kept, "PATH": f"{self.folder}:/usr/local/bin:/usr/bin:/bin", **more}
