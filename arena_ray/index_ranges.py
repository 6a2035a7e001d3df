"""Episode indices as a short text, such as ``0-24`` or ``3,7,9-12``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def ranges_text(indices: Iterable[int]) -> str:
    """Return indices, in the order in which they come, as a text that `parse_ranges` reads."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_ranges(text: str) -> Iterator[int]:
    """Yield the indices of such a text, in its order.

    Raises:
        ValueError: If it is none.
    """
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        yield from range(int(first), int(last if dash else first) + 1)
