"""The commands that show run directories as pages: ``arena-ray report | serve``."""

from __future__ import annotations

from pathlib import Path

import click

from arena_ray.command import Command
from arena_ray.errors import ArenaError


@click.command(cls=Command)
@click.argument("run_dir")
def report(run_dir: str) -> int:
    """Write report.html, a page with figures, plots and videos, into RUN_DIR; a run also writes it by itself."""
    from arena_ray.report.page import write_report

    try:
        click.echo(str(write_report(run_dir)))
    except OSError as error:
        raise ArenaError(f"cannot write the page of {run_dir!r}: {error}") from error
    return 0


@click.command(cls=Command)
@click.argument("directory")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: 8264, or the next free one. 0: any free one.")
def serve(directory: str, port: int | None) -> int:
    """Show the run in DIRECTORY, or all runs in it, as a live page on 127.0.0.1; Ctrl-C ends it."""
    from arena_ray.report.server import serve as serve_pages

    serve_pages(Path(directory).absolute(), port, click.echo)
    return 0
