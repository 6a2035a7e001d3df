"""Section 3 of interface.md: the commands, their flags, what they print and return."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from tests.contract.outside import (
    COMMAND,
    ENVIRONMENT,
    REPOSITORY,
    arena_ray,
    arena_ray_here,
    corridor,
    invoke,
    read_json,
    records,
    summary,
    tape,
    write_jobs,
)

MODULE = """
import gymnasium
import numpy as np


class Short(gymnasium.Env):
    def __init__(self, length=2):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.array([self.np_random.uniform()], np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), float(action), self.t >= self.length, False, {}


def one(): return lambda observation: 1


gymnasium.register("Judge/Short-v0", entry_point=Short)
gymnasium.register("Short-v0", entry_point=Short)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return write_jobs(tmp_path / "jobs.yaml", corridor("a"), corridor("b"))


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([COMMAND, "--help"], id="help"),
        pytest.param([COMMAND, "run", "--help"], id="run-help"),
        pytest.param([sys.executable, "-c", "import arena_ray"], id="import"),
    ],
)
def test_starts_at_once(argv: list[str], tmp_path: Path) -> None:
    trials = [invoke(argv, tmp_path) for _ in range(3)]
    assert {trial.code for trial in trials} == {0}
    assert min(trial.wall_s for trial in trials) < 1  # Alone it takes 0.2 to 0.35 s.


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import arena_ray", id="import"),
        pytest.param("import arena_ray.cli", id="import-cli"),
        pytest.param("from arena_ray import VideoRecordingCfg, timestamped_run_dir", id="video-names"),
        pytest.param("from arena_ray.cli import main; sys.argv[1:] = ['--help']; exits(main)", id="help"),
    ],
)
def test_imports_neither_ray_nor_torch(code: str, tmp_path: Path) -> None:
    body = f"""
import sys
def exits(f):
    try: f()
    except SystemExit as e: assert e.code in (0, None)
{code}
assert not {{'ray', 'torch'}} & set(sys.modules), sorted(m for m in sys.modules if '.' not in m)
"""
    done = invoke([sys.executable, "-c", body], tmp_path)
    assert done.code == 0, done.stderr


def test_last_line_of_stdout_is_the_run_directory_and_progress_is_on_stderr(jobs: Path, tmp_path: Path) -> None:
    done = arena_ray("run", jobs, "--inline", "--video_base_dir", tmp_path / "base")
    assert done.code == 0
    assert done.run_dir.is_dir()
    assert done.run_dir.parent == tmp_path / "base"
    assert [path.name for path in (tmp_path / "base").iterdir()] == [done.run_dir.name]
    assert "6/6" in done.stderr
    assert "episodes/s" in done.stderr or "/s" in done.stderr
    assert "/s," not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert (done.run_dir / "summary.json").is_file()


def test_last_line_is_whole_on_a_narrow_terminal(jobs: Path, tmp_path: Path) -> None:
    base = tmp_path / ("long-" * 20)
    done = invoke([COMMAND, "run", str(jobs), "--inline", "--video_base_dir", str(base)], REPOSITORY, COLUMNS="20")
    assert done.code == 0
    assert done.run_dir.parent == base
    assert done.run_dir.is_dir()


def test_final_table_names_the_jobs_and_the_run_directory(jobs: Path, tmp_path: Path) -> None:
    done = arena_ray_here("run", jobs, "--inline", "--video_base_dir", tmp_path / "base", cwd=REPOSITORY)
    assert str(done.run_dir) in done.said
    for name in ("a", "b"):
        assert re.search(rf"^\W*{name}\W+completed\W+3/3\b", done.stdout, re.MULTILINE), done.stdout


def test_default_base_directory_is_outputs_in_the_cwd(tmp_path: Path) -> None:
    done = arena_ray(
        "policy", "--env", "CartPole-v1", "--policy", "zero", "--num_episodes", "1", "--inline", cwd=tmp_path
    )
    assert done.code == 0, done.said
    assert (tmp_path / done.run_dir).resolve().parent == tmp_path / "outputs"


