"""Plans: what is read, what wins over what, and every mistake with its text."""

from __future__ import annotations

import datetime
import json
import types
from pathlib import Path
from typing import Any

import pytest

from arena_ray.config import EvalPlan, load_plan
from arena_ray.specs import (
    EnvRef,
    EvalJob,
    MetricSpec,
    PolicyRef,
    Resources,
    RunSettings,
    SuccessSpec,
    VideoRecordingCfg,
)
from tests.config.documents import document, job, lines, only_job, refusal

INTERFACE_EXAMPLE = """
jobs:
  - name: fetch-reach              # required, unique
    env:
      id: FetchReach-v4
      kwargs: {max_episode_steps: 50}
    policy:
      type: random
      kwargs: {}
    num_episodes: 100
    num_envs: 4
    seed: 0
    success: {key: is_success, when: last}
    metrics: [distance, {key: energy, reduce: sum}]
    language_instruction: "reach the red ball"
    resources: {num_gpus: 1, num_cpus: 4}
    video: {record_viewport_video: true}
    tags: {suite: fetch, policy: ppo-v3}
defaults: {num_episodes: 50}
run:
  video_base_dir: outputs
"""

FETCH_REACH = EvalJob(
    name="fetch-reach",
    env=EnvRef(id="FetchReach-v4", kwargs={"max_episode_steps": 50}),
    policy=PolicyRef(type="random"),
    num_episodes=100,
    num_envs=4,
    success=SuccessSpec(key="is_success"),
    metrics=(MetricSpec(key="distance"), MetricSpec(key="energy", reduce="sum")),
    language_instruction="reach the red ball",
    resources=Resources(num_gpus=1, num_cpus=4),
    video=VideoRecordingCfg(record_viewport_video=True),
    tags={"suite": "fetch", "policy": "ppo-v3"},
)


def _without(key: str, value: Any) -> dict[str, Any]:
    return {**job(), key: value}


