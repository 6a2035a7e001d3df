"""What we write plays and seeks in Chromium, whether or not its writer lived to the end."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import pytest
from selenium import webdriver

import arena_ray
from arena_ray.video import VideoRecordingCfg, wrap_env_for_video
from tests.browsing import chromium
from tests.video.envs import names

pytestmark = pytest.mark.heavy

Picture = npt.NDArray[np.uint8]

FPS = 20
KILLED_AFTER = 60
MOST_FRAMES_LOST = 7
SIZE = (240, 320)
BITS = 10
ONE, ZERO = (230, 140, 40), (40, 60, 200)
"""Orange and blue: with red and blue mixed up, every bit is another one."""

PAGE = b"<!doctype html><video muted preload=auto></video><canvas></canvas>"
LOAD = """
const [url, done] = arguments, video = document.querySelector('video');
const tell = () => done({
  error: video.error && `${video.error.code}: ${video.error.message}`,
  width: video.videoWidth, height: video.videoHeight, duration: String(video.duration),
});
video.onloadeddata = video.onerror = tell;
video.src = url;
"""
# `seeked` alone may come before the new picture can be drawn.
SEEK = """
const [time, done] = arguments, [video, canvas] = document.querySelectorAll('video, canvas');
const presented = new Promise(resolve => video.requestVideoFrameCallback(resolve));
const seeked = new Promise(resolve => video.onseeked = resolve);
video.onerror = () => done({error: `${video.error.code}: ${video.error.message}`});
video.currentTime = time;
Promise.all([presented, seeked]).then(() => {
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d').drawImage(video, 0, 0);
  done({time: video.currentTime, png: canvas.toDataURL('image/png').split(',')[1]});
});
"""


class Barcode(gymnasium.Env[Any, Any]):
    """Every picture shows its step as a binary number, and noise."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, length: int, size: tuple[int, int] = SIZE) -> None:
        self.render_mode = "rgb_array"
        self.length = length
        self.size = size
        self.step_number = 0
        image = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"camera_obs": gymnasium.spaces.Dict({"front": image})})
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return self._observation(), 0.0, self.step_number >= self.length, False, {}

    def render(self) -> Any:
        return barcode(self.step_number, self.size)

    def _observation(self) -> Any:
        return {"camera_obs": {"front": barcode(self.step_number, self.size)}}


