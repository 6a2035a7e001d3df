"""The proof that a node reaches what the driver writes: it reads a random word there, and writes one that is seen."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from arena_ray.dispatch import WorkerSetup
from arena_ray.errors import ArenaError
from arena_ray.json_files import sync_folder
from arena_ray.storage.address import open_storage

#: How long what others wrote may take to be seen, seconds: NFS looks at a folder that it knows anew after up to 60,
#: but a name that it has never looked up is looked up at once.
SEEN_S = 5.0

#: How often to look.
LOOK_S = 0.1

_FOLDER = ".shared"
_NONCE = "nonce"


class FolderProof:
    """The driver's side: a nonce in the run directory, and the probes of nodes.

    Args:
        run_dir: The run directory, or what workers take for it.

    Attributes:
        nonce: A word that is nowhere else.

    Raises:
        OSError: If nothing can be written there.
    """

    def __init__(self, run_dir: Path) -> None:
        self.nonce = secrets.token_hex(16)
        self._folder = run_dir / f"{_FOLDER}-{self.nonce[:8]}"
        self._folder.mkdir()
        _write(self._folder / _NONCE, self.nonce)

    def sees(self, node_id: str, timeout_s: float = SEEN_S) -> bool:
        """Return whether the probe of a node is there, and its own."""
        return _appears(self._folder / node_id, f"{self.nonce} {node_id}", timeout_s)

    def close(self) -> None:
        """Remove nonce and probes."""
        shutil.rmtree(self._folder, ignore_errors=True)


def prove(setup: WorkerSetup, nonce: str, node_id: str, timeout_s: float = SEEN_S) -> str | None:
    """Read the driver's nonce on this node, and write a probe; return why that cannot be done, if so.

    Args:
        setup: What workers are told.
        nonce: What `FolderProof` wrote; of a storage, any word.
        node_id: Names the probe.
        timeout_s: How long a file may take to be seen.
    """
    if setup.storage is not None:
        return prove_storage(setup.storage)
    folder = Path(setup.run_dir) / f"{_FOLDER}-{nonce[:8]}"
    if not _appears(folder / _NONCE, nonce, timeout_s):
        there = (
            "there is a directory of that name, but another one" if Path(setup.run_dir).is_dir() else "there is none"
        )
        return f"does not see what the driver wrote there ({there})"
    try:
        _write(folder / node_id, f"{nonce} {node_id}")
    except OSError as error:
        return f"cannot write there: {error}"
    return None


def prove_storage(uri: str) -> str | None:
    """Store a random word, read it back and remove it; return why that cannot be done, if so.

    Raises:
        ConfigError: If a library is missing.
    """
    word, path = secrets.token_hex(16), f".arena-ray-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory() as folder:
        source, back = Path(folder) / "source", Path(folder) / "back"
        source.write_text(word)
        try:
            storage = open_storage(uri)
            storage.put(source, path)
            storage.get(path, back)
            storage.remove(path)
        except ArenaError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None if back.read_text() == word else "what was stored there is not what comes back"


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _appears(path: Path, text: str, timeout_s: float) -> bool:
    """Return whether a file has this content in time; opening it makes NFS ask the server."""
    give_up = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            os.listdir(path.parent)
            if path.read_text(encoding="utf-8") == text:
                return True
        if time.monotonic() >= give_up:
            return False
        time.sleep(LOOK_S)