BAD_DOCUMENTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("no jobs", {}, ["missing required key 'jobs'; write 'jobs:' and a list of jobs"]),
    ("jobs null", {"jobs": None}, ["jobs: found None; must be a list: write '- name: ...' for each job"]),
    ("jobs empty", {"jobs": []}, ["jobs: found an empty list; give at least one job"]),
    ("jobs a mapping", {"jobs": {"a": 1}}, ["jobs: found {'a': 1}; must be a list: write '- name: ...' for each job"]),
    ("job null", document(job(), None), ["job #2: found None; must be a mapping with name, env and policy"]),
    ("job text", document("a"), ["job #1: found 'a'; must be a mapping with name, env and policy"]),
    (
        "top-level misspelt",
        {"job": 1, **document(job())},
        ["unknown key 'job' (found 1); did you mean 'jobs'? Valid: defaults, jobs, run"],
    ),
    (
        "top-level of Arena's typed files",
        document(job(), shared={}),
        [
            "unknown key 'shared' (found {}); IsaacLab-Arena's typed experiments ('shared', 'runs') are not read; "
            "write 'defaults' and 'jobs'"
        ],
    ),
    (
        "job key at top level",
        document(job(), num_envs=2),
        ["unknown key 'num_envs' (found 2); did you mean 'defaults.num_envs'? Valid here: defaults, jobs, run"],
    ),
    ("defaults a list", document(job(), defaults=[]), ["defaults: found []; must be a mapping"]),
    ("run a text", document(job(), run="x"), ["run: found 'x'; must be a mapping"]),
    (
        "budget zero",
        document(job(num_episodes=0)),
        ["job 'a': num_episodes: found 0; must be at least 1"],
    ),
    (
        "no budget",
        document(job(num_episodes=...)),
        ["job 'a': give exactly one of 'num_episodes' and 'num_steps'; found neither"],
    ),
    (
        "two budgets",
        document(job(num_steps=5)),
        ["job 'a': give exactly one of 'num_episodes' and 'num_steps'; found both"],
    ),
    (
        "two budgets beside another mistake",
        document(job(num_steps=5, seed=-1)),
        [
            "job 'a': seed: found -1; must be at least 0",
            "job 'a': give exactly one of 'num_episodes' and 'num_steps'; found both",
        ],
    ),
    (
        "policy type misspelt",
        document(job(policy={"type": "randm"})),
        ["job 'a': policy.type: found 'randm'; did you mean 'random'? Valid: random, sb3, torch, zero"],
    ),
    (
        "policy type a number",
        document(job(policy={"type": 3})),
        ["job 'a': policy.type: found 3; must be one of 'zero', 'random', 'torch', 'sb3'"],
    ),
    (
        "policy entry point malformed",
        document(job(policy={"entry_point": "pkg.mod.Class"})),
        ["job 'a': policy.entry_point: 'pkg.mod.Class' is not an entry point; write 'package.module:attribute'"],
    ),
    (
        "seed hook malformed",
        document(job(env={"id": "X-v0", "seed_hook": "hook"})),
        ["job 'a': env.seed_hook: 'hook' is not an entry point; write 'package.module:attribute'"],
    ),
    (
        "env without name",
        document(job(env={})),
        [
            "job 'a': env: found {}; give exactly one of 'id' (a Gymnasium id) and 'entry_point' "
            "(package.module:attribute)"
        ],
    ),
    (
        "env a text",
        document(job(env="CartPole-v1")),
        [
            "job 'a': env: found 'CartPole-v1'; must be a mapping; write 'env: {id: FetchReach-v4}' or "
            "'env: {entry_point: package.module:attribute}'"
        ],
    ),
    (
        "kwargs null",
        document(job(env={"id": "X-v0", "kwargs": None})),
        ["job 'a': env.kwargs: found None; must be a mapping"],
    ),
    (
        "env and policy missing",
        document(job(env=..., policy=...)),
        [
            "job 'a': missing required key 'env'; write 'env: {id: FetchReach-v4}' or "
            "'env: {entry_point: package.module:attribute}'",
            "job 'a': missing required key 'policy'; write 'policy: {type: random}' or "
            "'policy: {entry_point: package.module:attribute}'",
        ],
    ),
    ("name missing", document({**job(), "name": None}), ["job #1: name: found None; must be text"]),
    (
        "name absent in the second job",
        document(job(), {key: value for key, value in job().items() if key != "name"}),
        ["job #2: missing required key 'name'; write 'name: my-job'"],
    ),
    ("name a number", document(job(7)), ["job #1: name: found 7; must be text; put it in quotes"]),
    (
        "name unsafe",
        document(job("a/b")),
        [
            "job 'a/b': name: 'a/b' is not a safe folder name; use letters, digits, '.', '_' and '-', at most 100, "
            "the first a letter or digit"
        ],
    ),
    (
        "name reserved",
        document(job("Ranks")),
        ["job 'Ranks': name: 'Ranks' is the name of a file of the run directory; choose another"],
    ),
    (
        "names equal",
        document(job("a"), job("b"), job("a")),
        [
            "job #1 'a' and job #3 'a' have the same name; names must be unique, because each is a folder of the run "
            "directory"
        ],
    ),
    (
        "names equal but for case",
        document(job("Pick"), job("pick")),
        [
            "job #1 'Pick' and job #2 'pick' have names that differ only in case; on some file systems they would "
            "share a folder; rename one"
        ],
    ),
    (
        "video a flag",
        document(job(video=True)),
        [
            "job 'a': video: found True; must be a mapping; write 'video: {record_viewport_video: true}' or "
            "'video: {record_camera_video: true}'"
        ],
    ),
    (
        "video folder chosen by a job",
        document(job(video={"video_base_dir": "videos"})),
        [
            "job 'a': video.video_base_dir: found 'videos'; videos of a run lie in the run directory, in the job's "
            "folder; leave it out and set 'run.video_base_dir' (--video_base_dir) to choose where run directories are "
            "created"
        ],
    ),
    (
        "camera prefix unsafe",
        document(job(video={"camera_name_prefix": "../x"})),
        [
            "job 'a': video.camera_name_prefix: found '../x'; must be letters, digits, '.', '_' and '-', at most 100, "
            "the first a letter or digit"
        ],
    ),
    (
        "tag of no simple type",
        document(job(tags={"x": [1]})),
        ["job 'a': tags.x: found [1]; must be text or a whole number or a number or true or false"],
    ),
    ("seed true", document(job(seed=True)), ["job 'a': seed: found True; must be a whole number"]),
    (
        "number as text",
        document(job(resources={"num_gpus": "1e0"})),
        [
            "job 'a': resources.num_gpus: found '1e0'; must be a number; it is text here: write it without quotes "
            "(YAML reads 1e3 as text and 1.0e+3 as a number)"
        ],
    ),
    (
        "fraction above one",
        document(job(resources={"num_gpus": 1.5})),
        ["job 'a': resources.num_gpus: 1.5 is not possible: above 1, Ray takes whole numbers only"],
    ),
    (
        "negative resources",
        document(job(resources={"num_cpus": -1})),
        ["job 'a': resources.num_cpus: found -1; must be at least 0"],
    ),
    (
        "rebuilds of a step budget",
        document(job(num_episodes=..., num_steps=10, num_rebuilds=2)),
        ["job 'a': 'num_rebuilds' splits episodes; give 'num_episodes', not 'num_steps'"],
    ),
    (
        "metrics a text",
        document(job(metrics="x")),
        ["job 'a': metrics: found 'x'; must be a list; write 'metrics: [distance]'"],
    ),
    (
        "metric twice",
        document(job(metrics=["x", {"key": "x"}])),
        ["job 'a': metrics: found ['x', {'key': 'x'}]; 'x' named twice; each metric once"],
    ),
    (
        "metric without key",
        document(job(metrics=[{"reduce": "sum"}])),
        ["job 'a': missing required key 'metrics[0].key'"],
    ),
    (
        "not a number",
        document(job(env={"id": "X-v0", "kwargs": {"gains": [1.0, float("nan")]}})),
        ["job 'a': env.kwargs.gains[1]: found nan; must be a finite number; JSON has no NaN and no infinity"],
    ),
    (
        "infinite budget",
        document(job(num_episodes=float("inf"))),
        ["job 'a': num_episodes: found inf; must be a finite number; JSON has no NaN and no infinity"],
    ),
    (
        "date in kwargs",
        document(job(policy={"type": "zero", "kwargs": {"day": datetime.date(2026, 1, 2)}})),
        [
            "job 'a': policy.kwargs.day: found datetime.date(2026, 1, 2); must be a JSON type (text, number, "
            "true/false, null, list or mapping); put it in quotes to keep it as text"
        ],
    ),
    (
        "key not text",
        document(job(env={"id": "X-v0", "kwargs": {True: 1}})),
        ["job 'a': env.kwargs.True: found the key True; keys must be text; put it in quotes"],
    ),
    (
        "lone surrogate",
        document(job(language_instruction="\ud800")),
        ["job 'a': language_instruction: found '\\ud800'; it is not valid Unicode text (a lone surrogate)"],
    ),
    (
        "groups of slots in one process",
        document(job(num_envs=4, num_groups=2)),
        [
            "job 'a': 'num_groups' 2 is for slots in child processes: give 'vectorization: async', 'num_envs' and "
            "'num_episodes' with it, or leave it out"
        ],
    ),
    (
        "groups of slots that are yet to be chosen",
        document(job(num_envs="auto", num_groups=2, vectorization="async")),
        [
            "job 'a': 'num_groups' 2 is for slots in child processes: give 'vectorization: async', 'num_envs' and "
            "'num_episodes' with it, or leave it out"
        ],
    ),
    (
        "groups that share a budget of steps",
        document(job(num_envs=4, num_groups=2, vectorization="async", num_steps=9, num_episodes=...)),
        [
            "job 'a': 'num_groups' 2 is for slots in child processes: give 'vectorization: async', 'num_envs' and "
            "'num_episodes' with it, or leave it out"
        ],
    ),
    (
        "groups of unequal size",
        document(job(num_envs=4, num_groups=3, vectorization="async")),
        ["job 'a': 'num_groups' 3 does not divide 'num_envs' 4; groups are of equal size"],
    ),
    (
        "slots and groups that are no numbers",
        document(job(num_envs="many", num_groups=0, vectorization="both")),
        [
            "job 'a': num_envs: found 'many'; must be a whole number or 'auto'",
            "job 'a': num_groups: found 0; must be at least 1",
            "job 'a': vectorization: found 'both'; Valid: async, auto, sync",
        ],
    ),
    (
        "defaults misspelt: said once",
        document(job("a"), job("b"), defaults={"num_env": 2}),
        [
            "defaults: unknown key 'num_env' (found 2); did you mean 'num_envs'? Valid: env, language_instruction, "
            "metrics, name, num_envs, num_episodes, num_groups, num_rebuilds, num_steps, policy, resources, seed, "
            "stop_when, success, tags, vectorization, video"
        ],
    ),
    (
        "defaults wrong although every job has its own",
        document(job(num_envs=2), defaults={"num_envs": 0}),
        ["defaults: num_envs: found 0; must be at least 1 or 'auto'"],
    ),
    (
        "defaults with a name",
        document(job(), defaults={"name": "a"}),
        ["defaults: name: found 'a'; every job has its own name, write it there"],
    ),
    (
        "defaults with a date",
        document(job(), defaults={"seed": datetime.date(2026, 1, 2)}),
        [
            "defaults: seed: found datetime.date(2026, 1, 2); must be a JSON type (text, number, true/false, null, "
            "list or mapping); put it in quotes to keep it as text"
        ],
    ),
    (
        "run value",
        document(job(), run={"chunk_size": 0, "isolation": "jobs", "stall_timeout": 0}),
        [
            "run.chunk_size: found 0; must be at least 1 or 'auto'",
            "run.stall_timeout: found 0; must be more than 0",
            "run.isolation: found 'jobs'; did you mean 'job'? Valid: chunk, job, run",
        ],
    ),
    (
        "run not finite",
        document(job(), run={"episode_timeout": float("nan")}),
        ["run.episode_timeout: found nan; must be a finite number; JSON has no NaN and no infinity"],
    ),
]

