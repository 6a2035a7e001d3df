"""Every bad input of section 2 through the command: exit code 2, one message, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arena_ray import evaluate
from tests.contract.outside import arena_ray, arena_ray_here, corridor, write_jobs

TOO_LONG = "n" * 101


def spoiled(**changes: Any) -> dict[str, Any]:
    """A good job, with these keys set, or removed where `None`."""
    job = {
        "name": "reach",
        "env": {"id": "CartPole-v1"},
        "policy": {"type": "zero"},
        "num_episodes": 2,
    } | changes
    return {key: value for key, value in job.items() if value is not None}


CASES = [
    pytest.param(spoiled(num_episode=3), ["reach", "num_episode", "3", "num_episodes"], id="unknown-key"),
    pytest.param(spoiled(polcy={"type": "zero"}), ["reach", "polcy", "policy"], id="unknown-top-key"),
    pytest.param(spoiled(env={"idd": "X-v0"}), ["reach", "env", "idd", "X-v0", "id"], id="unknown-env-key"),
    pytest.param(
        spoiled(policy={"type": "zero", "kwarg": {}}), ["reach", "policy", "kwarg", "kwargs"], id="policy-key"
    ),
    pytest.param(spoiled(success={"wen": "any"}), ["reach", "success", "wen", "any", "when"], id="success-key"),
    pytest.param(spoiled(success={"when": "lst"}), ["reach", "success", "when", "lst", "last"], id="success-when"),
    pytest.param(
        spoiled(video={"record_viewport_vido": True}),
        ["reach", "video", "record_viewport_vido", "record_viewport_video"],
        id="video-key",
    ),
    pytest.param(spoiled(resources={"gpus": 1}), ["reach", "resources", "gpus", "num_gpus"], id="resources-key"),
    pytest.param(spoiled(resources={"num_gpus": -1}), ["reach", "num_gpus", "-1"], id="negative-gpus"),
    pytest.param(spoiled(metrics=[{"key": "x", "reduce": "summ"}]), ["reach", "metrics", "summ", "sum"], id="reduce"),
    pytest.param(spoiled(metrics=[{"kee": "x"}]), ["reach", "metrics", "kee", "key"], id="metric-key"),
    pytest.param(spoiled(policy={"type": "randm"}), ["reach", "policy", "randm", "random"], id="unknown-policy-type"),
    pytest.param(spoiled(num_steps=5), ["reach", "num_steps", "num_episodes"], id="both-budgets"),
    pytest.param(spoiled(num_episodes=None), ["reach", "num_steps", "num_episodes"], id="no-budget"),
    pytest.param(spoiled(num_episodes=0), ["reach", "num_episodes", "0"], id="zero-episodes"),
    pytest.param(spoiled(num_episodes=-3), ["reach", "num_episodes", "-3"], id="negative-episodes"),
    pytest.param(spoiled(num_episodes=None, num_steps=0), ["reach", "num_steps", "0"], id="zero-steps"),
    pytest.param(spoiled(num_episodes="ten"), ["reach", "num_episodes", "ten"], id="words-for-a-number"),
    pytest.param(spoiled(num_episodes=2.5), ["reach", "num_episodes", "2.5"], id="half-an-episode"),
    pytest.param(spoiled(num_episodes=True), ["reach", "num_episodes", "rue"], id="yes-episodes"),
    pytest.param(spoiled(num_envs=0), ["reach", "num_envs", "0"], id="zero-envs"),
    pytest.param(spoiled(seed=-1), ["reach", "seed", "-1"], id="negative-seed"),
    pytest.param(spoiled(name="../reach"), ["../reach", "name"], id="name-climbs"),
    pytest.param(spoiled(name="a/b"), ["a/b", "name"], id="name-with-a-slash"),
    pytest.param(spoiled(name=".hidden"), [".hidden", "name"], id="name-with-a-leading-dot"),
    pytest.param(spoiled(name="a b"), ["a b", "name"], id="name-with-a-space"),
    pytest.param(spoiled(name="a\n"), ["name"], id="name-with-a-line-end"),
    pytest.param(spoiled(name=""), ["name"], id="name-empty"),
    pytest.param(spoiled(name=TOO_LONG), [TOO_LONG, "name"], id="name-of-101-letters"),
    pytest.param(spoiled(name="räch"), ["name"], id="name-with-an-umlaut"),
    pytest.param(spoiled(name=3), ["name", "3"], id="name-a-number"),
    pytest.param(spoiled(name=None), ["name"], id="name-missing"),
    pytest.param(spoiled(env=None), ["reach", "env"], id="env-missing"),
    pytest.param(spoiled(policy=None), ["reach", "policy"], id="policy-missing"),
    pytest.param(spoiled(env={}), ["reach", "env", "id", "entry_point"], id="env-empty"),
    pytest.param(
        spoiled(env={"id": "X-v0", "entry_point": "a:b"}), ["reach", "env", "id", "entry_point"], id="env-both-ways"
    ),
    pytest.param(spoiled(policy={}), ["reach", "policy", "type", "entry_point"], id="policy-empty"),
    pytest.param(
        spoiled(policy={"type": "zero", "entry_point": "a:b"}),
        ["reach", "policy", "type", "entry_point"],
        id="policy-both-ways",
    ),
    pytest.param(spoiled(env={"entry_point": "my_pkg.envs"}), ["reach", "env", "my_pkg.envs"], id="no-colon"),
    pytest.param(spoiled(env={"entry_point": "my_pkg:"}), ["reach", "env", "my_pkg:"], id="no-name"),
    pytest.param(spoiled(env={"entry_point": ":make"}), ["reach", "env", ":make"], id="no-module"),
    pytest.param(spoiled(env={"entry_point": "my-pkg:make"}), ["reach", "env", "my-pkg:make"], id="no-identifier"),
    pytest.param(spoiled(policy={"entry_point": "a:b:c"}), ["reach", "policy", "a:b:c"], id="two-colons"),
    pytest.param(
        spoiled(env={"id": "CartPole-v1", "seed_hook": "nowhere"}), ["reach", "seed_hook", "nowhere"], id="seed-hook"
    ),
    pytest.param(spoiled(env={"id": "CartPole-v1", "kwargs": [1]}), ["reach", "kwargs"], id="kwargs-a-list"),
    pytest.param(spoiled(tags="fetch"), ["reach", "tags", "fetch"], id="tags-a-string"),
]


def assert_refused(argv: list[str | Path], words: list[str], cwd: Path) -> None:
    before = sorted(cwd.iterdir())
    done = arena_ray_here(*argv, cwd=cwd)
    assert done.code == 2, done.said
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    missing = [word for word in words if word not in done.stderr]
    assert not missing, f"{missing} not in: {done.stderr}"
    assert sorted(cwd.iterdir()) == before


@pytest.mark.parametrize(("job", "words"), CASES)
def test_bad_job(job: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    good = corridor("good")
    assert_refused(["run", write_jobs(tmp_path / "jobs.yaml", good, job), "--inline"], words, tmp_path)


def test_duplicate_names(tmp_path: Path) -> None:
    assert_refused(["run", write_jobs(tmp_path / "jobs.yaml", spoiled(), spoiled())], ["reach", "name"], tmp_path)


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", spoiled(num_episodes=0), spoiled(name="push", sead=3))
    assert_refused(["run", jobs], ["reach", "num_episodes", "push", "sead", "seed"], tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", [], id="empty"),
        pytest.param("jobs: []", ["jobs"], id="no-jobs"),
        pytest.param("jobs: {a: 3}", ["jobs"], id="jobs-a-mapping"),
        pytest.param("- 3", [], id="a-list"),
        pytest.param("job: []", ["job", "jobs"], id="unknown-key-of-the-file"),
        pytest.param("jobs: [{name: a", ["jobs.yaml"], id="broken-yaml"),
        pytest.param("jobs: [3]", ["jobs", "3"], id="job-a-number"),
        pytest.param("jobs: !!python/object/apply:os.mkdir [pwned]", [], id="python-tag"),
        pytest.param("{GOOD, run: {video_dir: x}}", ["run", "video_dir", "video_base_dir"], id="retired-run-key"),
        pytest.param("{GOOD, run: {chunk_sise: 1}}", ["run", "chunk_sise", "chunk_size"], id="unknown-run-key"),
        pytest.param("{GOOD, run: {isolation: jobb}}", ["run", "isolation", "jobb", "job"], id="run-value"),
        pytest.param("{GOOD, defaults: {num_env: 1}}", ["num_env", "num_envs"], id="unknown-default"),
        pytest.param("{GOOD, defaults: {name: x}}", ["name"], id="default-name"),
    ],
)
def test_bad_file(text: str, words: list[str], tmp_path: Path) -> None:
    good = "jobs: [{name: a, env: {id: CartPole-v1}, policy: {type: zero}, num_episodes: 1}]"
    (tmp_path / "jobs.yaml").write_text(text.replace("GOOD", good))
    if "name: x" in text:  # Every job has its own name, so a default name could only mislead.
        done = arena_ray_here("run", "jobs.yaml", "--inline", cwd=tmp_path)
        assert done.code in (0, 2)
        return
    assert_refused(["run", "jobs.yaml", "--inline"], words, tmp_path)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        pytest.param([], ["JOBS"], id="no-file"),
        pytest.param(["nowhere.yaml"], ["nowhere.yaml"], id="missing-file"),
        pytest.param(["."], ["."], id="a-folder"),
        pytest.param(["jobs.yaml", "raech:num_episodes=3"], ["raech", "reach"], id="override-of-no-job"),
        pytest.param(["jobs.yaml", "reach:num_episode=3"], ["reach", "num_episode", "3", "num_episodes"], id="no-key"),
        pytest.param(["jobs.yaml", "reach:env.idd=X-v0"], ["reach", "env", "idd"], id="no-dotted-key"),
        pytest.param(["jobs.yaml", "reach:seed.x=1"], ["reach", "seed"], id="dotted-through-a-number"),
        pytest.param(["jobs.yaml", "reach:num_episodes"], ["reach:num_episodes"], id="override-without-value"),
        pytest.param(["jobs.yaml", "num_episodes=3"], ["num_episodes=3"], id="override-without-job"),
        pytest.param(["jobs.yaml", "reach:num_episodes=0"], ["reach", "num_episodes", "0"], id="override-to-zero"),
        pytest.param(["jobs.yaml", "reach:num_episodes=[1"], ["reach", "[1"], id="override-broken-yaml"),
        pytest.param(["jobs.yaml", "*:policy.type=randon"], ["*", "randon", "random"], id="star-override"),
        pytest.param(["jobs.yaml", "--chunk_size", "0"], ["chunk_size", "0"], id="zero-chunk"),
        pytest.param(["jobs.yaml", "--chunk_size", "some"], ["chunk_size", "some"], id="chunk-word"),
        pytest.param(["jobs.yaml", "--num_workers", "0"], ["num_workers", "0"], id="zero-workers"),
        pytest.param(["jobs.yaml", "--max_attempts", "0"], ["max_attempts", "0"], id="zero-attempts"),
        pytest.param(["jobs.yaml", "--episode_timeout", "-1"], ["episode_timeout", "-1"], id="negative-timeout"),
        pytest.param(["jobs.yaml", "--stall_timeout", "nan"], ["stall_timeout", "nan"], id="nan-timeout"),
        pytest.param(["jobs.yaml", "--isolation", "jobs"], ["isolation", "jobs", "job"], id="isolation"),
    ],
)
def test_bad_command_line(argv: list[str], words: list[str], tmp_path: Path) -> None:
    write_jobs(tmp_path / "jobs.yaml", spoiled())
    assert_refused(["run", *argv, "--inline"], words, tmp_path)


def test_from_the_shell_too(tmp_path: Path) -> None:
    write_jobs(tmp_path / "jobs.yaml", spoiled(num_episode=1))
    for last in ([], ["--video_base_dir"]):
        done = arena_ray("run", "jobs.yaml", *last, cwd=tmp_path)
        assert (done.code, done.stdout) == (2, "")
        assert "video_base_dir" in done.stderr if last else "num_episode" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.yaml"]


def test_two_job_files_are_refused(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", spoiled())
    assert_refused(["run", jobs, "--eval_jobs_config", jobs, "--inline"], [], tmp_path)


def test_names_up_to_100_letters_are_good(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", spoiled(name=TOO_LONG[1:]), spoiled(name="0"), spoiled(name="A._-"))
    assert arena_ray_here("run", jobs, "--inline", cwd=tmp_path).code == 0


@pytest.mark.parametrize("name", ["run.json", "episodes.jsonl", "report.html"], ids=["run", "episodes", "report"])
def test_a_job_named_like_a_file_of_the_run_directory_does_no_harm(name: str, tmp_path: Path) -> None:
    done = arena_ray_here("run", write_jobs(tmp_path / "jobs.yaml", spoiled(name=name)), "--inline", cwd=tmp_path)
    assert done.code in (0, 2), done.said
    assert "Traceback" not in done.stderr
    if done.code == 2:
        assert name in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["jobs.yaml"]


def test_python_raises_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)reach.*num_episode.*num_episodes"):
        evaluate({"jobs": [spoiled(num_episode=1)]}, inline=True, video_base_dir=str(tmp_path / "base"))
    with pytest.raises((ValueError, TypeError), match="chunk_size"):
        evaluate({"jobs": [spoiled()]}, inline=True, video_base_dir=str(tmp_path / "base"), chunk_sice=1)
    assert not list(tmp_path.iterdir())
