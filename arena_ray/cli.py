"""The command line: ``arena-ray run | policy | resume | replay | report | compare | ...``. It chooses pool and display.

Flags have underscores, as in the Isaac Lab family. Exit codes: 0 every requested episode is completed (replayed: and
came to the same); 1 some are not; 2 bad input, nothing started; 3 no node could run a worker; 130 and 143 after SIGINT
and SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from arena_ray import __version__
from arena_ray.analysis_commands import compare, export, plan
from arena_ray.cluster_commands import status, submit
from arena_ray.command import Command, is_override, path_first
from arena_ray.errors import ArenaError, ClusterError, NotEnoughResourcesError, NotSharedError
from arena_ray.report_commands import report, serve
from arena_ray.specs import POLICY_TYPES, RunSettings

#: What flags of a run mean for a replay, where that is something else.
REPLAY_HELP = {
    "record_viewport_video": "Record env.render(). Without both flags: what the job records by itself, else this.",
    "record_camera_video": "Record the cameras.",
    "continue_on_error": "Always so: every chosen episode is run.",
    "max_attempts": "Tries of an episode whose worker died. Default: that of the run.",
    "episode_timeout": "Seconds of wall time that one episode may take, recording included. Default: that of the run.",
    "stall_timeout": "Seconds without any environment step after which a worker is given up. Default: that of the run.",
    "start_timeout": "Seconds that building environment and policy may take. Default: that of the run.",
}

#: Flags of a run that a replay does not have: it writes into the run directory that it is given, and adds no episodes.
NO_REPLAY_FLAGS = frozenset({"video_base_dir", "storage", "trackers"})

#: Flags of a run that a resumed run does not have: it writes where it began, and records what its jobs say.
NO_RESUME_FLAGS = frozenset({"video_base_dir", "storage", "record_viewport_video", "record_camera_video"})

#: Flags of a run that one that is submitted does not have: it joins the Ray that runs it.
NO_SUBMIT_FLAGS = frozenset({"address", "inline"})

_ENV_ID = re.compile(r"(?:[\w.]+:)?[\w./-]+-v\d+")


class _NumberOrAuto(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A positive number, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'auto'", param, ctx)


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Names with commas between them; an empty text is none."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return [name.strip() for name in value.split(",")] if value else []


def _run_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each setting of a run; its help is the setting's documentation."""
    return _add_flags(command, {name: _described(field) for name, field in RunSettings.model_fields.items()})


def _replay_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each setting of a run that a replay has."""
    fields = {name: field for name, field in RunSettings.model_fields.items() if name not in NO_REPLAY_FLAGS}
    return _add_flags(command, {name: REPLAY_HELP.get(name, _described(field)) for name, field in fields.items()})


def _resume_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each setting of a run that can be another one when it is resumed."""
    fields = {name: field for name, field in RunSettings.model_fields.items() if name not in NO_RESUME_FLAGS}
    return _add_flags(command, {name: f"{_words(field)} Default: that of the run." for name, field in fields.items()})


def _submit_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each setting of a run that one that is submitted has."""
    fields = {name: field for name, field in RunSettings.model_fields.items() if name not in NO_SUBMIT_FLAGS}
    return _add_flags(command, {name: _described(field) for name, field in fields.items()})


def _add_flags(command: Callable[..., Any], descriptions: dict[str, str]) -> Callable[..., Any]:
    for name, description in reversed(descriptions.items()):
        kind = _flag_type(name, RunSettings.model_fields[name].annotation)
        command = click.option(f"--{name}", name, default=None, help=description, **kind)(command)
    return command


def _described(field: Any) -> str:
    description = _words(field)
    has_default = field.default not in (None, ()) and not isinstance(field.default, bool)
    return f"{description} Default: {field.default}." if has_default else description


def _words(field: Any) -> str:
    return (field.description or "").replace("``", "").replace("null", "none")


def _flag_type(name: str, annotation: Any) -> dict[str, Any]:
    if name == "chunk_size":
        return {"type": _NumberOrAuto()}
    if name == "trackers":
        return {"type": _Names(), "metavar": "NAME,NAME"}
    choices = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    if choices:
        return {"type": click.Choice(choices)}
    for kind in (bool, int, float):
        if kind in _plain_types(annotation):
            return {"is_flag": True, "flag_value": True} if kind is bool else {"type": kind, "metavar": "N"}
    return {"type": str, "metavar": "TEXT"}


def _plain_types(annotation: Any) -> set[Any]:
    """Return the types inside unions and `Annotated`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return set().union(*(_plain_types(part) for part in typing.get_args(annotation)))
    return {annotation} if isinstance(annotation, type) else set()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="arena-ray")
