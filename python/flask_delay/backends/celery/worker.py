"""Runs a task in a Celery worker as on a thread of Flask-Delay. Celery sends its retries."""

import contextlib
import functools
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import redis
from celery import Celery, Task, states
from celery import signals as celerys
from celery.exceptions import SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from flask import Flask

from flask_delay import state
from flask_delay._native import Executor, Future, Progress, TaskTimeout
from flask_delay.backends import execution
from flask_delay.backends.base import ProcessDied
from flask_delay.backends.celery import errors, messages
from flask_delay.backends.celery.results import PROGRESS, Results
from flask_delay.backends.execution import Attempt
from flask_delay.backends.serializer import json_values
from flask_delay.logs import log as _log
from flask_delay.observe import signals

# Seconds between two messages about one task's progress.
_INTERVAL = 0.1
# The most further runs of a task whose worker was lost, and the seconds that the count is kept.
_MOST_AGAIN = 5
_REMEMBERED = 7 * 24 * 3600
# The request attribute for the record of a failure. The record is made before Celery replaces
# exceptions that cannot be pickled.
_FAILURE = "flask_delay_failure"


class Place:
    """The app of one `Delay`, and an executor in immediate mode for its tasks."""

    def __init__(self, app: Flask, delay: str) -> None:
        self.app = app
        self.delay = delay
        self._executors: dict[str, Executor] = {}

    @property
    def executor(self) -> Executor:
        """Made at first use, which is after the worker has forked. No lock: see `state.State`."""
        found = self._executors.get(self.delay)
        if found is None:
            made = execution.make_executor(
                self.app, self.delay, sends_started=True, shutdown_timeout=0
            )
            found = self._executors.setdefault(self.delay, made)
        return found


class _Results:
    """A result backend that keeps Flask-Delay's record of a failure beside Celery's own."""

    def __init__(self, results: Any, app: Flask) -> None:
        self._results = results
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, **how: Any
    ) -> None:
        """As in Celery, which calls it."""
        request = how.get("request")
        # A task in a Celery chain was sent by Celery itself.
        if how.get("store_result", True) and not (request and request.chain):
            ours = getattr(request, _FAILURE, None) or errors.packed(exc, self._app)
            record = {**self._results.prepare_exception(exc), errors.KEY: ours}
            state = how.get("state", states.FAILURE)
            self._results.store_result(task_id, record, state, traceback=traceback, request=request)
            how["store_result"] = False
        self._results.mark_as_failure(task_id, exc, traceback, **how)


