from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.local_cluster import LocalCluster

# Explicit, so that no test depends on what an earlier `ray.init` left in the environment.
os.environ["RAY_AUTH_MODE"] = "disabled"
# A shell that starts tests in the background has them ignore SIGINT, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Nobody looks at the figures of all processes that an agent of each node takes every five seconds.
os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "60000"
# Tests start some hundreds of interpreters: without compiled files each would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Several tests run at a time; more threads than cores wait for each other. Our workers set PyTorch's themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


@pytest.fixture(scope="session")
def local_cluster() -> Iterator[LocalCluster]:
    """A real local Ray with two cores, started once."""
    with LocalCluster(num_cpus=2) as cluster:
        yield cluster


@pytest.fixture
def local_ray(local_cluster: LocalCluster) -> None:
    """This process is connected to that Ray; pools use it and leave it running."""
    local_cluster.connect()


#: Modules that take longest, the longest first: begun last, they would keep one process busy while the others wait.
#: Those that start and lose workers all the time stand apart: each bounds how long a worker's start may take.
LONGEST = (
    "tests.chaos.test_workers",
    "tests.storage.test_nodes",
    "tests.test_submit",
    "tests.test_machines",
    "tests.chaos.test_drivers",
    "tests.report.test_report_in_browser",
    "tests.test_ray_places",
    "tests.test_ray_faults",
    "tests.test_readme",
    "tests.test_style",
    "tests.contract.test_faults",
    "tests.test_resume",
    "tests.test_devices_ray",
    "tests.test_what_is_recorded",
    "tests.test_eval_runner",
    "tests.test_tuning",
    "tests.test_stop_when",
    "tests.test_replay",
    "tests.chaos.test_nodes",
    "tests.test_invariance",
    "tests.test_ray_recycling",
    "tests.test_vectorized",
)


def _module_of(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0].removesuffix(".py").replace("/", ".")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_module_of(item), len(LONGEST)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the disasters of `tests/chaos` came to."""
    reports = terminalreporter.getreports("passed")
    rows = [value for report in reports for name, value in report.user_properties if name == "chaos"]
    if not rows:
        return
    terminalreporter.section("chaos: what was done to runs, and what it cost")
    head = ("fault", "injected", "episodes", "lost", "duplicated", "extra time", "allowed")
    terminalreporter.write_line("{:<44} {:>9} {:>9} {:>5} {:>11} {:>11} {:>9}".format(*head))
    for row in rows:
        figures = f"{row['injected']:>9} {row['episodes']:>9} {0:>5} {0:>11}"
        terminalreporter.write_line(f"{row['fault']:<44} {figures} {row['extra_s']:>9.1f} s {row['bound_s']:>7.1f} s")
