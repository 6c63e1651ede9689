"""The contract of the native module: what Rust offers to the Python side.

`Executor`, `Future` and `current_task` are public and re-exported by `flask_delay`.
What starts with an underscore is for the modules of this package alone.
"""

import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar
from datetime import datetime
from typing import (
    Any,
    Final,
    Literal,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    final,
    overload,
    type_check_only,
)
from weakref import WeakMethod

from flask_delay.observe.stats import PoolStats

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")

# All that is there; what is for users, flask_delay re-exports.
__all__ = [
    "CurrentTask",
    "DuplicateTask",
    "Executor",
    "ForkedFutureError",
    "Future",
    "Progress",
    "QueueFull",
    "TaskExpired",
    "TaskRetry",
    "TaskTimeout",
    "WaitCycleError",
    "_CoroutineTask",
    "_EventLog",
    "_Policy",
    "_RemoteTask",
    "_Rhythm",
    "_Ticker",
    "_Waiting",
    "__version__",
    "_check_call",
    "_check_callback",
    "_check_function",
    "_check_step",
    "_end",
    "_end_within",
    "_gather",
    "_generation",
    "_is_exiting",
    "_logger",
    "_scoped_executor",
    "_service_executor",
    "_set_greenlet_hooks",
    "_set_hooks",
    "_set_map",
    "_subscribe_signals",
    "_tie",
    "current_task",
]

__version__: Final[str]

class Progress(NamedTuple):
    """How far a task has come, as it said last.

    `total` is None if that is not known.
    """

    done: float
    total: float | None
    note: str

class WaitCycleError(RuntimeError):
    """Waiting for this task would never end: it waits, directly or not, for the waiter.

    Or it cannot start because the waiter, or who waits for that, holds the last place of
    its key. The message names the tasks of the circle in order.
    """

class ForkedFutureError(RuntimeError):
    """This future belongs to a task of the process that this one was forked from.

    The task runs there and only there, so here it would be waited for in vain.
    """

class QueueFull(RuntimeError):
    """The pool's queue has no place for this task, which was not accepted."""

class DuplicateTask(RuntimeError):
    """There is a task of this key already that is not done, or one of this id.

    This one was not accepted.
    """

class TaskTimeout(TimeoutError):
    """The attempt has taken longer than the task's `timeout`.

    Raised in the running code of the task, and what its future fails with. `timeout` of
    `Future.result`, which ends only the wait, is a plain TimeoutError.
    """

class TaskExpired(TimeoutError):
    """The task was not started within its `expires` seconds, and so never will be."""

class TaskRetry(BaseException):
    """Ends an attempt that is to be followed by another; raised by `current_task.retry`.

    Its argument is after how many seconds, or None. For this package alone.
    """

