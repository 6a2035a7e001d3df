"""Which files of a run directory may be read from outside: its own, of known kinds, wherever links and dots lead."""

from __future__ import annotations

from pathlib import Path

#: By suffix: the kinds of files that a run leaves, and as what they are served. Nothing is served as HTML.
CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".jsonl": "text/plain",
    ".log": "text/plain",
    ".csv": "text/csv",
}


def find_file(root: Path, name: str) -> Path | None:
    """Return the real path of a file in a folder; ``None`` if there is none that may be read.

    Hidden files, files of other kinds, and everything whose real path is outside of the folder may not.

    Args:
        root: The folder.
        name: A path relative to it with ``/``, decoded once, as it came from outside.
    """
    parts = name.split("/")
    if "\0" in name or any(not part or part.startswith(".") for part in parts):
        return None
    try:
        inside, path = root.resolve(strict=True), root.joinpath(*parts).resolve(strict=True)
        fits = path.is_relative_to(inside) and path.suffix in CONTENT_TYPES and path.is_file()
        hidden = any(part.startswith(".") for part in path.relative_to(inside).parts) if fits else True
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links that lead to each other
        return None
    return None if hidden else path


def find_run(base: Path, name: str) -> Path | None:
    """Return a run directory in a folder; ``None`` if there is none, or if it is a link that leads out."""
    path = base / name
    if "\0" in name or "/" in name or name.startswith(".") or not (path / "run.json").is_file():
        return None
    return path if path.resolve().is_relative_to(base.resolve()) else None


def find_runs(base: Path) -> list[Path]:
    """Return the run directories in a folder, the newest name first; of several links to one, one."""
    runs = (find_run(base, path.name) for path in sorted(base.iterdir()))
    found = {path.resolve(): path for path in runs if path is not None}
    return sorted(found.values(), key=lambda path: path.name, reverse=True)
