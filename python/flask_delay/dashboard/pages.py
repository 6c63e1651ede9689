"""What the pages show: views of tasks, and numbers. No HTML, and nothing of Flask's contexts."""

import contextlib
import json
import os
import platform
import re
import site
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from flask_delay.backends.base import RemoteError
from flask_delay.dashboard import samples
from flask_delay.dashboard.lists import SHOWN, Lists, is_durable, kind_of
from flask_delay.dashboard.samples import Plots
from flask_delay.journal.periodic import seen_in_journal
from flask_delay.masking import masked
from flask_delay.observe.stats import TaskStats
from flask_delay.observe.view import Link, TaskView
from flask_delay.periodic.job import Job

# Characters of a message, of a note, of arguments; of a traceback.
_LONGEST, _TRACEBACK = 1_000, 64_000
_WAITING = ("ready", "scheduled", "blocked", "parked")
# The last plain tasks that other processes were asked to tell the journal of: once is enough.
_published: dict[str, None] = {}
_REMEMBERED = 256
# Bounds of the buckets of a histogram, in seconds: 1, 2, 5, 10 ...
BOUNDS = tuple(step * 10.0**power for power in range(-4, 4) for step in (1, 2, 5))


class Frame(NamedTuple):
    """A line of a traceback and what belongs to it."""

    text: str
    is_own: bool
    """Whether it is in code of the app, and not of a library."""


_Row = tuple[int, str, str | None, str | None, int | None]
"""An event: when in microseconds, what, more about it, the person, the process."""


class ErrorText(NamedTuple):
    """What there is to say of an exception."""

    kind: str
    message: str
    frames: list[Frame]