class Future(concurrent.futures.Future[_T]):
    """A task's future: a `concurrent.futures.Future` that also knows its task.

    Every method may be called from any thread. Made by `delay` and `Executor.submit`.

    `await future` waits in any running event loop, in several at once too, without a
    thread. If the await is cancelled, so is the task, as by `cancel()`. An await in a
    task that is a coroutine raises WaitCycleError if it would never end.
    """

    def __await__(self) -> Generator[Any, None, _T]: ...
    def cancel(self) -> bool:
        """Cancel the task if it has not started, or is a coroutine.

        Or waits for its next attempt. Its function and arguments are let go and its place
        in the queue is free at once, and its done callbacks run in the calling thread. A
        coroutine that runs gets a `CancelledError` where it awaits; the future is cancelled
        whatever the coroutine makes of that. Returns False if the task runs on a worker,
        which only `stop` ends, or is done.
        """
    def stop(self, after: float | None = 1.0) -> bool:
        """Cancel the task even if it runs; False if it was done already.

        One that has not started, or is a coroutine, as by `cancel()`. In one that runs
        `current_task.cancelled` is True from now on and `current_task.check()` raises;
        `after` seconds later (0: at once; None: never) `concurrent.futures.CancelledError`
        is raised inside its Python code, but not where gevent has patched Python. When that
        ends the task, the future is cancelled; 0.1 seconds later it is cancelled even if the
        code is stuck, and another worker takes that one's place. Returns at once. Raises
        ValueError or TypeError for a bad `after`.
        """
    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
    def running(self) -> bool:
        """Whether the task runs now."""
    def done(self) -> bool:
        """Whether the task has ended or was cancelled."""
    def result(self, timeout: float | None = None) -> _T:
        """Return what the task returned, waiting up to `timeout` seconds (None: for ever).

        Raises the task's own exception, each time with the task's own traceback;
        `TimeoutError` when the time is over;
        `concurrent.futures.CancelledError` if the task was cancelled; `WaitCycleError`
        if the calling task would wait for itself, or is a coroutine and would block the
        event loop that this one needs; `ForkedFutureError` in a process
        forked after the submit, unless the task was done by then. A task may wait for
        another one of its own pool: another worker takes its place meanwhile. Ctrl-C
        ends the wait.
        """
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception the task raised, or None; waits and raises as `result`."""
    def add_done_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call `fn(future)` when the task is done: on its worker, in the order added.

        The callbacks of a coroutine run on a worker of its pool, in its context.

        Under `Delay` the callback has an app context and no request. If the task is done
        already, `fn` runs at once in the calling thread, with the same contexts. An
        exception it raises is logged. Raises TypeError if `fn` is not callable, or is a
        coroutine function, which nobody would await.
        """
    @overload
    def then(self, fn: Callable[[_T], Coroutine[Any, Any, _R]]) -> Future[_R]:
        """Run `fn(result)` as a task when this one has succeeded; return its future at once.

        On the same executor, with the caller's `contextvars`, and by the options of `fn` if
        that is a `Task`. Until then the new task is pending, holds no worker, takes no place in
        a bounded queue, and can be cancelled, which leaves this one alone. If this one fails,
        the new future fails with the same exception, which is not logged again; if it is
        cancelled, so is the new one; `fn` is not called then. Raises TypeError if `fn` is not
        callable or is a generator function; ValueError if this future was made by
        hand, or if the `key` or `unique` of `fn` goes by its argument; RuntimeError after
        `shutdown`; ForkedFutureError in a process forked after the submit, unless the task
        was done by then; and as the options of `fn` say.
        """
    @overload
    def then(self, fn: Callable[[_T], _R]) -> Future[_R]: ...
    def _then_with(
        self,
        policy: _Policy | None,
        scope: Callable[[], AbstractContextManager[object]] | None,
        fn: Callable[[_T], Any],
        *,
        executor: Executor | None = None,
    ) -> Future[Any]:
        """As `then`, by a policy and in a scope, as `_submit_with` has them.

        By `executor`, if that is given, and not by the one that this future is of.
        """
    def _add_waker(self, waker: Callable[[Future[_T]], object]) -> bool:
        """Call `waker(future)` as soon as the task is done, before the callbacks.

        From any thread; it must not block. False if the task is done already.
        """
    def _drop_waker(self, waker: Callable[[Future[_T]], object]) -> None:
        """Forget the waker, if it has not been called yet."""
    def _call(
        self,
    ) -> (
        tuple[
            Callable[..., Any],
            tuple[Any, ...],
            dict[str, Any],
            Callable[[], AbstractContextManager[object]] | None,
        ]
        | None
    ):
        """What the task is going to call: function, arguments, keyword arguments.

        And the scope that `_submit_with` was given. None once the task has started.
        """
    def _is_foreign(self) -> bool:
        """Whether only the process that this one was forked from can know how the task ends."""
    def _begin(self) -> None:
        """Have the task's time begin now: its `started_at`, and its `timeout`.

        To be called by the task itself, in an executor made with `late_start`.
        """
    def set_running_or_notify_cancel(self) -> bool: ...
    def set_result(self, result: _T) -> None: ...
    def set_exception(self, exception: BaseException | None) -> None: ...
    @property
    def id(self) -> str:
        """The task's id: that of the option `id`, or a random UUID, made when first asked for."""
    @property
    def name(self) -> str:
        """The function's `__qualname__`."""
    @property
    def state(self) -> str:
        """`"pending"`, `"running"`, `"cancelled"` or `"finished"`.

        Pending too is a task that waits for its next attempt.
        """
    @property
    def progress(self) -> Progress | None:
        """What the task last gave to `current_task.progress`, or None.

        A new attempt does not change it before it says something itself.
        """
    @property
    def attempts(self) -> int:
        """How many times the task has been started, retries included."""
    @property
    def enqueued_at(self) -> datetime | None:
        """When the task was submitted (UTC, aware)."""
    @property
    def started_at(self) -> datetime | None:
        """When the task started (UTC, aware), its last attempt if there were several, or None."""
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
        queue_size: int = 0,
        when_full: Literal["block", "raise", "caller_runs", "drop_oldest"] = "block",
        block_timeout: float | None = None,
        idle_timeout: float = 60.0,
    ) -> None:
        """Make a pool.

        `max_workers` defaults to `min(32, cpus + 4)`, as for `ThreadPoolExecutor`, and
        `thread_name_prefix` to `"delay-N"`. `initializer(*initargs)` runs first on every
        worker; if it raises, pending and later tasks fail with
        `concurrent.futures.BrokenExecutor`.

        `queue_size` tasks may be accepted and not started (0: any number); coroutines and
        retries do not count. What a submit does when they are is `when_full`: "block", wait
        for a place, after `block_timeout` seconds (None: for ever) raise QueueFull;
        "raise" that at once; "caller_runs", run the task in the calling thread before it
        returns; "drop_oldest", cancel the oldest one of the lowest priority, with a
        warning in the log. Raises ValueError or TypeError for a value that is out of range
        or of the wrong type.
        """
    @overload
    def submit(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Run `fn(*args, **kwargs)` in the background and return its future at once.

        A plain function runs on a worker; an `async def` one on the event loop that the
        coroutines of the whole process share. The task sees the submitter's
        `contextvars`. An exception it raises is logged (logger `flask_delay`) and kept
        in the future. Raises TypeError if `fn` is not callable or is a generator function,
        which would not run, RuntimeError after `shutdown`, QueueFull if there is no place in the
        queue. A plain function that returns a coroutine fails with a TypeError. For a function
        that is written in Python, a method or a partial of one, arguments with which it cannot
        be called are a TypeError here, as in the call.
        """
    @overload
    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...
    @overload
    def _submit_with(
        self,
        policy: _Policy | None,
        scope: Callable[[], AbstractContextManager[object]] | None,
        fn: Callable[_P, Coroutine[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]:
        """As `submit`, by a policy, and with the task, but not its callbacks, in a scope.

        That is `with scope():`, in the place of the executor's own. Raises as `submit`
        and, as the policy has it, DuplicateTask, TypeError for a key or arguments that
        have no hash, and what the key's function raises.
        """
    @overload
    def _submit_with(
        self,
        policy: _Policy | None,
        scope: Callable[[], AbstractContextManager[object]] | None,
        fn: Callable[_P, _T],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, _T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Run `fn` for the items of the iterables; return the results in their order.

        Submits all at once, or, with `buffersize`, that many and one more for each result
        that is taken. The iterator raises TimeoutError `timeout` seconds after this call.
        If a task raises, or the iterator is closed or dropped after its first result was
        asked for, the tasks that have not started are cancelled. `chunksize` changes
        nothing for threads.
        """
    @overload
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; let the accepted ones end, or cancel those not started.

        With `wait` returns when all have ended and the threads are gone, but for those
        that are stuck, see `stats`. May be called more than once.
        """
    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing accepted is left to do, tasks that tasks submit included.

        False if `timeout` seconds were not enough. A task whose future has ended by its
        `timeout` or `stop` is not waited for, though its code goes on. The pool stays open.
        Raises WaitCycleError when called from one of the pool's own tasks.
        """
    def run_pending(self, n: int | None = None) -> int:
        """Run up to `n` tasks that wait (None: all, and those that they submit), oldest first.

        In the calling thread; returns how many runs there were, each retry being one. For
        an executor of an app with `DELAY_MODE = "manual"`; raises RuntimeError for any other.
        """
    def stats(self) -> PoolStats:
        """Counts of now: `queued`, `held`, `running`, `waiting`, `stuck`, `idle`, `threads`.

        `held` are the tasks that may not start yet, because of their key's limit or rate, or
        until their time, their next attempt, or the end of those that they follow; they are not
        among the `queued` ones. `waiting` are the workers whose task waits for another task, and
        the `stuck` ones, whose task goes on although its future has ended by its `timeout` or
        `stop`. Up to four times as many of those as the executor has workers, and at least 16,
        are replaced by others, and are not among the `running` ones; what is stuck beyond that
        is.

        The executor of a `Delay` gives more, see `Delay.stats`.
        """
    def add_default_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(future)` for every task submitted from now on, before its own callbacks.

        Raises TypeError as `Future.add_done_callback`.
        """
    def _now(self) -> PoolStats:
        """As `stats` of a plain executor: without what has become of tasks, which costs more."""
    def _figures(self, bounds: list[float]) -> dict[str, list[float]]:
        """What exporters need of the tasks of each name, as one row of numbers.

        How many were done, failed, were cancelled and were retried; then the sum in seconds of
        the waits, how many waits were up to each of the `bounds`, which ascend, and above the
        one before, and how many were longer; then the same of the runs.
        """
    def _get(self, id: str) -> Future[Any] | None:
        """The future with this id, if it was asked for here and has not been forgotten."""
    def _is_gone(self, id: str) -> bool:
        """Whether the task with this id has been forgotten: one of the last 10,000 that were."""

@final
class _Policy:
    """How tasks are to be run: the options of one `using` or `task`, checked before.

    Never changes; may be used for any number of submits, by any thread.
    """

    def __new__(
        cls,
        *,
        priority: int = 0,
        key: object = None,
        limit: int | None = None,
        rate: tuple[int, float] | None = None,
        unique: Literal["return", "raise"] | None = None,
        timeout: float | None = None,
        expires: float | None = None,
        retry: object = None,
        countdown: float | None = None,
        eta: float | None = None,
        id: str | None = None,
    ) -> Self:
        """Make a policy.

        `key` is hashable, or called with a task's arguments and returns what is; with None
        the function is the key, for `unique` with its arguments. `rate` are starts and in how
        many seconds. `retry` is a `Retry`: `_after(exception, attempt)` is called after
        each attempt that has failed, `_delay(attempt)` after one that has asked for the
        next, on a worker or on the event loop's thread. `timeout`, `expires` and
        `countdown` are in seconds, `eta` in seconds since 1970. `id` is the one task's.
        """

def _check_function(fn: object, role: str, /) -> None:
    """Raise TypeError for what no task can be made of, as `Executor.submit` does.

    That is what cannot be called, and functions whose call runs none of their code:
    generator functions, async ones too. `role` is what it is called there: "task".
    """

def _check_callback(fn: object, /) -> None:
    """Raise TypeError for what is no done callback: as that, and for coroutine functions."""

def _check_call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Raise the TypeError that a submit would for what cannot be called, or not with these.

    As `Executor.submit`.
    """

def _check_step(policy: _Policy | None, fn: Callable[..., Any], *, is_first: bool = False) -> None:
    """Raise what `Future.then` would for this function and its policy, whatever the future.

    With `is_first` not what it would for its one argument.
    """

def _gather(
    function: Callable[..., Any],
    executor: Executor | None,
    futures: tuple[Future[Any], ...],
    return_exceptions: bool,
) -> Future[list[Any]]:
    """Make the future of `flask_delay.gather`, which is `function`.

    `executor` is for when there are no futures.
    """

@final
class _EventLog:
    """What happened to the tasks of this process. Events are kept while there is one of these.

    The newest 8192 are kept. Every method may be called from any thread.
    """

    def __new__(cls) -> Self: ...
    def read(
        self, after: int = 0, *, most: int = 1000
    ) -> tuple[list[tuple[int, str, str, str, int]], int]:
        """The events after number `after`, oldest first, up to `most`; and how many are lost.

        An event is its number, its kind, the task's id and name, and when it happened, in
        nanoseconds since 1970. Numbers count the events of a process from 1. Lost are those
        after `after` that are not kept any more.
        """

@final
class _Rhythm:
    """When something comes again and again; never changes. Times are nanoseconds since 1970."""

    def __new__(
        cls, *, every: float | None = None, cron: str | None = None, timezone: str = "UTC"
    ) -> Self:
        """Ticks every so many seconds, counted from 1970, or by a line of a crontab.

        Raises ValueError for a line that is wrong, naming its field, and for a time zone that
        does not exist.
        """
    def after(self, time: int) -> int | None:
        """The first tick after `time`; None if there is none any more."""
    def has_come(self, tick: int, last: int, now: int) -> bool:
        """Whether `tick` has been taken, where the last that was is `last`."""

@final
class _Ticker:
    """Calls a function at each tick of a rhythm, on a worker, for as long as the executor lives.

    Of ticks that were missed only the last one counts. Ends with the executor, which it does
    not keep alive, and when the process does. Every method may be called from any thread.
    """

    def __new__(
        cls, executor: Executor, rhythm: _Rhythm, call: Callable[[int], object]
    ) -> Self: ...
    def start(self) -> None:
        """Call `call(tick)` at each tick from now on, in this process.

        Raises RuntimeError after `shutdown` of the executor, and if the timer's thread
        cannot be started.
        """
    def stop(self) -> None:
        """Have no further call begin, but for one that is on its way."""
    @property
    def over(self) -> bool:
        """Whether the executor takes no tasks any more, or is gone."""
    @property
    def next(self) -> int | None:
        """The next tick; None if there is none, or it was stopped."""

@type_check_only
class _Settings(TypedDict, total=False):
    hidden: Iterable[ContextVar[Any]]
    reject_types: tuple[type, ...]
    reject: Callable[[object], object]
    log_failures: bool
    shutdown_timeout: float | None
    result_limit: int
    switch_interval: float | None
    queue_size: int
    when_full: str
    block_timeout: float | None
    mode: str
    signals: tuple[tuple[dict[Any, Any], Callable[[], bool], Callable[..., object]], ...] | None
    step: Callable[[Callable[..., Any]], Callable[..., Any]] | None
    late_start: bool

def _scoped_executor(
    *,
    scope: Callable[[], AbstractContextManager[object]]
    | WeakMethod[Callable[[], AbstractContextManager[object]]],
    max_workers: int | None,
    thread_name_prefix: str,
    **settings: Unpack[_Settings],
) -> Executor:
    """Make an executor whose tasks and callbacks run inside `with scope():`, and are counted.

    With a `WeakMethod`, only tasks keep what it is a method of: a submit raises RuntimeError once
    that is gone.

    The variables in `hidden` are not carried from the submitter to the task. An argument
    that is an instance of one of `reject_types` (by its real type) is given to `reject`
    at submit, which raises. `log_failures` off keeps failures of tasks out of the log.
    At exit, tasks have `shutdown_timeout` seconds to end (None: for ever). The last
    `result_limit` finished tasks whose id was asked for are found by `_get`. While a task
    computes, Python's switch interval is `switch_interval` seconds (None: left alone).
    `queue_size`, `when_full` and `block_timeout` are as for `Executor`.

    In mode "immediate" the submitter runs its task before it goes on, in "manual" tasks
    wait for `run_pending`; neither has threads, and contexts, callbacks and logs are those
    of "threads". `signals` are five triples, for a task that was submitted, was started, has
    succeeded, has failed, was cancelled: a dict that is empty while nobody listens; what
    tells, while it is not, whether somebody listens to this executor; and what is then
    called as `send(future=future)`. In the submitter's context, in
    the task's scope, and before the callbacks in theirs. What `send` raises is logged.

    What follows a task by `then` is `step(fn)`, if `step` is given, and not `fn` itself. With
    `late_start` a task's `timeout` counts from when its code calls `Future._begin`.
    """

def _set_map(function: Callable[..., Iterator[Any]]) -> None:
    """Make the function the `map` of `Executor`, with the docstring that is written there."""

def _service_executor(thread_name_prefix: str) -> Executor:
    """Make an executor with one worker that serves others.

    At exit its tasks are not waited for, and nothing is reported of them. A coroutine's
    task is the current one there, and may not wait for what needs this worker.
    """

@final
class _CoroutineTask:
    """What the event loop gets of a task that is a coroutine; for the loop's thread alone.

    Each must end with one of `finish`, `fail`, `abandon` and `refuse`, unless `begin`
    has returned None.
    """

    @property
    def future(self) -> Future[Any]: ...
    def begin(
        self, canceller: Callable[[], object]
    ) -> tuple[Context | None, Callable[[], AbstractContextManager[object]] | None] | None:
        """Start the task: return its context and its scope. None if it was cancelled before.

        Any thread calls `canceller` from now on if the task is to be cancelled.
        """
    def call(self) -> Coroutine[Any, Any, Any]:
        """Make the task the current one of this context, and call its function."""
    def leave(
        self,
        surroundings: AbstractContextManager[object],
        exception: BaseException | None = None,
    ) -> None:
        """Leave the entered scope, after the coroutine has ended or with what it raised."""
    def finish(self, result: object) -> None:
        """Settle the future; a worker runs its callbacks in this context."""
    def fail(self, exception: BaseException, *, returned: bool = False) -> None:
        """As `finish`, for a coroutine that has raised.

        With `returned` it was its surroundings that have, after it; it is not run again then.
        """
    def abandon(self) -> None:
        """As `finish`, for a coroutine that was cancelled."""
    def refuse(self, exception: BaseException) -> None:
        """As `fail`, for a coroutine that could not be started."""

@final
class _RemoteTask:
    """What a backend has of a task that runs elsewhere, or that was sent here.

    Elsewhere: the backend tells what has become of it, by `start`, `again`, `progress` and, at
    last, one of `finish`, `fail` and `abandon`, from any thread; a worker of the executor runs
    the callbacks. Nothing waits for the task at exit. Sent here: `run`.
    """

    def __new__(
        cls,
        executor: Executor,
        fn: Callable[..., object],
        *,
        id: str,
        is_chosen: bool = False,
        attempts: int = 0,
        recall: Callable[[bool], object] | None = None,
        report: Callable[[Progress], object] | None = None,
    ) -> Self:
        """Make a future of this id, named after `fn`, in the context of the caller.

        If it is cancelled, `recall` is called in that thread: with True, if it is to be ended
        where it runs. `attempts` were made before; `report` gets what `run` says of its
        progress. An id that `is_chosen` leads to it at once, and not only when it was asked
        for. Raises RuntimeError after the executor's shutdown, DuplicateTask if such an id leads
        to another task.
        """

    @property
    def future(self) -> Future[Any]: ...
    def announce(self) -> None:
        """Tell the listeners of `task_submitted`."""
    def start(self) -> None:
        """An attempt has begun."""
    def again(self) -> None:
        """An attempt has failed, and another will follow."""
    def progress(self, done: float, total: float | None, note: str = "") -> None:
        """The task is so far. Raises as `current_task.progress`."""
    def finish(self, result: object) -> bool:
        """Settle the future; False if it was done already."""
    def fail(self, exception: BaseException) -> bool:
        """As `finish`, for a task that has failed."""
    def withdraw(self) -> None:
        """The task was not accepted after all: nobody finds its future by its id."""
    def abandon(self) -> bool:
        """As `finish`, for a task that was cancelled."""
    def run(self) -> Future[Any]:
        """Run `fn()` in this thread, or as a coroutine while it waits; return the future.

        For an executor in immediate mode. What asks for another attempt ends this one: its
        TaskRetry is the outcome.
        """

def _set_hooks(
    *,
    start: Callable[[_CoroutineTask], object],
    wait: Callable[[Future[Any]], Generator[Any, None, Any]],
) -> None:
    """Give the native module what runs a coroutine and what awaits a future; kept for ever."""

def _logger() -> logging.Logger:
    """The logger `flask_delay`, enabled: to be asked for anew for each message.

    `logging.config` disables each logger that it finds and that the configuration does not name
    (`disable_existing_loggers`). That is taken back here.
    """

def _end() -> None:
    """Do what is done at the interpreter's end, where that will be left out.

    Waits for tasks within their time, names those that did not end, and closes all pools.
    """

def _end_within(seconds: float) -> None:
    """Give tasks at most this long from now to end, if the process exits meanwhile.

    For who knows when the process will be killed. The earliest time that was said counts,
    for all pools, those without a limit of their own included.
    """

def _is_exiting() -> bool:
    """Whether the interpreter has begun to exit: tasks end, or functions of `atexit` run."""

def _set_greenlet_hooks(
    *, wait: Callable[[Future[Any], float | None], bool | None], leave: Callable[[], object]
) -> None:
    """Give the native module what it does where gevent is there; kept for ever.

    `wait(future, seconds)` waits for a future that is not done and returns whether it is,
    or None if no greenlet can run meanwhile and the native module is to wait. `leave()` is
    called on each worker's thread before it ends.
    """

def _subscribe_signals() -> None:
    """Have signals looked at from now on: one of them has a receiver."""

def _tie(parent: int, lifeline: int, connection: int) -> None:
    """Tie this process, a worker process, to the one that has started it.

    It ends at once, whatever it does, when `parent` is no longer its parent or nobody has the
    other end of the pipe `lifeline` any more. A process that is forked from it does not, and
    finds both file descriptors closed. Raises OSError if the thread that looks cannot be
    started. Once per process.
    """

def _generation() -> int:
    """How many forks lie between the first process and this one."""

@final
class _Waiting:
    """The wait of a coroutine's task for another task, from now until `end()`.

    Raises WaitCycleError if it would never end.
    """

    def __new__(cls, waiter: Future[Any], target: Future[Any]) -> _Waiting: ...
    def end(self) -> None: ...

@final
class CurrentTask:
    """The handle of the task that runs on this thread; `current_task` is its only instance.

    In a coroutine and what it calls and starts: of the coroutine's task.

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
        """Whether the task was told to stop: by `Future.stop`, or its time at shutdown is over."""
    def check(self) -> None:
        """Raise `concurrent.futures.CancelledError` if the task was told to stop."""
    def progress(self, done: float, total: float | None, note: str = "") -> None:
        """Say how far the task has come, for `Future.progress`: `done` of `total`.

        In any unit; `total` is None if it is not known. Numbers of other classes, as those
        of NumPy or Decimal, are kept as int or float. Raises TypeError for what is no number,
        ValueError for one that is not finite.
        """
    def retry(self, after: float | None = None) -> NoReturn:
        """End this attempt, and have the task run again `after` seconds later.

        With None: when its `retry` option says, or without one at once. That option's
        number of times counts here too; when it is used up, the attempt fails with the
        exception that is being handled, or with a RuntimeError. Works by raising, but no
        Exception, so that `except Exception` lets it through. Raises ValueError or TypeError
        for a bad `after`.
        """

current_task: Final[CurrentTask]
