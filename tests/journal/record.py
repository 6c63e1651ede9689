"""What the tasks of `served.py` have noted, what was accepted, who died: and whether it fits."""

import contextlib
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple, NoReturn

from flask_delay import current_task

# As in the file. What is higher has ended.
STATES = {
    0: "ready",
    1: "scheduled",
    2: "running",
    3: "blocked",
    4: "parked",
    5: "paused",
    6: "finished",
    7: "failed",
    8: "cancelled",
    9: "dead",
}


# A task before others has their number and a multiple of this one: of a chain twice it, then once;
# of tasks whose results are gathered one of these multiples.
STEP = 1_000_000_000
BRANCHES = (11, 12)
# What runs after any end of the first task of a chain.
TIDY = 13

# Seconds after which a checkpoint is in the file, on a machine that is busy.
LATE = 2.0
LIMIT = 2
"""How many tasks of `served.limited` may run at once."""
RATE = 20
"""How many tasks of `served.rated` may start in a second."""


class Event(NamedTuple):
    """A line of the record. Times are in seconds of the machine's clock.

    An event of an attempt is "start", "end", "again" for an end that another attempt follows, or
    "fail" for one that another attempt follows if somebody asks for it.
    One of what a task keeps has a value: "from=3" for the checkpoint that an attempt began with,
    "kept=4" for one that it has told, "did=a" for the end of a step's code and "stepped=a" for that
    of the step. "of=limited" follows the start of a task with a limit, "of=rated" that of one with
    a rate.
    """

    event: str
    number: int
    pid: int
    attempt: int
    at: float

    @property
    def is_of_value(self) -> bool:
        """Whether it is about what the task keeps."""
        return "=" in self.event


class Row(NamedTuple):
    """A task in the file."""

    id: str
    state: str
    attempt: int
    deaths: int
    result: str | None
    began: int | None = None
    """When it was first claimed, in microseconds."""


def note(path: Path, event: str, number: int) -> None:
    """Append a line: what happened to which task, in which process, attempt, and when.

    The clock is that of the machine since its start: the same in all processes.
    """
    told = (event, number, os.getpid(), current_task.attempt, time.monotonic_ns())
    # One `write` to a file opened so is never torn or lost, whatever else writes to it.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, " ".join(map(str, told)).encode() + b"\n")
    os.close(descriptor)


def read_record(path: Path) -> list[Event]:
    """All whole lines, in the order of their times."""
    found = []
    for line in path.read_text().split("\n")[:-1]:
        event, number, pid, attempt, at = line.split()
        found.append(Event(event, int(number), int(pid), int(attempt), int(at) / 1e9))
    return sorted(found, key=lambda it: it.at)


