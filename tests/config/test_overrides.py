"""Overrides: what they change, what they take away, and what is not one."""

from __future__ import annotations

from typing import Any

import pytest

from arena_ray.config import load_plan
from arena_ray.specs import EnvRef, MetricSpec, PolicyRef
from tests.config.documents import document, job, lines, only_job, refusal

TWO = document(job("fetch-reach"), job("pick-cube", num_episodes=..., num_steps=9))


def test_star_reaches_every_job_and_replaces_the_budget_of_the_other_kind() -> None:
    plan = load_plan(TWO, ["*:num_episodes=5"])
    assert [(found.num_episodes, found.num_steps) for found in plan.jobs] == [(5, None), (5, None)]


def test_step_budget_replaces_episode_budget() -> None:
    found = load_plan(TWO, ["fetch-reach:num_steps=5"]).jobs
    assert [(each.num_episodes, each.num_steps) for each in found] == [(None, 5), (None, 9)]


def test_named_job_only() -> None:
    assert [found.seed for found in load_plan(TWO, ["pick-cube:seed=7"]).jobs] == [0, 7]


def test_later_override_wins() -> None:
    assert [found.seed for found in load_plan(TWO, ["*:seed=1", "pick-cube:seed=2"]).jobs] == [1, 2]
    assert [found.seed for found in load_plan(TWO, ["pick-cube:seed=2", "*:seed=1"]).jobs] == [1, 1]


def test_override_wins_over_job_and_defaults() -> None:
    source = document(job(num_envs=2), defaults={"num_envs": 3, "seed": 4})
    found = only_job(source, ["a:num_envs=5", "a:seed=6"])
    assert (found.num_envs, found.seed) == (5, 6)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param("a:env.kwargs.max_episode_steps=20", {"max_episode_steps": 20}, id="dotted"),
        pytest.param("a:env.kwargs.deep.er=x=y:z", {"deep": {"er": "x=y:z"}}, id="intermediate mappings"),
        pytest.param("a:env.kwargs={q: [1, 2.5, yes]}", {"q": [1, 2.5, True]}, id="YAML"),
        pytest.param("a:env.kwargs.x='1'", {"x": "1"}, id="quoted"),
        pytest.param("a:env.kwargs.x=", {"x": None}, id="empty is null"),
    ],
)
def test_values_and_keys(override: str, expected: dict[str, Any]) -> None:
    assert only_job(document(job()), [override]).env == EnvRef(id="CartPole-v1", kwargs=expected)


def test_a_null_on_the_way_becomes_a_mapping() -> None:
    found = only_job(document(job(success=None)), ["a:success.key=won"])
    assert found.success.key == "won"


def test_jobs_do_not_share_what_an_override_changes() -> None:
    source = document(job("a"), job("b"), defaults={"tags": {"x": 1}})
    assert [found.tags for found in load_plan(source, ["a:tags.x=2"]).jobs] == [{"x": 2}, {"x": 1}]


def test_naming_another_env_or_policy_takes_the_other_kind_away_and_keeps_kwargs() -> None:
    source = document(job(env={"id": "X-v0", "kwargs": {"k": 1}}, policy={"entry_point": "p:f"}))
    found = only_job(source, ["*:env.entry_point=m:make", "*:policy.type=zero"])
    assert found.env == EnvRef(entry_point="m:make", kwargs={"k": 1})
    assert found.policy == PolicyRef(type="zero")


def test_lists_are_replaced() -> None:
    found = only_job(document(job(metrics=["a", "b"])), ["a:metrics=[c]"])
    assert found.metrics == (MetricSpec(key="c"),)


def test_one_text_is_a_list_of_one() -> None:
    assert only_job(document(job()), "a:seed=3").seed == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param(
            "num_episodes=5",
            "must be NAME:key=value with the name of a job, or '*:key=value' for every job",
            id="no job",
        ),
        pytest.param(
            "fetch-reach:seed",
            "must be NAME:key=value with the name of a job, or '*:key=value' for every job",
            id="no value",
        ),
        pytest.param(
            "fetch-rech:seed=1",
            "there is no job 'fetch-rech'; did you mean 'fetch-reach'? Valid: *, fetch-reach, pick-cube",
            id="unknown job",
        ),
        pytest.param(
            "*:env..id=1",
            "found the key 'env..id'; must be a key such as num_episodes or env.kwargs.max_episode_steps",
            id="empty part",
        ),
        pytest.param(
            "*:=1",
            "found the key ''; must be a key such as num_episodes or env.kwargs.max_episode_steps",
            id="empty key",
        ),
        pytest.param("*:name=b", "'name' cannot be overridden; change it in the job file", id="name"),
        pytest.param(
            "*:tags={a: 1, a: 2}",
            "line 1, column 8: not readable as YAML: the key 'a' is given twice, first in line 1; keep one",
            id="key twice",
        ),
        pytest.param(
            "*:seed=.nan", "found nan; must be a finite number; JSON has no NaN and no infinity", id="not a number"
        ),
        pytest.param(
            "*:num_envs=0", "num_envs: found 0; must be at least 1 or 'auto'", id="bad value, said once for all jobs"
        ),
        pytest.param(
            "pick-cube:policy.type=zeroo",
            "policy.type: found 'zeroo'; did you mean 'zero'? Valid: random, sb3, torch, zero",
            id="bad choice",
        ),
        pytest.param(
            "pick-cube:seed.x=1", "job 'pick-cube': seed is 0, not a mapping, so it has no key 'x'", id="not a mapping"
        ),
        pytest.param(
            "pick-cube:env.kwarg.x=1",
            "unknown key 'env.kwarg' (found {'x': 1}); did you mean 'kwargs'? "
            "Valid: entry_point, id, kwargs, seed_hook",
            id="unknown key on the way",
        ),
    ],
)
def test_mistakes_name_the_override(override: str, expected: str) -> None:
    source = document(job("fetch-reach", seed=0), job("pick-cube", seed=0))
    assert lines(refusal(source, [override])) == [f"override {override!r}: {expected}"]


def test_unreadable_yaml_says_where() -> None:
    (line,) = lines(refusal(TWO, ["*:metrics=[1"]))
    assert line.startswith(
        "override '*:metrics=[1': line 1, column 3: not readable as YAML: while parsing a flow sequence"
    )


def test_video_folder_cannot_be_overridden_per_job() -> None:
    (line,) = lines(refusal(document(job()), ["a:video.video_base_dir=x"]))
    assert line.startswith(
        "override 'a:video.video_base_dir=x': video.video_base_dir: found 'x'; videos of a run lie in"
    )


def test_setting_one_of_two_to_null_leaves_the_other() -> None:
    found = only_job(document(job()), ["a:num_steps=null", "a:env.entry_point=null"])
    assert (found.num_episodes, found.num_steps, found.env.id) == (3, None, "CartPole-v1")
