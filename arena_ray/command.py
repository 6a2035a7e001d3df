"""A command of the command line whose errors name the right flag."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import click

from arena_ray.errors import nearest

#: Spellings of IsaacLab-Arena before its PR #801.
RETIRED_FLAGS = {
    "--video": "--record_viewport_video",
    "--camera_video": "--record_camera_video",
    "--video_dir": "--video_base_dir",
}


class Command(click.Command):
    """A command whose errors name the right flag; flags have underscores."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Check the spelling of flags before click does."""
        flags = {option for parameter in self.params for option in parameter.opts if option.startswith("--")}
        for arg in args:
            if arg == "--":
                break
            self._check_spelling(arg.split("=", 1)[0], flags, ctx)
        self._check_values(args, ctx)
        return super().parse_args(ctx, args)

    def _check_values(self, args: list[str], ctx: click.Context) -> None:
        options = [option for option in self.params if isinstance(option, click.Option) and not option.is_flag]
        with_value = [option for option in options if not isinstance(option.flag_value, str)]
        names = {name for option in with_value for name in option.opts}
        for flag, value in itertools.pairwise(args):
            if flag in names and value.startswith("--"):
                raise click.UsageError(f"{flag} needs a value, but {value} follows", ctx)

    def _check_spelling(self, flag: str, flags: set[str], ctx: click.Context) -> None:
        if not flag.startswith("--") or flag in flags or flag == "--help":
            return
        underscored = "--" + flag[2:].replace("-", "_")
        right = RETIRED_FLAGS.get(underscored, underscored)
        if right in flags:
            raise click.UsageError(f"there is no flag {flag}; it is called {right}", ctx)
        raise click.UsageError(f"there is no flag {flag}; {nearest(flag, flags)}", ctx)


def path_first(path: str | None, words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Return the path, which may stand among the overrides, and the others."""
    if path is None or not is_override(path):
        return path, words
    paths = [word for word in words if not is_override(word)]
    return (paths[0] if paths else None), [path, *(word for word in words if word not in paths[:1])]


def is_override(word: str) -> bool:
    """Return whether a word is ``NAME:key=value`` rather than a path."""
    return "=" in word and ":" in word.split("=", 1)[0]
