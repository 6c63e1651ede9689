"""The contract of the native module: what Rust offers to the Python side.

`Executor`, `Future`, `Stream` and `current_task` are public; `flask_delay` re-exports them. Names
with a leading underscore are for the modules of this package alone.
"""

import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar
from datetime import datetime
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    final,
    overload,
    type_check_only,
)
from weakref import WeakMethod

from flask_delay.groups import Group
from flask_delay.observe.stats import PoolStats

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_Y = TypeVar("_Y")

# All names; `flask_delay` re-exports the public ones.
__all__ = [
    "CurrentTask",
    "DuplicateTask",
    "Executor",
    "ForkedFutureError",
    "Future",
    "JournalUnavailable",
    "Progress",
    "QueueFull",
    "ResultNotKept",
    "Stream",
    "StreamLagged",
    "TaskExpired",
    "TaskInterrupted",
    "TaskRetry",
    "TaskTimeout",
    "WaitCycleError",
    "WorkerDied",
    "_CoroutineTask",
    "_EventLog",
    "_Journal",
    "_Policy",
    "_RemoteTask",
    "_Rhythm",
    "_Schedule",
    "_Step",
    "_Ticker",
    "_Waiting",
    "__version__",
    "_check_call",
    "_check_callback",
    "_check_function",
    "_check_step",
    "_end",
    "_end_within",
    "_events_counted",
    "_gather",
    "_generation",
    "_is_exiting",
    "_journal_backup",
    "_journal_check",
    "_journal_decode",
    "_journal_decode_call",
    "_journal_encode",
    "_journal_encode_call",
    "_journal_inspect",
    "_journal_salvage",
    "_logger",
    "_scoped_executor",
    "_service_executor",
    "_set_greenlet_hooks",
    "_set_hooks",
    "_set_method",
    "_subscribe_signals",
    "_tie",
    "current_task",
]

__version__: Final[str]

class Progress(NamedTuple):
    """The progress that a task reported last.

    `total` is None if it is not known.
    """

    done: float
    total: float | None
    note: str

class WaitCycleError(RuntimeError):
    """A wait that would never end: the awaited task waits, directly or not, for the waiting task.

    Or the awaited task cannot start: the waiting task, or a task that waits for it, holds the last
    slot of its key. The message names the tasks of the cycle in order.
    """

class ForkedFutureError(RuntimeError):
    """The future belongs to a task of the process from which this process was forked.

    The task runs only in that process, so a wait in this one would never end.
    """

class QueueFull(RuntimeError):
    """The task was not accepted: the pool's queue is full."""

class DuplicateTask(RuntimeError):
    """An unfinished task has the same key, or another task has the same id.

    The new task was not accepted.
    """

class TaskTimeout(TimeoutError):
    """The attempt took longer than the task's `timeout`.

    Raised in the running code of the task, and stored in its future. The `timeout` of
    `Future.result` ends only the wait and raises a plain TimeoutError.
    """

class TaskExpired(TimeoutError):
    """The task was not started within its `expires` seconds, and never will be."""

class JournalUnavailable(RuntimeError):
    """The task was not accepted: its journal could not store it.

    The message names the journal's file, the cause and the remedy.
    """

class WorkerDied(RuntimeError):
    """The process that ran the task died.

    A durable task runs again in another process. It fails with this error after
    `DELAY_JOURNAL_DEATHS` deaths, and the message says how many processes died with it.
    """

class ResultNotKept(RuntimeError):
    """The task succeeded in another process, and its result could not be stored.

    The message names the type of the result. Raised by `Future.result` alone.
    """

class StreamLagged(RuntimeError):
    """Items were dropped before a reader of a stream came to them, since more followed.

    A stream keeps the last `DELAY_STREAM_ITEMS` items. The reader goes on with the oldest that is
    kept: call `next` again, or read `Future.stream(after=error.oldest - 1)`.
    """

    missed: int
    """How many items the reader missed."""
    oldest: int
    """The number of the oldest item that is kept."""

class TaskRetry(BaseException):
    """Ends an attempt and asks for another one; raised by `current_task.retry`.

    Its argument is the delay in seconds, or None. For this package alone.
    """

class TaskInterrupted(BaseException):
    """Ends an attempt whose process ends; raised by `current_task.checkpoint`.

    The task goes on in another process. For this package alone.
    """

