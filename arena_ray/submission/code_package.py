"""The folder that travels with a run: job file, policies, code. Chosen file by file, counted, and zipped.

Ray would leave out what ``.gitignore`` names, which trained weights often are, and say so to nobody; here only the
patterns decide.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from arena_ray.errors import ConfigError

#: What is no code and no policy: versions, environments, caches, what runs leave behind, what is secret.
DEFAULT_EXCLUDES = (
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    "*.pyc",
    ".*_cache",
    ".tox",
    ".idea",
    ".vscode",
    ".DS_Store",
    ".env",
    ".ray",
    ".ssh",
    "*.egg-info",
    "outputs",
    "wandb",
    "mlruns",
    "*.mp4",
)

#: What Ray takes at most (its `RAY_max_grpc_message_size`, 2.60), bytes.
MAX_BYTES = 512 * 1024 * 1024

_LIMIT_VARIABLE = "RAY_max_grpc_message_size"

#: How many of the largest files an error names.
NAMED = 5

#: All files are from then, so that one content is one package, which Ray keeps.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class CodePackage:
    """The files of a folder that travel.

    Attributes:
        folder: The folder.
        files: Paths relative to it, in order, with their sizes in bytes.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, folder: Path, excludes: Sequence[str] = ()) -> CodePackage:
        """Choose the files of a folder.

        Args:
            folder: The folder; virtual environments in it are left out, whatever their names.
            excludes: Patterns besides `DEFAULT_EXCLUDES`, of a file's or folder's name, or of its path in the folder.

        Raises:
            ConfigError: If the folder cannot be read.
        """
        if not folder.is_dir():
            raise ConfigError(f"--working_dir {str(folder)!r} is no folder")
        patterns = (*DEFAULT_EXCLUDES, *(pattern.rstrip("/") for pattern in excludes))
        try:
            return cls(folder, tuple(sorted(_chosen(folder, patterns))))
        except OSError as error:
            raise ConfigError(
                f"--working_dir {str(folder)!r} cannot be read: {error}; leave it out with --exclude"
            ) from error

    def write_zip(self, target: Path, max_bytes: int | None = None) -> None:
        """Write the files to a zip file, the same for the same content.

        Args:
            target: The zip file.
            max_bytes: How large it may become; ``None``: `MAX_BYTES`, or what `RAY_max_grpc_message_size` says.

        Raises:
            ConfigError: If it becomes larger; the text names the largest files.
        """
        limit = max_bytes or int(os.environ.get(_LIMIT_VARIABLE, MAX_BYTES))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, _ in self.files:
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = ((self.folder / name).stat().st_mode & 0xFFFF) << 16
                with (self.folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                    while piece := source.read(1 << 20):
                        sink.write(piece)
                        if target.stat().st_size > limit:
                            raise ConfigError(self._too_large(limit))
        if target.stat().st_size > limit:
            raise ConfigError(self._too_large(limit))

    def _too_large(self, limit: int) -> str:
        total = sum(size for _, size in self.files)
        largest = sorted(self.files, key=lambda file: -file[1])[:NAMED]
        lines = [
            f"--working_dir {str(self.folder)!r}: {len(self.files)} files, {_size(total)}, zipped over the "
            f"{_size(limit)} that Ray takes; the largest:",
            *(f"  {_size(size):>10}  {name}" for name, size in largest),
            "leave some out with --exclude PATTERN, or put them where all nodes have them, and name that path",
        ]
        return "\n".join(lines)


def _chosen(folder: Path, patterns: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the files below a folder that no pattern names; links to folders are followed, each folder once."""
    seen: set[str] = set()
    for path, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(path)
        below = os.path.relpath(path, folder)
        inside = "" if below == "." else f"{below}/"
        if real in seen or (inside and "pyvenv.cfg" in names):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_excluded(name, inside + name, patterns)]
        for name in names:
            file = os.path.join(path, name)
            if not _is_excluded(name, inside + name, patterns) and os.path.isfile(file):
                yield inside + name, os.path.getsize(file)


def _raise(error: OSError) -> None:
    raise error


def _is_excluded(name: str, path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
