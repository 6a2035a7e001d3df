"""A comparison in words, for people who are no statisticians."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from arena_ray.comparison.verdicts import MetricComparison

if TYPE_CHECKING:
    from rich.console import Group

    from arena_ray.comparison.comparison import Comparison

#: A list names so many episodes or differences; the JSON has all.
_SHOWN = 10

#: Width of the text, characters.
WIDTH = 80

_OPENINGS = {"better": "B is better", "worse": "B is worse", "undecided": "Undecided"}


def headline(comparison: Comparison) -> str:
    """Return the verdict in one sentence."""
    if not comparison.comparable:
        decisive = [difference for difference in comparison.differences if difference.decisive]
        more = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
        return f"Not comparable: {decisive[0]}{more}"
    metric = comparison.overall[comparison.metric]
    if metric.a is None or metric.b is None:
        what = "with the same seed in both runs" if comparison.paired else "in both runs"
        return f"Undecided: no completed episodes {what}"
    unit = "points" if comparison.metric == "success_rate" else "%"
    opening = _OPENINGS.get(metric.verdict or "", f"No difference beyond {100 * comparison.margin:g} {unit}")
    sentence = f"{opening}: {_figures(comparison, metric)}"
    if metric.verdict == "undecided":
        sentence += f"; {_outlook(comparison, metric)}"
    if comparison.worse_jobs and metric.verdict != "worse":
        return f"B is worse in {_listed(comparison.worse_jobs)}; over all jobs: {sentence[0].lower()}{sentence[1:]}"
    return sentence


def _figures(comparison: Comparison, metric: MetricComparison) -> str:
    name = comparison.metric
    word = "success" if name == "success_rate" else "mean return"
    interval = "no interval" if metric.low is None else f"{_percent(metric.confidence)} {_interval(name, metric)}"
    change = f"{_difference(name, metric)}, {interval}"
    kind = "paired episodes" if comparison.paired else "unpaired episodes"
    count = f"{metric.n} {kind}" if comparison.paired else f"{metric.n_a} and {metric.n_b} {kind}"
    return f"{word} {_value(name, metric.a)} -> {_value(name, metric.b)} ({change}), {_test(metric)}, {count}"


def _outlook(comparison: Comparison, metric: MetricComparison) -> str:
    parts = [] if metric.agreeing is None else [f"{metric.agreeing} of {metric.n} pairs agree"]
    if metric.episodes_needed is not None:
        parts.append(f"about {_about(metric.episodes_needed)} more episodes in each run would probably decide")
    else:
        parts.append("how many more episodes would decide cannot be said yet")
    return "; ".join(parts)


def render(comparison: Comparison) -> Group:
    """Return headline, table and remarks, for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(comparison.headline, style="bold")]
    if comparison.comparable:
        parts += [Text(""), _table(comparison)]
    return Group(*parts, *(Text(line) for line in remarks(comparison)))


def plain(comparison: Comparison) -> str:
    """Return the same as plain text; the headline is one line, however long."""
    from rich.console import Console

    target = io.StringIO()
    console = Console(file=target, width=WIDTH, force_terminal=False, color_system=None)
    parts = render(comparison).renderables[1:]
    for part in parts:
        console.print(part, highlight=False)
    return f"{comparison.headline}\n{target.getvalue()}".rstrip()


def _table(comparison: Comparison) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("job", "metric", "n", "A", "B", "B - A", "p", "verdict"):
        table.add_column(
            heading, justify="left" if heading in ("job", "metric", "verdict") else "right", overflow="fold"
        )
    for row in rows(comparison):
        table.add_row(*(Text(cell) for cell in row))
    return table


def rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the table: job, metric, n, A, B, difference and its interval, p, verdict."""
    shown = {**comparison.jobs, "all jobs": comparison.overall} if len(comparison.jobs) > 1 else comparison.jobs
    for job, metrics in shown.items():
        first = True
        for name, metric in metrics.items():
            if metric.a is None or metric.b is None:
                continue
            counts = str(metric.n) if comparison.paired else f"{metric.n_a}, {metric.n_b}"
            change = _number(name, metric.difference)
            if metric.low is not None:
                change += f"\n{_interval(name, metric)}"
            values = (_value(name, metric.a), _value(name, metric.b), change, _p(metric.p_value))
            label = "success" if name == "success_rate" else name
            yield (job if first else "", label, counts, *values, (metric.verdict or "differs").replace("_", " "))
            first = False


def remarks(comparison: Comparison) -> list[str]:
    """Return what a reader must know besides the table, a line each."""
    lines = [f"note: {note}" for note in comparison.notes]
    if comparison.since:
        starts = ", ".join(f"{name} from {start}" for name, start in comparison.since.items())
        lines.append(
            f"only the episodes count that were added after an undecided comparison ({starts}): how many there are was "
            "decided by looking at the others. Each look has its own chance to err"
        )
    if comparison.paired is False:
        lines.append("the seeds of the runs do not match, so episodes are not paired: this takes more episodes")
    if len(comparison.jobs) > 1:
        lines.append(
            f"{len(comparison.jobs)} jobs: their intervals and verdicts are corrected, so that all of a metric hold "
            f"together with {_percent(comparison.confidence)} (Holm); p is each test's own"
        )
    lines += _excluded_lines(comparison)
    lines += _flip_lines(comparison)
    kinds = ((True, "not comparable"), (False, "also different"))
    for decisive, words in kinds:
        found = [str(difference) for difference in comparison.differences if difference.decisive is decisive]
        lines += [f"{words}: {line}" for line in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"{words}: and {len(found) - _SHOWN} more")
    return lines


def _excluded_lines(comparison: Comparison) -> Iterator[str]:
    reasons = {
        "a_failed": "recorded as error or timeout in A",
        "b_failed": "recorded as error or timeout in B",
        "a_alone": "only in A",
        "b_alone": "only in B",
    }
    for job, counts in comparison.excluded.items():
        parts = [f"{counts[key]} {words}" for key, words in reasons.items() if counts[key]]
        if parts:
            yield f"{job}: episodes that do not count: {', '.join(parts)}"


def _flip_lines(comparison: Comparison) -> Iterator[str]:
    for was, words in ((True, "succeeded in A and fail in B"), (False, "failed in A and succeed in B")):
        flips = [flip for flip in comparison.flipped if flip.a is was]
        for job in dict.fromkeys(flip.job for flip in flips):
            episodes = [str(flip.episode) for flip in flips if flip.job == job]
            yield f"{job}: {len(episodes)} {words}: episode {_listed(episodes)}"


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return _percent(value) if name == "success_rate" else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _number(name: str, value: float | None) -> str:
    """Return a difference with its sign, of rates in points."""
    if value is None:
        return "-"
    text = f"{100 * value:+.1f}".removesuffix(".0") if name == "success_rate" else f"{value:+.3g}"
    return "0" if float(text) == 0 else text


def _difference(name: str, metric: MetricComparison) -> str:
    return _number(name, metric.difference) + (" points" if name == "success_rate" else "")


def _interval(name: str, metric: MetricComparison) -> str:
    return f"[{_number(name, metric.low)}, {_number(name, metric.high)}]"


def _test(metric: MetricComparison) -> str:
    p = _p(metric.p_value)
    return f"{metric.test} p {p}" if p.startswith("<") else f"{metric.test} p = {p}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 0.0001 else f"{value:.2g}"


def _about(number: int) -> str:
    """Return a number with two digits that count, rounded up."""
    step = 10 ** max(0, len(str(number)) - 2)
    return f"{-(-number // step) * step:,}"