def test_a_failed_job_is_exit_code_1_and_prints_the_run_directory_last(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs.yaml", corridor(env={"entry_point": "tests.contract.stage:broken_factory"}))
    done = arena_ray("run", jobs, "--inline", "--video_base_dir", tmp_path / "base")
    assert done.code == 1
    assert done.run_dir.is_dir()
    assert "the factory is on fire" in done.said
    assert summary(done.run_dir)["status"] == "failed"


@pytest.mark.parametrize(
    "order",
    [
        pytest.param("J F O", id="jobs-flags-overrides"),
        pytest.param("F J O", id="flags-jobs-overrides"),
        pytest.param("J O F", id="jobs-overrides-flags"),
        pytest.param("J O1 F O2", id="interleaved"),
    ],
)
def test_flags_and_overrides_in_any_order(order: str, jobs: Path, tmp_path: Path) -> None:
    parts = {
        "J": [str(jobs)],
        "F": ["--inline", "--video_base_dir", str(tmp_path / "base"), "--chunk_size", "1"],
        "O": ["*:num_episodes=2", "b:env.kwargs.length=5"],
        "O1": ["*:num_episodes=2"],
        "O2": ["b:env.kwargs.length=5"],
    }
    done = arena_ray_here("run", *[word for part in order.split() for word in parts[part]], cwd=REPOSITORY)
    assert done.code == 0, done.stderr
    rows = records(done.run_dir)
    assert [(row["job"], row["episode"], row["length"], row["chunk"]) for row in rows] == [
        ("a", 0, 3, 0),
        ("a", 1, 3, 1),
        ("b", 0, 5, 0),
        ("b", 1, 5, 1),
    ]


def test_overrides_are_yaml_and_later_ones_win(jobs: Path, tmp_path: Path) -> None:
    done = arena_ray_here(
        "run",
        jobs,
        "*:num_episodes=1",
        "a:num_episodes=2",
        "a:metrics=[mark]",
        "a:tags={suite: fetch}",
        "a:tags.by=me=you",
        "b:env.kwargs={length: 4}",
        "b:language_instruction=null",
        "--inline",
        "--video_base_dir",
        tmp_path / "base",
        cwd=REPOSITORY,
    )
    assert done.code == 0, done.stderr
    assert [(row["job"], row["length"], sorted(row["metrics"])) for row in records(done.run_dir)] == [
        ("a", 3, ["mark"]),
        ("a", 3, ["mark"]),
        ("b", 4, []),
    ]
    job = read_json(done.run_dir / "run.json")["jobs"][0]
    assert job["tags"] == {"suite": "fetch", "by": "me=you"}


def test_eval_jobs_config_is_another_spelling_of_jobs(jobs: Path, tmp_path: Path) -> None:
    done = arena_ray_here(
        "run",
        "--eval_jobs_config",
        jobs,
        "--inline",
        "a:num_episodes=1",
        "--video_base_dir",
        tmp_path / "base",
        cwd=REPOSITORY,
    )
    assert done.code == 0, done.stderr
    assert len(records(done.run_dir)) == 4


def test_eval_runner_module_is_arena_ray_run(jobs: Path, tmp_path: Path) -> None:
    done = invoke(
        [
            *(sys.executable, "-m", "arena_ray.eval_runner", "--eval_jobs_config", str(jobs), "--inline"),
            *("--video_base_dir", str(tmp_path / "base"), "*:num_episodes=1"),
        ],
        REPOSITORY,
    )
    assert done.code == 0, done.stderr
    assert len(records(done.run_dir)) == 2


def test_policy_runner_module_is_arena_ray_policy(tmp_path: Path) -> None:
    done = invoke(
        [
            *(sys.executable, "-m", "arena_ray.policy_runner", "--env", "CartPole-v1", "--policy", "random"),
            *("--num_episodes", "2", "--inline", "--video_base_dir", "base"),
        ],
        tmp_path,
    )
    assert done.code == 0, done.stderr
    assert {row["job"] for row in records(tmp_path / done.run_dir)} == {"policy"}


@pytest.mark.parametrize("module", ["eval_runner", "policy_runner"], ids=["eval_runner", "policy_runner"])
def test_modules_refuse_bad_input_too(module: str, tmp_path: Path) -> None:
    done = invoke([sys.executable, "-m", f"arena_ray.{module}", "--record-camera-video"], tmp_path)
    assert done.code == 2
    assert "--record_camera_video" in done.said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "policy"], ids=["run", "policy"])
