"""What the pages show: views of tasks, and numbers. No HTML, and nothing of Flask's contexts."""

import os
import platform
import re
import site
import sysconfig
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

from flask_delay.backends.base import RemoteError
from flask_delay.dashboard import samples
from flask_delay.dashboard.recorder import Recorder, Run
from flask_delay.dashboard.samples import Plots
from flask_delay.journal.periodic import seen_in_journal
from flask_delay.masking import masked
from flask_delay.observe.stats import PoolStats, TaskStats
from flask_delay.observe.view import TaskView
from flask_delay.periodic.job import Job
from flask_delay.state import State

SHOWN = 50
"""Tasks of a list."""

MOST = 1_000
"""Tasks that are retried at once, at most."""

# Tasks of the journal that are looked at for a list. They may be in another order than the list.
_LOOKED_AT = 200
# What counts as recent, for failures.
_RECENT = timedelta(minutes=15)
# Characters of a message, of a note, of arguments; of a traceback.
_LONGEST, _TRACEBACK = 1_000, 64_000
_WAITING = ("ready", "scheduled", "blocked", "parked")
_FAILED = ("failed", "dead")
_ENDED = ("finished", "cancelled")
# Bounds of the buckets of a histogram, in seconds: 1, 2, 5, 10 ...
BOUNDS = tuple(step * 10.0**power for power in range(-4, 4) for step in (1, 2, 5))

Redact = Callable[[TaskView], TaskView]


class Listed(NamedTuple):
    """A part of a list of tasks."""

    tasks: list[TaskView]
    before: str | None = None
    """The id from which the next part goes on; None if there is none."""


class Group(NamedTuple):
    """Failures of one kind."""

    kind: str
    number: int
    last: datetime | None


class Frame(NamedTuple):
    """A line of a traceback and what belongs to it."""

    text: str
    is_own: bool
    """Whether it is in code of the app, and not of a library."""


class ErrorText(NamedTuple):
    """What there is to say of an exception."""

    kind: str
    message: str
    frames: list[Frame]


