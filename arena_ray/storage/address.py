"""From a URI to a storage, and to a local copy of what a run left there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from arena_ray.errors import ConfigError, RunDirError
from arena_ray.storage.base import Storage

#: What a run's documents are called, ``run.json`` first.
DOCUMENTS = ("run.json", "summary.json", "episodes.jsonl", "events.jsonl", "replays.jsonl")


def open_storage(uri: str) -> Storage:
    """Open a folder in a storage; it need not exist.

    Args:
        uri: ``s3://BUCKET/...``, ``gs://BUCKET/...``, ``sftp://[USER@]HOST[:PORT]/...`` or ``file:///...``; see
            `specs.check_storage`. Credentials come from where the library looks for them: environment, files, agent.

    Raises:
        ConfigError: If the library that it takes is missing.
        Exception: Whatever the library raises, if it connects and cannot.
    """
    scheme = urlsplit(uri).scheme
    try:
        if scheme in ("s3", "gs"):
            from arena_ray.storage.object_store import ObjectStore

            return ObjectStore(uri)
        from arena_ray.storage.remote_folder import RemoteFolder

        return RemoteFolder(uri)
    except ImportError as error:
        raise ConfigError(
            f'storage {uri!r} needs a library that is not installed ({error}); run: pip install "arena-ray[storage]", '
            "on the workers' machines too"
        ) from error


def is_uri(place: str | os.PathLike[str]) -> bool:
    """Return whether this is the URI of a storage and not a local path."""
    return isinstance(place, str) and "://" in place


def local_copy(place: str | os.PathLike[str]) -> Path:
    """Return a local run directory: the one that is named, or a copy of the documents of one in a storage.

    The copy lies in the user's cache (``$XDG_CACHE_HOME``, else ``~/.cache``), and its documents are fetched anew
    each time: the run may go on. Videos are fetched when somebody asks for them.

    Raises:
        RunDirError: If there is no run at the URI, or it cannot be reached.
    """
    if not is_uri(place):
        return Path(place)
    uri = str(place).rstrip("/")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arena-ray"
    folder = cache / hashlib.sha256(uri.encode()).hexdigest()[:16] / uri.rpartition("/")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(uri)
        for name in DOCUMENTS:
            _fetch_document(storage, name, folder / name)
    except FileNotFoundError as error:
        raise RunDirError(
            f"{uri!r} is not a run directory: it has no run.json; give STORAGE/RUN as a run printed it"
        ) from error
    except ConfigError:
        raise
    except Exception as error:
        raise RunDirError(f"cannot read {uri!r}: {type(error).__name__}: {error}") from error
    return folder


def fetch_missing(run_dir: Path, uri: str | None, paths: Iterable[str]) -> list[Path]:
    """Return local paths of a run's files; those that are not there are fetched into the run directory.

    Args:
        run_dir: The run directory, or the local copy of one.
        uri: The run's folder in a storage; ``None``: everything is where it belongs.
        paths: Relative to the run directory, with ``/``.

    Raises:
        RunDirError: If a file cannot be fetched.
    """
    targets, storage = {path: run_dir / path for path in paths}, None
    for path, target in targets.items():
        if uri is None or target.exists():
            continue
        if not target.resolve().is_relative_to(run_dir.resolve()):
            raise RunDirError(f"{path!r} leads out of the run directory {run_dir}")
        try:
            storage = storage or open_storage(uri)
            fetch(storage, path, target)
        except ConfigError:
            raise
        except Exception as error:
            raise RunDirError(f"cannot fetch {uri}/{path}: {type(error).__name__}: {error}") from error
    return [*targets.values()]


def _fetch_document(storage: Storage, name: str, target: Path) -> None:
    try:
        fetch(storage, name, target)
    except FileNotFoundError:
        if name == DOCUMENTS[0]:
            raise
        target.unlink(missing_ok=True)


def fetch(storage: Storage, path: str, target: Path) -> None:
    """Write what is stored under a path into a local file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        storage.get(path, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
