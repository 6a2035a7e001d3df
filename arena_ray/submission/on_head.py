"""What a job of Ray's job server runs on the head: ``arena-ray``, whose output is told apart from its log.

Ray puts standard output and error of a job into one log. The output, which is the table and the run directory, comes
last here, behind a line that the follower knows.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence

from arena_ray import __version__

#: Begins the part of the log that is the run's standard output.
RESULT_MARK = "=== arena-ray: standard output ==="


def run_marked(run_command: Callable[[Sequence[str]], int], submitter: str, argv: Sequence[str]) -> int:
    """Run a command line, print what it printed behind the mark, and return its exit code.

    Args:
        run_command: Runs the words behind ``arena-ray``.
        submitter: Version of the package that checked the job file.
        argv: The words.
    """
    if submitter != __version__:
        sys.stderr.write(
            f"error: the run was submitted by arena-ray {submitter}, and the head has {__version__}; install one "
            "version on both\n"
        )
        return 3
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            return run_command(argv)
    finally:
        sys.stderr.flush()
        sys.stdout.write(f"{RESULT_MARK}\n{output.getvalue()}")
        sys.stdout.flush()


if __name__ == "__main__":
    from arena_ray.cli import run_command

    sys.exit(run_marked(run_command, sys.argv[1], sys.argv[2:]))
