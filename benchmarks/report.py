"""The report: medians, spreads, ratios, and missed targets."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import kept, machine
from benchmarks.model import Case, Metric, Noise, Results, Run, Target
from benchmarks.peers import PEERS

OURS = "ours"
WIDE = 0.25
"""Rounds that lie further apart than this share of their median are named."""


@dataclass(frozen=True)
class Figure:
    """One metric of one peer over all rounds."""

    median: float
    # (greatest - least) / median; 0 for a single round.
    spread: float


_HEAD = (
    "Made by `make bench`, see [README.md](README.md)."
    " Durable tasks: [results-journal.md](results-journal.md)."
)

Figures = Mapping[str, Mapping[str, Figure]]
"""Of one case: by peer, by metric."""


def figures(runs: Iterable[Run], case: str) -> dict[str, dict[str, Figure]]:
    """Medians and spreads of one case, without the runs that failed."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        if run.case == case:
            for metric, value in run.values.items():
                found.setdefault(run.peer, {}).setdefault(metric, []).append(value)
    return {
        peer: {metric: summary(values) for metric, values in metrics.items()}
        for peer, metrics in found.items()
    }


def summary(values: Sequence[float]) -> Figure:
    """The median of the rounds, and their spread."""
    median = statistics.median(values)
    spread = (max(values) - min(values)) / median if median else 0.0
    return Figure(median, spread)


def times_better(metric: Metric, ours: float, theirs: float) -> float:
    """How many times better ours is, for either direction of the metric."""
    upper, lower = (theirs, ours) if metric.better == "less" else (ours, theirs)
    return upper / lower if lower else math.inf


@dataclass(frozen=True)
class Verdict:
    """A target and the measured value; None if that was not measured."""

    target: Target
    measured: float | None

    @property
    def word(self) -> str:
        """`met`, `MISSED` or `not run`."""
        if self.measured is None:
            return "not run"
        above = self.target.kind in {"better", "least"}
        met = self.measured >= self.target.value if above else self.measured <= self.target.value
        return "met" if met else "**MISSED**"


def judge(case: Case, target: Target, found: Figures) -> Verdict:
    """Compare one target with the measured values."""
    ours = found.get(case.ours, {}).get(target.metric)
    if ours is None:
        return Verdict(target, None)
    if target.kind == "kept":
        figure = kept.load().get(kept.interpreter())
        return Verdict(target, ours.median / figure if figure else None)
    if target.peer is None:
        return Verdict(target, ours.median)
    theirs = found.get(target.peer, {}).get(target.metric)
    if theirs is None:
        return Verdict(target, None)
    if target.kind == "better":
        metric = case.metric(target.metric)
        return Verdict(target, times_better(metric, ours.median, theirs.median))
    return Verdict(target, ours.median / theirs.median if theirs.median else math.inf)


def quantity(metric: Metric, value: float) -> str:
    """A value in a suitable unit."""
    if metric.unit == "s":
        for factor, unit in ((1e6, "µs"), (1e3, "ms")):
            if value * factor < 1000:  # noqa: PLR2004 - the next unit
                return f"{_digits(value * factor)} {unit}"
        return f"{_digits(value)} s"
    if metric.unit == "x":
        return f"{value:.2f}x"
    if metric.unit == "yes or no":
        return "yes" if value else "no"
    if metric.unit == "B":
        return f"{value:,.0f} B" if value < 1e6 else f"{value / 1e6:.0f} MB"  # noqa: PLR2004
    return f"{value:,.0f}" if value >= 100 else _digits(value)  # noqa: PLR2004


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _ratio(value: float) -> str:
    return f"{_digits(value)}x"


def _title(peer: str) -> str:
    return PEERS[peer].title


def _wish(case: Case, target: Target) -> str:
    metric = case.metric(target.metric)
    if target.kind == "kept":
        return f"at most {target.value:g}x of the one kept"
    if target.peer is None:
        limit = "at least" if target.kind == "least" else "at most"
        return f"{limit} {quantity(metric, target.value)}"
    peer = _title(target.peer)
    if target.kind == "share":
        return f"at most {target.value:g}x of {peer}"
    if target.value == 1:
        return f"at least as good as {peer}"
    how = "better than" if target.value > 1 else "of"
    return f"at least {target.value:g}x {how} {peer}"


