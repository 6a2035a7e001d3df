"""The server gives away the run, in parts if asked, and nothing else; and it ends when it is told to."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from arena_ray import evaluate
from arena_ray.cli import run_command
from arena_ray.report.served_files import find_file, find_runs
from arena_ray.report.server import DEFAULT_PORT, MOST_PORTS
from tests.report.pages import data_of
from tests.report.serving import serving
from tests.worlds import walk_job

NO_PORT = ("--",)

SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, and links in one of them that lead out."""
    folder = tmp_path_factory.mktemp("base")
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.json").write_text(SECRET)
    for name in ("one", "two"):
        job = walk_job(name, num_episodes=3, env_kwargs={"max_length": 8})
        evaluate({"jobs": [job]}, inline=True, record_viewport_video=True, video_base_dir=str(folder))
    first = find_runs(folder)[-1]
    (first / "link.json").symlink_to(outside / "secret.json")
    (first / "folder").symlink_to(outside)
    (first / "loop.json").symlink_to(first / "loop.json")
    (first / "inside.json").symlink_to(first / "run.json")
    (first / ".hidden.json").write_text(SECRET)
    (first / "unhidden.json").symlink_to(first / ".hidden.json")
    (first / "page.html").write_text(SECRET)
    os.mkfifo(first / "pipe.json")
    (folder / "elsewhere").symlink_to(outside)
    (folder / "secret.json").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def run_dir(base: Path) -> Path:
    return find_runs(base)[-1]


@pytest.fixture(scope="module")
def address(run_dir: Path) -> Iterator[str]:
    with serving(run_dir) as (address, _):
        yield address


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send a path as it stands, without any client's tidying up."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


OUT = [
    "/../secret.json",
    "/%2e%2e/secret.json",
    "/..%2fsecret.json",
    "/one/..%2f..%2fsecret.json",
    "/%252e%252e/secret.json",
    "/one/../../secret.json",
    "//etc/hostname.json",
    "/%2fetc%2fpasswd",
    "/run.json%00.mp4",
    "/..%5csecret.json",
    "/link.json",
    "/folder/secret.json",
    "/loop.json",
    "/pipe.json",
    "/.hidden.json",
    "/unhidden.json",
    "/page.html",
    "/one",
    "/one/",
    "/nothing.json",
]


@pytest.mark.parametrize("path", [pytest.param(path, id=path) for path in OUT])
def test_nothing_else_can_be_read(address: str, path: str) -> None:
    status, _, body = ask(address, path)
    assert status == 404
    assert SECRET.encode() not in body


def test_files_of_the_run_can_be_read(address: str, run_dir: Path) -> None:
    for name, kind in (("run.json", "application/json"), ("episodes.jsonl", "text/plain; charset=utf-8")):
        status, headers, body = ask(address, f"/{name}")
        assert (status, body, headers["content-type"]) == (200, (run_dir / name).read_bytes(), kind)
        assert headers["x-content-type-options"] == "nosniff"
    assert ask(address, "/inside.json")[2] == (run_dir / "run.json").read_bytes()


def test_parts_of_videos_can_be_read(address: str, run_dir: Path) -> None:
    path = next((run_dir / "one").glob("*.mp4"))
    content, name = path.read_bytes(), f"/one/{path.name}"
    status, headers, body = ask(address, name)
    assert (status, body, headers["accept-ranges"], headers["content-type"]) == (200, content, "bytes", "video/mp4")
    status, headers, body = ask(address, name, Range="bytes=100-199")
    assert (status, body) == (206, content[100:200])
    assert headers["content-range"] == f"bytes 100-199/{len(content)}"
    status, _, body = ask(address, name, Range="bytes=-50")
    assert (status, body) == (206, content[-50:])
    status, headers, _ = ask(address, name, Range=f"bytes={len(content)}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{len(content)}")
    status, headers, body = ask(address, name, method="HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", str(len(content)))


