"""Kill the processes that have a durable job, and see that no tick is lost or doubled.

`python -m tests.journal.ticks SECONDS [SEED]`, or `make kills-ticks`. Four processes have the jobs
of `ticking.py`. They are killed at random moments, one, two or all of them, and come back. Exit
code 1 if a promise is broken: see `judge`.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.journal.fleet import wait_for_death
from tests.journal.record import Verdict, integrity, judge_run, reading
from tests.servers.harness import poll

ROOT = Path(__file__).parents[2]
PROCESSES = 4
# All times are in nanoseconds since 1970.
SECOND = 10**9
PERIOD = SECOND // 5
# A process that lives so long is sure to have made up for what was missed.
SOON = 3 * SECOND // 2
# What a process may need to take a tick, on a machine that is busy.
SLACK = 3 * SECOND // 10


class Life(NamedTuple):
    """A process that had the job."""

    since: int
    until: int
    told: bool = True
    """Whether it has noted since when, and not only that it is about to begin."""


class Taken(NamedTuple):
    """A tick that has a task."""

    tick: int
    at: int
    """When the task was submitted."""
    state: int = 6


class Ran(NamedTuple):
    """A run of the job whose runs do not overlap."""

    id: str
    begin: int
    end: int
    """Its own, or the death of its process."""


@dataclass
class Seen:
    """What has happened."""

    lives: list[Life] = field(default_factory=list)
    stalls: list[tuple[int, int]] = field(default_factory=list)
    """When a process did not get to run."""
    taken: list[Taken] = field(default_factory=list)
    runs: list[Ran] = field(default_factory=list)


def newest(time: int) -> int:
    """The newest tick until a time."""
    return time // PERIOD * PERIOD


def judge(seen: Seen) -> Verdict:
    """Compare what was promised with what has happened.

    Each tick has one task if a process was there for it. After a time without any, one task is made
    for the newest tick before the first process that had time to.
    """
    taken = sorted(seen.taken)
    ticks = {it.tick for it in taken}
    gaps = list(_gaps(seen.lives))
    problems = [*_wrong(taken), *_holes(seen, ticks), *_overlaps(seen.runs)]
    made_up = 0
    for begin, end, starts in gaps:
        # What was taken until then was not missed.
        late = [it for it in taken if begin < it.tick <= end]
        made_up += len(late)
        if len(late) > 1:
            problems.append(f"{len(late)} ticks were made up for at once: {late}")
        problems += [
            f"tick {it.tick} was made up for, which was not the newest"
            for it in late
            if it.tick not in starts
        ]
    for life in seen.lives:
        if life.until - life.since < SOON + SLACK:
            continue
        known = [it.tick for it in taken if it.at <= life.since + SOON]
        if max(known, default=0) < newest(life.since) and taken[0].tick < life.since:
            problems.append(f"tick {newest(life.since)} was not made up for by {life}")
    figures: dict[str, object] = {
        "ticks taken": len(taken),
        "processes": len(seen.lives),
        "times without any": len(gaps),
        "made up for": made_up,
        "stalls": len(seen.stalls),
        "runs of the job without overlap": len(seen.runs),
    }
    return Verdict(problems, figures)


def _wrong(taken: Sequence[Taken]) -> Iterator[str]:
    for first, second in pairwise(taken):
        if first.tick == second.tick:
            yield f"tick {first.tick} has two tasks"
    for it in taken:
        if it.tick % PERIOD:
            yield f"{it.tick} is no tick"
        if it.at < it.tick:
            yield f"tick {it.tick} was taken before it came"
        if it.state != 6:
            yield f"the task of tick {it.tick} has not finished: {it.state}"


def _holes(seen: Seen, ticks: set[int]) -> Iterator[str]:
    """The ticks that nobody has taken though a process was there, which got to run."""
    for tick in range(min(ticks), max(ticks), PERIOD):
        end = tick + PERIOD + SLACK
        was_there = any(it.since < tick and it.until > end for it in seen.lives)
        stood_still = any(begin < end and tick < over for begin, over in seen.stalls)
        if tick not in ticks and was_there and not stood_still:
            yield f"tick {tick} is lost"


def _gaps(lives: Sequence[Life]) -> Iterator[tuple[int, int, list[int]]]:
    """When no process was there, and the ticks that those after it may have made up for."""
    end = None
    for life in sorted(lives):
        if end is not None and life.since > end:
            later = [it for it in lives if life.since <= it.since <= life.since + SOON]
            starts = [newest(it.since) for it in later]
            starts += [newest(it.since) + PERIOD for it in later if not it.told]
            yield end, life.since, starts
        end = max(end or 0, life.until)


def _overlaps(runs: Sequence[Ran]) -> Iterator[str]:
    last: Ran | None = None
    for run in sorted(runs, key=lambda it: it.begin):
        if last is not None and run.id != last.id and run.begin < last.end:
            early = (last.end - run.begin) / 1e6
            yield f"run {run.id} began {early} ms before the end of {last.id}"
        if last is None or run.end > last.end:
            last = run


# --- Processes ------------------------------------------------------------------------


class Process:
    """One that has the jobs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.until = 0
        self._handle = os.pidfd_open(pid)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        assert wait_for_death(self._handle)
        self.until = time.time_ns()
        os.close(self._handle)