UNKNOWN_KEYS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "misspelt",
        document(job(episodez=5)),
        "job 'a': unknown key 'episodez' (found 5)",
        "did you mean 'num_episodes'? ",
    ),
    (
        "hyphen",
        document(job(**{"num-envs": 5})),
        "job 'a': unknown key 'num-envs' (found 5)",
        "write 'num_envs': keys use",
    ),
    (
        "nested",
        document(job(env={"id": "X-v0", "kwarg": 1})),
        "job 'a': unknown key 'env.kwarg' (found 1)",
        "mean 'kwargs'?",
    ),
    (
        "in a list",
        document(job(metrics=[{"key": "x", "reduc": "sum"}])),
        "unknown key 'metrics[0].reduc'",
        "mean 'reduce'?",
    ),
    ("one level too high", document(job(num_gpus=1)), "unknown key 'num_gpus' (found 1)", "mean 'resources.num_gpus'?"),
    ("two homes", document(job(kwargs={})), "unknown key 'kwargs'", "did you mean 'env.kwargs' or 'policy.kwargs'?"),
    (
        "recording",
        document(job(record_camera_video=True)),
        "'record_camera_video' (found True)",
        "'video.record_camera_video'?",
    ),
    ("of the run", document(job(chunk_size=2)), "unknown key 'chunk_size' (found 2)", "did you mean 'run.chunk_size'?"),
    ("environment", document(job(environment="x")), "unknown key 'environment' (found 'x')", "write 'env'"),
    (
        "video.enabled",
        document(job(video={"enabled": True})),
        "'video.enabled' (found True)",
        "write 'record_viewport_video' (",
    ),
    (
        "video.camera-video",
        document(job(video={"camera-video": 1})),
        "'video.camera-video'",
        "write 'record_camera_video'",
    ),
    ("video.video_dir", document(job(video={"video_dir": "x"})), "'video.video_dir'", "set 'run.video_base_dir'"),
    (
        "run",
        document(job(), run={"chunk_sise": 4}),
        "unknown key 'run.chunk_sise' (found 4)",
        "did you mean 'chunk_size'?",
    ),
    ("run.video", document(job(), run={"video": True}), "unknown key 'run.video'", "write 'record_viewport_video'"),
    ("run.video-dir", document(job(), run={"video-dir": "x"}), "unknown key 'run.video-dir'", "write 'video_base_dir'"),
    (
        "run hyphen",
        document(job(), run={"num-workers": 1}),
        "'run.num-workers' (found 1)",
        "write 'num_workers': keys use",
    ),
]