class Pages(Lists):
    """The tasks of one `Delay` on one app, as a page shows them."""

    def task(self, id: str, *, asks: bool = True) -> TaskView | None:
        """The task with this id, in whichever process; None for one that is not known.

        Other processes are asked for plain tasks only if this one `asks`.
        """
        view = self.state.look(id)
        if view is None or not (is_durable(view) or view.is_over):
            future = self.own.find(self.state, id)
            if future is not None:
                view = view or self.state.held(self.own.seen(future), future)
            else:
                view = view or self.own.ended(self.state, id)
                if asks and (view is None or not view.is_over):
                    view = self._ask_for(id, view)
        return None if view is None else self.shown(self._linked(view))

    def _linked(self, view: TaskView) -> TaskView:
        """The view with what the journal knows of the tasks before and after it."""
        before, after = self.state.store.links(view.id)
        return replace(
            view,
            follows=_united(view.follows, before),
            followed_by=_united(view.followed_by, after),
        )

    def _ask_for(self, id: str, known: TaskView | None) -> TaskView | None:
        """A plain task of another process, which knows more of it than the journal."""
        view = self.of_another(id)
        if known is None and id not in _published and self.state.publish(id):
            # So its end is seen, too.
            _published[id] = None
            while len(_published) > _REMEMBERED:
                _published.pop(next(iter(_published)), None)
            known = None if view is not None else self.state.look(id)
        return view or known

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
        journal = self.state.store.stats()
        return {
            "running": self.count_of(running),
            **self.waiting_counts(),
            "stuck": self.state.stats()["stuck"],
            "dead": 0 if journal is None else journal["dead"],
            "failed_15_min": self.failed_lately(),
        }

    def count_of(self, running: Sequence[TaskView]) -> int:
        """How many tasks run, given those that `running` has found."""
        journal = self.state.store.stats()
        if len(running) <= SHOWN or journal is None:
            return len(running)
        plain = len(self.own_runs(plain=True)) + sum(it.running.number for it in self.others)
        return max(len(running), journal["running"] + plain)

    def waiting_counts(self) -> dict[str, Any]:
        """How many tasks wait, and since when the oldest one waits for a worker."""
        own, journal = self.state.stats(), self.state.store.stats()
        queued, held = own["queued"], own["held"]
        since: list[datetime | None] = []
        if own["queued"]:
            since = [it.enqueued_at for it in self.own.pending(self.state)]
        if journal is not None:
            queued += journal["ready"]
            held += journal["scheduled"] + journal["blocked"] + journal["parked"]
            since.append(self.state.store.oldest)
        for told in self.others:
            queued += told.queued.number
            held += told.held.number
            since.append(told.oldest)
        oldest = min((it for it in since if it is not None), default=None)
        if oldest is not None:
            # It is told to no more than that.
            oldest = oldest.replace(microsecond=0)
        return {"queued": queued, "held": held, "oldest_waiting_since": oldest}

    def names(self) -> dict[str, TaskStats]:
        """The outcomes of tasks by their names: of all processes in seven days, or of this one."""
        journal = self.state.store.shared()
        if journal is None:
            return dict(sorted(self.state.stats()["tasks"].items()))
        tasks: dict[str, Any] = journal.figures([])
        for figures in tasks.values():
            del figures["buckets"]
        return dict(sorted(tasks.items()))

    def plots(self, resolution: str = "15m") -> Plots:
        """What happened in the last "15m", "6h" or "7d". KeyError for anything else."""
        journal = self.state.store.shared()
        if journal is not None:
            return samples.of_all(journal, resolution)
        return samples.of_process(self.state.executors(), resolution)

    def sparklines(self) -> dict[str, list[int]]:
        """How many tasks ended in each of the last 30 minutes, by name; the last one goes on."""
        journal = self.state.store.shared()
        if journal is not None:
            return samples.ends_of_all(journal)
        return samples.ends_of_process(self.state.executors())

    def histograms(self, name: str) -> dict[str, list[tuple[str, int]]]:
        """How long the tasks of a name waited, and ran: counts by upper bounds. As `names`."""
        journal = self.state.store.shared()
        if journal is not None:
            figures = journal.figures(list(BOUNDS)).get(name)
            if figures is None:
                return {}
            wait, run = figures["buckets"]
            return {"wait": _buckets(wait), "run": _buckets(run)}
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
        """The functions of durable tasks, by their registered names."""
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
        rows = (it for it in map(seen_in_journal, self.state.store.jobs()) if it["id"] == id)
        return next(own, None) or next((it["name"] for it in rows), None)

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

    def workers(self, server: str) -> list[dict[str, Any]]:
        """All processes of the app, oldest first, also those that died; or this one alone."""
        own = {**self.process(server), "is_own": True, "state": "alive", "seen_at": None}
        own |= {"lost_at": None, "tasks": []}
        journal = self.state.store.shared()
        if journal is None:
            return [own]
        rows = [_worker(row) for row in journal.workers()]
        found = [own if row["is_own"] else row for row in rows]
        return found if own in found else [own, *found]

    def timeline(self, view: TaskView) -> list[dict[str, Any]]:
        """What has happened to a task, oldest first."""
        found = []
        if view.enqueued_at is not None:
            found.append(_event(view.enqueued_at, "submitted"))
        rows = self._events(view)
        if view.started_at is not None:
            attempt = f"attempt {1 if is_durable(view) else view.attempts}"
            if ("started", attempt) not in {(kind, text) for _, kind, text, *_ in rows}:
                found.append(_event(view.started_at, "started", attempt))
        for micros, kind, text, actor, pid in rows:
            at = datetime.fromtimestamp(micros / 1e6, UTC)
            if kind == "acted":
                found.append(_event(at, text or kind, None, actor, pid, is_act=True))
            elif kind == "held":
                found.append(_event(at, kind, held_text(text or ""), actor, pid))
            else:
                first, _, why = (text or "").partition("\n")
                error = self._error(view, why)
                found.append(_event(at, kind, first or None, actor, pid, error=error))
        if not any(it["is_act"] for it in found):
            acts = self.own.acts(view.id)
            found += [_event(it.at, it.verb, actor=it.actor, is_act=True) for it in acts]
        if view.finished_at is not None:
            found.append(_event(view.finished_at, outcome_of(view)))
        return sorted(found, key=lambda it: it["at"])

    def _events(self, view: TaskView) -> Sequence[_Row]:
        """What has happened to a task beyond what its view tells."""
        journal = self.state.store.shared()
        rows = [] if journal is None else journal.events(view.id)
        own = () if is_durable(view) else self.own.notes(self.state, view.id)
        if own:
            # This process knows more of its own plain tasks.
            acts = [row for row in rows if row[1] == "acted"]
            return [*acts, *((at, kind, text, None, None) for at, kind, text in own)]
        return rows

    def _error(self, view: TaskView, why: str) -> dict[str, str] | None:
        """The error of an attempt after which another one follows, as everybody may see it."""
        if not why:
            return None
        kind, _, message = why.partition("\n")
        error = error_of(self.shown(replace(view, error=RemoteError(kind, message))))
        return None if error is None else {"class": error.kind, "message": error.message}

    def note(self, id: str, verb: str, actor: str | None) -> None:
        """Remember who did what to a task, in all processes if there is a journal."""
        self.own.note(id, verb, actor)
        self.state.store.note(id, verb, actor)

    def processes(self) -> int | None:
        """How many processes run durable tasks; None without a journal."""
        counts = self.state.store.stats()
        return None if counts is None else counts["processes"]