def _targets(cases: Sequence[Case], results: Results) -> list[str]:
    lines = [
        "| case | figure | target | measured | ours | theirs | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        found = figures(results.runs, case.name)
        for target in case.targets:
            metric = case.metric(target.metric)
            verdict = judge(case, target, found)
            cells = [case.title, metric.title, _wish(case, target)]
            if verdict.measured is None:
                cells += ["", "", "", verdict.word]
            else:
                measured = verdict.measured
                absolute = target.kind in {"most", "least"}
                cells.append(quantity(metric, measured) if absolute else _ratio(measured))
                cells.append(quantity(metric, found[case.ours][metric.name].median))
                theirs = found[target.peer][metric.name].median if target.peer else None
                cells.append(quantity(metric, theirs) if theirs is not None else "")
                cells.append(verdict.word)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _table(case: Case, found: Figures) -> list[str]:
    """One case: a row for each peer; beside each figure how many times better ours is."""
    titles = []
    for metric in case.metrics:
        titles += [metric.title, "ours is better by"] if metric.better else [metric.title]
    lines = [f"| | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
    ours = found.get(case.ours, {})
    for peer in case.everyone:
        if peer not in found:
            continue
        cells = []
        for metric in case.metrics:
            figure = found[peer].get(metric.name)
            if figure is None:
                # A peer may have no such thing.
                cells += ["", ""] if metric.better else [""]
                continue
            wide = f" ±{figure.spread / 2:.0%}" if figure.spread > WIDE else ""
            cells.append(f"{quantity(metric, figure.median)}{wide}")
            if not metric.better:
                continue
            compared = peer != case.ours and metric.name in ours
            cells.append(
                _ratio(times_better(metric, ours[metric.name].median, figure.median))
                if compared
                else ""
            )
        lines.append(f"| {_title(peer)} | {' | '.join(cells)} |")
    return lines


def _noise(runs: Sequence[Run]) -> list[str]:
    noisy = [(run, run.noise) for run in runs if run.noise and machine.is_noisy(run.noise)]
    summary = (
        f"{len(noisy)} of {len(runs)} runs were noisy: others used more than"
        f" {machine.NOISY_OTHERS:.0%} of the processors' time meanwhile, or the hypervisor took"
        f" more than {machine.NOISY_STEAL:.0%} away."
    )
    lines = [summary]
    if noisy:
        lines += ["", "| case | peer | rounds | others, at most | taken away, at most |"]
        lines.append("| --- | --- | --- | --- | --- |")
    together: dict[tuple[str, str], list[tuple[int, Noise]]] = {}
    for run, noise in noisy:
        together.setdefault((run.case, run.peer), []).append((run.round + 1, noise))
    for (case, peer), times in together.items():
        rounds = ", ".join(str(number) for number, _ in times)
        others = max(noise.others for _, noise in times)
        steal = max(noise.steal for _, noise in times)
        lines.append(f"| {case} | {_title(peer)} | {rounds} | {others:.0%} | {steal:.0%} |")
    return lines


def _failures(runs: Sequence[Run]) -> list[str]:
    failed = [run for run in runs if run.error]
    if not failed:
        return []
    lines = ["", "## Failed", ""]
    for run in failed:
        last = (run.error or "").splitlines()[-1]
        lines.append(f"- {run.case}, {_title(run.peer)}, round {run.round + 1}: `{last}`")
    return lines


def page(cases: Sequence[Case], results: Results, plots: Sequence[str] = ()) -> str:
    """The whole report as Markdown. `plots` are files beside it."""
    lines = ["# Measured", "", _HEAD, ""]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in results.head.items()]
    if results.skipped:
        lines += ["", "## Not run", ""]
        lines += [f"- {name}: {reason}" for name, reason in results.skipped.items()]
    lines += _failures(results.runs)
    for plot in plots:
        lines += ["", f"![{plot.rpartition('/')[2].removesuffix('.svg')}]({plot})"]
    lines += ["", "## Targets", "", *_targets(cases, results)]
    lines += ["", "## Case by case", ""]
    lines.append(
        "Medians of the rounds; half of the rounds' range is given where it is more than"
        f" {WIDE / 2:.0%} of the median."
    )
    for case in cases:
        found = figures(results.runs, case.name)
        if found:
            lines += ["", f"### {case.name}: {case.title}", "", *_table(case, found)]
    lines += ["", "## Noise", "", *_noise(results.runs)]
    return "\n".join(lines) + "\n"