@pytest.mark.parametrize(("bad", "expected"), [pytest.param(*case, id=name) for name, *case in BAD_DOCUMENTS])
def test_every_mistake_has_its_text(bad: dict[str, Any], expected: list[str]) -> None:
    assert sorted(lines(refusal(bad))) == sorted(expected)


@pytest.mark.parametrize("record", [True, "some", "first:0", "every:", "sample:0", "sample:1.5", "first:-1", "all:3"])
def test_what_to_record_is_refused_with_the_choices(record: object) -> None:
    (line,) = lines(refusal(document(job(video={"record": record}))))
    assert f"video.record: {record!r} does not say" in line
    assert "first:K" in line


@pytest.mark.parametrize(
    "record", ["all", "none", "failures", "successes", "first:3", "every:10", "sample:0.25", "sample:1"]
)
def test_what_to_record_is_taken_as_it_stands(record: str) -> None:
    assert load_plan(document(job(video={"record": record}))).jobs[0].video.record == record


@pytest.mark.parametrize(("bad", "found", "hint"), [pytest.param(*case, id=name) for name, *case in UNKNOWN_KEYS])
def test_unknown_keys_get_a_direct_hint(bad: dict[str, Any], found: str, hint: str) -> None:
    (line,) = lines(refusal(bad))
    assert found in line
    assert hint in line