@pytest.mark.parametrize("method", [pytest.param(name, id=name) for name in ("POST", "PUT", "DELETE", "OPTIONS")])
def test_only_reading_is_allowed(address: str, method: str) -> None:
    assert ask(address, "/", method=method)[0] == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("evil.example", 403, id="elsewhere"),
        pytest.param("evil.example:8264", 403, id="elsewhere-with-port"),
        pytest.param("127.0.0.1.evil.example", 403, id="begins-alike"),
        pytest.param("", 403, id="none"),
        pytest.param("localhost:9000", 200, id="through-a-tunnel"),
        pytest.param("[::1]:8264", 200, id="ipv6"),
    ],
)
def test_names_of_elsewhere_are_refused(address: str, host: str, status: int) -> None:
    assert ask(address, "/run.json", Host=host)[0] == status


def test_the_page_is_live_and_tells_what_is_new(address: str, run_dir: Path) -> None:
    status, headers, body = ask(address, "/")
    content = data_of(body.decode())
    assert (status, headers["content-type"], content["live"]) == (200, "text/html; charset=utf-8", True)
    assert ask(address, "/report.html")[2] == body
    query = f"epoch={content['epoch']}&after={content['cursor']}&errors=0&stamp={content['stamp'].replace(' ', '%20')}"
    assert news(address, query) == {"changed": False, "stamp": content["stamp"]}
    told = news(address, f"epoch={content['epoch']}&after=1&errors=0&stamp=")
    assert told["rows"] == content["rows"][1:]
    assert told["content"]["summary"] == content["summary"]
    assert "jobs-table" in told["fragments"]["overview"]
    for query in ("epoch=other&after=0", f"epoch={content['epoch']}&after=99", f"epoch={content['epoch']}&after=-1"):
        assert news(address, query) == {"reset": True}
    assert ask(address, "/_api/updates?after=x")[0] == 400


def news(address: str, query: str) -> dict[str, Any]:
    status, _, body = ask(address, f"/_api/updates?{query}")
    assert status == 200
    content: dict[str, Any] = json.loads(body)
    return content


def test_an_index_leads_to_each_run(base: Path) -> None:
    names = [path.name for path in find_runs(base)]
    with serving(base) as (address, _):
        status, _, body = ask(address, "/")
        assert status == 200
        assert [name for name in names if f'href="./{name}/"' in body.decode()] == names
        assert "elsewhere" not in body.decode()
        status, headers, _ = ask(address, f"/{names[0]}")
        assert (status, headers["location"]) == (302, f"/{names[0]}/")
        assert data_of(ask(address, f"/{names[0]}/")[2].decode())["name"] == names[0]
        assert ask(address, f"/{names[0]}/run.json")[0] == 200
        for path in (
            "/nothing/",
            "/elsewhere/",
            "/elsewhere/secret.json",
            f"/{names[0]}/..%2fsecret.json",
            "/secret.json",
        ):
            status, _, body = ask(address, path)
            assert status in (302, 404)
            assert SECRET.encode() not in body


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, id="SIGINT"), pytest.param(signal.SIGTERM, id="SIGTERM")]
)
def test_a_signal_ends_it(run_dir: Path, number: signal.Signals) -> None:
    with serving(run_dir) as (address, process):
        assert ask(address, "/run.json")[0] == 200
        process.send_signal(number)
        assert process.wait(timeout=10) == 0


def test_a_port_that_is_taken_is_passed_over_or_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(run_dir, "--port", "0") as (address, _):
        port = str(urlsplit(address).port)
        assert run_command(["serve", str(run_dir), "--port", port]) == 2
        assert "cannot be had" in capsys.readouterr().err


def test_without_a_port_the_next_free_one_is_taken(run_dir: Path) -> None:
    with serving(run_dir, *NO_PORT) as (first, _), serving(run_dir, *NO_PORT) as (second, _):
        ports = [urlsplit(address).port or 0 for address in (first, second)]
    assert DEFAULT_PORT <= ports[0] < ports[1] < DEFAULT_PORT + MOST_PORTS


def test_what_is_no_directory_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["serve", str(tmp_path / "nothing")]) == 2
    assert "is no directory" in capsys.readouterr().err


def test_only_this_machine_can_reach_it(address: str) -> None:
    port = urlsplit(address).port
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening


def test_real_paths_decide(run_dir: Path) -> None:
    assert find_file(run_dir, "run.json") == (run_dir / "run.json").resolve()
    assert find_file(run_dir, "folder/secret.json") is None
    assert find_file(run_dir, "x" * 5000 + ".json") is None
