"""The plots of the overview: the numbers of `Pages.plots` at each point in time."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple

from flask_delay.dashboard.samples import STEPS, Plots

Value = float | None


class Span(NamedTuple):
    """A choice of how far back the plots go, in seconds."""

    label: str
    title: str
    length: int
    step: int
    """Of a point on the plot."""


SPANS = {
    "15m": Span("15 min", "Last 15 minutes", 900, STEPS["15m"]),
    "6h": Span("6 h", "Last 6 hours", 21_600, STEPS["6h"]),
    "7d": Span("7 d", "Last 7 days", 604_800, STEPS["7d"]),
}
"""The spans by the names of their resolutions."""


class Line(NamedTuple):
    """A line of a plot, or a column of the table."""

    name: str
    look: str
    """The class of its key, which has its colour."""
    dash: str
    """Lengths of dashes and gaps; "" for a line without gaps."""
    label: str = ""
    """What its key says, if it is another than its name."""
    heading: str = ""
    """What comes before it, if several lines of a plot belong together."""


class Plot(NamedTuple):
    """One of the plots, each with an axis of its own."""

    title: str
    """"" if its lines have headings."""
    unit: str
    """`count` or `seconds`."""
    lines: list[Line]
    empty: str
    """What there is to say if no line has a point."""


PLOTS = [
    Plot(
        "Tasks per second",
        "count",
        [Line("done", "good", ""), Line("failed", "bad", "4 3")],
        "No task has ended.",
    ),
    Plot(
        "Tasks at a time",
        "count",
        [Line("queued", "warn", "4 3"), Line("held", "soft", "1 3"), Line("running", "link", "")],
        "Each task began and ended between two looks, which are a second apart.",
    ),
    Plot(
        "",
        "seconds",
        [
            Line("wait p50", "warn", "", "p50", "Wait"),
            Line("wait p95", "warn", "4 3", "p95"),
            Line("run p50", "link", "", "p50", "Run"),
            Line("run p95", "link", "4 3", "p95"),
        ],
        "No task has ended, so there are no times.",
    ),
]
"""Their lines are the columns of what is measured, in its order."""

# Rows of the table, which is for those who cannot see the plots.
_ROWS = 15
# Seconds below which a time is not told apart: a logarithm needs more than 0.
_SHORTEST = 1e-6
# The size of a plot that is drawn without a script.
_WIDTH, _HEIGHT = 360, 150


@dataclass(frozen=True)
class Points:
    """Columns of the same length: what happened in each step of a plot."""

    begin: int
    span: Span
    columns: Sequence[Sequence[Value]]
    news: str
    """Changes with what was measured, but not with the time alone."""

    @cached_property
    def _drawn(self) -> list[Sequence[Value]]:
        """The columns as they are drawn: times are logarithms."""
        times = ([it and _logarithm(it) for it in column] for column in self.columns[_LEVELS:])
        return [*self.columns[:_LEVELS], *times]

    def for_script(self) -> str:
        """What the script reads."""
        told = {
            "from": self.begin,
            "step": self.span.step,
            "span": self.span.length,
            "rows": self._drawn,
        }
        return json.dumps(told, separators=(",", ":"))

    def record(self) -> dict[str, Any]:
        """The same for other programs."""
        names = [line.name.replace(" ", "_") for plot in PLOTS for line in plot.lines]
        return {
            "from": datetime.fromtimestamp(self.begin, UTC),
            "step": self.span.step,
            **dict(zip(names, self.columns, strict=True)),
        }

    def last(self) -> list[Value]:
        """The newest point."""
        return [column[-1] for column in self.columns]

    @property
    def are_empty(self) -> bool:
        """Whether nothing has happened in all of the span."""
        return not any(map(any, self.columns))

    def lack(self, first: int, plot: Plot) -> bool:
        """Whether a plot, whose first column is this one, has nothing to show."""
        return not any(map(any, self.columns[first : first + len(plot.lines)]))

    def paths(self, first: int, plot: Plot) -> list[str]:
        """The lines of a plot, whose first column is this one, as paths of an SVG."""
        columns = self._drawn[first : first + len(plot.lines)]
        known = [it for column in columns for it in column if it is not None]
        is_time = plot.unit == "seconds"
        low, high = min(known, default=0) if is_time else 0, max(known, default=0)
        # A unit of the SVG is fine enough.
        size = (_HEIGHT - 8) / (high - low or 1)
        top = round(low * size) + _HEIGHT - 4
        return [
            _path([it if it is None else top - round(it * size) for it in column])
            for column in columns
        ]

    def table(self) -> list[tuple[datetime, list[Value]]]:
        """The same in few rows, the newest first: when each begins, and its numbers."""
        count = len(self.columns[0])
        size = math.ceil(count / _ROWS)
        found = []
        for start in range((count - 1) // size * size, -1, -size):
            parts = [column[start : start + size] for column in self.columns]
            moment = datetime.fromtimestamp(self.begin + start * self.span.step, UTC)
            found.append((moment, [_joined(n, part) for n, part in enumerate(parts)]))
        return found


def points_of(measured: Plots, key: str, now: float) -> Points:
    """Make the points of a span out of its steps.

    A step that is left out is like the one before it, but for what ended in it: nothing.
    """
    span = SPANS[key]
    begin = (int(now) // span.step - span.length // span.step + 1) * span.step
    steps = dict(zip(measured.at, zip(*measured[2:], strict=True), strict=True))
    earlier = [row for at, row in steps.items() if at < begin]
    idle: tuple[Value, ...] = _idle(earlier[-1]) if earlier else (None,) * len(measured[2:])
    seen: Sequence[Value] | None = None
    newest: tuple[int, Sequence[Value]] | None = None
    points: list[Sequence[Value]] = []
    for start in range(begin, begin + span.length, span.step):
        row = steps.get(start)
        if seen is not None and seen != (row or idle):
            newest = start, row or idle
        seen = row or idle
        if row is None:
            points.append(idle)
        else:
            points.append(_point(row, min(span.step, max(now - start, 1))))
            idle = _idle(row)
    news = "" if newest is None else str(newest)
    return Points(begin, span, list(zip(*points, strict=True)), news)


# Columns of what ended come first, then those of levels, then those of times.
_ENDED, _LEVELS = 2, 5
_MEDIANS = (5, 7)


def _idle(row: Sequence[Value]) -> tuple[Value, ...]:
    """What follows a step while nothing happens."""
    ended = [None if it is None else 0.0 for it in row[:_ENDED]]
    return (*ended, *row[_ENDED:_LEVELS], *([None] * len(row[_LEVELS:])))


# As many as all plots have: those of steps that are over stay the same.
@lru_cache(1_000)
def _point(row: tuple[Value, ...], seconds: float) -> tuple[Value, ...]:
    """The values of a step as a plot has them."""
    found = list(row)
    for place in (0, 1):
        value = found[place]
        if value:
            found[place] = _rounded(value / seconds)
    for place in range(_LEVELS, len(found)):
        value = found[place]
        if value is not None:
            found[place] = _rounded(max(value, _SHORTEST))
    return tuple(found)


def _joined(column: int, values: Sequence[Value]) -> Value:
    """Several values of a column as one."""
    known = [it for it in values if it is not None]
    if not known:
        return None
    if column < _ENDED:
        return _rounded(sum(known) / len(known))
    if column < _LEVELS:
        return max(known)
    return _rounded(statistics.median(known) if column in _MEDIANS else max(known))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


# Values of three digits: there are not many.
@lru_cache(2_000)
def _logarithm(value: float) -> float:
    return round(math.log10(value), 3)


def _path(places: Sequence[int | None]) -> str:
    """A line through places below the top, with gaps where there is none."""
    found: list[str] = []
    letter, before = "M", None
    following = chain(places[1:], (None,))
    for across, place, after in zip(_across(len(places)), places, following, strict=True):
        if place is None:
            letter = "M"
        elif letter == "M" or not before == place == after:
            found.append(f"{letter}{across} {place}")
            letter = "L"
        before = place
    return "".join(found)


@lru_cache(len(SPANS))
def _across(count: int) -> list[int]:
    """So many places from the left to the right."""
    return [round(place * _WIDTH / max(count - 1, 1)) for place in range(count)]


def spark(counts: Sequence[int]) -> str:
    """The path of a small plot of 90 by 20: a bar for each count, as high as half a unit tells."""
    most = max(counts, default=0) or 1
    bars = _bars(len(counts))
    return "".join(
        [bars[place][max(36 * count // most, 4)] for place, count in enumerate(counts) if count]
    )


@lru_cache(4)
def _bars(count: int) -> list[list[str]]:
    """The bars of so many places, by their heights in half units."""
    width = 90 / max(count, 1)
    end = f"h{width - 0.75:g}V20z"
    return [[f"M{place * width:g} 20v-{n / 2:g}{end}" for n in range(37)] for place in range(count)]