def test_unknown_key_lists_the_valid_ones_without_video_base_dir() -> None:
    (line,) = lines(refusal(document(job(video={"xyzzy": 1}))))
    assert line == (
        "job 'a': unknown key 'video.xyzzy' (found 1); Valid: camera_name_prefix, cameras, encoder, fps, "
        "max_resolution, outcome_in_name, overlay, preset, record, record_camera_video, record_viewport_video, "
        "save_partial_episodes, video_length"
    )


def test_all_problems_of_all_places_come_in_one_error() -> None:
    bad = document(job("a", seed=-1), job("b", num_envs=0), defaults={"vectorization": "x"}, run={"max_attempts": 0})
    text = refusal(bad, overrides=["c:seed=1"], flags={"num_workers": 0})
    assert text.startswith("jobs: 6 problems\n")
    for place in (
        "job 'a': seed",
        "job 'b': num_envs",
        "defaults: vec",
        "run.max_",
        "override 'c:seed=1'",
        "flags: num_",
    ):
        assert f"\n  {place}" in text


def test_a_mapping_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop |= {"x": loop, "y": loop}
    found = lines(refusal(document(job(env={"id": "X-v0", "kwargs": loop}))))
    assert found == [f"job 'a': env.kwargs.{key}: contains itself; write it out" for key in ("x", "y")]


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    (line,) = lines(refusal(document(job(policy={"type": "zero", "kwargs": {"x": deep}}))))
    assert line.endswith("lies more than 64 levels deep; make it flatter")


def test_long_values_are_cut() -> None:
    (line,) = lines(refusal(document(job(seed="x" * 500))))
    assert line == f"job 'a': seed: found '{'x' * 76}...; must be a whole number"


