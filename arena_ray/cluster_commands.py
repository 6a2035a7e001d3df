"""The commands for runs on a cluster: ``arena-ray submit | status``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from arena_ray.command import Command, path_first


@click.argument("jobs", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--address", metavar="URL", help="Of the cluster's dashboard: http://HEAD:8265. [RAY_API_SERVER_ADDRESS]")
@click.option("--working_dir", metavar="DIR", help="The folder that is sent. Default: that of the job file.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Files and folders that stay here; may be repeated.")
@click.option("--python", default="python3", show_default=True, help="The Python on the head that has this package.")
@click.option("--detach", is_flag=True, help="Send the run, print its id, and leave it alone.")
@click.option("--attach", metavar="ID", help="Follow a run that was sent before.")
@click.option("--stop", metavar="ID", help="End a run that was sent before; it can be resumed.")
def submit(
    jobs: str | None,
    overrides: Sequence[str],
    address: str | None,
    working_dir: str | None,
    exclude: Sequence[str],
    python: str,
    detach: bool,
    attach: str | None,
    stop: str | None,
    **flags: Any,
) -> int:
    """Run all jobs of the file JOBS on a cluster, through Ray's job server; follow the log; return its exit code.

    Ctrl-C leaves the run alone, which goes on; pressed twice it ends it.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    jobs, overrides = path_first(jobs, overrides)
    given = {
        name: value for name, value in (("JOBS", jobs), ("--attach", attach), ("--stop", stop)) if value is not None
    }
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise click.UsageError(f"give one of JOBS, --attach ID and --stop ID; found {found}")
    if address is None:
        raise click.UsageError("no cluster; give --address http://HEAD:8265, that of its dashboard")
    from arena_ray.submission import submitting

    if attach is not None:
        return submitting.attach(attach, address=address)
    if stop is not None:
        return submitting.stop(stop, address=address)
    assert jobs is not None
    settings = {name: value for name, value in flags.items() if value is not None}
    return submitting.submit(
        jobs,
        overrides,
        settings,
        address=address,
        working_dir=working_dir,
        excludes=exclude,
        python=python,
        detach=detach,
    )


@click.command(cls=Command)
@click.argument("run_dir")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(run_dir: str, as_json: bool) -> int:
    """Say what runs where in the run in RUN_DIR, from its files alone, while it goes on or afterwards."""
    from arena_ray.run_status import RunStatus

    found = RunStatus.read(run_dir)
    if as_json:
        from arena_ray.json_files import strict_json

        click.echo(strict_json(found.to_json(), indent=2))
    else:
        click.echo(str(found))
    return 0