def _united(*lists: Iterable[Link]) -> tuple[Link, ...]:
    """Tasks without those that are there twice."""
    found: dict[str, Link] = {}
    for link in chain(*lists):
        found.setdefault(link.id, link)
    return tuple(found.values())


def _event(
    at: datetime,
    kind: str,
    text: str | None = None,
    actor: str | None = None,
    pid: int | None = None,
    *,
    is_act: bool = False,
    error: dict[str, str] | None = None,
) -> dict[str, Any]:
    """An event of a timeline."""
    return {
        "at": at,
        "kind": kind,
        "text": text,
        "actor": actor,
        "pid": pid,
        "is_act": is_act,
        "error": error,
    }


_HELD = {
    "lane": "by its limit or its rate",
    "paused": "until it is resumed",
    "transaction": "until the transaction ends that has submitted it",
}


def held_text(code: str) -> str:
    """Why a task was held, from what `src/bindings/core/timeline.rs` and the journal note."""
    if code in _HELD:
        return _HELD[code]
    kind, _, rest = code.partition(" ")
    if kind == "until" and rest.isdecimal():
        with contextlib.suppress(ValueError, OverflowError, OSError):
            moment = datetime.fromtimestamp(int(rest) / 1e6, UTC)
            return f"until {moment:%Y-%m-%d %H:%M:%S} UTC"
    name, _, id = rest.rpartition(" ")
    return f"after {name.rpartition('.')[2]} {id[:8]}" if kind == "after" else ""


def _worker(row: dict[str, Any]) -> dict[str, Any]:
    """A process as the journal knows it."""
    about: dict[str, Any] = {"host": None, "server": None, "python": None}
    with contextlib.suppress(ValueError):
        about |= json.loads(row["about"] or "{}")
    memory = row["memory"]
    return {
        "pid": row["pid"],
        **about,
        "since": _at(row["began"]),
        "memory": None if memory is None else round(memory, -6),
        **{key: row[key] for key in ("threads", "running", "idle", "waiting", "stuck")},
        "is_own": row["is_own"],
        "state": "alive" if row["lost"] is None else "lost",
        # The lock of one that lives tells so at this moment.
        "seen_at": _at(row["seen"]),
        "lost_at": _at(row["lost"]),
        "tasks": row["tasks"],
    }


def _at(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC)


def outcome_of(view: TaskView) -> str:
    """The state in one word: "waiting", "retrying", or as `TaskView.state`."""
    if view.state == "finished" and view.error is not None:
        return "failed"
    if view.state in {"pending", *_WAITING}:
        if view.attempts and view.waits not in {"paused", "parked"}:
            return "retrying"
        return view.waits if view.waits in {"paused", "parked", "scheduled"} else "waiting"
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
        of = "" if view.most_attempts is None else f" of {view.most_attempts}"
        return f"for attempt {view.attempts + 1}{of}"
    return ""


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


def frames_of(stack: Sequence[str]) -> list[Frame]:
    """The frames of a stack."""
    return [frame for text in stack for frame in _split(text)]


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
