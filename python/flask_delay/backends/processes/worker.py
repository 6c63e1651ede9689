"""The code of a worker process: load the app once, run one task after the other.

The main thread runs the tasks, as user code may expect of a process of its own. A second thread
reads the parent's messages meanwhile. A third thread, unknown to Python, ends the process when the
parent is gone.

The connection is a plain file descriptor here, which no object owns. In a process that a task has
forked, the descriptor is closed; an owner could close another file of that number.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NoReturn

from flask import Flask
from flask.cli import ScriptInfo

from flask_delay._native import Executor, Future, Progress, TaskRetry, _end, _tie, current_task
from flask_delay.backends.execution import Attempt, make_executor
from flask_delay.backends.message import TaskMessage
from flask_delay.backends.processes import frames
from flask_delay.backends.processes.frames import Frame, Kind
from flask_delay.backends.serializer.pickles import Serializer
from flask_delay.backends.serializer.references import Names
from flask_delay.observe.stack import stack_of_thread
from flask_delay.servers import role

# The package that calls the task's function.
_OURS = "flask_delay.backends"
# Seconds between two reports of a task's progress to the parent.
_INTERVAL = 0.05


class _Worker:
    """The worker process."""

    def __init__(self, connection: int) -> None:
        self._process = os.getpid()
        self._connection = connection
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._received = frames.Reader()
        # Held by the reading thread: the main thread between tasks, the watching thread during a
        # task.
        self._reading = threading.Lock()
        # Both threads send.
        self._sending = threading.Lock()
        self._is_busy = threading.Event()
        # The number of the current or last call, and its task while that runs.
        self._call = 0
        self._running: Future[Any] | None = None
        self._told: Progress | None = None

    def send(self, frame: Frame) -> None:
        with self._sending, memoryview(frame.encode()) as left:
            sent = 0
            while sent < len(left):
                sent += os.write(self._connection, left[sent:])

    def receive(self) -> Frame:
        while (frame := self._received.next()) is None:
            received = os.read(self._connection, frames.CHUNK)
            if not received:
                raise EOFError
            self._received.feed(received)
        return frame

    def work(self, executor: Executor, serializer: Serializer) -> None:
        """Run the requested tasks, until the parent ends the process."""
        while True:
            with self._reading:
                frame = self.receive()
            if frame.kind is Kind.END:
                return
            # A STOP may arrive after its task was done.
            if frame.kind is Kind.RUN:
                self._call = frame.call
                self._is_busy.set()
                self.send(self._run(executor, serializer, frame))

    def watch(self) -> None:
        """Listen to the parent while a task runs, and report the task's progress."""
        try:
            while self._is_busy.wait():
                time.sleep(_INTERVAL)
                # Cleared before the check, so that a task that begins meanwhile is not overlooked.
                self._is_busy.clear()
                if not self._reading.acquire(blocking=False):
                    continue
                try:
                    self._is_busy.set()
                    # Between tasks the next message is the main thread's.
                    while self._running is not None and self._has_received():
                        self._listen()
                    self._tell_progress()
                finally:
                    self._reading.release()
        except (EOFError, OSError):
            # The parent is gone, so no result is needed any more.
            _vanish()

    def _has_received(self) -> bool:
        return not self._received.is_empty() or bool(self._readable.poll(0))

    def _listen(self) -> None:
        frame = self.receive()
        running = self._running
        if frame.kind is Kind.STOP and frame.call == self._call and running is not None:
            # The parent does what follows.
            running.stop(after=None)
        elif frame.kind is Kind.LOOK and frame.call == self._call and running is not None:
            # The main thread runs the task, on top of calls of ours.
            ident = threading.main_thread().ident
            self.send(Frame(Kind.STACK, self._call, stack_of_thread(ident, above=_OURS)))

    def _tell_progress(self) -> None:
        running = self._running
        progress = running.progress if running is not None else None
        if progress is not None and progress != self._told:
            self._told = progress
            numbers = (progress.done, progress.total)
            self.send(Frame(Kind.PROGRESS, self._call, numbers, progress.note.encode()))

    def _run(self, executor: Executor, serializer: Serializer, asked: Frame) -> Frame:
        message = TaskMessage.from_dict(asked.text)
        try:
            fn, args, kwargs = serializer.unpack_call(asked.data)
        except BaseException as error:
            self._leave_fork(error)
            return Frame(Kind.RAISED, self._call, *serializer.pack_exception(error))
        attempt = Attempt(message, partial(fn, *args, **kwargs), around=self._running_here())
        outcome = _outcome(self._call, serializer, message.name, attempt.run(executor))
        with self._reading:
            self._tell_progress()
            self._running = None
        return outcome

    @contextlib.contextmanager
    def _running_here(self) -> Iterator[None]:
        """Around the task's function: note its future, end processes that it has forked."""
        self._told, self._running = None, current_task.future
        try:
            yield
        except BaseException as error:
            self._leave_fork(error)
            raise
        self._leave_fork(None)

    def _leave_fork(self, error: BaseException | None) -> None:
        """End this process if it is not the worker, but a process that the task has forked.

        It returned from the task's code, and its outcome must not be sent as an answer.
        """
        if os.getpid() == self._process:
            return
        code = 0
        try:
            if isinstance(error, SystemExit):
                # The interpreter's rule for exit codes.
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                if code and not isinstance(error.code, int):
                    sys.stderr.write(f"{error.code}\n")
            elif error is not None:
                code = 1
                sys.excepthook(type(error), error, error.__traceback__)
            # The forked process may have submitted tasks.
            _end()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            # All other state of this process is its parent's; `multiprocessing` exits in the same
            # way.
            os._exit(code & 0xFF)


