"""A task in a Celery worker: run there as on a thread of ours.

Its executor is one in immediate mode, which runs a task in the thread that submits it. Whether
a task runs again is Celery's to see to, so what is said at its end is said here.
"""

import contextlib
import functools
import inspect
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import redis
from blinker import NamedSignal
from celery import Celery, Task, states
from celery import signals as celerys
from celery.exceptions import SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from flask import Flask

from flask_delay import config, context, state, validators
from flask_delay._native import (
    Executor,
    Future,
    Progress,
    TaskRetry,
    TaskTimeout,
    _Elsewhere,
    _scoped_executor,
)
from flask_delay.backends.base import ProcessDied
from flask_delay.backends.celery import errors, messages
from flask_delay.backends.celery.client import PROGRESS
from flask_delay.backends.serializer import json_values
from flask_delay.logs import log as _log
from flask_delay.observe import signals
from flask_delay.retry import Retry

# Seconds between two messages about one task's progress.
_INTERVAL = 0.1
# How often a task whose worker is lost is run again, and how many seconds that is remembered.
_MOST_AGAIN = 5
_REMEMBERED = 7 * 24 * 3600
# Of a request: the record of what has failed, made before Celery replaces what cannot be pickled.
_FAILURE = "flask_delay_failure"


class Place:
    """Where the tasks of one `Delay` run: its app, and an executor in immediate mode."""

    def __init__(self, app: Flask, delay: str) -> None:
        self.app = app
        self.delay = delay
        self._executors: dict[str, Executor] = {}

    @property
    def executor(self) -> Executor:
        """Made at first use, which is after the worker has forked. No lock: see `state.State`."""
        found = self._executors.get(self.delay)
        if found is None:
            found = self._executors.setdefault(self.delay, _made(self.app, self.delay))
        return found


class _Results:
    """A result backend that keeps our record of a failure beside Celery's own."""

    def __init__(self, results: Any, app: Flask) -> None:
        self._results = results
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, **how: Any
    ) -> None:
        """As Celery's. Called by Celery."""
        request = how.get("request")
        # One of a chain of Celery's was sent by Celery's own means.
        if how.get("store_result", True) and not (request and request.chain):
            ours = getattr(request, _FAILURE, None) or errors.packed(exc, self._app)
            record = {**self._results.prepare_exception(exc), errors.KEY: ours}
            state = how.get("state", states.FAILURE)
            self._results.store_result(task_id, record, state, traceback=traceback, request=request)
            how["store_result"] = False
        self._results.mark_as_failure(task_id, exc, traceback, **how)


class _Call(Task):  # type: ignore[misc]
    """Each function that Celery may call is one of a class of its own."""

    # At least once: a task whose worker is lost is run by another one.
    acks_late = True
    reject_on_worker_lost = True
    # Without a bound; ours counts.
    retry_on_worker_lost = False
    track_started = True
    ignore_result = False
    serializer = "json"
    # Counted by `Retry`.
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
        """Where results are kept. Called by Celery."""
        return _Results(self._backend or self.app.backend, self.place.app)


def register(celery: Celery, name: str, fn: Callable[..., Any], place: Place) -> None:
    """Make `fn` a task of the Celery app; nothing happens if it has one of this name."""
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
    """Count the runs of a message that came again; how many of those before have not ended.

    Only such a message is counted, since most never come again. Without the results' Redis none
    is: the task runs.
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


class _Attempt:
    """What one message runs."""

    def __init__(self, call: _Call, function: Callable[[], Any], lost: int) -> None:
        self._name = call.name
        # What no further attempt can mend: failed with here, and not by the function.
        self.final: Exception | None = None
        if inspect.iscoroutinefunction(function) and lost < _MOST_AGAIN:

            async def run_async() -> object:
                return self._checked(await function())

            self.function: Callable[[], Any] = run_async
        else:

            def run() -> object:
                return self._give_up() if lost >= _MOST_AGAIN else self._checked(function())

            self.function = run
        # What the task is called.
        self.function.__name__ = self.function.__qualname__ = type(call).function.__qualname__

    def _checked(self, result: object) -> object:
        fault = json_values.fault(result, "result")
        if fault is None:
            return result
        self.final = TypeError(
            f"task {self._name!r} has run, but its result cannot be sent: {fault}"
        )
        raise self.final

    def _give_up(self) -> NoReturn:
        self.final = ProcessDied(
            f"task {self._name!r} is not run any more: its worker was lost the last"
            f" {_MOST_AGAIN + 1} times"
        )
        raise self.final


def _run(call: _Call, function: Callable[[], Any], lost: int) -> Any:
    app, delay = call.place.app, call.place.delay
    found: state.State = app.extensions[delay]
    request = call.request
    report = _Report(call)
    attempt = _Attempt(call, function, lost)
    made = functools.partial(
        _Elsewhere,
        call.place.executor,
        attempt.function,
        id=_identity(request.id),
        attempts=request.retries,
    )
    handle = made(report=report)
    try:
        future = handle.run()
    except SoftTimeLimitExceeded as error:
        # While this thread waited for a coroutine, which ends now. Who hears of it is to see a
        # future that has failed.
        handle.future.cancel()
        failed = made()
        failed.fail(error)
        future = failed.future
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
    if isinstance(exception, SoftTimeLimitExceeded):
        exception = _timed_out(call, future, exception)
    if exception is not attempt.final:
        asked = (request.headers or {}).get(messages.HEADER) or {}
        retry = messages.retry_of(asked, exception, app)
        exception, after = _judge(future, exception, retry)
        if after is not None:
            _say_again(found.config, future, exception, after)
            raise call.retry(exc=exception, countdown=after, throw=False)
    if found.config.log_failures:
        _log.error("task %s (%s) failed", future.name, future.id, exc_info=exception)
    _emit(signals.task_failed, app, future)
    if not isinstance(exception, Exception):
        # It ends the task, not the worker.
        ended = RuntimeError(f"task {future.name!r} raised {exception!r}")
        ended.__cause__ = exception
        exception = ended
    setattr(request, _FAILURE, errors.packed(exception, app))
    raise exception


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
        return validators.identity(id)
    except ValueError:
        # Others than we may have sent it.
        return str(uuid.uuid5(uuid.NAMESPACE_OID, id))


def _timed_out(call: _Call, future: Future[Any], exception: BaseException) -> TaskTimeout:
    _, seconds = call.request.timelimit or (None, None)
    # The worker's own, `--soft-time-limit`, is known to its first process alone.
    limit = "the soft time limit of its worker"
    if isinstance(seconds := seconds or call.soft_time_limit, int | float):
        limit = f"its timeout of {seconds:g} s"
    # In the words of the native module.
    timeout = TaskTimeout(f'task "{future.name}" took longer than {limit}')
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
    for found in state.states():
        if found.config.mode == "threads":
            found.executor.drain(found.config.shutdown_timeout)
