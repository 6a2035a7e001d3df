"""Places, a GPU or a node, on which workers keep dying: told facts, it answers which are to be left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

PlaceT = TypeVar("PlaceT", bound=Hashable)

#: So many workers lost in a row, without one completed episode between, make a place suspicious.
LOSSES_IN_A_ROW = 3


@dataclasses.dataclass(slots=True)
class _Row:
    losses: int = 0
    suspects: frozenset[Hashable] | None = None


class Quarantine(Generic[PlaceT]):
    """Tells bad places from bad episodes.

    A place is quarantined after `LOSSES_IN_A_ROW` losses without a completed episode between, unless one episode was
    in flight in all of them: then that episode explains them, whatever the place. The last place that is left is never
    quarantined.
    """

    def __init__(self) -> None:
        self.places: set[PlaceT] = set()
        self._rows: dict[PlaceT, _Row] = {}

    def completed(self, place: PlaceT) -> None:
        """Be told that an episode was completed there."""
        self._rows.pop(place, None)

    def lost(self, place: PlaceT, suspects: Collection[Hashable], *, elsewhere: bool) -> bool:
        """Be told that a worker was lost there; return whether the place is quarantined from now on.

        Args:
            place: Where.
            suspects: What was in flight: each may be the reason.
            elsewhere: Whether there is another place that is not quarantined.
        """
        row = self._rows.setdefault(place, _Row())
        row.losses += 1
        row.suspects = frozenset(suspects) if row.suspects is None else row.suspects & frozenset(suspects)
        if row.losses < LOSSES_IN_A_ROW or row.suspects or not elsewhere or place in self.places:
            return False
        self.places.add(place)
        return True