class Pages:
    """The tasks of one `Delay` on one app, as a page shows them."""

    def __init__(
        self, state: State, own: Recorder, redact: Redact | None, *, arguments: bool = False
    ) -> None:
        self.state = state
        self.own = own
        self._redact = redact
        self._arguments = arguments

    # --- Tasks ------------------------------------------------------------------------

    @property
    def has_journal(self) -> bool:
        """Whether all processes are shown, and not this one alone."""
        return self.state.store.is_there

    @property
    def shares_all(self) -> bool:
        """Whether the journal has plain tasks, too."""
        return self.has_journal and self.state.config.journal is not None

    def shown(self, view: TaskView) -> TaskView:
        """The view as everybody may see it."""
        if not self._arguments and view.arguments is not None:
            # Another page of the app shows them.
            view = replace(view, arguments=None)
        return view if self._redact is None else self._redact(view)

    def _rows(
        self, states: Sequence[str], name: str | None = None, before: str | None = None
    ) -> list[TaskView]:
        if name is None:
            return self.state.store.tasks(states, None, _LOOKED_AT, before)
        try:
            return self.state.store.tasks(states, name, _LOOKED_AT, before)
        except LookupError:
            # No durable function has the name, or several have.
            return []

    def _with_own(self, rows: list[TaskView], own: Iterable[TaskView | None]) -> list[TaskView]:
        """The rows of the journal, and the tasks of this process. It knows more of its own."""
        found = {view.id: view for view in rows}
        for view in own:
            if view is not None:
                row = found.get(view.id)
                is_row = row is not None and is_durable(row)
                found[view.id] = (
                    replace(cast("TaskView", row), arguments=view.arguments) if is_row else view
                )
        return list(found.values())

    def running(self) -> list[TaskView]:
        """The tasks that run, of all processes that are known, the oldest first."""
        rows = self._rows(["running"])
        own = []
        for run in self.own.runs(self.state):
            if run.future.state == "running":
                if self.shares_all:
                    # The journal has it from now on, for the pages of other processes.
                    _ = run.future.id
                own.append(self.own.seen(run.future))
        found = self._with_own(rows, own)
        return [self.shown(view) for view in sorted(found, key=_started)]

    def waiting(self) -> tuple[Listed, Listed]:
        """The tasks that wait for a worker, and those that may not start yet. Oldest first."""
        rows = self._rows(_WAITING)
        between = (run.future for run in self.own.runs(self.state))
        futures = [*between, *self.own.pending(self.state)]
        pending = [it for it in futures if it.state == "pending"]
        own = [
            # The journal is asked for as many as are shown.
            self.state.held(view, it) if place < SHOWN else view
            for place, it in enumerate(pending)
            for view in [self.own.seen(it)]
        ]
        found = self._with_own(rows, own)
        found.sort(key=lambda view: view.enqueued_at or _NEVER)
        own_counts = self.state.executor.stats()
        held = [view for view in found if _is_held(view, own_counts)]
        queued = [view for view in found if not _is_held(view, own_counts)]
        held.sort(key=lambda view: view.due or _EVER)
        return Listed(self._cut(queued)), Listed(self._cut(held))

    def _cut(self, views: list[TaskView]) -> list[TaskView]:
        return [self.shown(view) for view in views[:SHOWN]]

    def failures(
        self, name: str | None = None, kind: str | None = None, before: str | None = None
    ) -> tuple[list[Group], Listed]:
        """The tasks that failed, in groups by their exceptions and as a list; newest first."""
        rows = self._rows(_FAILED, name, before)
        own: Iterable[TaskView] = () if before else self.own.failed(self.state)
        found = self._with_own(rows, (view for view in own if name is None or view.name == name))
        views = [self.shown(view) for view in found]
        views.sort(key=_ended, reverse=True)
        counts = Counter(kind_of(view) for view in views)
        last = {kind_of(view): view.finished_at for view in reversed(views)}
        groups = [Group(it, count, last[it]) for it, count in counts.most_common()]
        meant = [view for view in views if kind is None or kind_of(view) == kind]
        return groups, self._part(meant, rows)

    def ended(self, name: str | None = None, before: str | None = None) -> Listed:
        """The tasks that returned or were cancelled, newest first."""
        rows = self._rows(_ENDED, name, before)
        own: Iterable[TaskView] = () if before or self.shares_all else self.own.others(self.state)
        found = self._with_own(rows, (view for view in own if name is None or view.name == name))
        found.sort(key=_ended, reverse=True)
        return self._part([self.shown(view) for view in found], rows)

    def of_name(self, name: str) -> list[TaskView]:
        """The last tasks of a name, in any state."""
        rows = self._rows((), name)
        own = [
            *(self.own.seen(run.future) for run in self.own.runs(self.state)),
            *(self.own.seen(it) for it in self.own.pending(self.state) if it.name == name),
            *self.own.failed(self.state),
            *(() if self.shares_all else self.own.others(self.state)),
        ]
        found = self._with_own(rows, (view for view in own if view and view.name == name))
        found.sort(key=lambda view: view.enqueued_at or _NEVER, reverse=True)
        return self._cut(found)

    def _part(self, views: list[TaskView], rows: list[TaskView]) -> Listed:
        # The journal lists by the time of submit, so it goes on below the last row of this part.
        there = {view.id for view in rows}
        last = [view.id for view in views[:SHOWN] if view.id in there]
        is_more = len(views) > SHOWN or len(rows) == _LOOKED_AT
        return Listed(views[:SHOWN], last[-1] if last and is_more else None)

    def matching(self, name: str | None, kind: str | None) -> list[TaskView]:
        """Up to `MOST` failed tasks that can run again."""
        found: list[TaskView] = []
        before = None
        while len(found) < MOST:
            rows = self._rows(_FAILED, name, before)
            views = (self.shown(row) for row in rows if can_retry(row))
            found += (view for view in views if kind is None or kind_of(view) == kind)
            if len(rows) < _LOOKED_AT:
                break
            before = rows[-1].id
        return found[:MOST]

    def task(self, id: str) -> TaskView | None:
        """The task with this id, in whichever process; None for one that is not known."""
        view = self.state.look(id)
        if view is None:
            future = self.own.find(self.state, id)
            if future is None:
                view = self.own.ended(self.state, id)
            else:
                view = self.state.held(self.own.seen(future), future)
        return None if view is None else self.shown(view)

    def stack(self, id: str) -> tuple[str | None, list[str]]:
        """Why the stack of a task cannot be shown, or None; and its frames, outermost first."""
        done = self.state.act("stack", id, None)
        if done.value is not None:
            return None, done.value
        if done.status == 404:  # noqa: PLR2004 (not found)
            return "no process that is known runs it", []
        return done.why, []

    # --- Numbers ----------------------------------------------------------------------

    def counts(self, running: Sequence[TaskView]) -> dict[str, Any]:
        """How many tasks are in which state; of all processes as far as the journal tells."""
        own, journal = self.state.stats(), self.state.store.stats()
        queued, held = own["queued"], own["held"]
        oldest, dead = 0.0, 0
        if own["queued"]:
            since = (it.enqueued_at for it in self.own.pending(self.state))
            oldest = max((age_of(it) for it in since if it is not None), default=0.0)
        if journal is not None:
            queued += journal["ready"]
            held += journal["scheduled"] + journal["blocked"] + journal["parked"]
            oldest, dead = max(oldest, journal["oldest"]), journal["dead"]
        recent = [view for view in self._failed_lately() if _is_recent(view)]
        return {
            "running": len(running),
            "queued": queued,
            "held": held,
            "oldest_waiting_since": _since(oldest),
            "stuck": own["stuck"],
            "dead": dead,
            "failed_15_min": len(recent),
        }

    def _failed_lately(self) -> list[TaskView]:
        return self._with_own(self._rows(_FAILED), self.own.failed(self.state))

    def names(self) -> dict[str, TaskStats]:
        """The outcomes of this process's tasks, by their names."""
        return dict(sorted(self.state.stats()["tasks"].items()))

    def plots(self, resolution: str = "15m") -> Plots:
        """What happened in the last "15m", "6h" or "7d". KeyError for anything else."""
        return samples.of_process(self.state.executors(), resolution)

    def sparklines(self) -> dict[str, list[int]]:
        """How many tasks ended in each of the last 30 minutes, by name; the last one goes on."""
        return samples.ends_of_process(self.state.executors())

    def histograms(self, name: str) -> dict[str, list[tuple[str, int]]]:
        """How long this process's tasks of a name waited, and ran: counts by upper bounds."""
        row = self.state.executor._figures(list(BOUNDS)).get(name)
        if row is None:
            return {}
        # Four counts and the sum of the waits come first.
        size = len(BOUNDS) + 1
        waits, runs = row[5 : 5 + size], row[6 + size : 6 + 2 * size]
        return {"wait": _buckets(waits), "run": _buckets(runs)}

    def paused(self) -> list[str | None]:
        """The functions that are paused; None among them: all are."""
        return self.state.store.paused()

    def durable_names(self) -> list[str]:
        """The functions of durable tasks."""
        return self.state.store.functions.names()

    # --- Jobs and processes -----------------------------------------------------------

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of this process and those that the journal knows, by their names."""
        own = self.state.jobs.all()
        ids = {job.id for job in own}
        rows = (row for row in self.state.store.jobs() if row["id"] not in ids)
        others = ({**seen_in_journal(row), "last": None, "here": False} for row in rows)
        return sorted([*map(self.job, own), *others], key=lambda it: (it["name"], it["id"]))

    def name_of_job(self, id: str) -> str | None:
        """What people call a job, of whichever process."""
        own = (job.name for job in self.state.jobs.all() if job.id == id)
        rows = (row["name"] for row in self.state.store.jobs() if row["id"] == id)
        return next(own, None) or next(rows, None)

    def job(self, job: Job) -> dict[str, Any]:
        """What there is to say of a job."""
        last = None if job.last is None else self.own.seen(job.last)
        return {
            "id": job.id,
            "name": job.name,
            "schedule": job.schedule,
            "paused": job.paused,
            "next_run": job.next_run,
            "last_tick": job.last_tick,
            "left_out": job.left_out,
            "durable": job.durable,
            "last": None if last is None else self.shown(last),
            "here": True,
        }

    def process(self, server: str) -> dict[str, Any]:
        """This process."""
        own = self.state.stats()
        return {
            "pid": os.getpid(),
            "host": platform.node(),
            "server": server,
            "python": platform.python_version(),
            "since": _born(),
            "memory": None if (size := _memory()) is None else round(size, -6),
            **{key: own[key] for key in ("threads", "running", "idle", "waiting", "stuck")},
        }

    def processes(self) -> int | None:
        """How many processes run durable tasks; None without a journal."""
        counts = self.state.store.stats()
        return None if counts is None else counts["processes"]


_NEVER = datetime.min.replace(tzinfo=UTC)
_EVER = datetime.max.replace(tzinfo=UTC)


def _started(view: TaskView) -> datetime:
    return view.started_at or _EVER


def _ended(view: TaskView) -> datetime:
    return view.finished_at or _NEVER


def _since(seconds: float) -> datetime | None:
    """When so many seconds have begun, to the second: it is told to no more than that."""
    if not seconds:
        return None
    return (datetime.now(UTC) - timedelta(seconds=seconds)).replace(microsecond=0)


def _is_recent(view: TaskView) -> bool:
    return view.finished_at is not None and datetime.now(UTC) - view.finished_at < _RECENT


def age_of(moment: datetime) -> float:
    """The seconds since then; 0 if it is to come."""
    return max((datetime.now(UTC) - moment).total_seconds(), 0.0)


def _is_held(view: TaskView, own: PoolStats) -> bool:
    """Whether something else than a free worker is missing."""
    if view.waits is not None or view.attempts:
        return view.waits != "ready"
    # Only the numbers tell of a plain task of this process.
    return own["queued"] == 0 < own["held"]


def is_durable(view: TaskView) -> bool:
    """Whether the journal has the task's call."""
    return view.deaths is not None


