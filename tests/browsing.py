"""A real Chromium without a screen."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service


def installed_programs() -> tuple[str, str]:
    """Return browser and driver; without them the test is skipped, in CI it fails."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is not None and driver is not None:
        return browser, driver
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    give_up("no page is opened: chromium or chromedriver is missing (apt-get install chromium chromium-driver)")


@contextlib.contextmanager
def chromium(home: Path, *, size: tuple[int, int] = (1200, 900)) -> Iterator[webdriver.Chrome]:
    """Open a browser; its files are in a folder, and no process of it outlives the context."""
    program, driver_program = installed_programs()
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "headless=new",
        "no-sandbox",  # it refuses to run as root otherwise
        "disable-dev-shm-usage",  # a container's is small
        "autoplay-policy=no-user-gesture-required",
        f"window-size={size[0]},{size[1]}",
        f"user-data-dir={home / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "no_proxy": "localhost,127.0.0.1"}
    service = Service(driver_program, env=environment, popen_kw={"start_new_session": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", environment["no_proxy"])
        try:
            with webdriver.Chrome(options, service) as driver:
                driver.set_script_timeout(20)
                driver.set_page_load_timeout(20)
                yield driver
        finally:
            with contextlib.suppress(ProcessLookupError, AttributeError):  # AttributeError: it was never started
                os.killpg(service.process.pid, signal.SIGKILL)