class _Call(Task):  # type: ignore[misc]
    """The base class of the tasks in Celery's registry; each function has a subclass."""

    # At least once: another worker runs a task whose worker is lost.
    acks_late = True
    reject_on_worker_lost = True
    # Celery's own retry has no bound; `_counted` has one.
    retry_on_worker_lost = False
    track_started = True
    ignore_result = False
    serializer = "json"
    # `Retry` counts instead.
    max_retries = None
    typing = False

    function: Callable[..., Any]
    place: Place

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function in a fresh app context. Called by Celery."""
        function = functools.partial(type(self).function, *args, **kwargs)
        with _counted(self) as lost:
            return _run(self, function, lost)

    @Task.backend.getter  # type: ignore[untyped-decorator]
    def backend(self) -> Any:
        """The result backend. Called by Celery."""
        return _Results(self._backend or self.app.backend, self.place.app)


def register(celery: Celery, name: str, fn: Callable[..., Any], place: Place) -> None:
    """Make `fn` a task of the Celery app; does nothing if the app has a task of this name."""
    if name in celery.tasks:
        return
    body = {
        "name": name,
        "function": staticmethod(getattr(fn, "__wrapped__", fn)),
        "place": place,
        "__module__": fn.__module__,
        "__doc__": fn.__doc__,
    }
    celery.register_task(type(name.rpartition(".")[2], (_Call,), body)())


@contextlib.contextmanager
def _counted(call: _Call) -> Iterator[int]:
    """Count the runs of a redelivered message; yields how many earlier runs have not ended.

    Only redelivered messages are counted, since most are delivered once. Without the results' Redis
    nothing is counted, and the task runs.
    """
    if not (call.request.delivery_info or {}).get("redelivered"):
        yield 0
        return
    client = call.app.backend.client
    key = f"flask-delay-again-{call.request.id}"
    try:
        again, _ = client.pipeline().incr(key).expire(key, _REMEMBERED).execute()
    except redis.RedisError as error:
        _log.warning("whether task %s was lost before cannot be told: %s", call.name, error)
        yield 0
        return
    try:
        yield again - 1
    finally:
        with contextlib.suppress(redis.RedisError):
            client.decr(key)


def _run(call: _Call, function: Callable[[], Any], lost: int) -> Any:
    app = call.place.app
    found: state.State = app.extensions[call.place.delay]
    attempt = Attempt(
        messages.received(call.request, type(call).function.__qualname__),
        function,
        check=lambda result: _fault(call.name, result),
        refusal=_lost_too_often(call.name) if lost >= _MOST_AGAIN else None,
    )
    report = _Report(call)
    try:
        future = attempt.run(
            call.place.executor, report=report, interrupts=(SoftTimeLimitExceeded,)
        )
    finally:
        report.flush()
    exception = future.exception()
    if exception is None:
        execution.send(signals.task_succeeded, app, future)
        return future.result()
    if _is_celerys(exception):
        _log.warning("task %s (%s) was stopped", future.name, future.id)
        execution.send(signals.task_cancelled, app, future)
        raise exception
    if isinstance(exception, SoftTimeLimitExceeded):
        exception = _timed_out(call, future, exception)
    exception, after = attempt.conclude(app, future, exception, logs=found.config.log_failures)
    if after is not None:
        raise call.retry(exc=exception, countdown=after, throw=False)
    if not isinstance(exception, Exception):
        # The exception must end the task, not the worker.
        ended = RuntimeError(f"task {future.name!r} raised {exception!r}")
        ended.__cause__ = exception
        exception = ended
    setattr(call.request, _FAILURE, errors.packed(exception, app))
    raise exception


def _fault(name: str, result: object) -> TypeError | None:
    fault = json_values.fault(result, "result")
    if fault is None:
        return None
    return TypeError(f"task {name!r} has run, but its result cannot be sent: {fault}")


def _lost_too_often(name: str) -> ProcessDied:
    return ProcessDied(
        f"task {name!r} is not run any more: its worker was lost the last {_MOST_AGAIN + 1} times"
    )


def _is_celerys(exception: BaseException) -> bool:
    """Whether one of Celery's signal handlers raised the exception, to end the process."""
    if isinstance(exception, WorkerShutdown | WorkerTerminate):
        return True
    if not isinstance(exception, SystemExit):
        return False
    *_, (frame, _) = traceback.walk_tb(exception.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "billiard"


def _timed_out(call: _Call, future: Future[Any], exception: BaseException) -> TaskTimeout:
    _, seconds = call.request.timelimit or (None, None)
    # Only the worker's first process knows its `--soft-time-limit`.
    limit = "the soft time limit of its worker"
    if isinstance(seconds := seconds or call.soft_time_limit, int | float):
        limit = f"its timeout of {seconds:g} s"
    # The same words as in the native module.
    timeout = TaskTimeout(f'task "{future.name}" took longer than {limit}')
    timeout.__cause__ = exception
    return timeout


class _Report:
    """Sends a task's progress, at a rate that the broker can bear."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._id = call.request.id
        self._sent = 0.0
        self._last: Progress | None = None
        self._is_left = False

    def __call__(self, progress: Progress) -> None:
        """Report progress; called in the task's thread."""
        self._last = progress
        now = time.monotonic()
        self._is_left = now - self._sent < _INTERVAL
        if not self._is_left:
            self._sent = now
            self._send(progress)

    def flush(self) -> None:
        """Send the held-back progress, and keep the last; the attempt has ended."""
        last = self._last
        if last is None:
            return
        if self._is_left:
            self._send(last)
        call = self._call
        name = type(call).function.__qualname__
        self._try(
            Results(call.app, call.app.backend.client, call.place.app).keep, self._id, name, last
        )

    def _send(self, progress: Progress) -> None:
        self._try(self._call.update_state, self._id, state=PROGRESS, meta=progress._asdict())

    def _try(self, tell: Callable[..., object], *args: object, **kwargs: object) -> None:
        try:
            tell(*args, **kwargs)
        except Exception as error:
            # A lost progress message is no reason for the task to fail.
            _log.warning("the progress of task %s cannot be told: %s", self._id, error)


@celerys.worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
def _drain(**_: object) -> None:
    """Run the exit work of tasks: Celery ends this process without Python's exit."""
    for found in state.states():
        if found.config.mode == "threads":
            found.executor.drain(found.config.shutdown_timeout)
