"""What a user asks for: jobs, their parts, and the settings of a run.

All of it is frozen plain data that crosses process boundaries. The words are those of the job file; `config` reads
files into these types and words the errors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as validated_dataclass

from arena_ray import labels

#: Built-in policies, by the name that the job file uses.
POLICY_TYPES = ("zero", "random", "torch", "sb3")

#: Names that a job cannot have because the run directory has a file or folder of that name.
RESERVED_JOB_NAMES = frozenset(
    {
        "run.json",
        "episodes.jsonl",
        "events.jsonl",
        "replays.jsonl",
        "summary.json",
        "report.html",
        "ranks",
        "tensorboard",
    }
)

#: Steps of an episode of which a job says nothing.
GUESSED_STEPS = 1000

JOB_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
ENTRY_POINT_PATTERN = (
    r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
)

#: CPUs, GPUs, memory and conditions on labels of a worker.
Shape: TypeAlias = tuple[float, float, "float | None", tuple[tuple[str, str], ...]]

TrackerName: TypeAlias = Literal["tensorboard", "mlflow", "wandb"]
EncoderName: TypeAlias = Literal["auto", "inline", "process", "nvenc", "imageio-ffmpeg"]

_NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Count = Annotated[StrictInt, Field(ge=1)]
_SEED = Annotated[StrictInt, Field(ge=0)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def check_entry_point(text: str) -> str:
    """Return `text` if it has the form ``package.module:attribute``.

    Raises:
        ValueError: If it has not. The module is not imported here: it is imported where the workers are.
    """
    if not re.fullmatch(ENTRY_POINT_PATTERN, text):
        raise ValueError(f"{text!r} is not an entry point; write 'package.module:attribute'")
    return text


class EnvRef(_Spec):
    """Which environment to build: a Gymnasium id or an entry point, and its keyword arguments."""

    id: Annotated[StrictStr, Field(min_length=1)] | None = None
    """Gymnasium id; ``module:Name-v0`` imports the module first."""
    entry_point: StrictStr | None = None
    """``package.module:attribute`` of a factory, called once per slot with `kwargs`."""
    kwargs: Mapping[str, Any] = Field(default_factory=dict)
    """Keyword arguments of `gymnasium.make` or of the factory."""
    seed_hook: StrictStr | None = None
    """``package.module:function``, called as ``function(env, seed)`` before every reset."""

    @field_validator("entry_point", "seed_hook")
    @classmethod
    def _entry_point_form(cls, value: str | None) -> str | None:
        return None if value is None else check_entry_point(value)

    @model_validator(mode="after")
    def _exactly_one(self) -> EnvRef:
        if (self.id is None) == (self.entry_point is None):
            raise ValueError("give exactly one of 'id' (a Gymnasium id) and 'entry_point' (package.module:attribute)")
        return self


class PolicyRef(_Spec):
    """Which policy to build: a built-in type or an entry point, and its keyword arguments."""

    type: Literal["zero", "random", "torch", "sb3"] | None = None
    """A built-in policy."""
    entry_point: StrictStr | None = None
    """``package.module:attribute`` of a factory, called once per worker with `kwargs`."""
    kwargs: Mapping[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""

    @field_validator("entry_point")
    @classmethod
    def _entry_point_form(cls, value: str | None) -> str | None:
        return None if value is None else check_entry_point(value)

    @model_validator(mode="after")
    def _exactly_one(self) -> PolicyRef:
        if (self.type is None) == (self.entry_point is None):
            raise ValueError(
                f"give exactly one of 'type' ({' | '.join(POLICY_TYPES)}) and 'entry_point' (package.module:attribute)"
            )
        return self


class SuccessSpec(_Spec):
    """Where an episode's success stands in `info`."""

    key: StrictStr | None = None
    """Key of `info`; ``null`` looks for ``is_success``, then ``success``."""
    when: Literal["last", "any"] = "last"
    """``last``: the value at the episode's last step; ``any``: true at any step."""


class MetricSpec(_Spec):
    """A number from `info` that each episode record carries."""

    key: Annotated[StrictStr, Field(min_length=1)]
    """Key of `info`."""
    reduce: Literal["last", "sum", "mean", "max"] = "last"
    """How the values of an episode's steps become one number."""


