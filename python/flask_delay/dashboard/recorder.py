"""The tasks of an app in this process, from the moment a page of them is mounted.

Nobody need have asked for their ids. A task that has ended leaves a `TaskView`, whose error has no
frames and so no locals.
"""

import asyncio
import reprlib
import threading
import time
import weakref
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import Flask

from flask_delay._native import Future
from flask_delay.dashboard.polls import Polls
from flask_delay.journal import errors
from flask_delay.observe import signals
from flask_delay.observe.view import TaskView, view_of
from flask_delay.registry import MAIN
from flask_delay.servers import role
from flask_delay.state import State, finders

# So many tasks that have not started are listed; all are counted elsewhere.
_WAITING = 1_000
# So many ended tasks are remembered, of those that failed and of the others.
_FAILED, _OTHERS = 200, 100
# Characters of the arguments.
_TEXT = 200
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = _SHORT.maxlong = _TEXT


class Run(NamedTuple):
    """A task that was started, and where."""

    future: Future[Any]
    thread: int
    is_coroutine: bool


class Act(NamedTuple):
    """What somebody did to a task on the page."""

    at: datetime
    verb: str
    actor: str | None


class Recorder:
    """What this process knows of one app's tasks. May be used from any thread."""

    def __init__(self, app: Flask) -> None:
        """Listen to the signals of the app from now on."""
        # No lock: each access is atomic.
        # Weak: the end of a task that comes in the middle of shutdown is not told.
        self._started_ones: dict[int, tuple[weakref.ref[Future[Any]], int, bool]] = {}
        self._pending: dict[int, weakref.ref[Future[Any]]] = {}
        # The last ones that ended, oldest first, each with its `Delay`. Weak: that keeps futures,
        # and these keep the app.
        self._failed: deque[tuple[weakref.ref[State], TaskView]] = deque(maxlen=_FAILED)
        self._others: deque[tuple[weakref.ref[State], TaskView]] = deque(maxlen=_OTHERS)
        self._acts: dict[str, list[Act]] = {}
        self.acted = 0
        """How often somebody has acted by way of this process."""
        self.polls = Polls()
        """The tags of the pages that are open."""
        self.keeps_arguments = False
        """Whether the arguments of tasks are kept as text, for a page that shows them."""
        self._arguments: dict[int, str] = {}
        # A second of the clock, and how many tasks have passed in it; the one of the last look
        # for what waits no more.
        self._second = self._seen = self._swept = 0
        # The signals keep nothing of this alive.
        for signal, receiver in (
            (signals.task_submitted, self._submitted),
            (signals.task_started, self._started),
            (signals.task_succeeded, self._passed),
            (signals.task_failed, self._ended),
            (signals.task_cancelled, self._passed),
        ):
            signal.connect(receiver, sender=app)

    def _submitted(self, _app: Flask, *, future: Future[Any]) -> None:
        if self.keeps_arguments:
            self._keep_arguments(future)
        if len(self._pending) >= _WAITING and (second := int(time.monotonic())) != self._swept:
            # Not for each of the tasks that come while many wait.
            self._swept = second
            self._pending = {
                key: it for key, it in self._pending.copy().items() if it() is not None
            }
        if len(self._pending) < _WAITING:
            # Weak: a task may be refused after all.
            self._pending[id(future)] = weakref.ref(future)

    def _keep_arguments(self, future: Future[Any]) -> None:
        call = future._call()
        if call is not None:
            while len(self._arguments) >= _WAITING:
                self._arguments.pop(next(iter(self._arguments)), None)
            self._arguments[id(future)] = _text_of(call[1], call[2])

    def _started(self, _app: Flask, *, future: Future[Any]) -> None:
        self._pending.pop(id(future), None)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            is_coroutine = False
        else:
            is_coroutine = True
        place = threading.get_ident(), is_coroutine
        self._started_ones[id(future)] = (weakref.ref(future), *place)

    def _passed(self, app: Flask, *, future: Future[Any]) -> None:
        """A task has ended and did not fail. Of many in a second, the first ones are remembered."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._seen = second, 0
        self._seen += 1
        if self._seen <= _OTHERS:
            self._ended(app, future=future)
            return
        self._pending.pop(id(future), None)
        self._started_ones.pop(id(future), None)
        self._arguments.pop(id(future), None)

    def _ended(self, app: Flask, *, future: Future[Any]) -> None:
        self._pending.pop(id(future), None)
        self._started_ones.pop(id(future), None)
        view, owner = self.seen(future), _owner(app, future)
        self._arguments.pop(id(future), None)
        if view is None or owner is None:
            return
        if view.error is None:
            self._others.append((weakref.ref(owner), view))
            return
        self._failed.append((weakref.ref(owner), view))
        if owner.store.is_there and owner.config.journal is not None:
            # The journal has it from now on, for the pages of other processes.
            _ = future.id

    def runs(self, owner: State) -> list[Run]:
        """The tasks that run, and those between two attempts."""
        found = []
        for key, (ref, thread, is_coroutine) in self._started_ones.copy().items():
            future = ref()
            if future is None or future.done():
                self._started_ones.pop(key, None)
            elif not future._is_foreign() and _owner(owner.app, future) is owner:
                found.append(Run(future, thread, is_coroutine))
        return found

    def pending(self, owner: State) -> list[Future[Any]]:
        """Tasks that have not started, oldest first; not all of them if they are many."""
        found = [it for ref in self._pending.copy().values() if (it := ref()) is not None]
        return [it for it in found if not it._is_foreign() and _owner(owner.app, it) is owner]

    def find(self, owner: State, id: str) -> Future[Any] | None:
        """The task with this id, if it has not ended."""
        futures = (*(run.future for run in self.runs(owner)), *self.pending(owner))
        return next((it for it in futures if it._quiet_id() == id), None)

    def run_of(self, owner: State, id: str) -> Run | None:
        """Where the task with this id runs."""
        return next((it for it in self.runs(owner) if it.future._quiet_id() == id), None)

    def failed(self, owner: State) -> list[TaskView]:
        """The last tasks that failed, oldest first."""
        return [view for it, view in self._failed.copy() if it() is owner]

    def others(self, owner: State) -> list[TaskView]:
        """The last tasks that returned or were cancelled, oldest first."""
        return [view for it, view in self._others.copy() if it() is owner]

    def seen(self, future: Future[Any]) -> TaskView | None:
        """The view of a future without its result, and with an error that has no frames.

        None in a process that was forked from the task's.
        """
        view = view_of(future, is_quiet=True)
        if view is None:
            return None
        error = view.error and errors.decoded(errors.encoded(view.error, MAIN), MAIN)
        return replace(view, error=error, arguments=self._arguments.get(id(future)))

    def ended(self, owner: State, id: str) -> TaskView | None:
        """The task with this id, if it is one of the last that ended."""
        views = (*self.failed(owner), *self.others(owner))
        return next((view for view in views if view.id == id), None)

    def note(self, id: str, verb: str, actor: str | None) -> None:
        """Remember who did what to a task. Only of the last tasks."""
        self._acts.setdefault(id, []).append(Act(datetime.now(UTC), verb, actor))
        self.acted += 1
        while len(self._acts) > _OTHERS:
            self._acts.pop(next(iter(self._acts)), None)

    def acts(self, id: str) -> list[Act]:
        """What was done to a task, by way of this process."""
        return list(self._acts.get(id, ()))

    def forget_parent(self) -> None:
        """Reset in a forked process: the tasks are those of its parent."""
        self._started_ones, self._pending, self._acts, self._arguments = {}, {}, {}, {}
        self._failed.clear()
        self._others.clear()


def _owner(app: Flask, future: Future[Any]) -> State | None:
    """The `Delay` on the app whose task it is."""
    states = [it for it in list(app.extensions.values()) if isinstance(it, State)]
    if len(states) == 1:
        return states[0]
    # One that was asked for its id is known to the `Delay` that has it.
    return next((state for state in states if state.knows(future.id)), None)


def _text_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments as text, cut."""
    named = (f"{key}={_SHORT.repr(value)}" for key, value in kwargs.items())
    try:
        return ", ".join([*map(_SHORT.repr, args), *named])[:_TEXT]
    except Exception:
        return "(the repr of an argument has raised)"


_recorders: weakref.WeakKeyDictionary[Flask, Recorder] = weakref.WeakKeyDictionary()


def of(app: Flask) -> Recorder:
    """The recorder of an app, made at the first call."""
    found = _recorders.get(app)
    if found is None:
        found = _recorders[app] = Recorder(app)
    return found


def _forget_parent() -> None:
    for recorder in list(_recorders.values()):
        recorder.forget_parent()


def _find(state: State, id: str) -> Future[Any] | None:
    own = _recorders.get(state.app)
    return None if own is None else own.find(state, id)


role.after_fork(_forget_parent)
finders.append(_find)