def test_interface_example_is_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(INTERFACE_EXAMPLE)
    plan = load_plan(path)
    assert plan.jobs == (FETCH_REACH,)
    assert plan.settings == RunSettings(video_base_dir="outputs")
    assert plan.folder == tmp_path


def test_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("jobs.yaml").write_text(INTERFACE_EXAMPLE)
    assert load_plan("jobs.yaml").folder == tmp_path


def test_mapping_has_no_folder_and_is_left_alone() -> None:
    source = document(job(env={"id": "X-v0", "kwargs": {"x": [1]}}), defaults={"tags": {"t": 1}})
    before = json.dumps(source)
    plan = load_plan(types.MappingProxyType(source), ["a:env.kwargs.x=2", "a:tags.t=3"])
    assert plan.folder is None
    assert plan.jobs[0].env.kwargs == {"x": 2}
    assert json.dumps(source) == before


def test_jobs_keep_their_order() -> None:
    plan = load_plan(document(*(job(name) for name in "zebra")))
    assert [found.name for found in plan.jobs] == list("zebra")


def test_empty_sections_are_nothing() -> None:
    assert load_plan(document(job(), defaults=None, run=None)) == load_plan(document(job()))


def test_defaults_lie_under_the_job() -> None:
    defaults = {
        "num_episodes": 50,
        "num_envs": 4,
        "resources": {"num_gpus": 1, "num_cpus": 2},
        "tags": {"suite": "s", "x": 1},
        "metrics": ["a", "b"],
        "video": {"fps": 10, "record_camera_video": True},
        "success": {"key": "won"},
    }
    own = {
        "resources": {"num_cpus": 8},
        "tags": {"x": 2},
        "metrics": ["c"],
        "video": {"fps": 20},
        "success": {"when": "any"},
    }
    found = only_job(document(job(num_episodes=..., **own), defaults=defaults))
    assert (found.num_episodes, found.num_envs) == (50, 4)
    assert found.resources == Resources(num_gpus=1, num_cpus=8)
    assert found.tags == {"suite": "s", "x": 2}
    assert found.metrics == (MetricSpec(key="c"),)
    assert found.video == VideoRecordingCfg(fps=20, record_camera_video=True)
    assert found.success == SuccessSpec(key="won", when="any")


@pytest.mark.parametrize("own", ["num_episodes", "num_steps"])
@pytest.mark.parametrize("default", ["num_episodes", "num_steps"])
def test_own_budget_replaces_the_default_one(own: str, default: str) -> None:
    found = only_job(document(job(**{"num_episodes": ..., own: 7}), defaults={default: 50}))
    assert {"num_episodes": found.num_episodes, "num_steps": found.num_steps} == {
        "num_episodes": None,
        "num_steps": None,
        own: 7,
    }


def test_a_null_budget_is_no_budget() -> None:
    found = only_job(document(job(num_episodes=..., num_steps=None), defaults={"num_episodes": 50}))
    assert (found.num_episodes, found.num_steps) == (50, None)


DEFAULT_ENV = {"id": "X-v0", "kwargs": {"a": {"b": 1, "c": 2}}, "seed_hook": "m:f"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param(..., EnvRef(id="X-v0", kwargs={"a": {"b": 1, "c": 2}}, seed_hook="m:f"), id="none"),
        pytest.param(
            {"kwargs": {"a": {"b": 9}}}, EnvRef(id="X-v0", kwargs={"a": {"b": 9, "c": 2}}, seed_hook="m:f"), id="kwargs"
        ),
        pytest.param(
            {"id": "X-v0", "kwargs": {"d": 1}},
            EnvRef(id="X-v0", kwargs={"a": {"b": 1, "c": 2}, "d": 1}, seed_hook="m:f"),
            id="same",
        ),
        pytest.param({"id": "Y-v0"}, EnvRef(id="Y-v0"), id="another id"),
        pytest.param(
            {"entry_point": "p:f", "kwargs": {"d": 1}}, EnvRef(entry_point="p:f", kwargs={"d": 1}), id="entry point"
        ),
    ],
)
def test_default_env_does_not_leak_into_another(own: Any, expected: EnvRef) -> None:
    assert only_job(document(job(env=own), defaults={"env": DEFAULT_ENV})).env == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param(..., PolicyRef(type="sb3", kwargs={"path": "p"}), id="none"),
        pytest.param({"type": "sb3"}, PolicyRef(type="sb3", kwargs={"path": "p"}), id="same"),
        pytest.param({"type": "zero"}, PolicyRef(type="zero"), id="another type"),
        pytest.param({"entry_point": "p:f"}, PolicyRef(entry_point="p:f"), id="entry point"),
    ],
)
def test_default_policy_does_not_leak_into_another(own: Any, expected: PolicyRef) -> None:
    assert (
        only_job(document(job(policy=own), defaults={"policy": {"type": "sb3", "kwargs": {"path": "p"}}})).policy
        == expected
    )


