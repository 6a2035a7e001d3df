"""How many episodes a comparison needs, in words."""

from __future__ import annotations

from arena_ray.statistics import paired_episodes, unpaired_episodes


def plan_lines(
    baseline: float,
    difference: float,
    *,
    power: float = 0.8,
    confidence: float = 0.95,
    paired: bool = False,
    discordant: float | None = None,
) -> list[str]:
    """Return what to run, a line each.

    Without `discordant`, pairs are taken to be independent: the seed then says nothing about the outcome, and pairing
    gains nothing. Where some scenes are harder than others for both policies, fewer pairs differ and fewer are needed.

    Args:
        baseline: Success rate of A, 0 to 1.
        difference: That of B less that of A.
        power: Probability with which the difference is to be found.
        confidence: Of the test.
        paired: Whether to leave out other seeds.
        discordant: Share of pairs in which only one of both succeeds.

    Raises:
        ValueError: If no two policies could be so.
    """
    other = baseline + difference
    goal = (
        f"to find {100 * baseline:g} % -> {100 * other:g} % success with a probability of {100 * power:g} % "
        f"({100 * confidence:g} % confidence):"
    )
    lines = [goal]
    if not paired:
        needed = unpaired_episodes(baseline, difference, power, confidence)
        lines.append(f"  other seeds (unpaired): {_count(needed)} episodes of each policy")
    assumed = baseline * (1 - other) + other * (1 - baseline) if discordant is None else discordant
    needed = paired_episodes(baseline, difference, assumed, power, confidence)
    share = f"{100 * assumed:.3g} % of the pairs differ"
    lines.append(f"  same seeds (paired):    {_count(needed)} episodes of each policy, if {share}")
    if discordant is None:
        lines += [
            "  (so many differ if the seed says nothing about the outcome; usually fewer do,",
            "  and fewer episodes suffice: --discordant gives the share of an earlier comparison)",
        ]
    return lines


def _count(number: int | None) -> str:
    return "more than a million" if number is None else f"{number:,}"
