"""The tasks of an app in this process, from the moment a page of them is mounted.

Nobody need have asked for their ids. What runs, what waits and what has returned is asked of the
pools when somebody looks, so a task that returns calls no Python for a page. A task that fails
leaves a `TaskView`, whose error has no frames and so no locals.
"""

import reprlib
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
from flask_delay.state import State, finders, watchers

# So many tasks that have not started are listed; all are counted elsewhere.
_WAITING = 1_000
# So many failed tasks are remembered. Of the others: `src/bindings/core/recorder.rs`.
_FAILED = 200
# So many tasks are remembered to which somebody has done something.
_ACTED = 100
# Characters of the arguments.
_TEXT = 200
_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = _SHORT.maxlong = _TEXT


class Run(NamedTuple):
    """A task that was started, and the identifier of its thread if that is in this process."""

    future: Future[Any]
    thread: int | None


class Act(NamedTuple):
    """What somebody did to a task on the page."""

    at: datetime
    verb: str
    actor: str | None


class Recorder:
    """What this process knows of one app's tasks. May be used from any thread."""

    def __init__(self, app: Flask) -> None:
        """Remember from now on."""
        # No lock: each access is atomic.
        # The last ones that failed, oldest first, each with its `Delay`. Weak: that keeps futures,
        # and these keep the app.
        self._failed: deque[tuple[weakref.ref[State], TaskView]] = deque(maxlen=_FAILED)
        self._acts: dict[str, list[Act]] = {}
        self.news = 0
        """How often something has changed of which no event tells."""
        self.polls = Polls()
        """The tags of the pages that are open."""
        self._app = weakref.ref(app)
        # The signal keeps nothing of this alive.
        signals.task_failed.connect(self._ended, sender=app)
        for it in _states_of(app):
            it.watch()

    def keep_arguments(self) -> None:
        """Keep the arguments of tasks as text from now on, for a page that shows them."""
        signals.task_submitted.connect(self._submitted, sender=self._app())

    def _submitted(self, _app: Flask, *, future: Future[Any]) -> None:
        call = future._call()
        if call is not None:
            future._keep_arguments(_text_of(call[1], call[2]))

    def _ended(self, app: Flask, *, future: Future[Any]) -> None:
        view, owner = self.seen(future), _owner(app, future)
        if view is None or owner is None:
            return
        self._failed.append((weakref.ref(owner), view))
        self.news += 1
        if owner.store.is_there and owner.config.journal is not None:
            # The journal has it from now on, for the pages of other processes.
            future._publish()

    def runs(self, owner: State) -> list[Run]:
        """The tasks that run."""
        return [Run(*it) for executor in owner.executors() for it in executor._running()]

    def pending(self, owner: State) -> list[Future[Any]]:
        """Tasks that have not started, and those between two attempts, oldest first.

        Not all of them if they are many.
        """
        return [it for executor in owner.executors() for it in executor._waiting(_WAITING)]

    def find(self, owner: State, id: str) -> Future[Any] | None:
        """The task with this id, if it has not ended."""
        found = (executor._find(id, _WAITING) for executor in owner.executors())
        return next((future for future in found if future is not None), None)

    def run_of(self, owner: State, id: str) -> Run | None:
        """Where the task with this id runs."""
        return next((it for it in self.runs(owner) if it.future._quiet_id() == id), None)

    def failed(self, owner: State) -> list[TaskView]:
        """The last tasks that failed, oldest first."""
        return [view for it, view in self._failed.copy() if it() is owner]

    def notes(self, owner: State, id: str) -> list[tuple[int, str, str]]:
        """What has happened to a plain task that was held or has run again: `Executor._notes`."""
        return [it for executor in owner.executors() for it in executor._notes(id)]

    def others(self, owner: State) -> list[TaskView]:
        """The last tasks that returned or were cancelled, oldest first."""
        found = [TaskView(**it) for executor in owner.executors() for it in executor._ended()]
        return sorted(found, key=lambda view: view.finished_at or _NEVER)

    def seen(self, future: Future[Any]) -> TaskView | None:
        """The view of a future without its result, and with an error that has no frames.

        None in a process that was forked from the task's.
        """
        view = view_of(future, is_quiet=True)
        if view is None:
            return None
        error = view.error and errors.decoded(errors.encoded(view.error, MAIN), MAIN)
        return replace(view, error=error, arguments=future._kept_arguments())

    def ended(self, owner: State, id: str) -> TaskView | None:
        """The task with this id, if it is one of the last that ended."""
        views = (*self.failed(owner), *self.others(owner))
        return next((view for view in views if view.id == id), None)

    def note(self, id: str, verb: str, actor: str | None) -> None:
        """Remember who did what to a task. Only of the last tasks."""
        self._acts.setdefault(id, []).append(Act(datetime.now(UTC), verb, actor))
        self.news += 1
        while len(self._acts) > _ACTED:
            self._acts.pop(next(iter(self._acts)), None)

    def acts(self, id: str) -> list[Act]:
        """What was done to a task, by way of this process."""
        return list(self._acts.get(id, ()))

    def forget_parent(self) -> None:
        """Reset in a forked process: the tasks are those of its parent."""
        self._acts = {}
        self._failed.clear()


def _states_of(app: Flask) -> list[State]:
    return [it for it in list(app.extensions.values()) if isinstance(it, State)]


def _owner(app: Flask, future: Future[Any]) -> State | None:
    """The `Delay` on the app whose task it is."""
    states = (it for it in _states_of(app) if any(pool._has(future) for pool in it.executors()))
    return next(states, None)


def _text_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments as text, cut."""
    named = (f"{key}={_SHORT.repr(value)}" for key, value in kwargs.items())
    try:
        return ", ".join([*map(_SHORT.repr, args), *named])[:_TEXT]
    except Exception:
        return "(the repr of an argument has raised)"


_NEVER = datetime.min.replace(tzinfo=UTC)

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
watchers.append(_recorders.__contains__)
