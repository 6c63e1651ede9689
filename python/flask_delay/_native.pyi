"""The contract of the native module: what Rust offers to the Python side.

`Executor`, `Future` and `current_task` are public and re-exported by `flask_delay`.
What starts with an underscore is for the modules of this package alone.
"""

import concurrent.futures
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, final

__all__ = [
    "CurrentTask",
    "Executor",
    "ForkedFutureError",
    "Future",
    "Progress",
    "WaitCycleError",
    "__version__",
    "_scoped_executor",
    "current_task",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

__version__: Final[str]

class Progress(NamedTuple):
    """How far a task has come, as it said last."""

    done: float
    total: float
    note: str

class WaitCycleError(RuntimeError):
    """Waiting for this task would never end: it waits, directly or not, for the waiter.

    The message names the tasks of the circle in order.
    """

class ForkedFutureError(RuntimeError):
    """This future belongs to a task of the process that this one was forked from.

    The task runs there and only there, so here it would be waited for in vain.
    """

class Future(concurrent.futures.Future[_T]):
    """A task's future: a `concurrent.futures.Future` that also knows its task.

    Every method may be called from any thread. Made by `delay` and `Executor.submit`.
    """

    def cancel(self) -> bool:
        """Cancel the task if it has not started.

        Its function and arguments are let go at once, and its done callbacks run in the
        calling thread. Returns False if the task runs or is done.
        """
    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
    def running(self) -> bool:
        """Whether the task runs now."""
    def done(self) -> bool:
        """Whether the task has ended or was cancelled."""
    def result(self, timeout: float | None = None) -> _T:
        """Return what the task returned, waiting up to `timeout` seconds (None: for ever).

        Raises the task's own exception; `TimeoutError` when the time is over;
        `concurrent.futures.CancelledError` if the task was cancelled; `WaitCycleError`
        if the calling task would wait for itself; `ForkedFutureError` in a process
        forked after the submit, unless the task was done by then. A task may wait for
        another one of its own pool: another worker takes its place meanwhile. Ctrl-C
        ends the wait.
        """
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception the task raised, or None; waits and raises as `result`."""
    def add_done_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call `fn(future)` when the task is done: on its worker, in the order added.

        Under `Delay` the callback has an app context and no request. If the task is done
        already, `fn` runs at once in the calling thread, with the same contexts. An
        exception it raises is logged. Raises TypeError if `fn` is not callable.
        """
    def set_running_or_notify_cancel(self) -> bool: ...
    def set_result(self, result: _T) -> None: ...
    def set_exception(self, exception: BaseException | None) -> None: ...
    @property
    def id(self) -> str:
        """The task's id: random (UUID 4), made when first asked for."""
    @property
    def name(self) -> str:
        """The function's `__qualname__`."""
    @property
    def state(self) -> str:
        """`"pending"`, `"running"`, `"cancelled"` or `"finished"`."""
    @property
    def progress(self) -> Progress | None:
        """What the task last gave to `current_task.progress`, or None."""
    @property
    def attempts(self) -> int:
        """How many times the task has been started."""
    @property
    def enqueued_at(self) -> datetime | None:
        """When the task was submitted (UTC, aware)."""
    @property
    def started_at(self) -> datetime | None:
        """When the task started (UTC, aware), or None."""
    @property
    def finished_at(self) -> datetime | None:
        """When the task ended or was cancelled (UTC, aware), or None."""

class Executor(concurrent.futures.Executor):
    """A pool of Rust-managed threads; a `concurrent.futures.Executor`.

    Starts no thread before the first submit, at most `max_workers` of them, and lets
    those go that were idle for `idle_timeout` seconds, all but one. A worker has one
    Python thread state, and so one `threading.local`, for its life. Every method may be
    called from any thread, and in a forked child, where the pool starts anew.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        idle_timeout: float = 60.0,
    ) -> None:
        """Make a pool.

        `max_workers` defaults to `min(32, cpus + 4)`, as for `ThreadPoolExecutor`, and
        `thread_name_prefix` to `"delay-N"`. `initializer(*initargs)` runs first on every
        worker; if it raises, pending and later tasks fail with
        `concurrent.futures.BrokenExecutor`. Raises ValueError or TypeError for a value
        that is out of range or of the wrong type.
        """
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run `fn(*args, **kwargs)` on a worker and return its future at once.

        The task sees the submitter's `contextvars`. An exception it raises is logged
        (logger `flask_delay`) and kept in the future. Raises TypeError if `fn` is not
        callable or is a coroutine function, RuntimeError after `shutdown`.
        """
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; let the accepted ones end, or cancel those not started.

        With `wait` returns when all have ended and the threads are gone. May be called
        more than once.
        """
    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing accepted is left to do, tasks that tasks submit included.

        False if `timeout` seconds were not enough. The pool stays open. Raises
        WaitCycleError when called from one of the pool's own tasks.
        """
    def stats(self) -> dict[str, int]:
        """Counts of this moment: `queued`, `running`, `waiting`, `idle`, `threads`.

        `waiting` are the workers whose task waits for another task; they are not among
        the `running` ones.
        """
    def add_default_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(future)` for every task submitted from now on, before its own callbacks."""
    def _get(self, id: str) -> Future[Any] | None:
        """The future with this id, if it was asked for here and has not been forgotten."""

def _scoped_executor(
    *,
    max_workers: int | None,
    thread_name_prefix: str,
    scope: Callable[[], AbstractContextManager[object]],
    hidden: Iterable[ContextVar[Any]],
    reject_types: tuple[type, ...],
    reject: Callable[[object], object],
    log_failures: bool,
    shutdown_timeout: float | None,
    result_limit: int,
    switch_interval: float | None,
) -> Executor:
    """Make an executor whose tasks and callbacks run inside `with scope():`.

    The variables in `hidden` are not carried from the submitter to the task. An argument
    that is an instance of one of `reject_types` (by its real type) is given to `reject`
    at submit, which raises. `log_failures` off keeps failures of tasks out of the log.
    At exit, tasks have `shutdown_timeout` seconds to end (None: for ever). The last
    `result_limit` finished tasks whose id was asked for are found by `_get`. While a task
    computes, Python's switch interval is `switch_interval` seconds (None: left alone).
    """

@final
class CurrentTask:
    """The handle of the task that runs on this thread; `current_task` is its only instance.

    Outside a task every attribute raises RuntimeError.
    """

    @property
    def id(self) -> str:
        """The task's id."""
    @property
    def future(self) -> Future[Any]:
        """The very future that `delay` returned."""
    @property
    def attempt(self) -> int:
        """1 the first time the task is run."""
    @property
    def cancelled(self) -> bool:
        """Whether the task was told to stop: its time at shutdown is over."""
    def check(self) -> None:
        """Raise `concurrent.futures.CancelledError` if the task was told to stop."""
    def progress(self, done: float, total: float, note: str = "") -> None:
        """Say how far the task has come, for `Future.progress`."""

current_task: Final[CurrentTask]
