"""The lists: the tasks of the journal, and those of this process that it does not have.

The journal has each list in its order. Plain tasks are not there: those of this process, and those
that other processes tell of, are put between.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple

from flask_delay.backends.base import RemoteError
from flask_delay.dashboard import recorder
from flask_delay.dashboard.recorder import Recorder, Run
from flask_delay.journal.store import End, Listed, ListKind
from flask_delay.observe import others
from flask_delay.observe.others import Shown
from flask_delay.observe.view import TaskView
from flask_delay.state import State, showers

SHOWN = 50
"""Tasks of a list."""

MOST = 1_000
"""Tasks that are retried at once, at most."""

# Waiting tasks that are looked at for another process, which shows some of them.
_LOOKED_AT = 4 * others.MOST
# Rows of the journal that are taken at once where each has to be looked at.
_PART = 200
# What counts as recent, for failures.
RECENT = timedelta(minutes=15)
_FAILED = ("failed", "dead")
# The modules whose exceptions are known by their names alone.
_PLAIN = ("builtins", "concurrent.futures._base", "flask_delay")
# As in `src/bindings/core/options.rs`.
_AGEING = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)

Redact = Callable[[TaskView], TaskView]


class Part(NamedTuple):
    """A part of a list of tasks."""

    tasks: list[TaskView]
    before: str | None = None
    """From where the next part goes on; None if there is none."""


class Group(NamedTuple):
    """Failures of one kind."""

    kind: str
    number: int
    last: datetime | None


class Lists:
    """The tasks of one `Delay` on one app, as lists."""

    def __init__(
        self, state: State, own: Recorder, redact: Redact | None, *, arguments: bool = False
    ) -> None:
        self.state = state
        self.own = own
        self._redact = redact
        self._arguments = arguments

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

    # --- What has not ended -----------------------------------------------------------

    @cached_property
    def _told(self) -> tuple[list[Shown], list[int]]:
        # Once for each page that is made.
        return self.state.store.others()

    @property
    def others(self) -> list[Shown]:
        """The plain tasks of other processes, as those tell of them."""
        return self._told[0]

    @property
    def silent(self) -> list[int]:
        """The processes that do not answer, so that their plain tasks may be missing."""
        return self._told[1]

    def _of_others(self) -> Iterator[TaskView]:
        for told in self.others:
            for part in (told.running, told.queued, told.held):
                yield from part.tasks

    def of_another(self, id: str) -> TaskView | None:
        """The plain task with this id, if another process tells of it."""
        return next((view for view in self._of_others() if view.id == id), None)

    def own_runs(self, *, plain: bool) -> list[Run]:
        """The tasks that run in this process; without the durable ones if `plain`."""
        runs = (it for it in self.own.runs(self.state) if it.future.state == "running")
        return [it for it in runs if not (plain and self.state.store.has(it.future))]

    def views_of(self, runs: Iterable[Run]) -> Iterator[TaskView]:
        """The views of tasks that run in this process."""
        for run in runs:
            view = self.own.seen(run.future)
            if view is not None:
                yield replace(view, thread=thread_name(run))

    def own_waiting(self) -> Iterator[TaskView]:
        """The plain tasks that wait in this process."""
        for future in self.own.pending(self.state):
            if future.state != "pending" or self.state.store.has(future):
                continue
            view = self.own.seen(future)
            if view is not None and view.waits == "ready" and view.lane is not None:
                # Other processes may have its place.
                view = self.state.held(view, future)
            if view is not None:
                yield view

    def running(self) -> list[TaskView]:
        """Tasks that run, of all processes that are known, the oldest first: more than `SHOWN` of
        them if there are.
        """
        rows = self._rows("running", None, SHOWN + 1)
        told = (view for it in self.others for view in it.running.tasks)
        found = self._with_own(rows, chain(told, self.views_of(self.own_runs(plain=False))))
        return [self.shown(view) for view in sorted(found, key=_started)]

    def waiting(self, name: str | None = None) -> tuple[Part, Part]:
        """The tasks that wait for a worker, in the order of their starts, and those held up."""
        told = (view for it in self.others for view in (*it.queued.tasks, *it.held.tasks))
        # A process knows more of its plain tasks than the journal.
        plain = {view.id: view for view in chain(told, self.own_waiting())}
        queued, held = (
            [it.view for it in self._rows(kind, name, SHOWN) if it.view.id not in plain]
            for kind in ("ready", "held")
        )
        for view in plain.values():
            if name in {None, view.name}:
                (queued if view.waits == "ready" else held).append(view)
        queued.sort(key=_queued)
        held.sort(key=_held)
        return Part(self._cut(queued)), Part(self._cut(held))

    def of_name(self, name: str) -> list[TaskView]:
        """The last tasks of a name, in any state."""
        rows: list[TaskView] = []
        if names := self._names(name):
            rows = self.state.store.newest(names, SHOWN)
        own = [
            *(self.own.seen(run.future) for run in self.own.runs(self.state)),
            *(self.own.seen(it) for it in self.own.pending(self.state) if it.name == name),
            *self._of_others(),
            *self.own.failed(self.state),
            *(() if self.shares_all else self.own.others(self.state)),
        ]
        those = [view for view in own if view is not None and view.name == name]
        lacking = self._lacking(those)
        found = [*rows, *(view for view in those if view.id in lacking)]
        found.sort(key=lambda view: view.enqueued_at or _NEVER, reverse=True)
        return self._cut(found)

    def _cut(self, views: list[TaskView]) -> list[TaskView]:
        return [self.shown(view) for view in views[:SHOWN]]

    def _with_own(self, rows: list[Listed], own: Iterable[TaskView]) -> list[TaskView]:
        """The rows of the journal, and tasks of processes, which know more of their own."""
        found = {it.view.id: it.view for it in rows}
        for view in own:
            row = found.get(view.id)
            if row is None or not is_durable(row):
                found[view.id] = view
            else:
                text = view.arguments or row.arguments
                found[view.id] = replace(row, arguments=text, thread=view.thread)
        return list(found.values())

    # --- What has ended ---------------------------------------------------------------

    def failures(
        self, name: str | None = None, kind: str | None = None, before: str | None = None
    ) -> tuple[list[Group], Part]:
        """The tasks that failed, in groups by their exceptions and as a list; newest first."""
        own = self._failed_here(name)
        groups = self._groups(name, own)
        meant = [view for view in own if kind in {None, kind_of(view)}]
        return groups, self._part("failed", name, kind, meant, before)

    def failures_of(self, name: str) -> list[Group]:
        """The tasks of a name that failed, in groups by their exceptions."""
        return self._groups(name, self._failed_here(name))

    def _failed_here(self, name: str | None) -> list[TaskView]:
        """Those of this process that the journal does not have."""
        own = [view for view in self.own.failed(self.state) if name in {None, view.name}]
        lacking = self._lacking(own)
        return [self.shown(view) for view in own if view.id in lacking]

    def failed_lately(self) -> int:
        """How many tasks have failed in the last quarter of an hour; of very many not all."""
        since = datetime.now(UTC) - RECENT
        own = [view for view in self.own.failed(self.state) if _ended(view) >= since]
        count = len(self._lacking(own))
        if self.has_journal:
            kinds = self.state.store.classes(None, (since - _EPOCH) // _MICRO)
            count += sum(number for _, number, _ in kinds)
        return count

    def last_failures(self, count: int) -> list[TaskView]:
        """The tasks that failed last."""
        own = self.own.failed(self.state)[-count:]
        lacking = self._lacking(own)
        own = [self.shown(view) for view in own if view.id in lacking]
        return self._part("failed", None, None, own, None, most=count).tasks

    def ended(self, name: str | None = None, before: str | None = None) -> Part:
        """The tasks that returned or were cancelled, newest first."""
        own: list[TaskView] = []
        if not self.shares_all:
            own = [view for view in self.own.others(self.state) if name in {None, view.name}]
        lacking = self._lacking(own)
        own = [self.shown(view) for view in own if view.id in lacking]
        return self._part("ended", name, None, own, before)

    def matching(self, name: str | None, kind: str | None) -> list[TaskView]:
        """Up to `MOST` failed tasks that can run again."""
        found: list[TaskView] = []
        before: End | None = None
        while len(found) < MOST:
            rows = self._rows("failed", name, _PART, self._classes(kind), before)
            views = (self.shown(it.view) for it in rows if can_retry(it.view))
            found += (view for view in views if kind in {None, kind_of(view)})
            if len(rows) < _PART:
                break
            before = rows[-1].end
        return found[:MOST]

    def _part(
        self,
        of: ListKind,
        name: str | None,
        kind: str | None,
        own: list[TaskView],
        before: str | None,
        *,
        most: int = SHOWN,
    ) -> Part:
        """The next ones of the journal, and those of `own` that ended between them."""
        start = _read(before)
        found: list[tuple[_Key, TaskView]] = []
        bound = None if start is None else End(start.ended, start.place)
        looked_at = 0
        while len(found) <= most:
            rows = self._rows(of, name, most + 1, self._classes(kind), bound)
            # A page that redacts decides by what it shows.
            shown = ((it, self.shown(it.view)) for it in rows)
            found += [
                (_Key(*it.end, ""), view)
                for it, view in shown
                if kind is None or kind_of(view) == kind
            ]
            looked_at += len(rows)
            if len(rows) <= most or looked_at > MOST:
                break
            bound = rows[-1].end
        keys = ((_Key((_ended(view) - _EPOCH) // _MICRO, 0, view.id), view) for view in own)
        found += [(key, view) for key, view in keys if start is None or key < start]
        found.sort(key=lambda it: it[0], reverse=True)
        is_more = len(found) > most
        last = found[most - 1][0] if is_more else None
        return Part([view for _, view in found[:most]], None if last is None else last.text)

    def _groups(self, name: str | None, own: Sequence[TaskView]) -> list[Group]:
        if self._redact is not None:
            # Only that it has decided upon: of the last ones.
            rows = self._rows("failed", name, _PART)
            views = [*own, *(self.shown(it.view) for it in rows)]
            views.sort(key=_ended, reverse=True)
            return _counted((kind_of(view), 1, view.finished_at) for view in views)
        found = [(kind_of(view), 1, view.finished_at) for view in own]
        names = None if name is None else self._names(name)
        if self.has_journal and names != []:
            for kind, number, last in self.state.store.classes(names, 0):
                found.append((_shown_kind(kind), number, last))
        return _counted(found)

    def _classes(self, kind: str | None) -> list[str] | None:
        """The classes of the journal that a kind stands for; None for any."""
        if kind is None or self._redact is not None:
            return None
        main, own = "__main__.", self.state.store.functions.main
        if kind.startswith(main):
            return [f"{own}.{kind.removeprefix(main)}"]
        return [kind, *(f"{module}.{kind}" for module in _PLAIN)]

    # --- Rows -------------------------------------------------------------------------

    def _names(self, name: str) -> list[str]:
        """The registered names that a name stands for."""
        return self.state.store.names_of(name)

    def _rows(
        self,
        of: ListKind,
        name: str | None,
        most: int,
        classes: list[str] | None = None,
        before: End | None = None,
    ) -> list[Listed]:
        names = None if name is None else self._names(name)
        if names == []:
            return []
        return self.state.store.listed(of, names, most, classes, before, arguments=self._arguments)

    def _lacking(self, views: Sequence[TaskView]) -> set[str]:
        """The ids of those that the journal does not have."""
        ids = [view.id for view in views]
        return set(self.state.store.lacking(ids))


class _Key(NamedTuple):
    """The place of a task in a list by ends, from which the next part may go on."""

    ended: int
    place: int
    id: str
    """Of a task that the journal does not have. Its place is 0."""

    @property
    def text(self) -> str:
        return f"{self.ended}.{self.place}.{self.id}"


def _read(text: str | None) -> _Key | None:
    """The place that an address tells; None for one that is none."""
    ended, _, rest = (text or "").partition(".")
    place, _, id = rest.partition(".")
    most = 2**63
    is_place = ended.isdecimal() and place.isdecimal() and len(ended) < 20 and len(place) < 20  # noqa: PLR2004 (as 64 bits have)
    if not is_place or int(ended) >= most or int(place) >= most:
        return None
    return _Key(int(ended), int(place), id)


def _counted(found: Iterable[tuple[str, int, datetime | None]]) -> list[Group]:
    """The groups, the largest first."""
    counts: Counter[str] = Counter()
    last: dict[str, datetime | None] = {}
    for kind, number, moment in found:
        counts[kind] += number
        known = last.get(kind)
        last[kind] = moment if known is None else max(known, moment or known)
    return [Group(kind, count, last[kind]) for kind, count in counts.most_common()]


_NEVER = datetime.min.replace(tzinfo=UTC)
_EVER = datetime.max.replace(tzinfo=UTC)


def _started(view: TaskView) -> datetime:
    return view.started_at or _EVER


def _ended(view: TaskView) -> datetime:
    return view.finished_at or _NEVER


def _queued(view: TaskView) -> float:
    """The order of the starts: each step of the priority is worth some seconds of age."""
    since = view.due or view.enqueued_at or _EPOCH
    return since.timestamp() - _AGEING * view.priority


def _held(view: TaskView) -> tuple[datetime, datetime]:
    return view.due or _EVER, view.enqueued_at or _NEVER


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
        return _shown_kind(error.kind)
    kind = type(error)
    return _shown_kind(f"{kind.__module__}.{kind.__qualname__}")


def _shown_kind(path: str | None) -> str:
    """As `kind_of`, of the class's name with its module."""
    if path is None:
        return "unknown"
    for module in _PLAIN:
        rest = path.removeprefix(f"{module}.")
        if rest != path and (module == "builtins" or "." not in rest):
            return rest
    return path


def thread_name(run: Run | None) -> str | None:
    """The thread on which a task runs."""
    if run is None or run.thread is None:
        return None
    return next((it.name for it in threading.enumerate() if it.ident == run.thread), None)


def _show(state: State) -> Shown:
    """The plain tasks of this process, for the pages of others."""
    own = Lists(state, recorder.of(state.app), None, arguments=True)
    runs = own.own_runs(plain=True)
    waiting = list(islice(own.own_waiting(), _LOOKED_AT))
    queued = sorted((it for it in waiting if it.waits == "ready"), key=_queued)
    held = sorted((it for it in waiting if it.waits != "ready"), key=_held)
    since = (it.enqueued_at for it in queued)
    return Shown(
        running=others.Part(len(runs), list(own.views_of(runs[: others.MOST]))),
        queued=others.Part(len(queued), queued[: others.MOST]),
        held=others.Part(len(held), held[: others.MOST]),
        oldest=min((it for it in since if it is not None), default=None),
    )


showers.append(_show)