@pytest.mark.parametrize(
    ("written", "right"),
    [
        pytest.param("--video", "--record_viewport_video", id="retired-video"),
        pytest.param("--camera_video", "--record_camera_video", id="retired-camera_video"),
        pytest.param("--video_dir=x", "--video_base_dir", id="retired-video_dir"),
        pytest.param("--record-viewport-video", "--record_viewport_video", id="hyphenated-switch"),
        pytest.param("--video-base-dir=x", "--video_base_dir", id="hyphenated-option"),
        pytest.param("--camera-video", "--record_camera_video", id="retired-and-hyphenated"),
        pytest.param("--chunk_sizes=3", "--chunk_size", id="misspelled"),
    ],
)
def test_wrong_flags_name_the_right_ones(command: str, written: str, right: str, jobs: Path, tmp_path: Path) -> None:
    rest = [str(jobs)] if command == "run" else ["--env", "CartPole-v1", "--policy", "zero", "--num_episodes", "1"]
    there = tmp_path / "there"
    there.mkdir()
    done = arena_ray_here(command, *rest, written, "--inline", cwd=there)
    assert done.code == 2
    assert right in done.stderr
    assert done.stdout == ""
    assert not list(there.iterdir())


def test_hyphenated_flags_of_the_policy_command_name_the_right_ones(tmp_path: Path) -> None:
    done = arena_ray_here("policy", "--env", "CartPole-v1", "--policy", "zero", "--num-episodes", "3", cwd=tmp_path)
    assert done.code == 2
    assert "--num_episodes" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--env", "CartPole-v1"], id="id"),
        pytest.param(["--env", "judge_module:Short-v0"], id="module-and-id"),
        pytest.param(["--env", "judge_module:Judge/Short-v0"], id="module-and-namespaced-id"),
        pytest.param(["--env", "judge_module:Short"], id="entry-point-class"),
        pytest.param(["--env", "judge_module:Short", "--env_kwargs", '{"length": 2}'], id="entry-point-kwargs"),
    ],
)
def test_policy_command_takes_ids_and_entry_points(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "judge_module.py").write_text(MODULE)
    done = arena_ray(
        "policy", *flags, "--policy", "judge_module:one", "--num_episodes", "2", "--inline", "--seed", "4", cwd=tmp_path
    )
    assert done.code == 0, done.stderr
    rows = records(tmp_path / done.run_dir, "policy")
    assert [row["episode"] for row in rows] == [0, 1]
    assert (tmp_path / done.run_dir / "policy").is_dir()
    if "CartPole-v1" not in flags:
        assert [row["return"] for row in rows] == [2.0, 2.0]


