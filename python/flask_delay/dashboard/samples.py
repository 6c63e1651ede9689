"""What the plots show: the last minutes, hours and days in steps. See `Pages.plots`."""

import time
from collections.abc import Sequence
from operator import add
from typing import NamedTuple

from flask_delay._native import Executor, _Journal

STEPS = {"15m": 5, "6h": 120, "7d": 3_600}
"""The resolutions, and the seconds of their steps: each is a point of a plot."""

MINUTES = 30
"""Of a sparkline."""

# Seconds until a sample is in the journal.
_LATE = 3
# How many steps are kept.
_KEPT = {5: 180, 120: 180, 3_600: 168}

# A median and a 95th percentile; a step as `Executor._samples` tells it.
_Times = list[float] | None
_Row = tuple[int, list[int], list[int], list[_Times]]


class Plots(NamedTuple):
    """What happened in each step, in columns of the same length. None where nothing is known.

    Steps in which nothing changed are left out, but for the first and the last one of them.
    """

    step: float
    """The seconds of a step."""
    at: list[float]
    """The first second of each, since 1970, ascending."""
    done: list[float | None]
    """Tasks that returned."""
    failed: list[float | None]
    queued: list[float | None]
    """The most tasks that waited for a worker at once."""
    held: list[float | None]
    running: list[float | None]
    wait_p50: list[float | None]
    """Seconds that half of the tasks waited at most. None where no task ended."""
    wait_p95: list[float | None]
    run_p50: list[float | None]
    run_p95: list[float | None]


def of_process(executors: Sequence[Executor], resolution: str) -> Plots:
    """The plots of this process. KeyError for an unknown resolution."""
    step = STEPS[resolution]
    rows = [executor._samples(step) for executor in executors]  # noqa: SLF001
    return _plots(step, rows[0] if len(rows) == 1 else _added(rows))


def of_all(journal: _Journal, resolution: str) -> Plots:
    """The plots of all processes. KeyError for an unknown resolution."""
    step = STEPS[resolution]
    return _plots(step, _bridged(journal.steps(step), step, int(time.time())))


def _bridged(rows: Sequence[_Row], step: int, now: int) -> list[_Row]:
    """The rows with the first and the last step of each time in which nothing happened."""
    found: list[_Row] = []
    for row in rows:
        if found and found[-1][0] + step < row[0]:
            found += _quiet(found[-1], row[0], step)
        found.append(row)
    # The samples of the last seconds may be on their way.
    if found and found[-1][0] + step + _LATE <= now:
        found += _quiet(found[-1], now - now % step + step, step)
    return found


def _quiet(before: _Row, end: int, step: int) -> list[_Row]:
    """The first and the last step between a row and the time of the next one."""
    places = sorted({before[0] + step, end - step} - {before[0]})
    # What was held still is.
    levels = [0, before[2][1], 0]
    return [(at, [0, 0], levels, [None, None]) for at in places if before[0] < at < end]


def _plots(step: int, rows: Sequence[_Row]) -> Plots:
    now = int(time.time())
    begin = now - now % step - (_KEPT[step] - 1) * step
    told: list[tuple[float | None, ...]] = [
        (at, *ended, *levels, *(wait or _NO_TIMES), *(run or _NO_TIMES))
        for at, ended, levels, (wait, run) in rows
    ]
    if not rows or rows[0][0] > begin:
        # As wide as it will be.
        told.insert(0, (begin, *(None for _ in Plots._fields[2:])))
    return Plots(step, *map(list, zip(*told, strict=True)))


_NO_TIMES = (None, None)


def _added(pools: Sequence[Sequence[_Row]]) -> list[_Row]:
    """The rows of several pools as one. Where several have ended tasks, the longest times count."""
    there = [{row[0]: row for row in rows} for rows in pools]
    levels: list[list[int] | None] = [None] * len(pools)
    found = []
    for at in sorted({row[0] for rows in pools for row in rows}):
        ended: list[int] = [0, 0]
        times: list[_Times] = [None, None]
        for place, rows in enumerate(there):
            row = rows.get(at)
            if row is not None:
                ended = [one + other for one, other in zip(ended, row[1], strict=True)]
                levels[place] = row[2]
                times = [_longer(*pair) for pair in zip(times, row[3], strict=True)]
        known = [it for it in levels if it is not None]
        found.append((at, ended, [sum(column) for column in zip(*known, strict=True)], times))
    return found


def _longer(one: _Times, other: _Times) -> _Times:
    if one is None or other is None:
        return one or other
    return [max(pair) for pair in zip(one, other, strict=True)]


def ends_of_all(journal: _Journal) -> dict[str, list[int]]:
    """As `ends_of_process`, in all processes."""
    first = int(time.time()) // 60 - MINUTES + 1
    found: dict[str, list[int]] = {}
    for name, minute, count in journal.minutes(first):
        if minute < first + MINUTES:
            counts = found.get(name)
            if counts is None:
                counts = found[name] = [0] * MINUTES
            counts[minute - first] = count
    return dict(sorted(found.items()))


def ends_of_process(executors: Sequence[Executor]) -> dict[str, list[int]]:
    """How many tasks of each name ended in each of the last 30 minutes, in this process."""
    found: dict[str, list[int]] = {}
    for executor in executors:
        for name, counts in executor._minutes():  # noqa: SLF001
            before = found.get(name)
            found[name] = counts if before is None else list(map(add, before, counts))
    return dict(sorted(found.items()))