def test_flags_win_over_the_run_section() -> None:
    source = document(job(), run={"chunk_size": 5, "num_workers": 2, "isolation": "run"})
    plan = load_plan(source, flags={"chunk_size": "auto", "num_workers": None, "max_attempts": 1})
    assert plan.settings == RunSettings(chunk_size="auto", num_workers=None, isolation="run", max_attempts=1)


def test_a_flag_does_not_hide_a_mistake_in_the_file() -> None:
    text = refusal(document(job(), run={"chunk_size": 0}), flags={"chunk_size": 2})
    assert lines(text) == ["run.chunk_size: found 0; must be at least 1 or 'auto'"]


def test_flag_takes_a_path(tmp_path: Path) -> None:
    assert load_plan(document(job()), flags={"video_base_dir": tmp_path}).settings.video_base_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        pytest.param("chunk_sise", "did you mean 'chunk_size'?", id="misspelt"),
        pytest.param("video", "write 'record_viewport_video'", id="retired"),
        pytest.param("num-workers", "write 'num_workers'", id="hyphen"),
    ],
)
def test_unknown_flag(flag: str, hint: str) -> None:
    (line,) = lines(refusal(document(job()), flags={flag: 1}))
    assert line.startswith(f"flags: unknown key {flag!r} (found 1); {hint}")


@pytest.mark.parametrize("through", ["run", "flags"])
@pytest.mark.parametrize("key", ["record_viewport_video", "record_camera_video"])
def test_recording_of_the_run_reaches_every_job(through: str, key: str) -> None:
    jobs = (job("a"), job("b", video={"record_camera_video": True, "fps": 5}))
    plan = (
        load_plan(document(*jobs, run={key: True}))
        if through == "run"
        else load_plan(document(*jobs), flags={key: True})
    )
    assert plan.jobs[0].video == VideoRecordingCfg(**{key: True})  # type: ignore[arg-type]
    assert plan.jobs[1].video == VideoRecordingCfg(**{"record_camera_video": True, "fps": 5, key: True})  # type: ignore[arg-type]
    assert plan.document["jobs"][0]["video"][key] is True


def test_flag_turns_recording_of_the_run_off_but_not_a_jobs_own() -> None:
    source = document(job("a"), job("b", video={"record_camera_video": True}), run={"record_camera_video": True})
    plan = load_plan(source, flags={"record_camera_video": False})
    assert [found.video.enabled for found in plan.jobs] == [False, True]


def test_jobs_in_python_are_taken_as_they_are() -> None:
    plan = load_plan([FETCH_REACH], flags={"chunk_size": 3})
    assert plan.jobs == (FETCH_REACH,)
    assert plan.settings == RunSettings(chunk_size=3)
    assert plan.folder is None


def test_jobs_in_python_take_overrides() -> None:
    assert only_job([FETCH_REACH], ["*:num_steps=9"]) == FETCH_REACH.model_copy(
        update={"num_episodes": None, "num_steps": 9}
    )


