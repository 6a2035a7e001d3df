"""What is sent with a run, what is refused before, and how a log is taken apart; without a cluster."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from arena_ray.cli import run_command
from arena_ray.errors import ClusterError, ConfigError
from arena_ray.pools import node_survey
from arena_ray.pools.ray_jobs import JobEnd
from arena_ray.submission.code_package import CodePackage
from arena_ray.submission.log_splitter import LogSplitter
from arena_ray.submission.on_head import RESULT_MARK, run_marked
from arena_ray.submission.submitting import _exit_code, _raise_if_it_never_ran
from tests.ray_head import free_ports

JOBS = "jobs: [{name: a, env: {id: CartPole-v1}, policy: {type: random}, num_episodes: 1}]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("jobs.yaml", "scene.py", "models/big.pt", "outputs/x/run.json", ".git/HEAD", "clip.mp4", "notes.txt"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(JOBS if name == "jobs.yaml" else name)
    (tmp_path / "project" / ".gitignore").write_text("*.pt\n")
    (tmp_path / "project" / "env39").mkdir()
    (tmp_path / "project" / "env39" / "pyvenv.cfg").touch()
    os.symlink(tmp_path / "project", tmp_path / "project" / "models" / "loop")
    return tmp_path / "project"


def test_code_and_weights_travel_and_what_runs_leave_does_not(folder: Path) -> None:
    names = [name for name, _ in CodePackage.of(folder, ["notes.*", "models/none/"]).files]
    assert names == [".gitignore", "jobs.yaml", "models/big.pt", "scene.py"]


def test_the_same_content_is_the_same_zip(folder: Path, tmp_path: Path) -> None:
    contents: list[bytes] = []
    for name in ("a.zip", "b.zip"):
        os.utime(folder / "scene.py", (len(contents) * 1e6, 1e9))
        CodePackage.of(folder).write_zip(tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("models/big.pt") == b"models/big.pt"


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(folder: Path, tmp_path: Path) -> None:
    (folder / "models" / "big.pt").write_bytes(os.urandom(3_000_000))
    with pytest.raises(
        ConfigError, match=r"over the 2 MiB that Ray takes.*\n +2.861 MiB  models/big.pt\n[\s\S]*--excl"
    ):
        CodePackage.of(folder).write_zip(tmp_path / "code.zip", max_bytes=2 << 20)
    CodePackage.of(folder, ["*.pt"]).write_zip(tmp_path / "code.zip", max_bytes=2 << 20)


def port() -> int:
    return free_ports(1)[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--address", "ray://head:10001"], "Ray Client takes no jobs", id="ray-client"),
        pytest.param(["--address", "auto"], "give that of the dashboard, http://HEAD:8265", id="auto"),
        pytest.param(["--address", f"http://127.0.0.1:{port()}"], "nobody listens at", id="nobody"),
        pytest.param([], "give --address http://HEAD:8265", id="no-address"),
        pytest.param(["--address", "http://h:1", "a:num_episodes=none"], "num_episodes", id="bad-job"),
        pytest.param(["--address", "http://h:1", "--working_dir", "/nonexistent"], "is no folder", id="no-folder"),
        pytest.param(["--address", "http://h:1", "--exclude", "*.yaml"], "not among what is sent", id="excluded"),
        pytest.param(["--address", "http://h:1", "--attach", "x"], "give one of JOBS, --attach ID", id="both"),
        pytest.param(["--address", "http://h:1", "--inline"], "there is no flag --inline", id="inline"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert run_command(["submit", str(folder / "jobs.yaml"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("size", [pytest.param(size, id=f"pieces-of-{size}") for size in (1, 7, 1000)])
def test_the_output_is_told_apart_from_the_log(size: int) -> None:
    text = f"first\nsecond\n{RESULT_MARK}\ntable\n\n/run/dir\n"
    log = io.StringIO()
    splitter = LogSplitter(log)
    for start in range(0, len(text), size):
        splitter.write(text[start : start + size])
    splitter.close()
    assert log.getvalue() == "first\nsecond\n"
    assert splitter.output == "table\n\n/run/dir\n"


def test_on_the_head_another_version_is_refused_and_output_stands_behind_the_mark(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from arena_ray import __version__

    assert run_marked(run_command, "0.0.7", ["--version"]) == 3
    assert "submitted by arena-ray 0.0.7" in capsys.readouterr().err
    assert run_marked(run_command, __version__, ["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == RESULT_MARK


def test_exit_codes_are_the_runs_own() -> None:
    assert _exit_code(JobEnd("FAILED", 3, "")) == 3
    assert _exit_code(JobEnd("FAILED", -9, "")) == 137
    assert _exit_code(JobEnd("STOPPED", None, "")) == 143
    with pytest.raises(ClusterError, match="--python PATH"):
        _raise_if_it_never_ran(JobEnd("FAILED", 127, "sh: python3: not found"))
    with pytest.raises(ClusterError, match="could not start the run: no disk"):
        _raise_if_it_never_ran(JobEnd("FAILED", None, "no disk"))


@pytest.mark.ray
@pytest.mark.heavy
def test_nodes_say_their_versions_and_those_that_differ_are_named(local_ray: None) -> None:
    answers = node_survey.ask_versions()
    expected = node_survey.own_versions()
    assert [answer.said for answer in answers] == [expected]
    assert node_survey.misfits(answers, expected) == []
    (line,) = node_survey.misfits(answers, {**expected, "ray": "2.1.0"})
    assert line == f"node {answers[0].host}: ray is {expected['ray']}, here 2.1.0"
    assert node_survey.differences({**expected, "arena-ray": None}, expected) == [
        f"arena-ray is not installed, here {expected['arena-ray']}"
    ]
    node_survey.check_nodes()
    assert node_survey.ask_versions(without=[answers[0].node_id]) == []
