"""A run in the formats of other tools."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
from collections.abc import Mapping
from typing import Any

from arena_ray.errors import ArenaError
from arena_ray.records import EpisodeRecord
from arena_ray.results import JobResult, RunResult
from arena_ray.run_dir import RunDir

#: Name in the run directory, by format.
DEFAULT_NAMES = {"lerobot": "eval_info.json", "csv": "episodes.csv", "parquet": "episodes.parquet"}

#: The tag that names a job's task group; without it the job is a group of its own.
GROUP_TAG = "suite"


def lerobot_document(result: RunResult) -> dict[str, Any]:
    """Return the content of LeRobot's ``eval_info.json``.

    The structure is that of LeRobot 0.6.1 (`lerobot.scripts.lerobot_eval.eval_policy_all`): ``per_task`` with
    ``task_group``, ``task_id`` and ``metrics`` of lists, ``per_group`` and ``overall``. A job is a task, its tag
    ``suite`` the group. ``n_success`` stands beside as in its pull request 4628, and each task has ``per_episode`` as
    `eval_policy` returns it, because LeRobot leaves the seeds out. Only completed episodes are in it, as LeRobot knows
    no others; what is not known (``max_rewards``) is ``null``, never 0.

    Args:
        result: The run.
    """
    groups: dict[str, list[JobResult]] = {}
    for job in result.jobs.values():
        groups.setdefault(str(job.tags.get(GROUP_TAG, job.name)), []).append(job)
    records = {
        name: [record for record in job.episodes if record.status == "completed"] for name, job in result.jobs.items()
    }
    per_task = [
        _task(group, index, job.name, records[job.name])
        for group, jobs in groups.items()
        for index, job in enumerate(jobs)
    ]
    everything = [record for some in records.values() for record in some]
    return {
        "per_task": per_task,
        "per_group": {
            group: _aggregated([record for job in jobs for record in records[job.name]])
            for group, jobs in groups.items()
        },
        "overall": {**_aggregated(everything), **_times(result, len(everything))},
    }


def csv_text(result: RunResult) -> str:
    """Return a table with a line for each episode record, errors too: `RunResult.to_pandas` as CSV.

    A value that is a list or mapping is written as JSON; one that is not known is empty.

    Args:
        result: The run.
    """
    rows = [_row(record) for record in result.records()]
    columns = list(dict.fromkeys(key for row in rows for key in row)) or list(_row(_NOTHING))
    target = io.StringIO()
    writer = csv.DictWriter(target, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def parquet_bytes(result: RunResult) -> bytes:
    """Return a table with a row for each episode record as Parquet, with the columns of `RunResult.to_pandas`.

    Every column has its type also where it is empty: ``started_at`` is a UTC time, each metric of the jobs a column
    ``metrics.NAME`` of doubles, ``videos`` a list of structs, ``worker`` and ``error`` structs; what is not known is
    null. It is made in memory: 10,000 episodes are about 0.2 MB.

    Args:
        result: The run.

    Raises:
        ArenaError: If pyarrow is missing; ``pip install "arena-ray[parquet]"``.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ArenaError('Parquet needs pyarrow; run: pip install "arena-ray[parquet]"') from error
    records = [*result.records()]
    rows = [_typed_row(record) for record in records]
    names = dict.fromkeys(f"metrics.{name}" for record in records for name in record.metrics)
    schema = _parquet_schema(pyarrow, [*names])
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), target, compression="zstd")
    return target.getvalue()


