"""The commands that read run directories and count: ``arena-ray compare | plan | export``.

``compare --extend`` also runs what is lacking.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from arena_ray.command import Command
from arena_ray.errors import ArenaError, ExtensionError

#: The value of ``--extend`` without a number.
NEEDED = "needed"


class _NumberOrNeeded(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A number of episodes, or `NEEDED`."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == NEEDED or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no number of episodes; write --extend behind both directories", param, ctx)


@click.command(cls=Command)
@click.argument("run_a")
@click.argument("run_b")
@click.option("--json", "json_file", metavar="FILE", help="Write all figures to FILE; - is standard output.")
@click.option("--html", "html_file", metavar="FILE", help="Write a page with the flipped episodes' videos to FILE.")
@click.option("--gate", is_flag=True, help="Exit code 0 no regression, 1 worse, 4 undecided, 5 not comparable.")
@click.option("--margin", type=float, default=0.05, show_default=True, help="Rates that differ by less do not differ.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="With which verdicts hold.")
@click.option("--higher_is_better", multiple=True, metavar="METRIC", help="Of this metric of the jobs, more is better.")
@click.option("--lower_is_better", multiple=True, metavar="METRIC", help="Of this metric, less is better; e.g. length.")
@click.option(
    "--extend",
    type=_NumberOrNeeded(),
    is_flag=False,
    flag_value=NEEDED,
    metavar="[N]",
    help="If undecided, run more episodes of both policies, N or as many as would probably decide, and compare those. "
    "If one of the runs lacks episodes, run these instead.",
)
@click.option("--max_episodes", type=int, metavar="N", help="With --extend: at most so many more. Default: 10000.")
@click.option("--num_workers", type=int, metavar="N", help="With --extend: workers at a time. Default: as the runs.")
@click.option("--address", metavar="TEXT", help="With --extend: Ray cluster to connect to. Default: as the runs.")
@click.option("--inline", is_flag=True, default=None, help="With --extend: no Ray, run in this process.")
def compare(
    run_a: str, run_b: str, json_file: str | None, html_file: str | None, gate: bool, extend: Any, **options: Any
) -> int:
    """Is the run in RUN_B better than that in RUN_A? Episodes of one seed are compared with each other."""
    from arena_ray.comparison import compare as compare_runs

    given = {name: options.pop(name) for name in ("max_episodes", "num_workers", "address", "inline")}
    given = {name: value for name, value in given.items() if value is not None}
    if extend is None and given:
        raise click.UsageError(f"--{next(iter(given))} is about episodes to be run; give --extend with it")
    code, refusal, comparison = 0, None, None
    if extend is not None:
        try:
            code, comparison = _extended(run_a, run_b, extend, given, options)
        except ExtensionError as error:
            code, refusal = 2, error
    comparison = compare_runs(run_a, run_b, **options) if comparison is None else comparison
    if json_file is not None:
        _write_json(json_file, comparison.to_json())
    if html_file is not None:
        _write_page(html_file, comparison)
    if json_file != "-":
        click.echo(str(comparison))
    if refusal is not None:
        click.echo(f"error: cannot be extended: {refusal}", err=True)
    return comparison.gate_code if gate and code < 128 else code


def _extended(run_a: str, run_b: str, number: Any, given: dict[str, Any], how: dict[str, Any]) -> tuple[int, Any]:
    """Run what is lacking; return the exit code without ``--gate``, and the comparison afterwards."""
    from arena_ray.extension_runner import MOST_EPISODES, extend
    from arena_ray.report import open_progress

    most = given.pop("max_episodes", MOST_EPISODES)
    wanted = None if number == NEEDED else number
    with contextlib.redirect_stdout(sys.stderr):  # What Ray or an environment prints must not end up in our output.
        found = extend(run_a, run_b, num_episodes=wanted, max_episodes=most, observer=open_progress, flags=given, **how)
    if found.done is None:
        click.echo("nothing was run: there is a verdict, and neither run lacks episodes", err=True)
    else:
        click.echo(f"{found.before.headline}\n{found.done}", err=True)
    for problem in found.problems:
        click.echo(f"error: {problem}", err=True)
    return int(bool(found.problems)) if found.signal is None else 128 + found.signal, found.comparison


@click.command(cls=Command)
@click.option("--baseline", type=float, required=True, metavar="RATE", help="Success rate of A, 0 to 1.")
@click.option("--difference", type=float, required=True, metavar="RATE", help="Of B's rate from A's; may be negative.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Probability with which it is to be found.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of the test.")
@click.option("--paired", is_flag=True, help="Only on the same seeds.")
@click.option("--discordant", type=float, metavar="RATE", help="Share of pairs in which only one of both succeeds.")
def plan(baseline: float, difference: float, power: float, confidence: float, **options: Any) -> int:
    """Say how many episodes of each policy it takes to find a difference of success rates."""
    if not 0 < power < 1 or not 0 < confidence < 1:
        raise click.UsageError(f"--power {power:g} and --confidence {confidence:g} must lie between 0 and 1")
    from arena_ray.comparison.planning import plan_lines

    try:
        lines = plan_lines(baseline, difference, power=power, confidence=confidence, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo("\n".join(lines))
    return 0


@click.command(cls=Command)
@click.argument("run_dir")
@click.option(
    "--format", "form", type=click.Choice(["lerobot", "csv", "parquet"]), required=True, help="What to write."
)
@click.option("--output", metavar="FILE", help="Where to; - is standard output. Default: a file in RUN_DIR.")
def export(run_dir: str, form: str, output: str | None) -> int:
    """Write the run in RUN_DIR as LeRobot's eval_info.json, or as a table with a row for each episode.

    Parquet has typed columns, videos as a list of structs, and needs pip install "arena-ray[parquet]".
    """
    from arena_ray.export import DEFAULT_NAMES, csv_text, lerobot_document, parquet_bytes
    from arena_ray.results import RunResult

    result = RunResult.load(run_dir)
    target = str(result.run_dir / DEFAULT_NAMES[form]) if output is None else output
    if form == "csv":
        _write(target, csv_text(result))
    elif form == "parquet":
        _write_bytes(target, parquet_bytes(result))
    else:
        _write_json(target, lerobot_document(result))
    if target != "-":
        click.echo(target)
    return 0


def _write_page(target: str, comparison: Any) -> None:
    from arena_ray.report.comparison_page import write_comparison

    try:
        write_comparison(comparison, target)
    except OSError as error:
        raise ArenaError(f"cannot write {target!r}: {error}") from error


def _write_json(target: str, content: dict[str, Any]) -> None:
    from arena_ray.json_files import strict_json

    _write(target, strict_json(content, indent=2) + "\n")


def _write(target: str, text: str) -> None:
    """Write a file, or standard output if it is ``-``.

    Raises:
        ArenaError: If it cannot be written.
    """
    if target == "-":
        sys.stdout.write(text)
        return
    _write_bytes(target, text.encode("utf-8", "backslashreplace"))


def _write_bytes(target: str, content: bytes) -> None:
    """Write a file, or standard output if it is ``-``.

    Raises:
        ArenaError: If it cannot be written.
    """
    try:
        if target == "-":
            sys.stdout.buffer.write(content)
        else:
            Path(target).write_bytes(content)
    except OSError as error:
        raise ArenaError(f"cannot write {target!r}: {error}") from error