class Forks:
    """A process that has imported all there is, and is forked from for each process."""

    def __init__(self, folder: Path) -> None:
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.journal.ticking"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env={**os.environ, "TICKS": str(folder), "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def fork(self) -> Process:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Process(int(self._process.stdout.readline()))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def run(folder: Path, seconds: float, seed: int) -> Verdict:
    """Kill for that long, wait for all tasks, and judge."""
    with contextlib.closing(Forks(folder)) as forks:
        return _run(folder, seconds, random.Random(seed), forks.fork)


def _run(
    folder: Path, seconds: float, chance: random.Random, start: Callable[[], Process]
) -> Verdict:
    alive = [start() for _ in range(PROCESSES)]
    dead: list[Process] = []
    strikes = itertools.count(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.1, 2))
        count = PROCESSES if next(strikes) % 4 == 0 else chance.choice([1, 1, 2])
        for process in chance.sample(alive, count):
            process.kill()
            alive.remove(process)
            dead.append(process)
        if count == PROCESSES:
            time.sleep(chance.uniform(0, 1.2))
        while len(alive) < PROCESSES:
            alive.append(start())
    # The last one, which has time for all that is left.
    time.sleep(SOON / SECOND)
    for process in alive[1:]:
        process.kill()
    (folder / "stop").touch()
    is_idle = poll(lambda: _open_tasks(folder) == 0, 60)
    (folder / "end").touch()
    alive[0].wait()
    verdict = judge(read(folder, [*dead, *alive]))
    if not is_idle:
        verdict.problems.append("some tasks did not end")
    if (told := integrity(folder / "journal.db")) != "ok":
        verdict.problems.append(f"the file: {told}")
    if "Traceback" in (log := (folder / "log").read_text()):
        verdict.problems.append(f"a traceback in the log: {log.partition('Traceback')[2][:2000]}")
    verdict.figures["killed"] = len(dead)
    return verdict


def _open_tasks(folder: Path) -> int:
    with reading(folder / "journal.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM task WHERE state < 6").fetchone()
    return int(count)


def read(folder: Path, processes: Sequence[Process]) -> Seen:
    """What the processes have noted, and what is in the file."""
    seen = Seen()
    ends = {process.pid: process.until for process in processes}
    begun: dict[tuple[int, str], int] = {}
    lives: dict[int, Life] = {}
    for line in (folder / "record").read_text().split("\n")[:-1]:
        told: Mapping[str, int | str] = json.loads(line)
        what, pid, at = told["what"], int(told["pid"]), int(told["at"])
        if what == "up":
            lives[pid] = Life(at, ends[pid], told=False)
        elif what == "since":
            lives[pid] = Life(at, ends[pid])
        elif what == "stall":
            seen.stalls.append((at, int(told["end"])))
        elif what == "begins":
            begun[pid, str(told["id"])] = at
        else:
            id = str(told["id"])
            seen.runs.append(Ran(id, begun.pop((pid, id)), at))
    seen.lives = list(lives.values())
    seen.runs += [Ran(id, at, ends[pid]) for (pid, id), at in begun.items()]
    query = (
        "SELECT tick * 1000, submitted_at * 1000, state FROM task JOIN function USING (function)"
        " WHERE name LIKE '%.often'"
    )
    with reading(folder / "journal.db") as connection:
        seen.taken = [Taken(*row) for row in connection.execute(query)]
    return seen


if __name__ == "__main__":
    judge_run(run, "seconds", 60)
