"""Every exception that arena_ray raises on purpose.

    ArenaError
      ConfigError              the job file, an override or a flag is wrong; nothing started
      EntryPointError          an entry point cannot be imported or does not build what it should
      RunDirError              a run directory cannot be created, opened or read
      StorageError             the disk takes no more records: the run ends, and can be resumed
      ExtensionError           no further episodes can decide a comparison of two runs; nothing started
      NotEnoughResourcesError  no node of the cluster can ever run a worker of some job
      NotSharedError           nodes do not reach what the run writes to; nothing started
      ClusterError             the cluster cannot run this: other versions, a missing package; nothing started
      PolicyError              a policy answered with something that is not a batch of actions

An episode that fails is not an exception: it is an `EpisodeRecord` with status ``error``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArenaError(Exception):
    """Base of every error that arena_ray raises on purpose."""


class ConfigError(ArenaError, ValueError):
    """The input is wrong; raised before anything starts (exit code 2)."""


class EntryPointError(ArenaError):
    """An entry point cannot be imported, or what it builds is not what was asked for."""


class RunDirError(ArenaError):
    """A run directory cannot be created, opened or read."""


class StorageError(ArenaError):
    """The disk takes no more records; the run ends with what it has."""


class ExtensionError(ArenaError):
    """No further episodes can decide a comparison of two runs; raised before anything starts."""


class NotEnoughResourcesError(ArenaError):
    """No node can ever run a worker of some job (exit code 3); the text is a table of demand against supply."""


class NotSharedError(ArenaError):
    """Nodes that would run workers do not reach the run directory, or the storage (exit code 3); nothing started."""


class ClusterError(ArenaError):
    """The cluster cannot run what was asked for: other versions, a missing package (exit code 3); nothing started."""


class PolicyError(ArenaError):
    """A policy answered with something that is not a batch of actions."""


def nearest(found: str, choices: Iterable[str]) -> str:
    """Return a hint for a misspelt word: the nearest valid choice, then all of them.

    Args:
        found: The word that is not among the choices.
        choices: The valid words.
    """
    valid = sorted(choices)
    close = difflib.get_close_matches(found, valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(valid)}"