def test_policy_command_hands_its_kwargs_on(tmp_path: Path) -> None:
    notes = tmp_path / "tape"
    done = arena_ray_here(
        *["policy", "--env", "tests.contract.stage:Corridor", "--env_kwargs", json.dumps({"length": 4})],
        *["--policy", "tests.contract.stage:Batched", "--policy_kwargs", json.dumps({"tape": str(notes)})],
        *["--num_steps", "9", "--num_envs", "2", "--inline", "--video_base_dir", str(tmp_path / "base")],
        cwd=REPOSITORY,
    )
    assert done.code == 0, done.stderr
    assert [row["length"] for row in records(done.run_dir)] == [4, 4]
    assert tape(notes, "policy")[0]["num_slots"] == 2


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--num_episodes", "2", "--num_steps", "2"], id="both-budgets"),
        pytest.param(["--num_episodes", "0"], id="zero-budget"),
        pytest.param(["--num_episodes", "1", "--num_envs", "0"], id="zero-envs"),
        pytest.param(["--num_episodes", "1", "--seed", "-1"], id="negative-seed"),
        pytest.param(["--num_episodes", "1", "--env_kwargs", "{length: 3"], id="broken-env-kwargs"),
        pytest.param(["--num_episodes", "1", "--policy_kwargs", "[3]"], id="policy-kwargs-are-no-mapping"),
        pytest.param(["--num_episodes", "1", "--policy", "randm"], id="unknown-policy"),
        pytest.param(["--num_episodes", "1", "--env", "a.b:"], id="malformed-env"),
    ],
)
def test_policy_command_refuses_bad_input(flags: list[str], tmp_path: Path) -> None:
    done = arena_ray_here("policy", "--env", "CartPole-v1", "--policy", "random", *flags, "--inline", cwd=tmp_path)
    assert done.code == 2, done.said
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_schema_validates_the_example_of_the_interface() -> None:
    done = arena_ray_here("schema", cwd=REPOSITORY)
    assert done.code == 0
    schema = json.loads(done.stdout)
    jsonschema.validators.validator_for(schema).check_schema(schema)
    jsonschema.validate(yaml.safe_load(EXAMPLE), schema)
    for wrong in ("num_episodez: 3", "num_envs: 0", "seed: zero", "tags: 3", "success: {when: never}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(EXAMPLE + f"\n    {wrong}"), schema)


EXAMPLE = """
defaults: {num_episodes: 50}       # merged under every job
run:                               # same names as the CLI flags; flags win
  video_base_dir: outputs
jobs:
  - name: fetch-reach              # required, unique; [A-Za-z0-9][A-Za-z0-9._-]{0,99}
    env:                           # required: a Gymnasium id, or an entry point
      id: FetchReach-v4            # "module:Id-v0" imports the module first
      # entry_point: my_pkg.envs:make_env
      kwargs: {max_episode_steps: 50}
    policy:                        # required: a built-in type, or an entry point
      type: random                 # zero | random | torch | sb3 | ...
      # entry_point: my_pkg.policies:ReachController
      kwargs: {}
    num_episodes: 100              # exactly one of num_episodes / num_steps
    num_envs: 4                    # slots per worker, default 1
    seed: 0
    success: {key: is_success, when: last}    # when: last | any; default looks for is_success, then success
    metrics: [distance, {key: energy, reduce: sum}]   # numbers from info; reduce: last (default) | sum | mean | max
    language_instruction: "reach the red ball"        # optional, handed to the policy
    resources: {num_gpus: 1, num_cpus: 4}     # per worker; fractions allowed; default num_gpus 0, num_cpus 1
    video: {record_viewport_video: true}      # same fields as VideoRecordingCfg
    tags: {suite: fetch, policy: ppo-v3}      # free; reports group by them
"""


def test_modules_beside_the_job_file_and_in_the_cwd_can_be_named(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name in ((here, "beside_cwd"), (there, "beside_jobs")):
        folder.mkdir()
        (folder / f"{name}.py").write_text(MODULE)
    job = {"env": {"entry_point": "beside_jobs:Short"}, "policy": {"entry_point": "beside_cwd:one"}, "num_episodes": 1}
    done = arena_ray("run", write_jobs(there / "jobs.json", {"name": "a", **job}), "--inline", cwd=here)
    assert done.code == 0, done.said


def test_run_section_is_the_flags_and_flags_win(tmp_path: Path) -> None:
    jobs = write_jobs(
        tmp_path / "jobs.yaml",
        {key: value for key, value in corridor("a").items() if key != "num_episodes"},
        corridor("b", num_steps=7),
        corridor("c", num_episodes=1),
        defaults={"num_episodes": 4, "env": {"kwargs": {"length": 2}}, "tags": {"x": 1}},
        run={"video_base_dir": str(tmp_path / "from-file"), "chunk_size": 2, "inline": True},
    )
    done = arena_ray_here("run", jobs, "--chunk_size", "1", cwd=REPOSITORY)
    assert done.code == 0, done.said
    assert done.run_dir.parent == tmp_path / "from-file"
    rows = records(done.run_dir)
    assert [(row["job"], row["episode"]) for row in rows] == [
        *[("a", episode) for episode in range(4)],
        *[("b", episode) for episode in range(3)],
        ("c", 0),
    ]
    assert [row["chunk"] for row in rows if row["job"] == "a"] == [0, 1, 2, 3]
    assert {row["length"] for row in rows} == {2}
    assert summary(done.run_dir)["jobs"]["b"]["episodes"]["requested"] is None


def test_runs_when_stdout_is_closed_early(jobs: Path, tmp_path: Path) -> None:
    line = f"'{COMMAND}' run '{jobs}' --inline --video_base_dir '{tmp_path}/base' | true"
    done = subprocess.run(
        ["bash", "-c", line], cwd=REPOSITORY, env=dict(ENVIRONMENT), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    (run_dir,) = (tmp_path / "base").iterdir()
    assert len(records(run_dir)) == 6
