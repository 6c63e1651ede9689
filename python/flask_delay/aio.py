"""Coroutines: awaiting futures, and the event loop that runs `async def` tasks.

All coroutine tasks of a process share one loop. The loop runs as the only task of an executor of
its own, and only while it has work.
"""

import asyncio
import atexit
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Any

from flask_delay._native import (
    Future,
    Stream,
    WaitCycleError,
    _CoroutineTask,
    _generation,
    _service_executor,
    _set_hooks,
    _Step,
    _Waiting,
)
from flask_delay.logs import log as _logger

_Scope = Callable[[], AbstractContextManager[object]]

# The time for the loop's own clean-up at exit, in seconds; no accepted task counts towards it.
_GRACE = 1.0


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        # Used if the user has installed it. Imported by name, so that a signal handler that comes
        # here in the middle of the import does not see it either.
        from uvloop import new_event_loop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()


class _Loop:
    """The event loop of one process, and the worker it runs on."""

    def __init__(self) -> None:
        self._loop = _new_event_loop()
        self._executor = _service_executor("delay-loop")
        # Reentrant: a signal handler or a finalizer may submit a task at any point.
        self._lock = threading.RLock()
        # Guarded by the lock: the number of tasks that were started and have not ended, and whether
        # the worker has been told to run the loop.
        self._pending = 0
        self._running = False
        self._leaving = False
        # For the loop's thread alone: tasks that coroutines have started and not awaited.
        self._others: set[asyncio.Task[Any]] = set()

    def start(self, task: _CoroutineTask) -> None:
        """Run the task on the loop; from any thread."""
        with self._lock:
            if self._leaving:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if not self._running:
                # Set before the worker reads it, which may be before `submit` returns.
                self._running = True
                try:
                    self._executor.submit(self._run)
                except BaseException:
                    self._running = False
                    raise
            # The callback uses the task's own context, not the caller's.
            self._loop.call_soon_threadsafe(self._begin, task, context=Context())
            self._pending += 1

    def _run(self) -> None:
        while self._running:
            try:
                self._loop.run_forever()
            except BaseException:
                # asyncio lets SystemExit and KeyboardInterrupt through. Tasks that coroutines have
                # started may raise them; they must not end this worker.
                _logger.exception("raised in the event loop of coroutines, which goes on")

    def _begin(self, task: _CoroutineTask) -> None:
        runner: asyncio.Task[None] | None = None

        def cancel() -> None:
            if runner is not None:
                runner.cancel()

        def ended(runner: asyncio.Task[None]) -> None:
            del _runners[runner]
            if runner.cancelled():
                task.abandon()
            self._ended()

        try:
            # Any thread may call the canceller as soon as the task has begun.
            begun = task.begin(lambda: self._loop.call_soon_threadsafe(cancel))
            if begun is None:
                self._ended()
                return
            carried, scope = begun
            context = carried or Context()
            runner = self._loop.create_task(
                _body(task, scope), name=task.future.name, context=context
            )
        except BaseException as error:
            task.refuse(error)
            self._ended()
            return
        _runners[runner] = task.future
        runner.add_done_callback(ended, context=context)

    def _ended(self) -> None:
        with self._lock:
            self._pending -= 1
        self._rest()

    def _rest(self) -> None:
        """Stop the loop if it has nothing left to do."""
        # If the loop is stopped already, queued calls may still arrive here while it is closed.
        if self._pending or not self._running:
            return
        # Tasks that coroutines have started keep the loop running too, until exit.
        others = asyncio.all_tasks(self._loop)
        for other in others - self._others:
            other.add_done_callback(self._other_ended)
            if self._leaving:
                other.cancel()
        self._others |= others
        if others:
            return
        with self._lock:
            if not self._pending:
                self._running = False
                self._loop.stop()

    def _other_ended(self, other: asyncio.Task[Any]) -> None:
        self._others.discard(other)
        self._rest()

    def close(self) -> None:
        """Close the loop, unless a task that is out of time still runs."""
        with self._lock:
            self._leaving = True
            if self._running:
                self._loop.call_soon_threadsafe(self._leave)
        if self._executor.drain(_GRACE):
            self._executor.submit(self._finish)
            self._executor.drain(_GRACE)

    def _leave(self) -> None:
        for other in self._others:
            other.cancel()
        self._rest()

    def _finish(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def discard(self) -> None:
        """Close a loop that was never run."""
        self._loop.close()


# The tasks of the loop that runs in this process; for that loop's thread alone.
_runners: dict[asyncio.Task[Any], Future[Any]] = {}


async def _body(task: _CoroutineTask, scope: _Scope | None) -> None:
    # An exception of the task belongs to its future; the loop must not see it.
    surroundings = None
    returned = False
    try:
        if scope is not None:
            entering = scope()
            entering.__enter__()
            surroundings = entering
        running = task.call()
        result = await (_iterate(task, running) if task.yields else running)
        returned = True
        if surroundings is not None:
            leaving, surroundings = surroundings, None
            task.leave(leaving)
    except BaseException as error:
        if surroundings is not None:
            try:
                task.leave(surroundings, error)
            except BaseException:
                # A failing scope must not hide the task's own error.
                future = task.future
                _logger.exception("teardown after task %s (%s) raised", future.name, future.id)
        if isinstance(error, asyncio.CancelledError):
            raise
        # Without this frame, which refers to the future that holds the error.
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next
        task.fail(error, returned=returned)
    else:
        task.finish(result)


async def _iterate(task: _CoroutineTask, items: AsyncGenerator[Any, None]) -> None:
    """The coroutine of a task whose function is an asynchronous generator function."""
    async with contextlib.aclosing(items):
        async for item in items:
            if task.patience:
                await _offer(task, item)
            else:
                task.push(item)
            # A generator need not await anything: other coroutines have their turn here, and a
            # cancellation arrives.
            await asyncio.sleep(0)


async def _offer(task: _CoroutineTask, item: object) -> None:
    """Give the item to the readers, once none would miss another one for it, or its time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + task.patience
    while loop.time() < end:
        woken = loop.create_future()

        def wake(_: Future[Any], woken: asyncio.Future[None] = woken) -> None:
            # As in `wait`.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, woken)

        if task.push(item, wake):
            return
        await asyncio.wait([woken], timeout=end - loop.time())
    task.push(item)


class _Loops:
    """The event loop of this process, made at first use.

    Loops of the processes from which this process was forked stay untouched forever: closing one
    would remove its sockets from the parent's selector, which both processes share. The native
    module keeps this object until the very end of the interpreter.
    """

    def __init__(self) -> None:
        self._loops: dict[int, _Loop] = {}
        # Runs after all other exit functions, and before the native module's own hook.
        atexit.register(self._close)

    def start(self, task: _CoroutineTask) -> None:
        """Run a task on this process's event loop."""
        generation = _generation()
        loop = self._loops.get(generation)
        if loop is None:
            # No lock here: a fork in another thread could leave it locked.
            mine = _Loop()
            loop = self._loops.setdefault(generation, mine)
            if loop is not mine:
                mine.discard()
        loop.start(task)

    def _close(self) -> None:
        loop = self._loops.get(_generation())
        if loop is not None:
            loop.close()


def wait(future: Future[Any]) -> Generator[Any, None, Any]:
    """The iterator behind `await future`, in any running event loop.

    Cancelling the await cancels the task, unless the task runs on a worker already.
    """
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake(_: Future[Any]) -> None:
        # A closed loop has no awaiting task left.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_wake, woken)

    if future._add_waker(wake):
        waiting = None
        try:
            waiting = _enter_wait(future)
            yield from woken
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            if waiting is not None:
                waiting.end()
            future._drop_waker(wake)
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()


def runs_task() -> bool:
    """Whether this code is that of a coroutine task, which a wait of the thread would block."""
    try:
        return asyncio.current_task() in _runners
    except RuntimeError:
        return False


def _enter_wait(future: Future[Any]) -> _Waiting | None:
    """Note which task waits for the future; raise WaitCycleError if it would never end."""
    current = asyncio.current_task()
    # A task that a coroutine has started does not block that coroutine.
    waiter = None if current is None else _runners.get(current)
    return None if waiter is None else _Waiting(waiter, future)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def _next_item(items: Stream[Any]) -> Any:
    """The coroutine of `Stream.__anext__`, in any running event loop."""
    loop = asyncio.get_running_loop()
    seconds = items._timeout  # noqa: SLF001
    end = None if seconds is None else loop.time() + seconds
    while True:
        if found := items._take():  # noqa: SLF001
            return found[0]
        woken = loop.create_future()
        waiting = None
        try:
            waiting = _enter_wait(items._future)  # noqa: SLF001
        except WaitCycleError:
            # The task may have yielded just before it began to wait for this one.
            if found := items._take():  # noqa: SLF001
                return found[0]
            raise

        def wake(
            _: Future[Any],
            woken: asyncio.Future[None] = woken,
            waiting: _Waiting | None = waiting,
        ) -> None:
            # Before the task goes on, and perhaps waits for this one.
            if waiting is not None:
                waiting.end()
            # As in `wait`.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, woken)

        try:
            if items._add_waker(wake):
                async with asyncio.timeout_at(end):
                    await woken
        finally:
            if waiting is not None:
                waiting.end()
            items._drop_waker(wake)


async def _step(
    step: _Step, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> Any:
    """The coroutine of `current_task.step` with a coroutine function."""
    if step.is_done:
        return step.result()
    try:
        result = await fn(*args, **kwargs or {})
    except BaseException:
        step.forget()
        raise
    loop = asyncio.get_running_loop()
    stored: asyncio.Future[None] = loop.create_future()

    def told(error: BaseException | None) -> None:
        # As in `wait`.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, stored, error)

    value = step.end(result, told)
    await stored
    return value


def _settle(stored: asyncio.Future[None], error: BaseException | None) -> None:
    if stored.done():
        return
    if error is None:
        stored.set_result(None)
    else:
        stored.set_exception(error)


_set_hooks(start=_Loops().start, wait=wait, step=_step, next_item=_next_item)