class Future(concurrent.futures.Future[_T]):
    """The future of a task: a `concurrent.futures.Future` that also knows its task.

    `delay` and `Executor.submit` make it. Every method may be called from any thread.

    `await future` works in any running event loop, also in several at once, and uses no thread.
    Cancelling the await cancels the task, as `cancel()` does. An await in a coroutine task raises
    WaitCycleError if it would never end.
    """

    def __await__(self) -> Generator[Any, None, _T]: ...
    def cancel(self) -> bool:
        """Cancel the task if it has not started, waits for its next attempt, or is a coroutine.

        The function and its arguments are released, the place in the queue is free at once, and the
        done callbacks run in the calling thread. A running coroutine gets a `CancelledError` at its
        next await; the future is cancelled even if the coroutine ignores that. Returns False if the
        task is done or runs on a worker. Only `stop` ends a task on a worker. With a journal, a
        plain task that waits in another process is cancelled there. False too if that process takes
        longer than a second.
        """
    def stop(self, after: float | None = 1.0) -> bool:
        """Cancel the task even if it runs; return False if it is done already.

        A task that has not started, or is a coroutine, is cancelled as by `cancel()`. For a running
        task, `current_task.cancelled` becomes True and `current_task.check()` raises. `after`
        seconds later (0: at once; None: never) `concurrent.futures.CancelledError` is raised inside
        its Python code, but not where gevent has patched Python. If that ends the task, the future
        is cancelled. If the code is stuck, the future is cancelled 0.1 seconds later and another
        worker replaces the stuck one. Returns at once. Raises ValueError or TypeError for a bad
        `after`.
        """
    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
    def running(self) -> bool:
        """Whether the task is running."""
    def done(self) -> bool:
        """Whether the task has ended, cancelled tasks included."""
    def result(self, timeout: float | None = None) -> _T:
        """Return the task's result, waiting up to `timeout` seconds (None: without limit).

        Raises the task's own exception, each time with the task's own traceback; `TimeoutError`
        when the time is over; `concurrent.futures.CancelledError` if the task was cancelled;
        `WaitCycleError` if the calling task would wait for itself, or is a coroutine and would
        block the event loop that this task needs; `ForkedFutureError` in a process forked after the
        submit, unless the task was done by then. A task may wait for another task of its own pool:
        another worker takes its place meanwhile. Ctrl-C ends the wait.
        """
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception, or None; waits and raises as `result`."""
    def stream(self, after: int = 0, *, timeout: float | None = None) -> Stream[Any]:
        """Read what the task's generator function yields, from the item after number `after` on.

        The items are numbered from 1 in the order they come. Each call makes a reader of its own,
        for `for` or `async for`; any number of them may read at once, in any thread, also after the
        end of the task. Each waits up to `timeout` seconds for the next item (None: without limit;
        0: not at all) and raises TimeoutError then. After the last item it ends or, if the task did
        not succeed, raises what `result()` raises. It raises StreamLagged if its next items have
        been dropped, and otherwise as `result()` while it waits.

        Raises TypeError if the task's function is no generator function; ValueError if `after` is
        negative or no item has that number yet; TypeError for a bad `after` or `timeout`;
        ForkedFutureError as `result()`.
        """
    def add_done_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call `fn(future)` on the task's worker when the task is done, in the order added.

        The callbacks of a coroutine run on a worker of its pool, in its context.

        Under `Delay` the callback has an app context and no request. If the task is done already,
        `fn` runs at once in the calling thread, with the same contexts. An exception from `fn` is
        logged. Raises TypeError if `fn` is not callable, or is a coroutine function, which nothing
        would await.
        """
    @overload
    def then(
        self,
        fn: Callable[[_T], Coroutine[Any, Any, _R]],
        *,
        on: Literal["success"] = "success",
    ) -> Future[_R]:
        """Run `fn(result)` as a task when this task has succeeded; return its future at once.

        The new task runs on the same executor, with the caller's `contextvars`, and with the
        options of `fn` if that is a `Task`. Until then it is pending, holds no worker and takes no
        place in a bounded queue. Cancelling it leaves this task alone. If this task fails, the new
        future fails with the same exception, which is not logged again. If this task is cancelled,
        so is the new one. In both cases `fn` is not called.

        With `on="end"` it runs `fn()`, without an argument, however this task has ended.

        A durable task is followed by durable ones: both are in the journal, and the new one starts
        even if this process has died by then.

        Raises TypeError if `fn` is not callable; ValueError for another
        `on`, if this future was made by hand, if the `key` or `unique` of `fn` depends on its
        argument, or if only one of the two tasks is durable; RuntimeError after `shutdown`;
        ForkedFutureError in a process forked after it was submitted, unless the task is durable or
        was done by then; and whatever the options of `fn` raise. After a durable task also
        LookupError if the journal has forgotten it, and JournalUnavailable.
        """
    @overload
    def then(
        self, fn: Callable[[_T], Generator[Any, Any, _R]], *, on: Literal["success"] = "success"
    ) -> Future[_R]: ...
    @overload
    def then(self, fn: Callable[[_T], _R], *, on: Literal["success"] = "success") -> Future[_R]: ...
    @overload
    def then(
        self, fn: Callable[[], Coroutine[Any, Any, _R]], *, on: Literal["end"]
    ) -> Future[_R]: ...
    @overload
    def then(
        self, fn: Callable[[], Generator[Any, Any, _R]], *, on: Literal["end"]
    ) -> Future[_R]: ...
    @overload
    def then(self, fn: Callable[[], _R], *, on: Literal["end"]) -> Future[_R]: ...
    def _then_with(
        self,
        policy: _Policy | None,
        scope: Callable[[], AbstractContextManager[object]] | None,
        fn: Callable[..., Any],
        *,
        executor: Executor | None = None,
        on: str = "success",
    ) -> Future[Any]:
        """`then` with a policy and a scope, as in `_submit_with`.

        Uses `executor` if it is given, otherwise the future's own.
        """
    def _is_durable(self) -> bool:
        """Whether the task is durable, also in tests, where there is no journal."""
    def _add_waker(self, waker: Callable[[Future[_T]], object]) -> bool:
        """Call `waker(future)` as soon as the task is done, before the callbacks.

        Any thread may call the waker, so it must not block. Returns False if the task is done
        already.
        """
    def _drop_waker(self, waker: Callable[[Future[_T]], object]) -> None:
        """Remove the waker, if it has not been called yet."""
    def _add_stop_waker(self, waker: Callable[[float | None], object]) -> None:
        """Call `waker(after)` when `stop(after)` is called while the task runs, by that thread."""
    def _drop_stop_waker(self, waker: Callable[[float | None], object]) -> None:
        """Remove the waker."""
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
        """The pending call of the task: function, arguments, keyword arguments and scope.

        The scope is that of `_submit_with`. None once the task has started.
        """
    def _is_foreign(self) -> bool:
        """Whether the task belongs to the process from which this process was forked.

        Only that process can know how the task ends.
        """
    def _release(self, wanted: bool) -> None:
        """Let a task that was submitted `withheld` start, or else cancel it and forget its id.

        Of several calls the first one counts.
        """
    def _quiet_id(self) -> str:
        """The task's id; to read it here does not let the task be found by it."""
    def _thread(self) -> int | None:
        """The thread of this process on which the task runs, as `threading.get_ident` returns it.

        None if it does not run on one.
        """

    def _standing(self) -> dict[str, Any]:
        """The conditions under which a plain task runs and, before that, what it waits for.

        What is not asked for is missing or None: `priority`, `timeout` in seconds, `retry`, `key`,
        `limit`, `rate` as a count and seconds, and `running`, the number of tasks of its key that
        run. `waits` is "after", with the open futures as `after`; "scheduled" and `until`, in
        seconds since 1970; "lane" for its key, with `until` if a rate tells that; or "ready".
        """

    def _links(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The tasks that it follows, and those that follow it: ids and names.

        At most 20 each, and only those that were submitted once samples were taken.
        """

    def _begin(self) -> None:
        """Start the task's clock now: its `started_at` and its `timeout`.

        The task itself calls this, in an executor made with `late_start`.
        """
    def _died(self) -> None:
        """Note that the child process which ran this attempt has died. Called by the task itself.

        A durable task runs again then, or is a dead letter; its `retry` is not asked.
        """
    def _publish(self) -> None:
        """Tell the journal of a plain task, which is not found here by its id for that."""
    def _keep_arguments(self, text: str) -> None:
        """Keep the arguments as text, for a page. Not if 10,000 tasks of this process have one."""
    def _kept_arguments(self) -> str | None:
        """The text by `_keep_arguments`, or None."""
    def set_running_or_notify_cancel(self) -> bool: ...
    def set_result(self, result: _T) -> None: ...
    def set_exception(self, exception: BaseException | None) -> None: ...
    @property
    def id(self) -> str:
        """The task's id: the option `id`, or a random UUID made at first access."""
    @property
    def name(self) -> str:
        """The function's `__qualname__`."""
    @property
    def state(self) -> str:
        """`"pending"`, `"running"`, `"cancelled"` or `"finished"`.

        A task that waits for its next attempt is pending too.
        """
    @property
    def progress(self) -> Progress | None:
        """The last value given to `current_task.progress`, or None.

        A new attempt keeps the old value until it reports progress itself.
        """
    @property
    def attempts(self) -> int:
        """How many attempts were started, retries included."""
    @property
    def enqueued_at(self) -> datetime | None:
        """When the task was submitted (UTC, aware)."""
    @property
    def started_at(self) -> datetime | None:
        """When the last attempt started (UTC, aware), or None."""
    @property
    def finished_at(self) -> datetime | None:
        """When the task ended or was cancelled (UTC, aware), or None."""

@final
class Stream(Generic[_Y]):
    """A reader of what a task yields, made by `Future.stream`: an iterator, also for `async for`.

    After a TimeoutError or StreamLagged, `next` goes on where it was. At the end of a task that
    failed, it raises the error again each time. Threads may share a reader; then each item goes to
    one of them.
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> _Y: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, _Y]: ...
    def __class_getitem__(cls, key: Any) -> Any: ...
    @property
    def number(self) -> int:
        """The number of the last item it has given; before the first one, the given `after`."""
    @property
    def attempt(self) -> int:
        """The attempt of the task that yielded that item, from 1; 0 before the first one."""
    @property
    def ended(self) -> bool:
        """Whether it has come to the end: the task is done, and there are no more items."""
    @property
    def _future(self) -> Future[Any]:
        """The future whose items it reads."""
    @property
    def _timeout(self) -> float | None:
        """The seconds to wait for an item; None for no limit."""
    def _take(self) -> tuple[_Y] | None:
        """The next item, or None if there is none yet; raises StopAsyncIteration at the end."""
    def _add_waker(self, waker: Callable[[Future[Any]], object]) -> bool:
        """Call `waker(future)` once `_take` has something; False if it has that already.

        Any thread may call the waker, so it must not block.
        """
    def _drop_waker(self, waker: Callable[[Future[Any]], object]) -> None:
        """Remove the waker, if it has not been called yet."""

class Executor(concurrent.futures.Executor):
    """A pool of Rust-managed threads; a `concurrent.futures.Executor`.

    Starts no thread before the first submit, and at most `max_workers` threads. A thread that was
    idle for `idle_timeout` seconds ends, except for the last one. A worker keeps one Python thread
    state, and so one `threading.local`, for its life. Every method may be called from any thread,
    and in a forked child, where the pool starts anew.
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
        `thread_name_prefix` to `"delay-N"`. `initializer(*initargs)` runs first on every worker; if
        it raises, pending and later tasks fail with `concurrent.futures.BrokenExecutor`.

        The queue holds up to `queue_size` accepted tasks that have not started (0: any number);
        coroutines and retries do not count. `when_full` says what a submit does when the queue is
        full: "block" waits for a place and raises QueueFull after `block_timeout` seconds (None:
        never); "raise" raises QueueFull at once; "caller_runs" runs the task in the calling thread
        before it returns; "drop_oldest" cancels the oldest task of the lowest priority and logs a
        warning. Raises ValueError or TypeError for a value that is out of range or of the wrong
        type.
        """
    @overload
    def submit(
        self,
        fn: Callable[_P, Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]:
        """Run `fn(*args, **kwargs)` in the background and return its future at once.

        A plain function runs on a worker; an `async def` function runs on the event loop that all
        coroutines of the process share. A generator function runs to its end, what it yields is
        read by `Future.stream`, and its result is what it returns. The task sees the submitter's
        `contextvars`. An exception of the task is logged (logger `flask_delay`) and kept in the
        future. A plain function that returns a coroutine fails with a TypeError.

        Raises TypeError if `fn` is not callable; RuntimeError after `shutdown`; QueueFull if the
        queue has no place. For a function written in Python, or a method or partial of one,
        arguments that do not fit its signature raise TypeError here.
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
        fn: Callable[_P, Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Future[_T]:
        """`submit` with a policy, and with the task, but not its callbacks, in a scope.

        That is `with scope():`, in place of the executor's own. Raises as `submit` and, depending
        on the policy, DuplicateTask, TypeError for a key or arguments that have no hash, and
        whatever the key function raises.
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
        fn: Callable[..., Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Run `fn` for the items of the iterables; return the results in their order.

        Submits all items at once or, with `buffersize`, that many and one more for each result that
        is taken. The iterator raises TimeoutError `timeout` seconds after this call. If a task
        raises, or the iterator is closed or dropped after its first request, the tasks that have
        not started are cancelled. `chunksize` changes nothing for threads.
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
    def group(self, timeout: float | None = None) -> Group:
        """Make a group of tasks: a `with` block that ends when all tasks of the group have ended.

        See `Group`. `timeout` is in seconds, from the beginning of the block. Raises TypeError or
        ValueError for a bad one.
        """
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; let the accepted ones end, or cancel those not started.

        With `wait`, returns when all tasks have ended and the threads are gone, except stuck ones
        (see `stats`). May be called more than once.
        """
    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no accepted task is left, including tasks submitted by tasks.

        Returns False if `timeout` seconds were not enough. Does not wait for a task whose future
        was ended by its `timeout` or by `stop`, though its code may still run. The pool stays open.
        Raises WaitCycleError when called from one of the pool's own tasks.
        """
    def run_pending(self, n: int | None = None) -> int:
        """Run up to `n` waiting tasks (None: all, and tasks that they submit), oldest first.

        Runs them in the calling thread; returns the number of attempts, retries included. For an
        executor of an app with `DELAY_MODE = "manual"`; raises RuntimeError for any other.
        """
    def stats(self) -> PoolStats:
        """Current counts: `queued`, `held`, `running`, `waiting`, `stuck`, `idle`, `threads`.

        `held` tasks may not start yet: because of their key's limit or rate, or until their time,
        their next attempt, or the end of the tasks that they follow. They do not count as `queued`.
        `waiting` counts workers whose task waits for another task. `stuck` counts workers whose
        task still runs although its `timeout` or `stop` has ended its future. Other workers replace
        up to four times as many of these as the executor has workers, and at least 16; they do not
        count as `running`. Stuck tasks beyond that number do.

        The executor of a `Delay` gives more, see `Delay.stats`.
        """
    def add_default_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(future)` for every task submitted from now on, before its own callbacks.

        Raises TypeError as `Future.add_done_callback`.
        """
    def _now(self) -> PoolStats:
        """`stats` of a plain executor: without outcomes of tasks, which cost more."""
    def _figures(self, bounds: list[float]) -> dict[str, list[float]]:
        """The figures for exporters: one row of numbers for each task name.

        First the counts of done, failed, cancelled and retried tasks. Then the sum of the waits in
        seconds. Then the number of waits in each bucket of the ascending `bounds`, and above the
        last bound. Then the same for the runs.
        """
    def _sample(self) -> None:
        """Take samples for `_samples` and `_minutes` from now on: one a second, while tasks run."""
    def _samples(
        self, step: int
    ) -> list[tuple[int, list[int], list[int], list[list[float] | None]]]:
        """The samples in steps of 5, 120 or 3,600 seconds, oldest first; none without `_sample`.

        Of each its first second since 1970; how many tasks returned and failed; the most that were
        queued, held and running at once; the median and the 95th percentile of the waits and of the
        runs, in seconds. Steps without a change are left out, but for the first and the last one.
        """
    def _minutes(self) -> list[tuple[str, list[int]]]:
        """How many tasks ended in each of the last 30 minutes, by name."""
    def _record(self) -> None:
        """Record what happens to tasks from now on, for `_waiting` and `_ended`."""
    def _running(self) -> list[tuple[Future[Any], int | None]]:
        """The tasks that run, each with the identifier of its thread, if that is in this process.

        Without `_record`, those on other machines are left out.
        """
    def _waiting(self, most: int) -> list[Future[Any]]:
        """Up to `most` tasks that have not started or wait for another attempt, oldest first.

        Without `_record`, those in the queue without a priority are left out.
        """
    def _find(self, id: str, most: int) -> Future[Any] | None:
        """The task with this id among those of `_running` and `_waiting`.

        Not if nobody has asked for its id.
        """
    def _notes(self, id: str) -> list[tuple[int, str, str]]:
        """What has happened to a plain task that was held or has run again, oldest first.

        Of each its time in microseconds since 1970, "held", "retrying" or "started", and more about
        it. The last 1,000 of all tasks are kept.
        """
    def _ended(self) -> list[dict[str, Any]]:
        """The last 100 tasks that returned or were cancelled, oldest first; none without `_record`.

        Each as the arguments of a `TaskView`. Of those that end in one second, the first ones.
        """
    def _has(self, future: Future[Any]) -> bool:
        """Whether this executor has made the future."""
    def _get(self, id: str) -> Future[Any] | None:
        """The future with this id, if it is remembered and its id was asked for here."""
    def _is_gone(self, id: str) -> bool:
        """Whether the task with this id is one of the last 10,000 forgotten ones."""

@final
class _Policy:
    """The checked options of one `using` or `task`.

    Immutable; may be used for any number of submits, by any thread.
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
        keeps: int | None = None,
        withheld: bool = False,
        scope: str | None = None,
        debounce: float | None = None,
        max_wait: float | None = None,
        stream_wait: float | None = None,
    ) -> Self:
        """Make a policy.

        `key` is hashable, or a function that is called with the task's arguments and returns a
        hashable value. With None the function is the key, for `unique` together with its arguments.
        `rate` is a number of starts and a period in seconds. `retry` is a `Retry`:
        `_after(exception, attempt)` is called after a failed attempt, `_delay(attempt)` after an
        attempt that asked for the next one. A worker or the event loop's thread calls them.
        `timeout`, `expires` and `countdown` are in seconds, `eta` in seconds since 1970. `id` is
        for a single task. With `keeps`, the task is durable in a test, where no journal has its
        checkpoints and steps: the most bytes of each of them.
        One that is `withheld` waits for `Future._release`. With `scope` at "machine" the journal of
        the executor counts for the limit and the rate of plain tasks. With `debounce` a task starts
        that many seconds after its submit, and replaces the task of its key that is not due yet;
        at most `max_wait` seconds after the first one of these. A generator waits up to
        `stream_wait` seconds for a reader that would miss an item.
        """

def _check_function(fn: object, role: str, /, *, no_items: str | None = None) -> None:
    """Raise TypeError for an object that cannot be called, as `Executor.submit` does.

    `role` names the object in the message, as in "task". With `no_items`, which says why and what
    to do instead, also for a generator function, including async ones.
    """

def _check_callback(fn: object, /) -> None:
    """Raise TypeError for an object that cannot be a task, and for a coroutine function."""

def _check_call(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Raise the TypeError of `Executor.submit` for this function and these arguments.

    That is for an object that cannot be called, or cannot be called with these arguments.
    """

def _check_step(policy: _Policy | None, fn: Callable[..., Any], *, is_first: bool = False) -> None:
    """Raise the error of `Future.then` for this function and policy, for any future.

    With `is_first`, omits the errors that depend on its single argument.
    """

def _journal_encode(value: object, most: int = 1_000_000) -> str:
    """Return the value as the text that the journal stores: JSON, with tags for other types.

    `value` consists of None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset,
    datetime, date, time, timedelta, Decimal and UUID, and of these classes alone. `most` is the
    longest text, in bytes. Raises TypeError for any other value, which it names, and ValueError for
    one that contains itself, is nested more than 100 levels deep, or is too long. Equal sets and
    frozensets have the same text in each process. May be called from any thread.
    """

def _journal_decode(text: str, exceptions: Callable[[str], BaseException] | None = None) -> Any:
    """Return the value of a text by `_journal_encode`: equal, and of the same types.

    A list of gathered results may have exceptions: `exceptions` makes them of their texts.
    Raises ValueError for any other text. Nothing is imported or executed by a name in the text; a
    time zone is looked up by its key, as `zoneinfo.ZoneInfo` does. May be called from any thread.
    """

def _journal_encode_call(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    most: int = 1_000_000,
) -> str:
    """Return the arguments of a call of task `name` as text, as `_journal_encode` does a value.

    The errors name the task and the argument.
    """

def _journal_decode_call(text: str) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """Return the arguments of a text by `_journal_encode_call`; None if none has a keyword.

    Raises ValueError for any other text, as `_journal_decode` does.
    """

def _gather(
    function: Callable[..., Any],
    executor: Executor | None,
    futures: tuple[Future[Any], ...],
    return_exceptions: bool,
) -> Future[list[Any]]:
    """Make the future of `flask_delay.gather`, which is `function`.

    `executor` is used when there are no futures.
    """

@final
class _EventLog:
    """The event log of this process's tasks. Events are kept while an `_EventLog` exists.

    The newest 8192 are kept. Every method may be called from any thread.
    """

    def __new__(cls) -> Self: ...
    def newest(self) -> int:
        """The number of the newest event; 0 before the first one."""

    def read(
        self, after: int = 0, *, most: int = 1000
    ) -> tuple[list[tuple[int, str, str, str, int]], int]:
        """The events after number `after`, oldest first, up to `most`; and the number of lost ones.

        An event is its number, its kind, the task's id and name, and its time in nanoseconds since
        1970. Numbers count the events of a process from 1. Events after `after` that are no longer
        kept are lost.
        """

@final
class _Rhythm:
    """A recurrence. Immutable. Times are in nanoseconds since 1970."""

    def __new__(
        cls, *, every: float | None = None, cron: str | None = None, timezone: str = "UTC"
    ) -> Self:
        """Ticks every so many seconds, counted from 1970, or by a line of a crontab.

        Raises ValueError for an invalid line, naming the field, and for an unknown time zone.
        """
    def after(self, time: int) -> int | None:
        """The first tick after `time`; None if there is none."""
    def has_come(self, tick: int, last: int, now: int) -> bool:
        """Whether `tick` has been taken, where `last` is the newest tick that was taken."""

@final
class _Ticker:
    """Calls a function on a worker at each tick of a recurrence, while the executor lives.

    Of missed ticks only the last one counts. Ends with the executor, which it does not keep alive,
    and with the process. Every method may be called from any thread.
    """

    def __new__(
        cls, executor: Executor, rhythm: _Rhythm, call: Callable[[int], object]
    ) -> Self: ...
    def start(self) -> None:
        """Call `call(tick)` at each tick from now on, in this process.

        Raises RuntimeError after `shutdown` of the executor, and if the timer's thread cannot be
        started.
        """
    def stop(self) -> None:
        """Start no further call. A call that was handed to a worker still happens."""
    @property
    def over(self) -> bool:
        """Whether the executor is shut down or gone."""
    @property
    def next(self) -> int | None:
        """The next tick; None if there is none, or after `stop`."""

@type_check_only
class _Settings(TypedDict, total=False):
    hidden: Iterable[ContextVar[Any]]
    reject_types: tuple[type, ...]
    reject: Callable[[object, bool], object]
    uploads: Callable[..., object] | None
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
    stream_items: int
    stream_bytes: int

def _scoped_executor(
    *,
    scope: Callable[[], AbstractContextManager[object]]
    | WeakMethod[Callable[[], AbstractContextManager[object]]],
    max_workers: int | None,
    thread_name_prefix: str,
    **settings: Unpack[_Settings],
) -> Executor:
    """Make an executor that runs tasks and callbacks inside `with scope():` and counts tasks.

    With a `WeakMethod`, only tasks keep the method's object alive: a submit raises RuntimeError
    once the object is gone.

    The variables in `hidden` are not carried from the submitter to the task. A submit calls
    `reject` with an argument that is an instance of one of `reject_types` (by its real type), and
    with whether it may be an upload. If that raises nothing, the submit returns the result of
    `uploads(executor, policy, scope, fn, args, kwargs)`. Without `log_failures`, failures of tasks
    are not logged. At exit, tasks have `shutdown_timeout` seconds to end (None: no limit). `_get`
    finds the last `result_limit` finished tasks whose id was asked for. While a task computes,
    Python's switch interval is `switch_interval` seconds (None: unchanged). `queue_size`,
    `when_full` and `block_timeout` are as for `Executor`.

    In mode "immediate" the submitter runs its task before it continues; in mode "manual" tasks wait
    for `run_pending`. Neither has threads; contexts, callbacks and logs are those of "threads".
    `signals` are five triples, for a task that was submitted, was started, has succeeded, has
    failed, was cancelled. The first item is a dict of receivers, empty while there are none. The
    second tells, if the dict is not empty, whether this executor has receivers. The third is then
    called as `send(future=future)`: at submit in the submitter's context, at the start in the
    task's scope, and at the end before the callbacks in their scope. Exceptions of `send` are
    logged.

    With `step`, a task made by `then` calls `step(fn)` instead of `fn`. With `late_start` a task's
    `timeout` counts from its call of `Future._begin`. The last `stream_items` items of a generator
    task are kept, and of these so many that they take up to `stream_bytes`; by default as the
    settings of `Delay`.
    """

def _set_method(name: Literal["map", "group"], function: Callable[..., Any]) -> None:
    """Install the function as that method of `Executor`, with the docstring of the stub."""

def _service_executor(thread_name_prefix: str) -> Executor:
    """Make an executor with one worker that serves other executors.

    At exit its tasks are neither awaited nor reported. A coroutine's task is the current one there,
    and must not wait for a task that needs this worker.
    """

@final
class _CoroutineTask:
    """The event loop's handle of a coroutine task; for the loop's thread alone.

    Each handle must end with `finish`, `fail`, `abandon` or `refuse`, unless `begin` has returned
    None.
    """

    @property
    def future(self) -> Future[Any]: ...
    def begin(
        self, canceller: Callable[[], object]
    ) -> tuple[Context | None, Callable[[], AbstractContextManager[object]] | None] | None:
        """Start the task: return its context and its scope, or None if it was cancelled before.

        From now on any thread may call `canceller` to cancel the task.
        """
    def call(self) -> Any:
        """Make the task the current one of this context, and call its function.

        Returns what that returns: a coroutine or, if it `yields`, an asynchronous generator.
        """
    @property
    def yields(self) -> bool:
        """Whether its function is a generator function."""
    @property
    def patience(self) -> float:
        """How many seconds a generator waits for a reader that would miss an item."""
    def push(self, item: object, wake: Callable[[Future[Any]], object] | None = None) -> bool:
        """Give the item to the readers.

        With `wake`, False if one would miss another item for it; then any thread calls
        `wake(future)` when that has changed, once. Raises `concurrent.futures.CancelledError` if
        the task has ended.
        """
    def leave(
        self,
        surroundings: AbstractContextManager[object],
        exception: BaseException | None = None,
    ) -> None:
        """Leave the entered scope after the coroutine's end, with its exception if it raised."""
    def finish(self, result: object) -> None:
        """Settle the future; a worker runs its callbacks in this context."""
    def fail(self, exception: BaseException, *, returned: bool = False) -> None:
        """`finish` for a coroutine that has raised.

        With `returned`, its scope raised after the coroutine had returned; there is no retry then.
        """
    def abandon(self) -> None:
        """`finish` for a coroutine that was cancelled."""
    def refuse(self, exception: BaseException) -> None:
        """`fail` for a coroutine that could not be started."""

@final
class _Step:
    """A step of a coroutine's task that has been called."""

    @property
    def is_done(self) -> bool:
        """Whether an earlier attempt has its result."""
    def result(self) -> Any:
        """That result."""
    def forget(self) -> None:
        """Note that the step has raised: its name may be used again."""
    def end(self, result: object, told: Callable[[BaseException | None], object]) -> Any:
        """Keep the result, and return it as later attempts get it.

        Any thread calls `told(None)` when it is committed, or `told` with the error. Raises
        TypeError or ValueError for a result that cannot be kept.
        """

@final
class _RemoteTask:
    """A backend's handle of a task that runs in another process, or was sent to this one.

    For a task that runs elsewhere, the backend reports its state by `start`, `again`, `progress`
    and finally `finish`, `fail` or `abandon`. Any thread may report; a worker of the executor runs
    the callbacks. The exit does not wait for the task. For a task that was sent here: `run`.
    """

    def __new__(
        cls,
        executor: Executor,
        fn: Callable[..., object],
        *,
        id: str,
        is_chosen: bool = False,
        is_found: bool = False,
        attempts: int = 0,
        recall: Callable[[bool], object] | None = None,
        report: Callable[[Progress], object] | None = None,
    ) -> Self:
        """Make a future of this id, named after `fn`, in the context of the caller.

        Cancelling it calls `recall` in that thread, with True if the task is to be ended where it
        runs. `attempts` is the number of earlier attempts; `report` receives the progress of `run`.
        With `is_chosen`, the id finds the future at once, and not only after it was asked for.
        With `is_found`, another process has sent the task: its events here send no signal, are not
        counted and run no default callbacks. Raises RuntimeError after the executor's shutdown,
        DuplicateTask if a chosen id belongs to another task.
        """

    @property
    def future(self) -> Future[Any]: ...
    def announce(self) -> None:
        """Send `task_submitted` to its receivers."""
    def start(self) -> None:
        """Note that an attempt has started."""
    def again(self) -> None:
        """Note that an attempt has failed and another will follow."""
    def progress(self, done: float, total: float | None, note: str = "") -> None:
        """Note the task's progress. Raises as `current_task.progress`."""
    def finish(self, result: object) -> bool:
        """Settle the future; False if it was done already."""
    def fail(self, exception: BaseException) -> bool:
        """`finish` for a task that has failed."""
    def withdraw(self) -> None:
        """Forget the future's id: the task was not accepted after all."""
    def abandon(self) -> bool:
        """`finish` for a task that was cancelled."""
    def run(self) -> Future[Any]:
        """Run `fn()` in this thread, as a coroutine too while this thread waits; return the future.

        For an executor in immediate mode. A request for another attempt ends this one: its
        TaskRetry is the outcome.
        """

def _set_hooks(
    *,
    start: Callable[[_CoroutineTask], object],
    wait: Callable[[Future[Any]], Generator[Any, None, Any]],
    step: Callable[
        [_Step, Callable[..., Any], tuple[Any, ...], dict[str, Any] | None],
        Coroutine[Any, Any, Any],
    ],
    next_item: Callable[[Stream[Any]], Coroutine[Any, Any, Any]],
) -> None:
    """Register the functions for the event loop; kept forever.

    They run a coroutine, await a future, run a step, and wait for the next item of a stream.
    """

def _logger() -> logging.Logger:
    """The logger `flask_delay`, enabled. Fetch it anew for each message.

    `logging.config` disables each existing logger that the configuration does not name
    (`disable_existing_loggers`). This function enables it again.
    """

def _end() -> None:
    """Do the work of the interpreter's exit where the interpreter will skip it.

    Waits for tasks within their time, names those that did not end, and closes all pools.
    """

def _end_within(seconds: float) -> None:
    """Give tasks at most this many seconds from now to end, if the process exits meanwhile.

    For a caller that knows when the process will be killed. The earliest deadline counts, also for
    pools without a limit of their own.
    """

def _is_exiting() -> bool:
    """Whether the interpreter has begun to exit: tasks end, or functions of `atexit` run."""

def _set_greenlet_hooks(
    *,
    wait: Callable[[Future[Any] | Stream[Any], float | None], bool | None],
    leave: Callable[[], object],
) -> None:
    """Register the functions that the native module calls under gevent; kept forever.

    `wait(future, seconds)` waits for an unfinished future, or for the next item of a stream, and
    returns whether it is there. It returns None if no greenlet can run meanwhile; then the native
    module has to wait. `leave()` is called on each worker's thread before it ends.
    """

def _subscribe_signals() -> None:
    """Have the native module check signals from now on: one of them has a receiver."""

def _tie(parent: int, lifeline: int, connection: int) -> None:
    """Tie this worker process to the process that started it.

    The process ends at once when `parent` is no longer its parent, or no process holds the other
    end of the pipe `lifeline`. A process forked from it is not tied, and finds both file
    descriptors closed. Raises OSError if the watching thread cannot be started. Once per process.
    """

@final
class _Journal:
    """A journal of one `Delay`: accepts durable tasks, runs them here, and finds those of others.

    Starts no thread by itself. Its methods may be called from any thread, and in a forked child.
    """

    def __new__(
        cls,
        executor: Executor,
        path: str,
        *,
        app: str,
        sync: Literal["commit", "second", "never"],
        keep: float,
        limit: int,
        deaths: int,
        max_bytes: int,
        timeout: float,
        waiting: int,
        code: str,
        publish: bool,
        revive: Callable[
            [str, str | None], tuple[Callable[..., Any], _Policy | None, Executor | None]
        ],
        lane: Callable[[Callable[..., Any]], str],
        encode_error: Callable[[BaseException], str],
        decode_error: Callable[[str], BaseException],
        dead: Callable[[str, str, int, str], object],
        obey: Callable[[int, str, str, str | None, bool], object],
        show: Callable[[], str | None],
    ) -> _Journal:
        """Open the file at `path`, which is made if it is not there.

        `app` separates the functions of several apps in one file. `keep` and `timeout` are seconds,
        `code` is the version of the package. With `publish`, other processes find plain tasks,
        too, once their ids were asked for. `revive` gets the registered name of a function and
        options as text, and returns the function, its policy and its executor, or None for the
        executor of the journal. It raises LookupError for a name that this process does not know.
        `lane` returns the name by which all processes count a function's plain tasks together.
        `dead` gets the id, the name, the deaths and the error of each task that this process makes
        a dead letter, if signals have receivers. `obey` gets each command of another process: its
        number, verb, target and actor, and whether it is for any process that has the target.
        `show` returns what `others` tells in other processes. Both are called on threads for them.
        Raises ValueError for a place where a journal cannot be, JournalUnavailable for a file that
        cannot be used.
        """

    def know(self, names: list[str]) -> None:
        """Tell the journal that this process can run the functions with these registered names."""
    def start(self) -> None:
        """Begin to claim tasks, unless this process does so already. Raises JournalUnavailable."""
    def submit(
        self,
        name: str,
        pool: int,
        policy: _Policy | None,
        options: str | None,
        once: str | None,
        disk: bool,
        executor: Executor | None,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[Any]:
        """Accept a task: it is in the journal when this returns.

        `pool` is 0 for threads and 2 for child processes, whose executor is `executor`. Raises what
        the codec refuses, DuplicateTask, QueueFull and JournalUnavailable.
        """

    def draft(
        self,
        name: str,
        pool: int,
        policy: _Policy | None,
        options: str | None,
        once: str | None,
        disk: bool,
        executor: Executor | None,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Future[Any], dict[str, Any]]:
        """Make a task that is not in the journal yet: its future, and its row for `accept`.

        Arguments and errors are as for `submit`, but for those of keys and of the journal.
        """

    def accept(self, rows: list[dict[str, Any]]) -> list[bool | str | Exception]:
        """Accept rows of drafts, of whichever process: the tasks are on the disk when this returns.

        Of several calls with one row, the first one counts. The future of a draft, if it is of
        this process, becomes that of the task. For each row there is True; False if the journal has
        too many tasks; the id of another task if that excludes this one by its key; or the
        JournalUnavailable for it. Raises KeyError, TypeError and OverflowError for what is no row.
        """
    def withdraw(self, future: Future[Any]) -> None:
        """Cancel the future of a draft that was not accepted, and never will be."""
    @property
    def identity(self) -> str:
        """What tells the file from all other journals; a copy of it has the same."""
    def submit_all(
        self,
        calls: Sequence[
            tuple[
                str,
                int,
                _Policy | None,
                str | None,
                str | None,
                bool,
                Executor | None,
                Callable[..., Any],
                tuple[Any, ...],
                dict[str, Any],
                tuple[str, str | None] | None,
            ]
        ],
    ) -> list[Future[Any]]:
        """Accept tasks in one commit, each given by the arguments of `submit` and what it follows.

        That is None, or "success" or "end" of the task with an id or, for None, of the task before.
        Tasks that follow one of the others are accepted together or not at all; otherwise all
        before the first that is refused are. Raises as `submit` for that one, and LookupError if
        there is no task to follow.
        """

    @staticmethod
    def held(future: Future[Any]) -> dict[str, Any] | None:
        """What holds up a plain task with `scope="machine"`, as `held` in `view`; None if nothing.

        Raises JournalUnavailable.
        """

    def has(self, future: Future[Any]) -> bool:
        """Whether the future is that of a durable task of this journal."""
    def get(self, id: str) -> Future[Any] | None:
        """The future of a task in the journal, of whichever process; None for an unknown id."""
    def view(self, id: str) -> dict[str, Any] | None:
        """The row of a task; its state is "gone" for a task that was forgotten, None if unknown."""
    def rows(
        self, states: Sequence[str], names: Sequence[str] | None, most: int, before: str | None
    ) -> list[dict[str, Any]] | None:
        """The rows of up to `most` tasks of the app, newest first, as from `view`.

        Only tasks in one of the states, or in any without one; of functions with one of these
        registered names, or None; from before the task with the id `before`. None if there is no
        such task.
        """

    def listed(
        self,
        kind: Literal["ready", "held", "running", "ended", "failed"],
        names: Sequence[str] | None,
        most: int,
        *,
        classes: Sequence[str] | None = None,
        before: tuple[int, int] | None = None,
        arguments: bool = False,
    ) -> list[dict[str, Any]]:
        """The rows of up to `most` tasks of a list, at most 2,000, as from `view` without results.

        "ready" has what waits for a worker, in the order of the starts. "held" has what may not
        start yet: what has a time comes first. "running" has the oldest start first; "ended", with
        what returned or was cancelled, and "failed" the last end first. `names` are the registered
        names of functions, or None. `classes` are up to four classes of errors, for "failed".
        `before` is the end of a task in microseconds since 1970, and its place: only ends from
        before that. With `arguments`, the beginning of these is there.
        """

    def classes(self, names: Sequence[str] | None, since: int) -> list[tuple[str | None, int, int]]:
        """The classes of errors of the last failures, at most 5,000, that ended from `since` on.

        Each with the number of its failures and the end of the last one. The most frequent class
        comes first. Times are in microseconds since 1970. `names` are as for `listed`.
        """

    def lacking(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that no task in the journal has or has had."""

    def version(self) -> tuple[int, int, int]:
        """What changes with each commit to the file, of any process; only for this process."""

    def names(self) -> list[str]:
        """The registered names of the app's functions in the journal."""
    def paused(self) -> list[str | None]:
        """The registered names of the functions that are paused; None among them: all are."""
    def retry(self, id: str) -> tuple[str, str | None]:
        """Have a failed task run again.

        Returns "retried"; or else the state of a task that has not failed, "plain", "gone" or
        "unknown"; or "twin" and the id of an unfinished task with the same `unique` key; or
        "follows" and the id of the task before, with which it has failed.
        """

    def pause(self, name: str | None) -> None:
        """Have no process start tasks of the function with this registered name; None: any task."""
    def resume(self, name: str | None) -> None:
        """End the pause of the function with this registered name; None: every pause."""
    def prune(self, states: Sequence[str], names: Sequence[str] | None, ended_before: int) -> int:
        """Forget tasks, as for `rows`, that ended before a time in microseconds; how many."""
    def claimed(self, id: str) -> Future[Any] | None:
        """The durable task with this id, if this process runs it or is about to."""
    def command(
        self, verb: str, target: str, actor: str | None, is_task: bool, patience: float
    ) -> tuple[Literal["done", "asked", "gone", "nowhere", "here", "not running"], str | None]:
        """Ask another process to do something, and wait up to `patience` seconds for its answer.

        With `is_task` it is for the process that runs the task with the id `target`; otherwise, or
        if the journal does not have that task, for the first process that has the target. Returns
        what became of it: "done", with the answer; "asked", without an answer yet; "gone", since
        the process has ended; "nowhere", if no process has the target; "here", if this one runs the
        task; "not running", with the task's state.
        """
    def adopt(self, executor: Executor) -> None:
        """Know the plain tasks of the executor of worker processes as those of its own."""
    def others(self, patience: float) -> list[tuple[int, str | None]]:
        """Ask the other processes of the app what their `show` returns: numbers and answers.

        Waits at most `patience` seconds. The answer is None for a process that has not answered by
        then. Nothing is written to the file. Raises JournalUnavailable.
        """
    def take_command(self, number: int) -> bool:
        """Take a command: False if it must not be done here, since it is taken or gone."""
    def settle(self, number: int, outcome: str) -> None:
        """Say what became of a command that this process has taken. Does not wait."""
    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of the app that the journal has, by name, as from `_Schedule.state`."""
    def stats(self) -> dict[str, int | None]:
        """The numbers of tasks by their state, of processes, and the bytes of the file.

        `oldest` is the time, in microseconds, since which a task waits for a worker, or None.
        """
    def record(self, about: str) -> None:
        """Note what happens to tasks from now on, and what there is to say of this process.

        `about` is JSON for `workers`; it does not change while the process lives.
        """
    def note(self, id: str, verb: str, actor: str | None) -> None:
        """Add what somebody did to a task to its events. Does not wait."""
    def steps(self, step: int) -> list[tuple[int, list[int], list[int], list[list[float] | None]]]:
        """The samples of all processes in steps of 5, 120 or 3,600 seconds, oldest first.

        Each is as in `Executor._samples`, and steps without a sample are not there. Raises
        JournalUnavailable, as all methods below.
        """
    def figures(self, bounds: list[float]) -> dict[str, dict[str, Any]]:
        """The figures of the functions of all processes in the last seven days, by name.

        Each as in `Executor.stats`; `buckets` has the counts of waits and of runs up to each of the
        ascending `bounds`, in seconds, and above the last one.
        """
    def minutes(self, since: int) -> list[tuple[str, int, int]]:
        """How many tasks of which name ended in which minute since 1970, from that one on."""
    def workers(self) -> list[dict[str, Any]]:
        """The processes of the app, and the last ones that have died, with their tasks."""
    def events(self, id: str) -> list[tuple[int, str, str | None, str | None, int]]:
        """What has happened to a task, oldest first: when, what, more, the person, the process.

        Only what its row does not tell: further attempts, deaths, what people did.
        """
    def links(self, id: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The tasks that a task follows, and those that follow it: ids and registered names.

        At most 20 each. The name of one that was forgotten is empty.
        """
    def stop_claiming(self) -> None:
        """Claim no more tasks in this process."""
    def close(self) -> None:
        """Leave the journal: its tasks belong to other processes from now on."""

_Taken: TypeAlias = tuple[bool, Future[Any] | None, int, int | None, int | None, int | None]
"""The answer about a tick, see `_Schedule.take`."""

@final
class _Schedule:
    """A job whose ticks the processes of a journal share. Times are in nanoseconds since 1970.

    May be used from any thread, and in a forked child.
    """

    def __new__(
        cls, journal: _Journal, job: str, name: str, rhythm: _Rhythm, alone: bool
    ) -> _Schedule:
        """The job with the id `job`. With `alone`, runs do not overlap; `name` is for people."""
    def is_taken(self, at: int, *, missed: bool = False) -> bool:
        """Whether there is nothing to be done at this tick, as far as can be seen without a turn.

        With `missed`, at the newest tick until `at`. Raises JournalUnavailable, as all methods.
        """
    def take(self, at: int | None, over: int | None) -> _Taken | None:
        """Take a tick of a plain job, or None for a run that is asked for.

        `over` is the number of the last run of this process, if that is over. Returns None if there
        is nothing to be done; else whether this process runs the job, no future, the number of the
        run, None, its tick and the newest one that was taken before. If the last run goes on:
        False, None, how many ticks were left out, the process of that run, None, None.
        """
    def submit(
        self,
        at: int | None,
        missed: bool,
        name: str,
        pool: int,
        policy: _Policy | None,
        options: str | None,
        once: str | None,
        disk: bool,
        executor: Executor | None,
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> _Taken | None:
        """Take a tick, and submit the task that runs at it, in one transaction.

        The task is as for `_Journal.submit`. With `missed`, `at` is the latest time of the newest
        tick that was missed. Returns as `take`, with the future of the task.
        """
    def note(self) -> None:
        """Tell the journal that this process has the job, for others to see. Does not wait."""
    def over(self, number: int) -> None:
        """The run of a plain job with this number is over. Does not wait."""
    def pause(self, paused: bool) -> None:
        """Have no process take ticks, or have them take ticks again from now on."""
    def state(self) -> dict[str, Any] | None:
        """What is known of the job; None if no process has had it.

        `id`, `name`, `task` (the id of the last run's), `runs`, `left_out`, `paused`, and in
        microseconds since 1970: `tick`, up to which all ticks are taken or count no more, `due`,
        the next one, and `ran`, the newest one that was run or left out.
        """

def _journal_check(path: str) -> list[tuple[bool, str]]:
    """Whether a journal can be at `path`: a line for each condition, and whether it holds."""

def _journal_inspect(path: str) -> list[tuple[bool, str]]:
    """As `_journal_check`, with what SQLite finds wrong in the file."""

def _journal_backup(path: str, to: str) -> None:
    """Copy the journal at `path` to a new file, while others use it. Raises JournalUnavailable."""

def _journal_salvage(path: str, to: str) -> tuple[int, int, int, bool]:
    """Copy what can be read of a damaged journal, which no process uses, to a new file.

    Returns the number of its tasks, of those that have not ended, of rows that are known to be
    lost, and whether more may be lost. Raises JournalUnavailable.
    """

def _events_counted() -> int:
    """How many events of tasks this process has had since the first `Executor._record`."""

def _generation() -> int:
    """The number of forks between the first process and this one."""

@final
class _Waiting:
    """The wait of a task for all of some other tasks, from now until `end()`.

    They must live until then. The waiter may be a future made by hand, which waits for a group of
    tasks. Raises WaitCycleError if it would never end.
    """

    def __new__(cls, waiter: Future[Any], *targets: Future[Any]) -> _Waiting: ...
    def end(self) -> None: ...

@final
class CurrentTask:
    """The handle of the task that runs on this thread; `current_task` is its only instance.

    In a coroutine, and in the code that it calls or starts, it is the handle of the coroutine's
    task.

    Outside a task every attribute raises RuntimeError.
    """

    @property
    def id(self) -> str:
        """The task's id."""
    @property
    def future(self) -> Future[Any]:
        """The same future that `delay` returned."""
    @property
    def attempt(self) -> int:
        """The number of this attempt; the first is 1."""
    @property
    def tick(self) -> datetime | None:
        """The tick (UTC, aware) for which this durable task runs, the same in every attempt.

        None for any other task: one that no job with `durable=True` has made, or `Job.run_now`.
        """
    @property
    def cancelled(self) -> bool:
        """Whether the task was told to stop: by `Future.stop`, or at shutdown after its time."""
    def check(self) -> None:
        """Raise `concurrent.futures.CancelledError` if the task was told to stop."""
    def progress(self, done: float, total: float | None, note: str = "") -> None:
        """Report the progress of the task, for `Future.progress`: `done` of `total`.

        Any unit will do; `total` is None if it is not known. Numbers of other classes, such as
        those of NumPy or Decimal, are kept as int or float. Raises TypeError for an argument that
        is not a number, ValueError for one that is not finite.
        """
    def retry(self, after: float | None = None) -> NoReturn:
        """End this attempt, and have the task run again `after` seconds later.

        With None, the delay is that of its `retry` option; without that option the task runs again
        at once. The option's number of times counts here too. When it is used up, the attempt fails
        with the exception that is being handled, or with a RuntimeError. Works by raising an
        exception that is not an `Exception`, so `except Exception` lets it through. Raises
        ValueError or TypeError for a bad `after`.
        """
    def checkpoint(self, value: object) -> None:
        """Keep `value` for the next attempt of this durable task, in place of the one before.

        Returns at once; the value is committed some milliseconds later, and in any case before the
        end of the attempt and of a later step. If the process ends in order meanwhile, this ends
        the attempt, which is not counted, and the task goes on in another process. It does so by
        raising an exception that is not an `Exception`, so `except Exception` lets it through.

        Raises RuntimeError in a task that is not durable, TypeError for a value that cannot be
        stored and ValueError for one that is too long: see `docs/durable.md`.
        """
    @property
    def checkpointed(self) -> Any:
        """The value of the last `checkpoint`, in whichever attempt; None before the first one.

        A new copy each time. Raises RuntimeError in a task that is not durable.
        """
    @overload
    def step(
        self,
        name: str,
        fn: Callable[_P, Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Coroutine[Any, Any, _T]: ...
    @overload
    def step(self, name: str, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return `fn(*args, **kwargs)`, which is called once for each task and `name`.

        The result is committed to the journal before this returns, and a later attempt of the task
        gets it from there. So it must be what the journal can carry, and comes as a copy. A step
        that did not end, since it raised or the process died, is called again by the next attempt.
        With a coroutine function, for a coroutine's task, await what this returns.

        Raises the exceptions of `fn`; RuntimeError in a task that is not durable; ValueError for a
        name that was used in this attempt already; TypeError or ValueError, naming the step, for a
        result that cannot be stored; JournalUnavailable if it was not stored, so that the step may
        be called again.
        """
    def _begin_loop(self) -> tuple[int, int] | None:
        """Begin a loop that can be resumed: its number, and how many items were done.

        None where no durable task runs. Raises RuntimeError if another loop goes on.
        """
    def _loop_done(self, number: int, done: int) -> None:
        """Keep that so many items of a loop are done. Raises as `checkpoint`."""
    def _end_loop(self, number: int) -> None:
        """End a loop."""

current_task: Final[CurrentTask]
