"""From estimates to verdicts: better, worse, no difference, or undecided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

from arena_ray.statistics import PairedRates, holm, pairs_to_decide

Verdict: TypeAlias = Literal["better", "worse", "no_difference", "undecided"]

#: Metrics of which more is better, whoever asks. Of ``length`` and a job's own metrics nobody said.
HIGHER_IS_BETTER = frozenset({"success_rate", "return"})


class Contrast(Protocol):
    """A of one run and B of the other, compared; see `arena_ray.statistics`."""

    @property
    def n(self) -> int:
        """Pairs, or episodes of the run that has fewer."""
        ...

    @property
    def n_a(self) -> int:
        """Episodes of A."""
        ...

    @property
    def n_b(self) -> int:
        """Episodes of B."""
        ...

    @property
    def a(self) -> float | None:
        """Rate or mean of A."""
        ...

    @property
    def b(self) -> float | None:
        """Rate or mean of B."""
        ...

    @property
    def difference(self) -> float | None:
        """B less A."""
        ...

    @property
    def p_value(self) -> float | None:
        """Two-sided."""
        ...

    @property
    def smallest_p_value(self) -> float:
        """The smallest that so many episodes could give."""
        ...

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        ...

    @property
    def test(self) -> str:
        """Name of the test."""
        ...

    @property
    def method(self) -> str:
        """How the interval is made."""
        ...

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Return the interval of the difference; ``None`` where the data allow none."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric of one job, or of all, compared.

    Attributes:
        n: Pairs of episodes; unpaired: episodes of the run that has fewer.
        n_a: Episodes of A that count.
        n_b: Episodes of B.
        a: Rate or mean of A; ``None`` without data.
        b: Of B.
        difference: B less A.
        low: Lower end of the difference's interval; ``None`` where the data allow none.
        high: Upper end.
        confidence: Of the interval. Of several jobs it is higher than what was asked for, so that all verdicts on this
            metric together hold with the confidence that was (Holm, 1979).
        p_value: Of the test, by itself: not corrected.
        p_corrected: The same, corrected by Holm's method for the number of jobs.
        test: Name of the test.
        method: How the interval is made.
        verdict: ``better`` or ``worse``: the interval excludes 0; ``no_difference``: it lies within the margin;
            ``undecided``: neither. ``None``: it excludes 0, but nobody said whether more of this metric is better.
        episodes_needed: If undecided: how many more episodes in each run would decide with a probability of 80 %, if
            what was found is so; ``None`` where no number can be said.
        agreeing: Pairs with one outcome; ``None`` where it is no rate of pairs.
    """

    n: int
    n_a: int
    n_b: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    p_value: float | None
    p_corrected: float | None
    test: str
    method: str
    verdict: Verdict | None
    episodes_needed: int | None = None
    agreeing: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the mapping that stands in the JSON; `agreeing` only where there is one."""
        content = dataclasses.asdict(self)
        if self.agreeing is None:
            del content["agreeing"]
        return content


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What a verdict needs besides the data.

    Attributes:
        margin: Differences of a rate up to this are none; of another metric, up to this share of A's mean.
        confidence: With which all verdicts on one metric hold together.
        higher: Metrics of which more is better.
        lower: Metrics of which less is better.
    """

    margin: float
    confidence: float
    higher: frozenset[str] = HIGHER_IS_BETTER
    lower: frozenset[str] = frozenset()

    def family(self, metric: str, contrasts: Mapping[str, Contrast]) -> dict[str, MetricComparison]:
        """Return the comparison of one metric in each of several jobs.

        Holm's method (Scandinavian Journal of Statistics 6, 1979) on intervals: all are taken at ``1 - alpha / m``; for
        k of them that exclude 0, at ``1 - alpha / (m - k)``, until no further one does. With one job nothing changes.
        """
        p_values = {name: contrast.p_value for name, contrast in contrasts.items()}
        corrected = holm({name: p_value for name, p_value in p_values.items() if p_value is not None})
        open_hypotheses = max(1, len(corrected))
        while True:
            confidence = 1 - (1 - self.confidence) / open_hypotheses
            excluding = sum(_excludes_zero(contrast, confidence) for contrast in contrasts.values())
            left = max(1, len(corrected) - excluding)
            if left >= open_hypotheses:
                break
            open_hypotheses = left
        return {
            name: self._judged(metric, contrast, confidence, corrected.get(name))
            for name, contrast in contrasts.items()
        }

    def single(self, metric: str, contrast: Contrast) -> MetricComparison:
        """Return the comparison of one metric over all jobs."""
        return self._judged(metric, contrast, self.confidence, contrast.p_value)

    def _judged(
        self, metric: str, contrast: Contrast, confidence: float, p_corrected: float | None
    ) -> MetricComparison:
        interval = contrast.interval(confidence)
        margin = self.margin if metric == "success_rate" else self.margin * abs(contrast.a or 0.0)
        verdict = self._verdict(metric, contrast, interval, margin, confidence)
        needed = None
        if verdict == "undecided" and contrast.difference is not None and contrast.n > 1:
            variance = contrast.standard_error**2 * contrast.n
            total = pairs_to_decide(contrast.difference, variance, margin, confidence)
            needed = None if total is None else max(1, total - contrast.n)
        return MetricComparison(
            n=contrast.n,
            n_a=contrast.n_a,
            n_b=contrast.n_b,
            a=contrast.a,
            b=contrast.b,
            difference=contrast.difference,
            low=None if interval is None else interval[0],
            high=None if interval is None else interval[1],
            confidence=confidence,
            p_value=contrast.p_value,
            p_corrected=p_corrected,
            test=contrast.test,
            method=contrast.method,
            verdict=verdict,
            episodes_needed=needed,
            agreeing=contrast.agreeing if isinstance(contrast, PairedRates) else None,
        )

    def _verdict(
        self,
        metric: str,
        contrast: Contrast,
        interval: tuple[float, float] | None,
        margin: float,
        confidence: float,
    ) -> Verdict | None:
        if interval is None or contrast.smallest_p_value > 1 - confidence:
            return "undecided"
        low, high = interval
        if low <= 0 <= high:
            return "no_difference" if -margin <= low and high <= margin else "undecided"
        if metric in self.lower:
            return "better" if high < 0 else "worse"
        if metric in self.higher:
            return "better" if low > 0 else "worse"
        return None


def _excludes_zero(contrast: Contrast, confidence: float) -> bool:
    interval = contrast.interval(confidence)
    return interval is not None and not interval[0] <= 0 <= interval[1]
