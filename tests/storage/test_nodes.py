"""Two nodes whose directories are really two: this machine, and one in namespaces of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_ray import RunResult, evaluate
from arena_ray.errors import NotSharedError
from tests.chaos.scenes import events, nothing_lives
from tests.cluster_nodes import NodeCluster, why_not
from tests.comparing import outcome
from tests.storage.servers import S3, environment, running
from tests.storage.test_runs import hold_videos_to
from tests.worlds import walk_job

PROBLEM = why_not()

pytestmark = [
    pytest.mark.ray,
    pytest.mark.heavy,
    pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM)),
]

REPOSITORY = Path(__file__).parents[2]

#: From the command to the message, on two busy cores; joining Ray and a worker's start are most of it, seconds.
DETECTED_S = 40.0


def job(**changes: Any) -> dict[str, Any]:
    """A job whose two workers are on two nodes, for one does not hold both."""
    env = {"cameras": ["wrist"], "max_length": 12, "step_s": 0.05, **changes.pop("env_kwargs", {})}
    video = {"record_viewport_video": True, "record_camera_video": True}
    return {"jobs": [walk_job(env_kwargs=env, video=video, resources={"num_cpus": 1}, **changes)]}


class TwoNodes:
    """A Ray on this machine, whose second node has other directories.

    Args:
        cluster: Has its head here.
        folder: What is another directory on the second node.
        variables: What the second node needs to know.
    """

    def __init__(self, cluster: NodeCluster, folder: Path, variables: Mapping[str, str]) -> None:
        self.apart, self.temporary = folder / "apart", folder / "tmp2"
        self.apart.mkdir()
        self.temporary.mkdir()
        self.address = cluster.address
        self._cluster, self._variables = cluster, {**variables, "TMPDIR": str(self.temporary)}

    @property
    def joined(self) -> bool:
        """Whether there is a second node."""
        return bool(self._cluster.machines)

    def join(self) -> None:
        """Start the second node, and wait until it is there."""
        second = self._cluster.add_node(num_cpus=1, private=[self.apart], environment=self._variables)
        subprocess.run(second.enter(["mkdir", str(self.apart / "runs")]), check=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """The server is there before the nodes, which must find it."""
    with NodeCluster() as cluster, running(S3(host=cluster.here)) as server, environment(server.environment()):
        cluster.add_head_here(num_cpus=1).connect()
        yield TwoNodes(cluster, tmp_path_factory.mktemp("nodes"), server.environment())


@pytest.fixture(scope="module")
def nodes(head: TwoNodes) -> TwoNodes:
    if not head.joined:
        head.join()
    return head


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return evaluate(job(), inline=True, video_base_dir=str(tmp_path_factory.mktemp("plain")))


def nodes_of(result: RunResult) -> set[str]:
    """Return the names of the nodes that ran episodes."""
    return {record.worker.host for record in result.records() if record.worker is not None}


def test_a_node_that_joins_without_the_directory_is_not_used(head: TwoNodes, plain: RunResult) -> None:
    """It joins in the middle: the run goes on without it, and says so."""

    class JoinsLate:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: None

        def recorded(self, record: Any) -> None:
            if record.episode == 0:
                head.join()

    base = str(head.apart / "runs")
    slow = job(env_kwargs={"step_s": 0.6})
    result = evaluate(slow, video_base_dir=base, observer=JoinsLate(), chunk_size=1)
    assert outcome(result) == outcome(plain)
    hold_videos_to(result)
    assert head.joined
    assert not events(result.run_dir, "worker_lost"), "no worker was sent there"
    (note,) = result.notes
    assert "does not see what the driver wrote" in note
    assert "the node is not used" in note
    assert not list(result.run_dir.glob(".shared*"))


def test_a_directory_that_is_not_shared_is_found_in_seconds(nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(job()))
    base = str(nodes.apart / "runs2")
    words = ["run", str(tmp_path / "jobs.json"), "--address", nodes.address, "--video_base_dir", base]
    began = time.monotonic()
    command = [sys.executable, "-m", "arena_ray.cli", *words]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    took = time.monotonic() - began
    said = " ".join(ran.stderr.split())
    assert ran.returncode == 3, ran.stderr
    assert "is not shared with these nodes" in said
    assert base in said
    for remedy in ("--video_base_dir", "--storage s3://", "--collect"):
        assert remedy in said
    assert ran.stdout == ""
    assert list(Path(base).iterdir()) == []
    assert took < DETECTED_S


def test_a_directory_of_the_same_name_is_another_directory(nodes: TwoNodes) -> None:
    """On the second node `runs` exists."""
    with pytest.raises(NotSharedError, match="does not see what the driver wrote there"):
        evaluate(job(), video_base_dir=str(nodes.apart / "runs"))


def test_a_shared_directory_is_proven(nodes: TwoNodes, tmp_path: Path, plain: RunResult) -> None:
    result = evaluate(job(), video_base_dir=str(tmp_path / "runs"), chunk_size=1)
    assert outcome(result) == outcome(plain)
    hold_videos_to(result)
    assert len(nodes_of(result)) == 2
    assert {path.name for path in result.run_dir.iterdir() if path.is_file()} == {
        "run.json",
        "summary.json",
        "episodes.jsonl",
        "events.jsonl",
        "report.html",
    }
    assert not list(result.run_dir.glob(".*"))


def nothing_is_staged(nodes: TwoNodes, result: RunResult) -> bool:
    import tempfile

    mark = json.loads((result.run_dir / "run.json").read_text())["mark"]
    places = (Path(tempfile.gettempdir()), nodes.temporary)
    return not any((place / f"{mark}.staging").exists() for place in places)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"collect": True}, id="collect"),
        pytest.param({"storage": "s3://videos/runs"}, id="storage"),
    ],
)
def test_files_come_home_from_nodes_that_share_nothing(
    nodes: TwoNodes, plain: RunResult, flags: dict[str, Any]
) -> None:
    """One episode kills its worker each time: its broken videos come too, those of its neighbours do not."""
    deadly = job(env_kwargs={"poison": [2], "deed": "kill", "poison_step": 1})
    base = str(nodes.apart / "runs")
    result = evaluate(deadly, video_base_dir=base, max_attempts=2, continue_on_error=True, chunk_size=1, **flags)
    expected = [row for row in outcome(plain) if row["episode"] != 2]
    assert [row for row in outcome(result) if row["episode"] != 2] == expected
    assert [record.episode for record in result.records() if record.status != "completed"] == [2]
    assert len(nodes_of(result)) == 2
    partial = [name for name in all_files(result) if ".partial.mp4" in name]
    assert {name.split("-episode-")[1].split(".")[0] for name in partial} == {"2"}
    ready = {(event["worker"]["host"], event["worker"]["pid"]) for event in events(result.run_dir, "worker_started")}
    assert {f"{host}-{pid}.log" for host, pid in ready} <= set(all_files(result))
    hold_videos_to(result, num_videos=14)
    nothing_lives(result)
    assert nothing_is_staged(nodes, result)


def all_files(result: RunResult) -> list[str]:
    if result.storage is None:
        return [path.name for path in result.run_dir.rglob("*") if path.is_file()]
    import fsspec

    return [path.rpartition("/")[2] for path in fsspec.filesystem("s3", skip_instance_cache=True).find(result.storage)]
