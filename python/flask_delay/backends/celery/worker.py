"""A task in a Celery worker: run there as on a thread of ours.

Its executor is one in immediate mode, which runs a task in the thread that submits it. Whether
a task runs again is Celery's to see to, so what is said at its end is said here.
"""

import functools
import logging
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from blinker import NamedSignal
from celery import Celery, Task
from celery import signals as celerys
from celery.exceptions import SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from flask import Flask

from flask_delay import config, context, parsing, pools, signals
from flask_delay._native import (
    Executor,
    Future,
    Progress,
    TaskRetry,
    TaskTimeout,
    _Elsewhere,
    _scoped_executor,
)
from flask_delay.backends.celery import messages
from flask_delay.backends.celery.wire import PROGRESS
from flask_delay.retry import Retry

_log = logging.getLogger("flask_delay")

# Seconds between two messages about one task's progress.
_INTERVAL = 0.1


class _Call(Task):  # type: ignore[misc]
    """Each `@task` function is one of a class of its own."""

    # At least once: a task whose worker is lost is run by another one.
    acks_late = True
    reject_on_worker_lost = True
    track_started = True
    ignore_result = False
    serializer = "json"
    # Counted by `Retry`.
    max_retries = None
    typing = False

    function: Callable[..., Any]
    place: tuple[Flask, str]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function in a fresh app context. Called by Celery."""
        return _run(self, functools.partial(type(self).function, *args, **kwargs))


def register(celery: Celery, name: str, fn: Callable[..., Any], delay: str, app: Flask) -> None:
    """Make `fn` a task of the Celery app; nothing happens if it has one of this name."""
    if name in celery.tasks:
        return
    body = {
        "name": name,
        "function": staticmethod(getattr(fn, "__wrapped__", fn)),
        "place": (app, delay),
        "__module__": fn.__module__,
        "__doc__": fn.__doc__,
    }
    celery.register_task(type(name.rpartition(".")[2], (_Call,), body)())


def _run(call: _Call, function: Callable[[], Any]) -> Any:
    app, delay = call.place
    state: pools.State = app.extensions[delay]
    request = call.request
    report = _Report(call)
    handle = _Elsewhere(
        _executor(app, delay),
        function,
        id=_identity(request.id),
        attempts=request.retries,
        report=report,
    )
    try:
        future = handle.run()
    except SoftTimeLimitExceeded:
        # While this thread waited for a coroutine.
        handle.future.cancel()
        raise
    finally:
        report.flush()
    exception = future.exception()
    if exception is None:
        _emit(signals.task_succeeded, app, future)
        return future.result()
    if _is_celerys(exception):
        _log.warning("task %s (%s) was stopped", future.name, future.id)
        _emit(signals.task_cancelled, app, future)
        raise exception
    asked = (request.headers or {}).get(messages.HEADER) or {}
    if isinstance(exception, SoftTimeLimitExceeded):
        exception = _timed_out(call, future, exception)
    exception, after = _judge(future, exception, messages.retry_of(asked))
    if after is not None:
        _say_again(state.config, future, exception, after)
        raise call.retry(exc=exception, countdown=after, throw=False)
    if state.config.log_failures:
        _log.error("task %s (%s) failed", future.name, future.id, exc_info=exception)
    _emit(signals.task_failed, app, future)
    if isinstance(exception, Exception):
        raise exception
    # It ends the task, not the worker.
    raise RuntimeError(f"task {future.name!r} raised {exception!r}") from exception


def _is_celerys(exception: BaseException) -> bool:
    """Whether a signal handler of Celery's has raised it, to end the process."""
    if isinstance(exception, WorkerShutdown | WorkerTerminate):
        return True
    if not isinstance(exception, SystemExit):
        return False
    *_, (frame, _) = traceback.walk_tb(exception.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "billiard"


def _identity(id: str) -> str:
    try:
        return parsing.identity(id)
    except ValueError:
        # Others than we may have sent it.
        return str(uuid.uuid5(uuid.NAMESPACE_OID, id))


def _timed_out(call: _Call, future: Future[Any], exception: BaseException) -> TaskTimeout:
    _, seconds = call.request.timelimit or (None, None)
    # In the words of the native module.
    timeout = TaskTimeout(f'task "{future.name}" took longer than its timeout of {seconds:g} s')
    timeout.__cause__ = exception
    return timeout


def _judge(
    future: Future[Any], exception: BaseException, retry: Retry | None
) -> tuple[BaseException, float | None]:
    """What the task has failed with, and after how many seconds it runs again, if it does."""
    if not isinstance(exception, TaskRetry):
        return exception, None if retry is None else retry._after(exception, future.attempts)  # noqa: SLF001
    after: float | None = exception.args[0]
    if retry is None:
        return exception, after or 0.0
    if retry._allows(future.attempts):  # noqa: SLF001
        return exception, retry._delay(future.attempts) if after is None else after  # noqa: SLF001
    used_up = RuntimeError(
        f"task {future.name!r} asked to run again, but its {retry.times} retries are used up"
    )
    return exception.__context__ or used_up, None


def _say_again(
    settings: config.Config, future: Future[Any], exception: BaseException, after: float
) -> None:
    if not settings.log_failures:
        return
    if isinstance(exception, TaskRetry):
        _log.info("task %s (%s) asked to run again in %.3f s", future.name, future.id, after)
    else:
        _log.warning(
            "task %s (%s) failed and runs again in %.3f s",
            future.name,
            future.id,
            after,
            exc_info=exception,
        )


def _emit(signal: NamedSignal, app: Flask, future: Future[Any]) -> None:
    """Tell the listeners, as the native module does."""
    if not signal.has_receivers_for(app):
        return
    try:
        with context.scope(app)():
            signal.send(app, _async_wrapper=app.ensure_sync, future=future)
    except Exception:
        template = "a receiver of a signal of task %s (%s) raised"
        _log.exception(template, future.name, future.id)


class _Report:
    """Sends a task's progress, but not more often than is good for the broker."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._id = call.request.id
        self._sent = 0.0
        self._left: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """The task has said how far it is; in its thread."""
        now = time.monotonic()
        if now - self._sent < _INTERVAL:
            self._left = progress
            return
        self._sent = now
        self._send(progress)

    def flush(self) -> None:
        """The task has ended: send what was held back."""
        if self._left is not None:
            self._send(self._left)

    def _send(self, progress: Progress) -> None:
        self._left = None
        try:
            self._call.update_state(self._id, state=PROGRESS, meta=progress._asdict())
        except Exception as error:
            # The task need not fail for it.
            _log.warning("the progress of task %s cannot be told: %s", self._id, error)


# Its place among `signals.senders`.
_STARTED = 1

_executors: dict[tuple[int, str], Executor] = {}


def _executor(app: Flask, delay: str) -> Executor:
    key = (id(app), delay)
    found = _executors.get(key)
    if found is None:
        found = _executors.setdefault(key, _made(app, delay))
    return found


def _made(app: Flask, delay: str) -> Executor:
    # Its other signals are for the end of the task, which `_run` knows first.
    senders = signals.senders(app)
    heard = [
        sender if number == _STARTED else ({}, sender[1], sender[2])
        for number, sender in enumerate(senders)
    ]
    return _scoped_executor(
        max_workers=1,
        thread_name_prefix=delay,
        scope=context.scope(app),
        hidden=context.hidden_variables(),
        reject_types=context.reject_types,
        reject=context.reject,
        log_failures=False,
        shutdown_timeout=0,
        result_limit=0,
        mode="immediate",
        signals=tuple(heard),
    )


@celerys.worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
def _drain(**_: object) -> None:
    """Such a process ends without Python's exit, where accepted tasks would end."""
    for state in pools.states():
        if state.config.mode == "threads":
            state.executor.drain(state.config.shutdown_timeout)
