"""An environment, a policy and texts that try to become part of the page."""

from __future__ import annotations

from typing import Any

from tests.worlds import Walk

MARKUP = "</script><img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>\u2028'\"&"

CAMERA = "<img src=x onerror=window.hacked='yes'>"


class Hostile(Walk):
    """Raises, in its second episode, with a message that is HTML; a camera is called so, too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(cameras=(CAMERA, "wrist"), poison=(1,), **kwargs)

    def _do_deed(self) -> None:
        raise RuntimeError(MARKUP)


def hostile_job() -> dict[str, Any]:
    """A job of a job file."""
    return {
        "name": "hostile",
        "env": {"entry_point": "tests.report.hostile:Hostile", "kwargs": {"max_length": 6}},
        "policy": {"entry_point": "tests.worlds:Leaner"},
        "num_episodes": 4,
        "language_instruction": MARKUP,
        "tags": {"note": MARKUP, MARKUP: "odd"},
        "video": {"record_camera_video": True},
    }
