"""Coroutines: awaiting futures, and the event loop that runs tasks given as `async def`.

All coroutine tasks of a process share one loop, which runs as the only task of an executor
of its own, and only while there is something for it to do.
"""

import asyncio
import atexit
import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

from flask_delay import _native
from flask_delay._native import Future, _CoroutineTask

_Scope = Callable[[], AbstractContextManager[object]]


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Loop:
    """The event loop of one process, and the worker it runs on."""

    def __init__(self) -> None:
        self.generation = _native._generation()
        self._loop = _new_event_loop()
        self._executor = _native._service_executor("delay-loop")
        self._lock = threading.Lock()
        # Under the lock: tasks that were started and have not ended, and whether the
        # worker has been told to run the loop.
        self._pending = 0
        self._running = False
        self._leaving = False
        atexit.register(self._close)

    def start(self, task: _CoroutineTask) -> None:
        """Have the loop run the task; from any thread."""
        with self._lock:
            self._loop.call_soon_threadsafe(self._begin, task)
            self._pending += 1
            if not self._running:
                self._executor.submit(self._run)
                self._running = True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _begin(self, task: _CoroutineTask) -> None:
        try:
            begun = task.begin(lambda: self._loop.call_soon_threadsafe(runner.cancel))
            if begun is None:
                self._ended()
                return
            context, scope = begun
            runner = self._loop.create_task(
                _body(task, scope),
                name=task.future.name,
                context=context or contextvars.Context(),
            )
        except BaseException as error:
            task.refuse(error)
            self._ended()
            raise
        runner.add_done_callback(lambda _: self._ended())

    def _ended(self) -> None:
        with self._lock:
            self._pending -= 1
        self._rest()

    def _rest(self) -> None:
        # Tasks that coroutines have started keep the loop running too, until exit.
        others = asyncio.all_tasks(self._loop) if self._pending == 0 else set()
        for other in others:
            if self._leaving:
                other.cancel()
            else:
                other.add_done_callback(lambda _: self._rest())
        with self._lock:
            if self._pending == 0 and not others:
                self._running = False
                self._loop.stop()

    def _close(self) -> None:
        # At exit, when all tasks have ended, or their time is over.
        if self.generation != _native._generation():
            return
        self._leaving = True
        if self._running:
            self._loop.call_soon_threadsafe(self._rest)
        if self._executor.drain(1.0):
            self._loop.close()


async def _body(task: _CoroutineTask, scope: _Scope | None) -> None:
    # Whatever the task raises belongs to its future; the loop must not see it.
    try:
        if scope is None:
            result = await task.call()
        else:
            with scope():
                result = await task.call()
    except asyncio.CancelledError:
        task.abandon()
    except BaseException as error:
        task.fail(error)
    else:
        task.finish(result)


_loop: _Loop | None = None
_make_lock = threading.Lock()


def _forget_lock() -> None:
    # Another thread may have held it when this process was forked.
    global _make_lock
    _make_lock = threading.Lock()


def start(task: _CoroutineTask) -> None:
    """Run a task on this process's event loop."""
    global _loop
    loop = _loop
    if loop is None or loop.generation != _native._generation():
        with _make_lock:
            if _loop is None or _loop.generation != _native._generation():
                _loop = _Loop()
            loop = _loop
    loop.start(task)


def wait(future: Future[Any]) -> Generator[Any, None, Any]:
    """The iterator behind `await future`, in any running event loop.

    If the await is cancelled, so is the task, unless it runs on a worker already.
    """
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake(_: Future[Any]) -> None:
        # The loop may have been closed: then nobody awaits any more.
        if not loop.is_closed():
            loop.call_soon_threadsafe(_wake, woken)

    if future._add_waker(wake):
        try:
            yield from woken
        except asyncio.CancelledError:
            future.cancel()
            raise
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


_native._set_hooks(start=start, wait=wait)
