"""Runs a task that was sent to this process: one attempt, and the steps after its end.

The attempt runs on the thread that has received the task. The sender handles retries, logs and
signals, or `conclude` does, in the words of the native module.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from blinker import NamedSignal
from flask import Flask

from flask_delay import context
from flask_delay._native import Executor, Future, Progress, TaskRetry, _RemoteTask, _scoped_executor
from flask_delay.backends.message import TaskMessage
from flask_delay.logs import log as _log
from flask_delay.observe import signals
from flask_delay.retry import Retry

# The index of `task_started` in `signals.senders`.
_STARTED = 1


def make_executor(
    app: Flask, name: str, *, sends_started: bool, shutdown_timeout: float | None
) -> Executor:
    """Make an executor that runs each task on the thread that submits it.

    It logs nothing, and sends no signal except, if asked, `task_started`.
    """
    senders = [
        sender if number == _STARTED else ({}, sender[1], sender[2])
        for number, sender in enumerate(signals.senders(app))
    ]
    return _scoped_executor(
        max_workers=1,
        thread_name_prefix=name,
        scope=context.scope(app),
        hidden=context.hidden_variables(),
        log_failures=False,
        shutdown_timeout=shutdown_timeout,
        mode="immediate",
        signals=tuple(senders) if sends_started else None,
    )


class Attempt:
    """One attempt of a message: `fn` is the task's function with its arguments.

    `around` is entered in the task, around the function. `check` returns an exception if the
    function's result cannot be sent. With `refusal`, the task fails with that exception and does
    not run. No retry follows these two.
    """

    def __init__(
        self,
        message: TaskMessage,
        fn: Callable[[], Any],
        *,
        around: AbstractContextManager[object] | None = None,
        check: Callable[[object], Exception | None] | None = None,
        refusal: Exception | None = None,
    ) -> None:
        self._message = message
        self._around = around or contextlib.nullcontext()
        self._check = check
        self._final = refusal
        self._called = self._calling(fn)
        # The task takes its name from here.
        self._called.__name__ = self._called.__qualname__ = message.name

    def run(
        self,
        executor: Executor,
        *,
        report: Callable[[Progress], object] | None = None,
        interrupts: tuple[type[BaseException], ...] = (),
    ) -> Future[Any]:
        """Run the attempt, and return its future, which is done.

        `report` receives the progress of the task, in its thread. An exception of a class in
        `interrupts` ends the wait for a coroutine, and the task.
        """
        make = functools.partial(
            _RemoteTask,
            executor,
            self._called,
            id=self._message.id,
            attempts=self._message.attempt - 1,
        )
        handle = make(report=report)
        try:
            return handle.run()
        except interrupts as error:
            # Tells the coroutine to end. Receivers of signals must see a future that failed.
            handle.future.cancel()
            failed = make()
            failed.fail(error)
            return failed.future

    def conclude(
        self, app: Flask, future: Future[Any], exception: BaseException, *, logs: bool
    ) -> tuple[BaseException, float | None]:
        """Log the failure with `exception`, and send the signal if no retry follows.

        Returns the exception of the task, and the seconds until the next attempt or None.
        """
        after = None
        if exception is not self._final:
            retry = self._message.retry_for(exception, app.name)
            exception, after = _judge(future, exception, retry)
        if after is None:
            if logs:
                _log.error("task %s (%s) failed", future.name, future.id, exc_info=exception)
            send(signals.task_failed, app, future)
        elif logs:
            _log_retry(future, exception, after)
        return exception, after

    def _calling(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        if self._final is not None or not inspect.iscoroutinefunction(fn):

            def attempt() -> Any:
                if self._final is not None:
                    raise self._final
                with self._around:
                    return self._checked(fn())

            return attempt

        async def attempt_async() -> Any:
            with self._around:
                return self._checked(await fn())

        return attempt_async

    def _checked(self, result: object) -> object:
        self._final = self._check(result) if self._check is not None else None
        if self._final is not None:
            raise self._final
        return result


def send(signal: NamedSignal, app: Flask, future: Future[Any]) -> None:
    """Send a signal for the end of a task, in an app context."""
    if not signal.has_receivers_for(app):
        return
    try:
        with context.scope(app)():
            signal.send(app, _async_wrapper=app.ensure_sync, future=future)
    except Exception:
        template = "a receiver of a signal of task %s (%s) raised"
        _log.exception(template, future.name, future.id)


def _judge(
    future: Future[Any], exception: BaseException, retry: Retry | None
) -> tuple[BaseException, float | None]:
    """The exception of the task, and the seconds until the next attempt or None."""
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


def _log_retry(future: Future[Any], exception: BaseException, after: float) -> None:
    if isinstance(exception, TaskRetry):
        _log.info("task %s (%s) asked to run again in %.3f s", future.name, future.id, after)
    else:
        template = "task %s (%s) failed and runs again in %.3f s"
        _log.warning(template, future.name, future.id, after, exc_info=exception)