class StopWhen(_Spec):
    """When a job has seen enough: its success rate is known to within a half-width."""

    metric: Literal["success_rate"] = "success_rate"
    """What is to be known."""
    half_width: Annotated[float, Field(strict=True, gt=0, lt=0.5)]
    """The interval shall lie within so much around the rate, e.g. 0.05 for 5 points."""
    confidence: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.95
    """With which the interval covers the rate, whenever the job stops."""

    @field_validator("metric", mode="before")
    @classmethod
    def _is_a_rate(cls, value: Any) -> Any:
        if value != "success_rate":
            raise ValueError(
                f"{value!r} cannot stop a job: how wrong a mean can be is only known of numbers with known bounds; "
                "write 'success_rate'"
            )
        return value


class Resources(_Spec):
    """What one worker needs."""

    num_gpus: _NonNegative = 0
    """GPUs per worker; a fraction shares one GPU among workers."""
    num_cpus: _NonNegative = 1
    """CPU cores per worker."""
    memory_gb: _Positive | None = None
    """Resident memory per worker with all that it starts, GB (10^9 bytes): Ray places workers by it, and one that has
    more is replaced between two episodes. ``null``: no limit."""
    label_selector: Mapping[StrictStr, StrictStr] = Field(default_factory=dict)
    """Nodes that workers may be on, by labels in Ray: ``{zone: eu}``, also ``!v``, ``in(a, b)``, ``!in(a, b)``."""
    accelerator_type: StrictStr | None = None
    """Kind of GPU, as Ray calls it (``H100``): short for the label ``ray.io/accelerator-type``."""

    @field_validator("num_gpus", "num_cpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} is not possible: above 1, Ray takes whole numbers only")
        return value

    @field_validator("label_selector")
    @classmethod
    def _selector_form(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        return labels.check_selector(value)

    @field_validator("accelerator_type")
    @classmethod
    def _condition_form(cls, value: str | None) -> str | None:
        return None if value is None else labels.check_condition(value)

    @model_validator(mode="after")
    def _one_accelerator_type(self) -> Resources:
        if self.accelerator_type is None:
            return self
        if not self.num_gpus:
            raise ValueError("'accelerator_type' is the kind of GPU: give 'num_gpus' with it, or leave it out")
        if labels.ACCELERATOR_TYPE in self.label_selector:
            raise ValueError(f"'accelerator_type' is the label {labels.ACCELERATOR_TYPE!r}; give one of the two")
        return self

    @property
    def selector(self) -> Mapping[str, str]:
        """Conditions on the labels of a worker's node."""
        kind = {} if self.accelerator_type is None else {labels.ACCELERATOR_TYPE: self.accelerator_type}
        return {**self.label_selector, **kind}

    @property
    def shape(self) -> Shape:
        """What tells workers apart to a scheduler; hashable."""
        return (self.num_cpus, self.num_gpus, self.memory_gb, tuple(sorted(self.selector.items())))


#: Where videos may be stored besides the run directory.
STORAGE_SCHEMES = ("s3", "gs", "sftp", "file")


def check_storage(text: Any) -> str:
    """Return `text`, without ``/`` at its end, if it is the URI of a folder in a storage.

    Raises:
        ValueError: If it is not, or carries a password, which would stand in ``run.json``.
    """
    forms = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, sftp://USER@HOST/FOLDER or file:///FOLDER"
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no storage; write {forms}")
    try:
        parts = urlsplit(text)
        password, host, _ = parts.password, parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no storage ({error}); write {forms}") from error
    if password is not None:
        raise ValueError(
            f"a password in the URI of the storage ({parts.scheme}://...@{host}) would stand in run.json; give it "
            "through the environment, a file or an agent"
        )
    if parts.scheme not in STORAGE_SCHEMES or parts.query or parts.fragment or ".." in parts.path.split("/"):
        raise ValueError(f"{text!r} is no storage; write {forms}")
    if bool(host) == (parts.scheme == "file") or (parts.scheme in ("sftp", "file") and not parts.path.strip("/")):
        raise ValueError(f"{text!r} is no storage; write {forms}")
    return text.rstrip("/")


def check_record(text: Any) -> str:
    """Return `text` if it says which episodes to record.

    Raises:
        ValueError: If it does not.
    """
    word, _, amount = str(text).partition(":")
    if isinstance(text, str) and text in ("all", "none", "failures", "successes"):
        return str(text)
    if word in ("first", "every") and re.fullmatch(r"[1-9][0-9]*", amount):
        return str(text)
    if word == "sample" and re.fullmatch(r"0\.[0-9]*[1-9][0-9]*|1(\.0*)?", amount):
        return str(text)
    raise ValueError(
        f"{text!r} does not say which episodes to record; write all, none, failures, successes, first:K, every:K "
        "(K a positive whole number) or sample:FRACTION (above 0, at most 1)"
    )


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class VideoRecordingCfg:
    """What to record. After IsaacLab-Arena's class of the same name (PR #801).

    Attributes:
        record_viewport_video: Record what `env.render()` shows.
        record_camera_video: Record every camera in the observation's ``camera_obs``.
        video_base_dir: Folder of the videos. In a run it is the job's folder in the run directory.
        camera_name_prefix: First part of a camera video's file name.
        fps: Frames per second of the files; ``None``: the environment's ``render_fps``, else 30.
        save_partial_episodes: Keep, under its final name, the video of an episode that a clean `close()` cuts off.
        record: Which episodes: ``all``, ``none``, ``first:K``, ``every:K`` (0, K, 2K, ...), ``sample:FRACTION`` (the
            same episodes in every run), or by outcome ``failures`` (without success, or broken) and ``successes``.
        cameras: Cameras to record; ``None``: every one.
        max_resolution: Longest side of the video in pixels; larger frames are scaled down. ``None``: no limit.
        preset: ``fast`` costs the least time; ``small`` files are a third of the size and take twice as long or more.
        video_length: Steps after which a video ends although its episode goes on; 0: whole episodes.
        outcome_in_name: Put ``-success`` or ``-failure`` behind the file's stem, where the environment tells.
        overlay: Write episode, step, reward and success into the picture.
        encoder: ``inline`` encodes in the process that steps, ``process`` in one process beside it, ``nvenc`` on a GPU
            that can, ``imageio-ffmpeg`` in an ffmpeg program per video. ``auto``: ``process`` where each process that
            steps has a second core, else ``inline``; where PyAV does not work, ``imageio-ffmpeg``.
    """

    record_viewport_video: StrictBool = False
    record_camera_video: StrictBool = False
    video_base_dir: str = "videos"
    camera_name_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "robot-cam"
    fps: _Positive | None = None
    save_partial_episodes: StrictBool = False
    record: Annotated[str, BeforeValidator(check_record)] = "all"
    cameras: tuple[Annotated[StrictStr, Field(min_length=1)], ...] | None = None
    max_resolution: Annotated[StrictInt, Field(ge=16)] | None = None
    preset: Literal["fast", "small"] = "fast"
    video_length: Annotated[StrictInt, Field(ge=0)] = 0
    outcome_in_name: StrictBool = False
    overlay: StrictBool = False
    encoder: EncoderName = "auto"

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded."""
        return (self.record_viewport_video or self.record_camera_video) and self.record != "none"

    @property
    def render_mode(self) -> Literal["rgb_array"] | None:
        """The `render_mode` that the environment must be built with; ``None`` when the viewport is not recorded."""
        return "rgb_array" if self.record_viewport_video and self.enabled else None


class EvalJob(_Spec):
    """One (environment, policy, budget) to evaluate. Its name is a folder of the run directory."""

    name: StrictStr
    """Unique; letters, digits, ``.``, ``_`` and ``-``, at most 100, first a letter or digit."""
    env: EnvRef
    policy: PolicyRef
    num_episodes: _Count | None = None
    """Episodes to run: exactly so many get a record. Excludes `num_steps`."""
    num_steps: _Count | None = None
    """Environment steps over all slots of one worker; the episode that the end cuts off gives no record."""
    stop_when: StopWhen | None = None
    """End the job as soon as its success rate is known well enough; `num_episodes` is then the most that are run."""
    num_envs: _Count | Literal["auto"] = 1
    """Slots per worker; ``auto``: the job's first worker measures environment and policy, and chooses."""
    vectorization: Literal["sync", "async", "auto"] = "sync"
    """``sync``: slots are stepped in the worker's process; ``async``: each in a child process; ``auto``: measured."""
    num_groups: _Count | None = None
    """Groups of ``async`` slots: while one steps, the policy answers another; ``null``: two, from 4 slots on."""
    num_rebuilds: _Count = 1
    """Build the environment anew so many times, the episodes split evenly between the builds."""
    seed: _SEED = 0
    """The seed of episode E is derived from ``(seed, E)``."""
    success: SuccessSpec = SuccessSpec()
    metrics: tuple[MetricSpec, ...] = ()
    """Numbers from `info`; a bare key means ``{key: KEY, reduce: last}``."""
    language_instruction: StrictStr | None = None
    """Handed to the policy."""
    resources: Resources = Resources()
    video: VideoRecordingCfg = VideoRecordingCfg()
    tags: Mapping[str, StrictStr | StrictInt | float | StrictBool] = Field(default_factory=dict)
    """Free; reports group by them."""

    @field_validator("name")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if not re.fullmatch(JOB_NAME_PATTERN, value):
            raise ValueError(
                f"{value!r} is not a safe folder name; use letters, digits, '.', '_' and '-', at most 100, "
                "the first a letter or digit"
            )
        if value.lower() in RESERVED_JOB_NAMES:
            raise ValueError(f"{value!r} is the name of a file of the run directory; choose another")
        return value

    @field_validator("metrics", mode="before")
    @classmethod
    def _bare_keys(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple({"key": item} if isinstance(item, str) else item for item in value)
        return value

    @field_validator("metrics")
    @classmethod
    def _unique_metrics(cls, value: tuple[MetricSpec, ...]) -> tuple[MetricSpec, ...]:
        keys = [metric.key for metric in value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} named twice; each metric once")
        taken = sorted({"success_rate", "return", "length", "return_iqm", "length_iqm"} & set(keys))
        if taken:
            raise ValueError(f"{', '.join(map(repr, taken))} is a metric of every job already; leave it out")
        return value

    @property
    def requested_steps(self) -> int:
        """Environment steps that are asked for, as far as the job tells; a guess where it leaves episodes open."""
        if self.num_steps is not None:
            return self.num_steps
        most = self.env.kwargs.get("max_episode_steps")
        return (self.num_episodes or 1) * (most if isinstance(most, int) and most > 0 else GUESSED_STEPS)

    @property
    def num_slots(self) -> int:
        """Slots per worker; 1 as long as nothing has been measured."""
        return 1 if self.num_envs == "auto" else self.num_envs

    def with_slots(self, choice: SlotChoice) -> EvalJob:
        """Return the job with its slots decided."""
        return self.model_copy(update=dataclasses.asdict(choice))

    @property
    def needs_tuning(self) -> bool:
        """Whether something is to be measured before episodes run."""
        return "auto" in (self.num_envs, self.vectorization)

    @property
    def untuned_slots(self) -> SlotChoice:
        """What the job gets where nothing can be measured: one slot in the worker's process, unless it says more."""
        vectorization: Literal["sync", "async"] = "async" if self.vectorization == "async" else "sync"
        return SlotChoice(num_envs=self.num_slots, vectorization=vectorization)

    @property
    def slot_groups(self) -> int:
        """Groups of slots. A budget of steps is shared by all slots, so these step together."""
        if self.num_groups is not None:
            return self.num_groups
        splits = self.vectorization == "async" and self.num_episodes is not None
        return 2 if splits and self.num_slots >= 4 and self.num_slots % 2 == 0 else 1

    @model_validator(mode="after")
    def _groups_fit(self) -> EvalJob:
        if self.num_groups is None or self.num_groups == 1:
            return self
        if self.vectorization != "async" or self.num_envs == "auto" or self.num_episodes is None:
            raise ValueError(
                f"'num_groups' {self.num_groups} is for slots in child processes: give 'vectorization: async', "
                "'num_envs' and 'num_episodes' with it, or leave it out"
            )
        if self.num_envs % self.num_groups:
            raise ValueError(
                f"'num_groups' {self.num_groups} does not divide 'num_envs' {self.num_envs}; groups are of equal size"
            )
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> EvalJob:
        if (self.num_episodes is None) == (self.num_steps is None):
            found = "neither" if self.num_episodes is None else "both"
            raise ValueError(f"give exactly one of 'num_episodes' and 'num_steps'; found {found}")
        if self.num_rebuilds > 1 and self.num_episodes is None:
            raise ValueError("'num_rebuilds' splits episodes; give 'num_episodes', not 'num_steps'")
        if self.num_episodes is not None and self.num_rebuilds > self.num_episodes:
            raise ValueError(f"'num_rebuilds' {self.num_rebuilds} is more than 'num_episodes' {self.num_episodes}")
        return self

    @model_validator(mode="after")
    def _can_stop(self) -> EvalJob:
        if self.stop_when is not None and self.num_episodes is None:
            raise ValueError("'stop_when' ends a budget of episodes; give 'num_episodes', not 'num_steps'")
        if self.stop_when is not None and self.num_rebuilds > 1:
            raise ValueError(
                f"'stop_when' would end the job before each of its 'num_rebuilds' {self.num_rebuilds} builds has had "
                "its part of the episodes; leave out one of both"
            )
        return self


class RunSettings(_Spec):
    """The flags of a run; the job file's ``run`` section has the same names, and flags win."""

    record_viewport_video: StrictBool = False
    """Record `env.render()` of every job."""
    record_camera_video: StrictBool = False
    """Record the cameras of every job."""
    video_base_dir: Annotated[StrictStr, Field(min_length=1)] = "outputs"
    """Where the timestamped run directory is created."""
    chunk_size: _Count | Literal["auto"] = "auto"
    """Episodes per chunk."""
    num_workers: _Count | None = None
    """Workers at a time; ``null``: what the resources allow."""
    continue_on_error: StrictBool = False
    """Go on with other episodes after one failed."""
    max_attempts: _Count = 3
    """Tries of an episode whose worker died."""
    episode_timeout: _Positive | None = None
    """Seconds of wall time that one episode may take, reset to end."""
    stall_timeout: _Positive = 300
    """Seconds without any environment step after which a worker is given up."""
    start_timeout: _Positive = 600
    """Seconds that building environment and policy may take."""
    isolation: Literal["run", "job", "chunk"] = "job"
    """How long a worker process is reused."""
    max_episodes_per_worker: _Count | None = None
    """Episodes after which a worker process is replaced, against leaks; ``null``: no limit."""
    storage_timeout: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 20
    """Seconds to wait for a disk that takes no more records to take them again, before the run ends; or for a storage
    to take a video, before the run goes on without that."""
    storage: Annotated[str, BeforeValidator(check_storage)] | None = None
    """Where videos go when nodes share no directory: ``s3://``, ``gs://``, ``sftp://`` or ``file:///``; ``null``: into
    the run directory."""
    collect: StrictBool = False
    """Workers send their videos to this machine, for small clusters whose nodes share no directory."""
    address: StrictStr | None = None
    """Ray cluster to connect to; ``null`` starts Ray on this machine."""
    inline: StrictBool = False
    """No Ray: run in this process."""
    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers that are told figures, configuration and videos of failures while the run goes on:
    ``tensorboard``, ``mlflow``, ``wandb``."""

    @field_validator("trackers")
    @classmethod
    def _unique_trackers(cls, value: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} named twice; each tracker once")
        return value

    @model_validator(mode="after")
    def _one_way_home(self) -> RunSettings:
        if self.collect and self.storage is not None:
            raise ValueError(
                "give 'storage' or 'collect', not both: either videos go into a storage, or they come here"
            )
        return self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlotChoice:
    """Slots of a worker: how many, where they step, in how many groups."""

    num_envs: int
    vectorization: Literal["sync", "async"]
    num_groups: int = 1
