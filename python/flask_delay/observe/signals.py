"""Blinker signals for events of tasks of a `Delay`.

The sender is the app, the keyword `future` the task's own future (but see `task_dead`):

    @task_failed.connect
    def count(app, future): ...

An exception of a receiver is logged, and the remaining receivers of that signal are not called.
Without receivers, nothing is called or made.
"""

import weakref
from collections.abc import Callable
from typing import Any

from blinker import NamedSignal, Namespace
from flask import Flask

from flask_delay import context
from flask_delay._native import Future, _subscribe_signals
from flask_delay.logs import log as _log

_signals = Namespace()

task_submitted = _signals.signal(
    "task-submitted",
    """A task is about to be queued; sent in the context of its submit.

    The task has not started. It may yet be refused, if the pool shuts down at this moment.
    """,
)
task_started = _signals.signal(
    "task-started", "A task is about to run; sent on its worker, in the task's own context."
)
task_succeeded = _signals.signal(
    "task-succeeded",
    """A task has returned; sent before its done callbacks, and with an app context like theirs.

    Whoever waits for the future may have gone on already.
    """,
)
task_failed = _signals.signal(
    "task-failed", "A task has raised, see `future.exception()`; sent as `task_succeeded`."
)
task_cancelled = _signals.signal(
    "task-cancelled",
    "A task was cancelled; sent as `task_succeeded`, on the thread that cancelled it.",
)

dashboard_acted = _signals.signal(
    "dashboard-acted",
    """Somebody has done something on the dashboard.

    Sent in that request, once it was done. Its keywords: `verb` is "stop", "cancel", "retry",
    "run", "pause" or "resume"; `task` the id of the task, or the name of the job or function;
    `actor` what the blueprint's `actor` has returned, or None.
    """,
)


task_dead = _signals.signal(
    "task-dead",
    """A durable task is a dead letter: it does not run again by itself.

    It has ended too many processes, or no process could run it. Sent once, with an app context, in
    the process that finds this; that process may have no future of the task. So its arguments are
    `id`, `name`, `deaths` (the number of processes) and `error` (an exception). The process that
    runs the task has died, so no `task_failed` is sent.
    """,
)

_ORDER = (task_submitted, task_started, task_succeeded, task_failed, task_cancelled)


def _first_receiver(_signal: NamedSignal, **_receiver: object) -> None:
    # Until then the native module does not even read the dicts of receivers.
    _subscribe_signals()


for _one in (*_ORDER, task_dead):
    _one.receiver_connected.connect(_first_receiver)


def send_dead(app: Flask, *, id: str, name: str, deaths: int, error: BaseException) -> None:
    """Send `task_dead`. What a receiver raises is logged."""
    if not task_dead.has_receivers_for(app):
        return
    try:
        with context.scope(app)():
            task_dead.send(
                app, _async_wrapper=app.ensure_sync, id=id, name=name, deaths=deaths, error=error
            )
    except Exception:
        _log.exception("a receiver of a signal of task %s (%s) raised", name, id)


_Signal = tuple[dict[Any, Any], Callable[[], bool], Callable[..., object]]


def senders(app: Flask) -> tuple[_Signal, ...]:
    """For the native module: for each signal its receivers, a check for `app`, and the sender.

    The receivers are a dict that lives as long as the signal, empty while there are none.
    """
    return tuple(_of(signal, weakref.ref(app)) for signal in _ORDER)


def _of(signal: NamedSignal, ref: weakref.ref[Flask]) -> _Signal:
    # Weak, because the garbage collector cannot see the native module's references. An unfinished
    # task keeps its app.
    def listens() -> bool:
        app = ref()
        return app is not None and signal.has_receivers_for(app)

    def send(*, future: Future[Any]) -> None:
        app = ref()
        if app is not None:
            signal.send(app, _async_wrapper=app.ensure_sync, future=future)

    return signal.receivers, listens, send
