"""The plots: SVG without a background, in colours for white and black pages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.model import Metric, Results
from benchmarks.peers import PEERS
from benchmarks.report import OURS, figures, quantity
from benchmarks.table import CASES

INK = "#7d8590"
OUR_COLOUR = "#e8590c"
THEIR_COLOUR = "#7d8590"

Bars = list[tuple[str, float, str, bool]]
"""Of one panel: label, length, what is written at its end, whether it is ours."""


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw the results; returns the files. ImportError without matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - the suite runs without it, but for plots

    mpl.use("svg")
    mpl.rcParams.update(
        {
            # Text stays text: small, and in the reader's own font.
            "svg.fonttype": "none",
            # The same data give the same file.
            "svg.hashsalt": "flask-delay",
            "font.family": "sans-serif",
            "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
            "font.size": 11,
            "text.color": INK,
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, panels in _plots(results).items():
        if any(bars for _, bars, _ in panels):
            files.append(directory / f"{name}.svg")
            _draw([panel for panel in panels if panel[1]], files[-1])
    return files


Panel = tuple[str, Bars, bool]
"""Title, bars, whether the scale is logarithmic."""


def _plots(results: Results) -> dict[str, list[Panel]]:
    return {
        "cost": [
            (
                "Start a no-op: time in the caller (log scale, less is better)",
                _absolute(results, [("submit-busy", "p50"), ("queue", "submit")]),
                True,
            ),
            (
                "No-op tasks per second (log scale, more is better)",
                _absolute(results, [("tasks", "rate"), ("queue", "rate")]),
                True,
            ),
        ],
        "requests": [
            (
                "Requests/s, each starts a task of 5 ms (no task: 1.00)",
                _kept(results, ["server-delay", "server-delay-queues"]),
                False,
            ),
            (
                "Requests/s while one task computes (no task: 1.00)",
                _kept(results, ["server-computing"]),
                False,
            ),
        ],
    }


def _metric(case: str, name: str) -> Metric:
    return next(each for each in CASES if each.name == case).metric(name)


def _bars(found: dict[str, float], write: Callable[[float], str]) -> Bars:
    return [(PEERS[peer].title, value, write(value), peer == OURS) for peer, value in found.items()]


def _absolute(results: Results, sources: Sequence[tuple[str, str]]) -> Bars:
    """The medians of one metric; a peer in several cases counts in the first one."""
    found: dict[str, float] = {}
    for case, name in sources:
        for peer, metrics in figures(results.runs, case).items():
            found.setdefault(peer, metrics[name].median)
    metric = _metric(*sources[0])
    found = dict(sorted(found.items(), key=lambda item: item[1], reverse=metric.better == "more"))
    return _bars(found, lambda value: quantity(metric, value))


def _kept(results: Results, cases: Sequence[str]) -> Bars:
    """Requests/s as a share of those without a task, each case against its own."""
    found: dict[str, float] = {}
    for case in cases:
        measured = figures(results.runs, case)
        if "nothing" not in measured:
            continue
        whole = measured.pop("nothing")["rate"].median
        for peer, metrics in measured.items():
            found[peer] = metrics["rate"].median / whole
    found = dict(sorted(found.items(), key=lambda item: item[1], reverse=True))
    return _bars(found, lambda value: f"{value:.2f}x")


def _draw(panels: Sequence[Panel], file: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - see `draw`

    rows = [len(bars) for _, bars, _ in panels]
    figure = Figure(figsize=(7.2, 0.27 * sum(rows) + 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=rows)
    for (title, bars, log), (axis,) in zip(panels, axes, strict=True):
        _panel(axis, title, bars, log=log)
    figure.savefig(file, transparent=True, metadata={"Date": None, "Creator": None})


def _panel(axis: Any, title: str, bars: Bars, *, log: bool) -> None:
    labels, lengths, texts, ours = zip(*bars, strict=True)
    places = range(len(bars))
    colours = [OUR_COLOUR if mine else THEIR_COLOUR for mine in ours]
    axis.barh(places, lengths, color=colours, height=0.68)
    axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axis.set_yticks(places, labels, color=INK)
    for label, mine in zip(axis.get_yticklabels(), ours, strict=True):
        label.set_fontweight("bold" if mine else "normal")
    axis.invert_yaxis()
    if log:
        axis.set_xscale("log")
        least, most = min(lengths), max(lengths)
        # Room for the shortest bar, and for the label behind the longest one.
        axis.set_xlim(least / 3, most * (most / least * 3) ** 0.16)
    else:
        axis.set_xlim(0, max(*lengths, 1.0) * 1.15)
        axis.axvline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for place, length, text in zip(places, lengths, texts, strict=True):
        axis.annotate(
            text, (length, place), (4, 0), textcoords="offset points", va="center", color=INK
        )
    axis.xaxis.set_visible(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
