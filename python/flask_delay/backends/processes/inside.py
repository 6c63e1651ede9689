"""What a worker process does: load the app once, run one task after the other.

Its main thread runs the tasks, as user code may expect of a process of its own; another one
hears what the parent says meanwhile, and ends the process when the parent is gone.
"""

import inspect
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

from flask import Flask
from flask.cli import ScriptInfo

from flask_delay import context, supervision
from flask_delay._native import (
    Executor,
    Future,
    Progress,
    TaskRetry,
    _scoped_executor,
    current_task,
)
from flask_delay.backends.processes import parcels

# How often the parent is told how far a task has come, and looked for.
_INTERVAL = 0.05
_IDLE_INTERVAL = 1.0


class _Again(NamedTuple):
    """The task has asked for another attempt, which is the parent's to make."""

    after: float | None
    cause: BaseException | None


class _Inside:
    """The worker process."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._parent = os.getppid()
        # Who reads: the main thread while there is no task, the other one while there is.
        self._reading = threading.Lock()
        # Two threads send.
        self._sending = threading.Lock()
        self._is_busy = threading.Event()
        self._running: Future[Any] | None = None
        self._told: Progress | None = None

    def send(self, *message: Any) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._sending:
            self._connection.send_bytes(data)

    def _receive(self) -> tuple[Any, ...]:
        message: tuple[Any, ...] = pickle.loads(self._connection.recv_bytes())  # noqa: S301
        return message

    def work(self, executor: Executor) -> None:
        """Run what is asked for, until there is no more."""
        while True:
            with self._reading:
                kind, *call = self._receive()
            if kind == "end":
                return
            # One that was told to stop may have been done already.
            if kind == "run":
                self._is_busy.set()
                self.send(*self._run(executor, *call))

    def watch(self) -> None:
        """Listen to the parent while a task runs, tell it of progress, and see it die."""
        try:
            while True:
                if self._is_busy.wait(_IDLE_INTERVAL):
                    time.sleep(_INTERVAL)
                # Another process may have inherited the parent's end, and keep it open.
                if os.getppid() != self._parent:
                    _vanish()
                # Before the look, so that a task which begins meanwhile is not overlooked.
                self._is_busy.clear()
                if not self._reading.acquire(blocking=False):
                    continue
                try:
                    self._is_busy.set()
                    # Else the next message may be the main thread's.
                    while self._running is not None and self._connection.poll():
                        self._listen()
                    self._tell_progress()
                finally:
                    self._reading.release()
        except (EOFError, OSError):
            # The parent is gone, and nobody wants to know any more.
            _vanish()

    def _listen(self) -> None:
        kind, *_ = self._receive()
        running = self._running
        if kind == "stop" and running is not None:
            # The parent sees to what follows.
            running.stop(after=None)

    def _tell_progress(self) -> None:
        running = self._running
        progress = running.progress if running is not None else None
        if progress is not None and progress != self._told:
            self._told = progress
            self.send("progress", *progress)

    def _run(
        self, executor: Executor, name: str, id: str, attempt: int, data: bytes
    ) -> tuple[Any, ...]:
        try:
            fn, args, kwargs = parcels.unpack_call(data)
        except BaseException as error:
            return "raised", parcels.pack_exception(error)

        def begin() -> None:
            self._told, future = None, current_task.future
            future._adopt(id, attempt)
            self._running = future

        # In immediate mode, so it is done when this returns.
        future = executor.submit(_attempt(begin, fn), *args, **kwargs)
        outcome = _outcome(name, future)
        with self._reading:
            self._tell_progress()
            self._running = None
        return outcome


def _attempt(begin: Callable[[], object], fn: Callable[..., Any]) -> Callable[..., Any]:
    """What is called for `fn`: a coroutine function for one."""
    if inspect.iscoroutinefunction(fn):

        async def attempt_async(*args: Any, **kwargs: Any) -> Any:
            begin()
            try:
                return await fn(*args, **kwargs)
            except TaskRetry as asked:
                return _Again(asked.args[0], asked.__context__)

        return attempt_async

    def attempt(*args: Any, **kwargs: Any) -> Any:
        begin()
        try:
            return fn(*args, **kwargs)
        except TaskRetry as asked:
            return _Again(asked.args[0], asked.__context__)

    return attempt


def _outcome(name: str, future: Future[Any]) -> tuple[Any, ...]:
    try:
        result = future.result()
    except CancelledError as error:
        if future.cancelled():
            return ("cancelled",)
        return "raised", parcels.pack_exception(error)
    except BaseException as error:
        return "raised", parcels.pack_exception(error)
    if isinstance(result, _Again):
        cause = None if result.cause is None else parcels.pack_exception(result.cause)
        return "again", result.after, cause
    try:
        return "returned", parcels.pack_result(name, result)
    except BaseException as error:
        return "raised", parcels.pack_exception(error)


def _vanish() -> NoReturn:
    os._exit(1)


def _load(path: str) -> Flask:
    """The app, as Flask's CLI loads it."""
    # With it `app.run()` at the end of a module does nothing.
    before = os.environ.get("FLASK_RUN_FROM_CLI")
    os.environ["FLASK_RUN_FROM_CLI"] = "true"
    try:
        return ScriptInfo(path, set_debug_flag=False).load_app()
    finally:
        del os.environ["FLASK_RUN_FROM_CLI"]
        if before is not None:
            os.environ["FLASK_RUN_FROM_CLI"] = before


def _executor(app: Flask, name: str) -> Executor:
    return _scoped_executor(
        max_workers=1,
        thread_name_prefix=name,
        scope=context.scope(app),
        hidden=context.hidden_variables(),
        reject_types=(),
        reject=context.reject,
        # The parent tells.
        log_failures=False,
        shutdown_timeout=None,
        result_limit=0,
        mode="immediate",
    )


def main(descriptor: int, path: str, name: str) -> None:
    """Be the worker process that talks to its parent by this file descriptor."""
    # Of a terminal or a service manager they come to all processes; the parent decides what
    # is done about them. Not ignored, which programs that a task starts would inherit.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _leave_to_parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    supervision.work_for_another()
    inside = _Inside(Connection(descriptor))
    threading.Thread(target=inside.watch, name=f"{name}-parent", daemon=True).start()
    try:
        try:
            # The pool does not keep it.
            app = _load(path)
            executor = _executor(app, name)
        except BaseException as error:
            inside.send("broken", parcels.pack_exception(error))
            return
        inside.send("ready")
        inside.work(executor)
    except (EOFError, OSError):
        _vanish()


def _leave_to_parent(_signum: int, _frame: object) -> None:
    return