def test_jobs_in_python_are_checked() -> None:
    folder = FETCH_REACH.model_copy(update={"video": VideoRecordingCfg(video_base_dir="elsewhere")})
    other = folder.model_copy(
        update={"name": "Fetch-Reach", "env": EnvRef(id="X-v0", kwargs={"f": len}), "video": FETCH_REACH.video}
    )
    found = lines(refusal([folder, other]))
    assert len(found) == 3
    assert "job 'fetch-reach': video.video_base_dir: found 'elsewhere'; videos of a run lie in" in found[0]
    assert "job 'Fetch-Reach': env.kwargs.f: found <built-in function len>; must be a JSON type" in found[1]
    assert "job #1 'fetch-reach' and job #2 'Fetch-Reach' have names that differ only in case" in found[2]


@pytest.mark.parametrize(
    "source", [pytest.param(3, id="int"), pytest.param(b"jobs", id="bytes"), pytest.param(None, id="none")]
)
def test_other_sources_are_refused(source: Any) -> None:
    assert refusal(source) == f"found {source!r}; must be the path of a job file, a mapping, or a list of EvalJob"


def test_an_empty_list_of_jobs_is_refused() -> None:
    assert lines(refusal([])) == ["jobs: found an empty list; give at least one job"]


def _strict(plan: EvalPlan) -> Any:
    return json.loads(json.dumps(plan.document, allow_nan=False))


def test_document_reads_back_into_equal_jobs() -> None:
    small = job(
        "b",
        num_episodes=...,
        num_steps=10,
        policy={"entry_point": "p.q:R.s", "kwargs": {"x": [1, 2.5, None, {"y": "ä"}]}},
    )
    source = document(
        FETCH_REACH, small, defaults={"env": {"kwargs": {"size": (3, 4)}}, "tags": {"t": True, "n": 1, "f": 0.5}}
    )
    plan = load_plan(source, ["b:video.fps=12.5"], {"record_camera_video": True})
    again = load_plan(_strict(plan))
    assert again.jobs == plan.jobs
    assert again.document == plan.document
    assert type(again.jobs[1].tags["t"]) is bool
    assert plan.jobs[1].env.kwargs == {"size": [3, 4]}
    assert plan.jobs[0].video.record_camera_video


def test_tuples_become_lists_before_the_first_run_and_not_only_when_it_is_resumed() -> None:
    plan = load_plan(document(job(env={"id": "X-v0", "kwargs": {"size": (3, 4)}})))
    assert plan.jobs[0].env.kwargs == {"size": [3, 4]}
    assert load_plan(_strict(plan)).jobs == plan.jobs


def test_document_has_every_field_but_the_folder_of_videos() -> None:
    (written,) = load_plan(document(job())).document["jobs"]
    assert set(written) == set(EvalJob.model_fields) - {"stop_when"}  # Only where there is one.
    assert written["video"] == {
        "record_viewport_video": False,
        "record_camera_video": False,
        "camera_name_prefix": "robot-cam",
        "fps": None,
        "save_partial_episodes": False,
        "record": "all",
        "cameras": None,
        "max_resolution": None,
        "preset": "fast",
        "video_length": 0,
        "outcome_in_name": False,
        "overlay": False,
        "encoder": "auto",
    }


def test_what_only_a_whole_job_can_get_wrong_is_not_said_of_defaults() -> None:
    defaults = {"num_steps": 100, "num_rebuilds": 2}
    found = only_job(document(job(num_episodes=4), defaults=defaults))
    assert (found.num_episodes, found.num_steps, found.num_rebuilds) == (4, None, 2)
    assert lines(refusal(document(job(num_episodes=...), defaults=defaults))) == [
        "job 'a': 'num_rebuilds' splits episodes; give 'num_episodes', not 'num_steps'"
    ]


def test_defaults_that_name_no_env_reach_every_env() -> None:
    plan = load_plan(document(job(env={"id": "X-v0"}), defaults={"env": {"kwargs": {"size": 3}}}))
    assert plan.jobs[0].env == EnvRef(id="X-v0", kwargs={"size": 3})