def _parquet_schema(arrow: Any, metric_names: list[str]) -> Any:
    text, whole, number, yes_no = arrow.string(), arrow.int64(), arrow.float64(), arrow.bool_()
    video = {
        "kind": text,
        "camera": text,
        "path": text,
        "frames": whole,
        "fps": number,
        "bytes": whole,
        "partial": yes_no,
        "segment": whole,
        "error": text,
    }
    columns = {
        "schema": whole,
        "job": text,
        "episode": whole,
        "seed": whole,
        "status": text,
        "success": yes_no,
        "return": number,
        "length": whole,
        "terminated": yes_no,
        "truncated": yes_no,
        "videos": arrow.list_(arrow.struct(video)),
        "started_at": arrow.timestamp("ms", tz="UTC"),
        "duration_s": number,
        "chunk": whole,
        "attempt": whole,
        "slot": whole,
        "worker": arrow.struct({"host": text, "pid": whole, "gpus": arrow.list_(text)}),
        "error": arrow.struct({"type": text, "message": text, "traceback": text}),
        **dict.fromkeys(metric_names, number),
    }
    return arrow.schema(columns)


def _typed_row(record: EpisodeRecord) -> dict[str, Any]:
    row = _flat(record)
    row["videos"] = [dataclasses.asdict(video) for video in record.videos]
    if record.started_at is not None:
        row["started_at"] = datetime.datetime.fromisoformat(record.started_at[:-1] + "+00:00")
    return {key: _encodable(value) for key, value in row.items()}


def _encodable(value: Any) -> Any:
    """Return a value whose texts are UTF-8: a name of a file or an error's text may hold lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(part) for key, part in value.items()}
    return [_encodable(part) for part in value] if isinstance(value, list) else value


_NOTHING = EpisodeRecord(job="", episode=0, seed=None, status="completed")


def _task(group: str, index: int, name: str, records: list[EpisodeRecord]) -> dict[str, Any]:
    """Return a task; what is not known of any episode is no list, as readers take a ``null`` in one for a failure."""
    successes = [record.success for record in records]
    return {
        "task_group": group,
        "task_id": index,
        "task": name,
        "metrics": {
            "sum_rewards": [record.episode_return for record in records],
            "max_rewards": None,
            "successes": successes if any(success is not None for success in successes) else None,
            "video_paths": _videos(records),
        },
        "per_episode": [
            {
                "episode_ix": record.episode,
                "sum_reward": record.episode_return,
                "max_reward": None,
                "success": record.success,
                "seed": record.seed,
            }
            for record in records
        ],
    }


def _aggregated(records: list[EpisodeRecord]) -> dict[str, Any]:
    returns = [record.episode_return for record in records if record.episode_return is not None]
    outcomes = [record.success for record in records if record.success is not None]
    return {
        "avg_sum_reward": sum(returns) / len(returns) if returns else None,
        "avg_max_reward": None,
        "pc_success": 100 * sum(outcomes) / len(outcomes) if outcomes else None,
        "n_episodes": len(records),
        "n_success": sum(outcomes) if outcomes else None,
        "video_paths": _videos(records),
    }


def _times(result: RunResult, num_episodes: int) -> dict[str, float | None]:
    """Return the wall time of the run, and that divided by its episodes; unknown where it did not run in one go."""
    run = RunDir(result.run_dir).read_run()
    if run.get("finished_at") is None or run.get("resumed_at"):
        return {"eval_s": None, "eval_ep_s": None}
    begin, end = (datetime.datetime.fromisoformat(run[key][:-1]) for key in ("started_at", "finished_at"))
    seconds = (end - begin).total_seconds()
    return {"eval_s": seconds, "eval_ep_s": seconds / num_episodes if num_episodes else None}


def _videos(records: list[EpisodeRecord]) -> list[str]:
    return [video.path for record in records for video in record.videos if video.bytes]


def _row(record: EpisodeRecord) -> dict[str, Any]:
    return {key: _cell(value) for key, value in _flat(record).items()}


def _flat(record: EpisodeRecord) -> dict[str, Any]:
    """Return a record with its metrics beside its other keys."""
    row = record.to_json()
    metrics: Mapping[str, Any] = row.pop("metrics")
    return {**row, **{f"metrics.{name}": value for name, value in metrics.items()}}


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, list, dict)) else value