@contextlib.contextmanager
def reading(journal: Path) -> Iterator[sqlite3.Connection]:
    """The file, for one who reads it and is no process of the journal."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        yield connection


def read_rows(journal: Path) -> dict[str, Row]:
    """All tasks by their ids."""
    query = "SELECT id, state, attempt, deaths, result, began_at FROM task"
    with reading(journal) as connection:
        rows = connection.execute(query).fetchall()
    return {id: Row(id, STATES[state], *more) for id, state, *more in rows}


def integrity(journal: Path) -> str:
    """What SQLite says of the file: "ok"."""
    with reading(journal) as connection:
        (told,) = connection.execute("PRAGMA integrity_check").fetchone()
    return str(told)


@dataclass
class Told:
    """What the world outside knows: answers, and deaths."""

    accepted: dict[int, str] = field(default_factory=dict)
    """The ids that were answered, by the number of the task."""
    unanswered: set[int] = field(default_factory=set)
    """Numbers of tasks whose answer was lost: they may be accepted or not."""
    refused: set[int] = field(default_factory=set)
    ended: dict[int, float] = field(default_factory=dict)
    """When an answer first said that the task had finished, by its number."""
    killed: dict[int, float] = field(default_factory=dict)
    """When a process was sent SIGKILL, by its pid; a process that is not there was not killed."""
    alone: set[int] = field(default_factory=set)
    """Processes that were killed while others of the same server lived on."""
    outages: list[tuple[float, float]] = field(default_factory=list)
    """When there may have been no process that runs tasks."""
    unknown: list[str] = field(default_factory=list)
    """Ids that were accepted, and that some process did not know."""


@dataclass
class Verdict:
    """What is wrong, and the figures."""

    problems: list[str]
    figures: dict[str, object]


def judge(told: Told, events: list[Event], rows: Mapping[str, Row] | None) -> Verdict:
    """Compare what was promised with what has happened, once all tasks have had time to end.

    Without `rows`, the record alone counts: the file has forgotten old tasks.
    """
    of_task: dict[int, list[Event]] = defaultdict(list)
    all_of_task: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        all_of_task[event.number].append(event)
        if not event.is_of_value:
            of_task[event.number].append(event)
    problems = [
        *_losses(told, of_task, rows),
        *(it for number, found in all_of_task.items() for it in _forgotten(number, found, told)),
        *(it for number, found in of_task.items() for it in _doubles(number, found, told)),
        *_exceeded(told, all_of_task, rows or {}),
        *_disorder(of_task),
        *(f"a process did not know task {id}" for id in told.unknown),
        *(f"task {it} was refused and has run" for it in sorted(told.refused & of_task.keys())),
    ]
    starts = [[it for it in found if it.event == "start"] for found in of_task.values()]
    figures: dict[str, object] = {
        "accepted": len(told.accepted),
        "refused": len(told.refused),
        "unanswered": len(told.unanswered),
        "killed": len(told.killed),
        "run more than once": sum(len(it) > 1 for it in starts),
        "limited": len(runs("limited", all_of_task, told)),
        "rated": len(runs("rated", all_of_task, told)),
        "chains": sum(it >= STEP for it in of_task),
        "went on": sum(it.event.startswith("from=") and it.event != "from=0" for it in events),
    }
    # Of each death, when the first of its tasks was started again. The others run after it: those
    # that were in a process that died run alone.
    first_again: dict[int, float] = {}
    failed = {it.number for it in events if it.event == "fail"}
    for found in starts:
        for first, second in pairwise(found):
            if first.pid in told.alone and first.number not in failed:
                earlier = first_again.get(first.pid, second.at)
                first_again[first.pid] = min(earlier, second.at)
    waits = [
        at - told.killed[pid]
        for pid, at in first_again.items()
        if not any(begin < at and end > told.killed[pid] for begin, end in told.outages)
    ]
    if waits:
        figures["takeovers"] = len(waits)
        figures["takeover p50 (ms)"] = round(median(waits) * 1e3, 1)
        figures["takeover max (ms)"] = round(max(waits) * 1e3, 1)
    return Verdict(problems, figures)


def _losses(
    told: Told, of_task: Mapping[int, list[Event]], rows: Mapping[str, Row] | None
) -> Iterator[str]:
    """The tasks that were accepted, and have not come to their end."""
    for number, id in told.accepted.items():
        done = Row(id, "finished", 1, 0, str(number))
        row = done if rows is None else rows.get(id)
        if row is None:
            yield f"task {number} ({id}) was accepted and is lost"
        elif row.state != "finished":
            yield f"task {number} ({id}) was accepted and is {row.state}"
        elif row.result != str(number):
            yield f"task {number} ({id}) has the result {row.result}"
        elif not any(it.event == "end" for it in of_task.get(number, ())):
            yield f"task {number} ({id}) was accepted and never came to its end"


def _disorder(of_task: Mapping[int, list[Event]]) -> Iterator[str]:
    """The steps that began before those before them had ended, or that ran after the next one."""
    for number, events in of_task.items():
        if number < STEP:
            continue
        place, last = divmod(number, STEP)
        after = of_task.get(last if place in BRANCHES else number - STEP)
        starts = [it.at for it in after or () if it.event == "start"]
        if not starts:
            continue
        if not any(it.event == "end" and it.at < starts[0] for it in events):
            yield f"the task after {number} has started before that had ended"
        if any(it.event == "start" and it.at > starts[0] for it in events):
            yield f"task {number} was started again after the next one had been"


def _doubles(number: int, events: list[Event], told: Told) -> Iterator[str]:
    """The runs of a task that should not have been, or that began before another was over."""
    yield from _overlaps(number, events, told)
    over = told.ended.get(number)
    if over is not None and any(it.event == "start" and it.at > over for it in events):
        yield f"task {number} was told to have finished, and was started after that"


def _overlaps(number: int, events: list[Event], told: Told) -> Iterator[str]:
    """The runs of a task that began before the one before was over.

    A run is over at its end, or at the death of its process: then it must have been killed. Even a
    run with an end may be run again only if the process was killed, since its end was not stored.
    """
    last: Event | None = None
    for event in events:
        if event.event == "start":
            if last is not None:
                died = told.killed.get(last.pid)
                if died is None:
                    yield (
                        f"task {number} was started again in {event.pid}, and {last.pid} was not"
                        f" killed"
                    )
                elif died > event.at:
                    yield (
                        f"task {number} was started again in {event.pid}"
                        f" {(died - event.at) * 1e3:.1f} ms before {last.pid} was killed"
                    )
            last = event
        elif last is None or last.pid != event.pid:
            yield f"task {number} ended in {event.pid} after it was started elsewhere"
        elif event.event in {"again", "fail"}:
            # It has asked for another attempt, or somebody has: see `hands.py`.
            last = None


def runs(kind: str, events: Mapping[int, list[Event]], told: Told) -> list[tuple[float, float]]:
    """When the runs of the tasks of a kind began, and when they were over, in order."""
    found = []
    for mine in events.values():
        if not _is_of(kind, mine):
            continue
        steps = [it for it in mine if not it.is_of_value]
        for first, second in pairwise([*steps, None]):
            if first is None or first.event != "start":
                continue
            if second is not None and second.event != "start":
                over = second.at
            else:
                over = told.killed.get(first.pid, float("inf"))
            found.append((first.at, over))
    return sorted(found)


def _exceeded(
    told: Told, events: Mapping[int, list[Event]], rows: Mapping[str, Row]
) -> Iterator[str]:
    """Where more tasks ran at once than the limit allows, or have started than the rate.

    A start is the claim: on a busy machine, the function begins much later.
    """
    running: list[float] = []
    for begin, over in runs("limited", events, told):
        running = [*(it for it in running if it > begin), over]
        if len(running) > LIMIT:
            yield f"{len(running)} tasks with the limit {LIMIT} ran at once, at {begin:.3f}"
    rated = (number for number, mine in events.items() if _is_of("rated", mine))
    found = (rows.get(told.accepted.get(number, "")) for number in rated)
    begins = sorted(row.began for row in found if row is not None and row.began is not None)
    for first, last in zip(begins, begins[RATE:], strict=False):
        if last - first < 1_000_000:
            yield f"{RATE + 1} tasks with the rate {RATE}/s started in {last - first} µs"


def _is_of(kind: str, events: list[Event]) -> bool:
    return any(it.event == f"of={kind}" for it in events)


def _forgotten(number: int, events: list[Event], told: Told) -> Iterator[str]:
    """What a task had kept and a later attempt did not have; and steps that have ended twice."""
    # What the next attempt must have at least, and the last and the greatest that was told.
    floor = last = most = 0
    run: list[tuple[int, Event]] = []
    stepped: set[str] = set()
    for event in events:
        name, _, value = event.event.partition("=")
        if name == "from":
            died = told.killed.get(run[-1][1].pid, 0.0) if run else 0.0
            in_time = [count for count, it in run if it.at < died - LATE]
            floor, run, last = max(floor, *in_time, 0), [], int(value)
            if last < floor:
                yield f"task {number} went on at {last} in {event.pid}, and had kept {floor}"
            if last > most + 1:
                yield f"task {number} went on at {last} in {event.pid}, which it had not kept"
            # It may have been stored and not noted.
            floor, most = max(floor, last), max(most, last)
        elif name == "kept":
            last = int(value)
            most = max(most, last)
            run.append((last, event))
        elif name == "did" and value in stepped:
            yield f"task {number} has done the step {value} again, in {event.pid}"
        elif name == "stepped":
            # What was told before it is in the file with it.
            floor = max(floor, last)
            stepped.add(value)
        elif name in {"again", "fail"} and event.pid not in told.killed:
            # The attempt has ended in order. An end is noted before it is stored.
            floor = max(floor, last)


def report(verdict: Verdict) -> str:
    """The verdict as text."""
    lines = [f"{name}: {value}" for name, value in verdict.figures.items()]
    lines += [f"PROBLEM {problem}" for problem in verdict.problems[:50]]
    if len(verdict.problems) > 50:
        lines.append(f"and {len(verdict.problems) - 50} more")
    return "\n".join(lines)


def judge_run(run: Callable[[Path, int, int], Verdict], unit: str, usual: int) -> NoReturn:
    """Run and judge what a command asks for: so many of a unit, then a seed."""
    given = [int(it) for it in sys.argv[1:]]
    amount, seed = (*given, *(usual, random.randrange(1 << 30))[len(given) :])
    print(f"{amount} {unit}, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="journal-") as folder:
        verdict = run(Path(folder), amount, seed)
    print(report(verdict))
    sys.exit(1 if verdict.problems else 0)
