"""`group`: tasks that end before a `with` block does, as in trio and `asyncio.TaskGroup`."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from types import TracebackType
from typing import Any, Self, Unpack, cast

from flask_delay import aio, bells, state, validators
from flask_delay._native import (
    Executor,
    ForkedFutureError,
    Future,
    TaskTimeout,
    _generation,
    _set_method,
    _Waiting,
    current_task,
)
from flask_delay.options import NONE, AllOptions, Chosen, Options
from flask_delay.state import State
from flask_delay.submit import OPTIONED, Find, Submitter, Using, submitting

# Seconds until tasks that are stopped get an exception.
_AFTER = 1.0
_CANCELLED = (CancelledError, asyncio.CancelledError)


class Group(Submitter):
    """Tasks that end before a block does; made by `group`.

    `with executor.group() as group:` or `async with`. `group.delay` and `group.map` submit tasks of
    the group, in the block or in a task of the group. The block is left when all of them have
    ended. A task may wait there, too: another worker takes its place meanwhile.

    The first failure stops the other tasks, as by `Future.stop()`, and is raised when they have
    ended; several, and the exception of the block if it has one, are an `ExceptionGroup`. A task
    that was cancelled is no failure. An exception of the block stops the tasks as well, and so does
    stopping the task to which the block belongs. `KeyboardInterrupt`, `SystemExit` and other
    exceptions of the block that are no `Exception` are raised alone; a second Ctrl-C leaves at
    once. A task that is stuck ends as after `stop()`: it is cancelled, though its code may still
    run.

    With a `timeout` the tasks are stopped so many seconds after the beginning of the block, and
    TimeoutError is raised. A plain block is not interrupted; once the tasks are stopped, `delay`
    raises `concurrent.futures.CancelledError` there. An `async with` block is cancelled.

    A group is used once. Its methods may be called from any thread. In a forked child it raises
    ForkedFutureError.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_base",
        "_bell",
        "_deadline",
        "_failed",
        "_generation",
        "_halted",
        "_interrupted",
        "_is_late",
        "_joining",
        "_leaving",
        "_limit",
        "_lock",
        "_loop",
        "_open",
        "_over",
        "_owner",
        "_parent",
        "_run_pending",
        "_stopping",
        "_submit",
        "_told",
        "_waker",
    )

    def __init__(
        self,
        find: Find,
        submit: Callable[[], Callable[..., Any]],
        timeout: float | None,
        run_pending: Callable[[], object] | None = None,
    ) -> None:
        self._limit: float | None = None
        if timeout is not None:
            self._limit = validators.checked(
                validators.seconds, timeout, "timeout", "a number of seconds above 0, or None"
            )
        self._base = find
        self._submit = submit
        # In the mode "manual", where nothing else runs the tasks.
        self._run_pending = run_pending
        # Reentrant: a signal handler may submit, too.
        self._lock = threading.RLock()
        # The lock guards all that follows. None: the block has not begun.
        self._generation: int | None = None
        self._deadline: float | None = None
        self._open: dict[Future[Any], None] = {}
        # The number of submits that have not returned.
        self._joining = 0
        self._failed: list[Future[Any]] = []
        self._is_late = self._stopping = self._halted = self._leaving = self._over = False
        # What leaves the block waits for it; rung when there is something to see.
        self._bell: Future[None] | None = None
        # The task of the block, and what it calls when it is told to stop; whether it was.
        self._owner: Future[Any] | None = None
        self._waker = self._tell
        self._told = False
        # Of an `async with`.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parent: asyncio.Task[Any] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._interrupted = False

    def __repr__(self) -> str:
        where = "ended" if self._over else "stopping" if self._stopping else "open"
        if self._generation is None:
            where = "not begun"
        return f"<Group {where}, {len(self._open)} tasks have not ended>"

    def using(self, **options: Unpack[Options]) -> Using:
        """The methods `delay` and `map` of this group, with options.

        Raises TypeError and ValueError as `flask_delay.using`, and ValueError for `every`, `cron`,
        `within` and `after_commit`.
        """
        chosen = Chosen(cast("AllOptions", options))
        _check(chosen)
        return _Using(self, chosen)

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if issubclass(type(fn), OPTIONED):
            return self._submitting_with(NONE, fn, many=many)
        return functools.partial(self._join, self._submit()), fn

    def _submitting_with(
        self, chosen: Chosen, fn: Any, *, many: bool
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        submit, fn = submitting(self._find, chosen, fn, many=many)
        return functools.partial(self._join, submit), fn

    def _find(
        self, chosen: Chosen, future: Future[Any] | None = None, on: str = "success", /
    ) -> Callable[..., Any]:
        _check(chosen)
        return self._base(chosen, future, on)

    # --- Tasks ----------------------------------------------------------------------

    def _join(self, submit: Callable[..., Any], fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a task of the group."""
        self._check_begun()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._expire()
        with self._lock:
            if self._over:
                raise RuntimeError("the group has ended, so it takes no more tasks")
            if self._stopping:
                raise CancelledError("the tasks of the group are being stopped")
            self._joining += 1
        try:
            future = submit(fn, *args, **kwargs)
            self._add(future)
            return future
        finally:
            with self._lock:
                self._joining -= 1
            self._ring()

    def _add(self, future: Future[Any]) -> None:
        with self._lock:
            # With `unique` or `once` it may have been there.
            if future in self._open:
                return
            self._open[future] = None
        if not future._add_waker(self._end):
            self._end(future)
        # User code may run when tasks are stopped, and that is for callbacks alone.
        future.add_done_callback(self._follow)
        if self._stopping:
            future.stop(_AFTER)

    def _end(self, future: Future[Any]) -> None:
        """Note the end of a task. Any thread calls this, so it does not block."""
        has_failed = not future.cancelled() and future.exception() is not None
        with self._lock:
            if self._open.pop(future, self) is self:
                return
            if has_failed:
                self._failed.append(future)
                self._stopping = True
            is_news = has_failed or not self._open
        if is_news:
            self._ring()

    def _follow(self, future: Future[Any]) -> None:
        """Stop the other tasks after a failure; the callback of each task."""
        self._end(future)
        if self._stopping:
            self._halt()

    def _ring(self) -> None:
        with self._lock:
            bell, self._bell = self._bell, None
            loop = self._loop if self._stopping and not self._leaving else None
        if bell is not None:
            # Its wait may have been cancelled.
            with contextlib.suppress(InvalidStateError):
                bell.set_result(None)
        if loop is not None:
            # A closed loop runs no block.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._interrupt)

    def _halt(self, after: float | None = _AFTER, *, again: bool = False) -> None:
        """Stop all tasks, once."""
        with self._lock:
            self._stopping = True
            if self._halted and not again:
                return
            self._halted = True
            members = list(self._open)
        for future in members:
            future.stop(after)
        self._ring()

    def _tell(self, after: float | None) -> None:
        """The task of the block is told to stop; those of the group have half of its time."""
        self._told = True
        self._halt(None if after is None else after / 2)

    def _expire(self) -> None:
        with self._lock:
            # The tasks have no other time limit.
            self._deadline = None
            if not self._open and not self._joining:
                return
            self._is_late = self._is_late or not self._stopping
        self._halt()

    # --- The block ------------------------------------------------------------------

    def _begin(self) -> None:
        with self._lock:
            if self._generation is not None:
                raise RuntimeError("a group is for one block: make another one by group()")
            self._generation = _generation()
            if self._limit is not None:
                self._deadline = time.monotonic() + self._limit

    def _check_begun(self) -> None:
        if self._generation is None:
            raise RuntimeError(
                "the group has not begun: write `with executor.group() as group:`, and call its"
                " methods in that block"
            )
        if self._is_foreign():
            raise ForkedFutureError(
                "the group belongs to the process from which this process was forked"
            )

    def _is_foreign(self) -> bool:
        return self._generation != _generation()

    def _round(self) -> tuple[Future[None], list[Future[Any]]] | None:
        """A bell for the next news, and the tasks that have not ended.

        None if there are none: then the group has ended.
        """
        with self._lock:
            self._leaving = True
            members = list(self._open)
            if members or self._joining:
                bell: Future[None] = Future()
                self._bell = bell
                return bell, members
            self._over = True
            return None

    def __enter__(self) -> Self:
        if aio.runs_task():
            raise RuntimeError(
                "the end of the block would block the event loop: write `async with` in a coroutine"
            )
        self._begin()
        with contextlib.suppress(RuntimeError):
            self._owner = current_task.future
        if self._owner is not None:
            self._owner._add_stop_waker(self._waker)  # noqa: SLF001
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_foreign():
            if error is None:
                self._check_begun()
            return
        ended: BaseException | None = None
        try:
            if error is not None:
                self._halt()
            ended = self._wait(error)
            self._raise(error, ended)
        finally:
            if self._owner is not None:
                self._owner._drop_stop_waker(self._waker)  # noqa: SLF001
            self._close()
            # Exceptions refer to this frame.
            del error, ended

    def _wait(self, error: BaseException | None) -> BaseException | None:
        """Wait for all tasks. Returns the exception by which the wait was interrupted.

        The block has raised `error`.
        """
        ended: BaseException | None = None
        may_raise = error is not None and not isinstance(error, Exception)
        try:
            while (found := self._round()) is not None:
                try:
                    with self._hearing(*found) as bell:
                        bells.wait(bell, self._left())
                except (CancelledError, TaskTimeout) as raised:
                    # The task of the block has no time left.
                    ended = ended or raised
                    self._halt(0, again=True)
                except TimeoutError:
                    self._expire()
                except BaseException as raised:
                    if may_raise:
                        raise
                    may_raise = True
                    ended = raised
                    self._halt(again=True)
            return ended
        finally:
            del error, ended

    def _left(self) -> float | None:
        """Seconds until the tasks are to be stopped; None if they are."""
        deadline = self._deadline
        return None if deadline is None or self._stopping else max(deadline - time.monotonic(), 0)

    @contextlib.contextmanager
    def _hearing(self, bell: Future[None], members: list[Future[Any]]) -> Iterator[Future[None]]:
        """What waits for the bell waits for the tasks."""
        if self._stopping:
            self._halt()
        if self._run_pending is not None:
            self._run_pending()
        # Tasks that are stopped end, whatever they wait for.
        waiting = None if self._stopping else _Waiting(bell, *members)
        try:
            yield bell
        finally:
            if waiting is not None:
                waiting.end()

    def _close(self) -> None:
        with self._lock:
            self._over = True
            self._owner = self._loop = self._parent = self._bell = None
            # Their exceptions refer to frames with this group.
            self._failed = []

    def _raise(self, error: BaseException | None, ended: BaseException | None) -> None:
        """Raise what the block ends with, unless that is its own exception `error`."""
        outcome = self._outcome(error, ended)
        try:
            if outcome is None or outcome is error:
                return
            for future in self._failed:
                if outcome is future.exception():
                    # With the task's own traceback.
                    future.result()
            raise outcome
        finally:
            del outcome, error, ended

    def _outcome(
        self, error: BaseException | None, ended: BaseException | None
    ) -> BaseException | None:
        """The exception with which the block ends: it has raised one, or its wait the other."""
        given = [it for it in (ended, error) if it is not None]
        for it in given:
            if not isinstance(it, Exception | asyncio.CancelledError):
                return it
        errors = [it for it in given if not isinstance(it, _CANCELLED)]
        if self._is_late:
            errors.append(TimeoutError(f"the tasks of the group took longer than {self._limit} s"))
        failures = [future.exception() for future in self._failed]
        errors += [it for it in failures if it is not None]
        if len(errors) > 1:
            made = BaseExceptionGroup("several errors in a group of tasks", errors)
            # It has that of the block.
            made.__suppress_context__ = True
            return made
        if errors or given:
            return (errors or given)[0]
        return CancelledError("the task was told to stop") if self._told else None

    # --- The block of a coroutine ---------------------------------------------------

    async def __aenter__(self) -> Self:
        self._begin()
        self._loop = asyncio.get_running_loop()
        self._parent = asyncio.current_task()
        if self._limit is not None:
            self._alarm = self._loop.call_later(self._limit, self._expire)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._is_foreign():
            if error is None:
                self._check_begun()
            return False
        ended: BaseException | None = None
        try:
            if error is not None:
                self._halt()
            while (found := self._round()) is not None:
                try:
                    with self._hearing(*found) as bell:
                        await bell
                except asyncio.CancelledError as raised:
                    ended = ended or raised
                    self._halt(again=True)
                except Exception as raised:
                    if ended is not None:
                        raise
                    ended = raised
                    self._halt(again=True)
            is_ours = self._is_interrupt(error)
            self._raise(None if is_ours else error, ended)
            return is_ours
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            self._close()
            del error, ended

    def _interrupt(self) -> None:
        """Cancel the block; called by its loop."""
        if self._parent is not None and not self._leaving and not self._interrupted:
            self._interrupted = True
            self._parent.cancel()

    def _is_interrupt(self, error: BaseException | None) -> bool:
        """Whether the block was cancelled by `_interrupt`, and by nobody else."""
        if not self._interrupted or self._parent is None:
            return False
        return self._parent.uncancel() == 0 and isinstance(error, asyncio.CancelledError)


class _Using(Using):
    """The methods of a group with options."""

    __slots__ = ("_group",)

    def __init__(self, group: Group, chosen: Chosen) -> None:
        super().__init__(group._find, chosen)
        self._group = group

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return self._group._submitting_with(self._chosen, fn, many=many)  # noqa: SLF001


def _check(chosen: Chosen) -> None:
    """Raise ValueError for options that are not for the tasks of a group."""
    why = {
        "every": "a job does not end: start it outside the block",
        "cron": "a job does not end: start it outside the block",
        "within": "the task starts after a commit, for which the block may wait in vain: submit it"
        " outside the block",
        "after_commit": "the task starts after a commit, for which the block may wait in vain:"
        " submit it outside the block",
    }
    for name, value in chosen.given.items():
        if name in why and value is not None:
            raise ValueError(
                f"the option {name!r} is {value!r}, but it is not for a group: {why[name]}"
            )


def of_state(found: State, timeout: float | None) -> Group:
    """A group of tasks of a `Delay`."""
    is_manual = found.config.mode == "manual"
    run_pending = found.executor.run_pending if is_manual else None
    return Group(found.find, lambda: found.submit, timeout, run_pending)


def _of_executor(self: Executor, timeout: float | None = None) -> Group:
    # By name, because a subclass may override `submit`.
    return Group(state.found_in(self), lambda: self.submit, timeout)


_set_method("group", _of_executor)


def group(timeout: float | None = None) -> Group:
    """Make a group of tasks: a `with` block that ends when all tasks of the group have ended.

    See `Group`. Its tasks belong to the Delay of the current app or of the only one there is, or
    to the executor of the process, as with `delay`. `timeout` is in seconds, from the beginning of
    the block. Raises as `delay`, and TypeError or ValueError for a bad `timeout`.
    """
    found = state.meant_state()
    if found is None:
        return _of_executor(state.shared_executor(), timeout)
    return of_state(found, timeout)