def barcode(step: int, size: tuple[int, int] = SIZE) -> Picture:
    """One stripe per bit; below them noise, which makes files so large that the browser fetches them in parts."""
    height, width = size
    picture = np.random.default_rng(step).integers(0, 255, (height, width, 3), np.uint8)
    bits = np.array([ONE if step >> bit & 1 else ZERO for bit in range(BITS)], np.uint8)
    picture[: height // 2] = bits[np.arange(width) * BITS // width]
    return picture


def recording(folder: Path, **changes: Any) -> VideoRecordingCfg:
    return VideoRecordingCfg(**{"record_viewport_video": True, "video_base_dir": str(folder), **changes})


def pictures_of_an_episode(env: Any, cfg: VideoRecordingCfg) -> list[Picture]:
    """Record one episode and return what the environment showed, the picture after the reset first."""
    recorded = wrap_env_for_video(env, cfg, num_episodes=1)
    recorded.reset(seed=0)
    shown, ended = [recorded.render()], False
    while not ended:
        _, _, terminated, truncated, _ = recorded.step(0)
        shown.append(recorded.render())
        ended = terminated or truncated
    recorded.close()
    return shown


def step_until_killed(folder: str, changes: dict[str, Any]) -> None:
    """Record an episode that outlives everyone, and print after every step how many frames that makes."""
    env: Any = wrap_env_for_video(Barcode(2**BITS), recording(Path(folder), **changes), num_episodes=1)
    env.reset(seed=0)
    for step in range(1, 2**BITS):
        env.step(0)
        print(step + 1, flush=True)  # noqa: T201 - the parent counts
        time.sleep(0.005)


def frames_until_killed(folder: Path, changes: dict[str, Any]) -> int:
    """Kill a recording process and all its children in mid-episode; return how many frames it had taken."""
    call = f"from tests.video.test_browser import step_until_killed as step; step({str(folder)!r}, {changes!r})"
    root = Path(arena_ray.__file__).parents[1]
    words = [sys.executable, "-c", call]
    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            counted = next((int(line) for line in process.stdout if int(line) >= KILLED_AFTER), 0)
        finally:
            watchdog.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        printed = [counted, *map(int, process.stdout)]
    assert process.returncode == -signal.SIGKILL
    assert counted, "the writer did not get that far"
    return printed[-1]


class FolderWithRanges(SimpleHTTPRequestHandler):
    """Serves a folder and, unlike its parent, parts of files; Chromium seeks in nothing else."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        content = PAGE if self.path == "/" else path.read_bytes() if path.is_file() else b""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        last = min(int(wanted[2]) if wanted and wanted[2] else len(content), len(content) - 1)
        status = HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK
        if first > last:
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if content else HTTPStatus.NOT_FOUND
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if self.path == "/" else "video/mp4")
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        part = content[first : last + 1]
        self.send_header("Content-Length", str(len(part)))
        with contextlib.suppress(ConnectionError):  # the browser has enough
            self.end_headers()
            self.wfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port; yields the address."""

    def handler(*arguments: Any) -> FolderWithRanges:
        return FolderWithRanges(*arguments, directory=str(folder))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class MediaError(Exception):
    """Chromium cannot play the video."""


@dataclass
class Player:
    """A page with one muted video."""

    driver: webdriver.Chrome
    width: int = 0
    height: int = 0
    duration_s: float = 0.0

    def load(self, path: Path, address: str) -> None:
        """Load a video up to its first picture."""
        self.driver.get(address)
        told = self._ask(LOAD, address + path.name)
        self.width, self.height, self.duration_s = told["width"], told["height"], float(told["duration"])

    def seek(self, time_s: float) -> tuple[float, Picture]:
        """Return where the video then is, and the picture it shows there."""
        told = self._ask(SEEK, time_s)
        return told["time"], np.asarray(iio.imread(base64.b64decode(told["png"]), extension=".png"))[..., :3]

    def _ask(self, script: str, argument: Any) -> dict[str, Any]:
        told: dict[str, Any] = self.driver.execute_async_script(script, argument)
        if told.get("error"):
            raise MediaError(told["error"])
        return told


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


def assert_shows(player: Player, frame: int, pictures: Sequence[Picture], fps: float = FPS) -> None:
    """Seek to the middle of a frame; of all pictures, that frame's must be the one that is seen."""
    time_s = (frame + 0.5) / fps
    at_s, seen = player.seek(time_s)
    assert at_s == pytest.approx(time_s, abs=0.1 / fps)
    height, width = pictures[0].shape[:2]
    apart = [float(np.abs(seen[:height, :width].astype(int) - picture).mean()) for picture in pictures]
    # Not argmin: a slow environment shows some pictures twice.
    assert apart[frame] == min(apart), f"frame {int(np.argmin(apart))} is shown"


def assert_plays(browser: webdriver.Chrome, path: Path, pictures: Sequence[Picture], fps: float = FPS) -> None:
    """Load a video of these pictures, and seek in it to the middle, the end and back."""
    height, width = pictures[0].shape[:2]
    with served(path.parent) as address:
        player = Player(browser)
        player.load(path, address)
        assert (player.width, player.height) == (width + width % 2, height + height % 2)
        assert player.duration_s == pytest.approx(len(pictures) / fps, abs=0.5 / fps)
        for frame in (len(pictures) // 2, len(pictures) - 1, 1):
            assert_shows(player, frame, pictures, fps)


WRITERS = [
    pytest.param({"encoder": "inline"}, id="inline"),
    pytest.param({"encoder": "process"}, id="process"),
    pytest.param({"preset": "small"}, id="small"),
]
# Its ffmpeg is in a session of its own, outlives the group that is killed, and completes the file.
OUTLIVING_WRITER = pytest.param({"encoder": "imageio-ffmpeg"}, id="imageio-ffmpeg")


@pytest.mark.parametrize("changes", [*WRITERS, OUTLIVING_WRITER])
def test_a_finished_video_plays_and_seeks(browser: webdriver.Chrome, tmp_path: Path, changes: dict[str, Any]) -> None:
    pictures = pictures_of_an_episode(Barcode(length=100), recording(tmp_path, **changes))
    assert len(pictures) == 101
    assert_plays(browser, tmp_path / "viewport-env0-episode-0.mp4", pictures)


def test_a_video_of_a_real_environment_plays_and_seeks(browser: webdriver.Chrome, tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    pictures = pictures_of_an_episode(env, recording(tmp_path))
    assert_plays(browser, tmp_path / "viewport-env0-episode-0.mp4", pictures, fps=env.metadata["render_fps"])


def test_a_camera_of_odd_size_plays_and_seeks(browser: webdriver.Chrome, tmp_path: Path) -> None:
    cfg = recording(tmp_path, record_viewport_video=False, record_camera_video=True)
    pictures = pictures_of_an_episode(Barcode(length=40, size=(121, 161)), cfg)
    assert_plays(browser, tmp_path / "robot-cam-env0-front-episode-0.mp4", pictures)


@pytest.mark.parametrize("changes", WRITERS)
def test_what_a_killed_writer_leaves_plays_and_seeks(
    browser: webdriver.Chrome, tmp_path: Path, changes: dict[str, Any]
) -> None:
    taken = frames_until_killed(tmp_path, changes)
    assert names(tmp_path) == ["viewport-env0-episode-0.1.partial.mp4"]
    with served(tmp_path) as address:
        player = Player(browser)
        player.load(tmp_path / names(tmp_path)[0], address)
        assert (player.width, player.height) == (SIZE[1], SIZE[0])
        assert np.isfinite(player.duration_s)
        frames = round(player.duration_s * FPS)
        # The writer may die between taking a frame and counting it.
        assert taken - MOST_FRAMES_LOST <= frames <= taken + 1
        pictures = [barcode(step) for step in range(frames)]
        for frame in (frames // 2, frames - 1, 1):
            assert_shows(player, frame, pictures)


def test_a_broken_file_does_not_pass_for_a_video(browser: webdriver.Chrome, tmp_path: Path) -> None:
    pictures_of_an_episode(Barcode(length=40), recording(tmp_path))
    path = tmp_path / "viewport-env0-episode-0.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with served(tmp_path) as address, pytest.raises(MediaError):
        Player(browser).load(path, address)
