"""Which episodes' videos are written, and which are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


class RecordSelection:
    """What `VideoRecordingCfg.record` says.

    Args:
        record: ``all``, ``none``, ``first:K``, ``every:K``, ``sample:FRACTION``, ``failures`` or ``successes``.
        trigger: Asked instead of `record` whether an episode is recorded.

    Attributes:
        by_outcome: Whether an episode's end decides.
    """

    def __init__(self, record: str = "all", trigger: Callable[[int], bool] | None = None) -> None:
        self._word, _, amount = record.partition(":")
        self._amount = float(amount or 0)
        self._trigger = trigger
        self.by_outcome = self._word in ("failures", "successes")

    def wants(self, episode: int) -> bool:
        """Return whether an episode is written, by its index through the whole job."""
        if self._trigger is not None:
            return bool(self._trigger(episode))
        if self._word == "first":
            return episode < self._amount
        if self._word == "every":
            return episode % int(self._amount) == 0
        if self._word == "sample":
            return _uniform(episode) < self._amount
        return self._word != "none"

    def keeps(self, success: bool | None) -> bool:
        """Return whether the video of an episode that ended is kept."""
        return not self.by_outcome or success is (self._word == "successes")

    @property
    def keeps_broken(self) -> bool:
        """Whether the video of an episode that broke is kept: it did not succeed."""
        return self._word != "successes"


def capped_cubic_schedule(episode: int) -> bool:
    """Return whether `RecordVideo` records an episode unless told otherwise: 0, 1, 8, 27 ... 1000, 2000, 3000 ...

    The same as `gymnasium.utils.save_video.capped_cubic_video_schedule` (1.4.0), whose module needs moviepy.
    """
    return round(episode ** (1 / 3)) ** 3 == episode if episode < 1000 else episode % 1000 == 0


def _uniform(episode: int) -> float:
    """Return a number in [0, 1) that depends on the episode alone, so that every run chooses the same ones."""
    digest = hashlib.blake2b(str(episode).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