def _outcome(call: int, serializer: Serializer, name: str, future: Future[Any]) -> Frame:
    try:
        return Frame(Kind.RETURNED, call, None, serializer.pack_result(name, future.result()))
    except TaskRetry as asked:
        # The parent makes the next attempt.
        return _again(call, serializer, asked)
    except CancelledError as error:
        if future.cancelled():
            return Frame(Kind.CANCELLED, call)
        raised: BaseException = error
    except BaseException as error:
        raised = error
    return Frame(Kind.RAISED, call, *serializer.pack_exception(raised))


def _again(call: int, serializer: Serializer, asked: TaskRetry) -> Frame:
    after, cause = asked.args[0], asked.__context__
    if cause is None:
        return Frame(Kind.AGAIN, call, [after, None])
    text, data = serializer.pack_exception(cause)
    return Frame(Kind.AGAIN, call, [after, text], data)


def _vanish() -> NoReturn:
    os._exit(1)


def _load(path: str) -> Flask:
    """Load the app as Flask's CLI does."""
    # With this variable `app.run()` at the end of a module does nothing.
    before = os.environ.get("FLASK_RUN_FROM_CLI")
    os.environ["FLASK_RUN_FROM_CLI"] = "true"
    try:
        return ScriptInfo(path, set_debug_flag=False).load_app()
    finally:
        del os.environ["FLASK_RUN_FROM_CLI"]
        if before is not None:
            os.environ["FLASK_RUN_FROM_CLI"] = before


def main(parent: int, lifeline: int, connection: int) -> None:
    """Run the worker process that `parent` talks to over `connection`.

    The process ends when no process holds the other end of the pipe `lifeline`. All instructions
    come over the connection.
    """
    for descriptor in (lifeline, connection):
        # Programs that a task executes get neither; for forked processes see `_tie`.
        os.set_inheritable(descriptor, False)
    _tie(parent, lifeline, connection)
    # A terminal or a service manager sends these to all processes; the parent decides what to do.
    # They are not ignored: programs that a task starts would inherit that.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _leave_to_parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    role.work_for("processes")
    worker = _Worker(connection)
    try:
        setup = worker.receive().text
        name = setup["name"]
        names = Names(setup["main"], is_worker=True)
        serializer = Serializer(names)
        try:
            # The pool does not keep the app alive.
            names.app = app = _load(setup["app"])
            # The parent sends the signals.
            executor = make_executor(app, name, sends_started=False, shutdown_timeout=None)
        except BaseException as error:
            worker.send(Frame(Kind.BROKEN, 0, *serializer.pack_exception(error)))
            return
        threading.Thread(target=worker.watch, name=f"{name}-parent", daemon=True).start()
        worker.send(Frame(Kind.READY, 0))
        worker.work(executor, serializer)
    except (EOFError, OSError):
        _vanish()


def _leave_to_parent(_signum: int, _frame: object) -> None:
    return