def can_retry(view: TaskView) -> bool:
    """Whether the task failed, and the journal has what it takes to run it again."""
    return is_durable(view) and view.state in _FAILED


def no_retry(view: TaskView | None) -> str | None:
    """Why a task cannot run again; None if it can."""
    if view is None:
        return "It is not known. It may have been forgotten since it ended."
    if not is_durable(view):
        return "It is not durable: it has let its function and arguments go."
    return (
        None
        if can_retry(view)
        else f"Only a task that failed can run again, and it is {view.state}."
    )


def kind_of(view: TaskView) -> str:
    """The class of a task's error, with its module unless that is Python's own."""
    error = view.error
    if error is None:
        return "no error"
    # RemoteError stands for a class that this process does not have.
    if isinstance(error, RemoteError):
        return error.kind
    kind = type(error)
    if kind.__module__ in {"builtins", "concurrent.futures._base", "flask_delay"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def outcome_of(view: TaskView) -> str:
    """The state in one word: "waiting", "retrying", or as `TaskView.state`."""
    if view.state == "finished" and view.error is not None:
        return "failed"
    if view.state in {"pending", *_WAITING}:
        if view.waits in {"paused", "parked", "scheduled"}:
            return view.waits
        return "retrying" if view.attempts else "waiting"
    return view.state


_WHY = {
    "ready": "for a free worker",
    "paused": "until it is resumed",
    "alone": "for a process that runs nothing else, since one has died of it",
    "parked": "for code that can run it",
    "blocked": "for another task",
}


def why(view: TaskView) -> str:
    """For what a task waits; "" if its state says so already."""
    if view.waits in _WHY:
        return _WHY[view.waits]
    if view.held_by is not None and view.reason is not None:
        return f"for its {view.held_by}, {masked(view.reason[:_LONGEST])}"
    if view.after is not None and view.waits is not None:
        return view.waits
    if view.attempts:
        return f"for attempt {view.attempts + 1}"
    if view.waits == "scheduled":
        return ""
    return "for a free worker, its time, or its turn among tasks of its key"


def error_of(view: TaskView) -> ErrorText | None:
    """The error of a task as text, cut and without passwords."""
    error = view.error
    if error is None:
        return None
    try:
        message = error.args[1] if isinstance(error, RemoteError) else str(error)
    except Exception:
        message = ""
    notes = [it for it in getattr(error, "__notes__", ()) if isinstance(it, str)]
    if error.__traceback__ is not None:
        text = "".join(traceback.format_exception(error))
    else:
        text = "\n".join(it.partition("\n")[2] for it in notes if it.startswith(_ELSEWHERE))
        notes = [it for it in notes if not it.startswith(_ELSEWHERE)]
    message = "\n".join([message, *notes]) if error.__traceback__ is None else message
    return ErrorText(
        kind_of(view),
        masked(message[: 8 * _LONGEST])[:_LONGEST],
        list(_split(masked(text[:_TRACEBACK]))),
    )


_ELSEWHERE = "In the process that ran the task:"
_FILE = re.compile(r'^ *(?:\| )?File "(?P<path>[^"]*)", line \d+', re.MULTILINE)


def _split(text: str) -> Iterator[Frame]:
    """The frames of a traceback, and the lines between them."""
    starts = [0, *(match.start() for match in _FILE.finditer(text)), len(text)]
    for start, end in pairwise(starts):
        part = text[start:end]
        match = _FILE.match(part)
        if match is None:
            if part.strip():
                yield Frame(part.rstrip(), is_own=False)
            continue
        # What follows a frame begins at the left.
        lines = part.splitlines()
        size = next((n for n, it in enumerate(lines) if n and not it.startswith(" ")), len(lines))
        yield Frame("\n".join(lines[:size]), is_own=_is_own(match["path"]))
        if lines[size:]:
            yield Frame("\n".join(lines[size:]), is_own=False)


def _library() -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {site.getusersitepackages(), str(Path(__file__).parent.parent)}
    return tuple(f"{it}{os.sep}" for it in folders if it)


_LIBRARY = _library()


def _is_own(path: str) -> bool:
    return not path.startswith(("<", *_LIBRARY))


def _buckets(counts: Sequence[float]) -> list[tuple[str, int]]:
    """The counts from the first to the last bucket that is not empty."""
    bounds = [*(f"{bound:g}" for bound in BOUNDS), "inf"]
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return []
    return [(bounds[n], int(counts[n])) for n in range(used[0], used[-1] + 1)]


def _born() -> datetime | None:
    """When this process began, where the system tells."""
    try:
        return datetime.fromtimestamp(Path(f"/proc/{os.getpid()}").stat().st_ctime, UTC)
    except OSError:
        return None


def _memory() -> int | None:
    """The bytes of memory that this process has, where the system tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def thread_name(run: Run | None) -> str | None:
    """The thread on which a task runs."""
    if run is None:
        return None
    return next((it.name for it in threading.enumerate() if it.ident == run.thread), None)