def cli() -> None:
    """Find out how good a policy really is: policies x environments x episodes, on a laptop or a cluster."""


@cli.command(cls=Command)
@click.argument("jobs", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--eval_jobs_config", metavar="FILE", help="The job file, as IsaacLab-Arena calls it.")
@_run_flags
def run(jobs: str | None, overrides: Sequence[str], eval_jobs_config: str | None, **flags: Any) -> int:
    """Run all jobs of the file JOBS; an override is NAME:key=value, '*:num_episodes=5' overrides every job."""
    if eval_jobs_config is not None:
        if jobs is not None and not is_override(jobs):
            raise click.UsageError(f"two job files: {jobs} and --eval_jobs_config {eval_jobs_config}; give one")
        overrides = [*([jobs] if jobs is not None else []), *overrides]
        jobs = eval_jobs_config
    else:
        jobs, overrides = path_first(jobs, overrides)
    if jobs is None:
        raise click.UsageError("no job file; give its path, e.g. arena-ray run jobs.yaml")
    from arena_ray.config import load_plan

    return _execute(load_plan(jobs, overrides, _given(flags)))


@cli.command(cls=Command)
@click.option("--env", required=True, metavar="ID_OR_ENTRY_POINT", help="Gymnasium id, or package.module:factory.")
@click.option(
    "--policy",
    required=True,
    metavar="TYPE_OR_ENTRY_POINT",
    help=f"{' | '.join(POLICY_TYPES)}, or package.module:factory.",
)
@click.option("--env_kwargs", metavar="JSON", help="Keyword arguments of the environment.")
@click.option("--policy_kwargs", metavar="JSON", help="Keyword arguments of the policy.")
@click.option("--num_episodes", type=int, help="Episodes to run.")
@click.option("--num_steps", type=int, help="Environment steps to run, over all slots of the worker.")
@click.option("--num_envs", type=_NumberOrAuto(), help="Slots per worker; auto: measured.")
@click.option("--seed", type=int, help="Seed of the job.")
@click.option("--language_instruction", help="Handed to the policy.")
@_run_flags
def policy(env: str, policy: str, env_kwargs: str | None, policy_kwargs: str | None, **options: Any) -> int:
    """Run one policy on one environment, without a job file. Under torchrun, episodes are divided over the ranks."""
    job_keys = ("num_episodes", "num_steps", "num_envs", "seed", "language_instruction")
    job = {key: value for key in job_keys if (value := options.pop(key)) is not None}
    job["name"] = "policy"
    job["env"] = {_env_key(env): env, "kwargs": _json_mapping("--env_kwargs", env_kwargs)}
    key = "entry_point" if ":" in policy else "type"
    job["policy"] = {key: policy, "kwargs": _json_mapping("--policy_kwargs", policy_kwargs)}
    from arena_ray.config import load_plan

    plan = load_plan({"jobs": [job]}, (), _given(options))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        from arena_ray.policy_runner import run_rank

        return run_rank(plan)
    return _execute(plan)


@cli.command(cls=Command)
@click.argument("run_dir", required=False)
@click.argument("overrides", nargs=-1)
@click.option("--retry_failed", is_flag=True, help="Run episodes again that are recorded as error or timeout.")
@_resume_flags
def resume(run_dir: str | None, overrides: Sequence[str], retry_failed: bool, **flags: Any) -> int:
    """Finish the run in RUN_DIR, however it ended: only episodes without a record are run.

    A run that is finished is left untouched. NAME:num_episodes=N, more than before, extends it.
    """
    run_dir, overrides = path_first(run_dir, overrides)
    if run_dir is None:
        raise click.UsageError("no run directory; give the folder that the run printed")
    from arena_ray.report import open_progress
    from arena_ray.resume_runner import Resumption

    with Resumption(run_dir, overrides, retry_failed=retry_failed, flags=_given(flags)) as resumption:
        if resumption.finished:
            _say_finished(run_dir, resumption.failed)
        with contextlib.redirect_stdout(sys.stderr):  # As in _execute.
            result = resumption.execute(open_progress())
    return _conclude(result, resumption)


@cli.command(cls=Command)
@click.argument("run_dir")
@click.option("--job", required=True, metavar="NAME", help="A job of the run.")
@click.option("--episodes", required=True, metavar="3,7,10-12", help="Episodes, each of which has a record.")
@_replay_flags
def replay(run_dir: str, job: str, episodes: str, **flags: Any) -> int:
    """Run chosen episodes of the run in RUN_DIR again, with video, and add the videos to their records.

    An episode must come to what its record says; the videos of one that does not are put aside, and the exit code is 1.
    """
    from arena_ray.replay_runner import replay as run_again
    from arena_ray.report import open_progress

    with contextlib.redirect_stdout(sys.stderr):  # What Ray or an environment prints must not end up in our output.
        result = run_again(run_dir, job, episodes, observer=open_progress(), **_given(flags))
    print_result(result)
    for problem in result.problems():
        click.echo(f"error: {problem}", err=True)
    if result.equal:
        return 0
    return 1 if result.signal is None else 128 + result.signal


@cli.command(cls=Command)
def schema() -> int:
    """Print the JSON Schema of a job file."""
    from arena_ray.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
    return 0


@cli.command(cls=Command)
@click.option("--address", help="Ray cluster whose nodes are looked at; without it, this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(address: str | None, as_json: bool) -> int:
    """Say what this machine or cluster has, and what to do about what is missing."""
    from arena_ray.doctor import examine

    return examine(address, as_json=as_json)


for _command in (compare, plan, export, report, serve, status):
    cli.add_command(_command)
cli.command(cls=Command)(_submit_flags(submit))


def _execute(plan: Any) -> int:
    """Run a plan with a display; print the table and, last, the run directory."""
    from arena_ray.eval_runner import Run
    from arena_ray.journal import new_run
    from arena_ray.pools import open_pool
    from arena_ray.report import open_progress

    run = Run(plan, new_run(plan, open_progress()))
    with contextlib.redirect_stdout(sys.stderr):  # What Ray or an environment prints must not end up in our output.
        result = run.execute(open_pool(plan.settings))
    return _conclude(result, run)


def _conclude(result: Any, run: Any) -> int:
    """Print a run's result; return the exit code."""
    print_result(result)
    if run.storage_error is not None:
        click.echo(f"error: {run.storage_error}", err=True)
    if run.signal is not None or run.storage_error is not None:
        click.echo(f"finish it with: arena-ray resume {shlex.quote(str(result.run_dir))}", err=True)
    if result.status == "completed":
        return 0
    return 1 if run.signal is None else 128 + run.signal


def _say_finished(run_dir: str, failed: int) -> None:
    hint = ""
    if failed:
        hint = f"; {failed} of them are recorded as error or timeout, and can be run again with --retry_failed"
    click.echo(f"{run_dir} is finished: every requested episode has a record; nothing to do{hint}", err=True)


def print_result(result: Any) -> None:
    """Print a result's table, and its run directory as the last line."""
    click.echo(f"{result}\n\n{result.run_dir}")


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _env_key(env: str) -> str:
    return "id" if ":" not in env or _ENV_ID.fullmatch(env) else "entry_point"


def _json_mapping(flag: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{flag}: {text!r} is not JSON ({error}); write e.g. '{{\"key\": 1}}'") from error
    if not isinstance(value, dict):
        raise click.UsageError(f"{flag}: {text!r} is not a JSON object; write e.g. '{{\"key\": 1}}'")
    return value


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run_command(argv))


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: The words after ``arena-ray``; by default this process's.
    """
    try:
        return int(
            cli.main(args=None if argv is None else list(argv), prog_name="arena-ray", standalone_mode=False) or 0
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except (NotEnoughResourcesError, NotSharedError, ClusterError) as error:
        click.echo(f"error: {error}", err=True)
        return 3
    except ArenaError as error:
        click.echo(f"error: {error}", err=True)
        return 2


if __name__ == "__main__":
    main()
