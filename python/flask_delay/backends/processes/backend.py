"""`backend="processes"`: tasks that compute, in worker processes of this machine.

The tasks are those of a second native executor: futures, callbacks, logs, signals, retries
and all options are its. What its workers call hands the work to a child and waits for it.
Each child runs one task at a time, so that a child that is killed fails that task alone.

Why a child is started with `subprocess` and talked to over a socket, in frames of our own with
cloudpickle's bytes in them, and not by a pool of loky, of Pebble or of the standard library,
with one process each (`make bench CASES=processes` shows what can be measured of it):

- A queue, futures, retries and deadlines are there already, in the native executor. Of a pool
  only a process that runs calls would be used, and none of them lets its owner tell it
  something, or hear of it, while it runs one.
- When the server is killed, their processes stay for ever. These see it, and end.
- All three have their processes in the books of `multiprocessing`. In a process that is forked
  later, as gunicorn's are from one that has preloaded the app, those are wrong: its exit fails
  with an AssertionError, and with Pebble ends the parent's processes in the middle of a task.
- `ProcessPoolExecutor` and Pebble import the server's `__main__` in each child, and what an
  unguarded script does there it does again.
- loky and `ProcessPoolExecutor` close at the interpreter's exit whatever is queued, unless who
  waits for it has registered later than they.
- `ProcessPoolExecutor` has no way before Python 3.14 to end the one process whose task takes
  too long, but a signal to its id.
"""

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from flask import Flask

from flask_delay import context, registry, state
from flask_delay._native import (
    Executor,
    Future,
    _check_function,
    _generation,
    _Policy,
    current_task,
)
from flask_delay.backends import base
from flask_delay.backends.base import ProcessDied
from flask_delay.backends.message import TaskMessage
from flask_delay.backends.processes.child import Child
from flask_delay.backends.processes.frames import Frame, Kind
from flask_delay.backends.processes.settings import Settings
from flask_delay.backends.serializer.pickles import Parcels
from flask_delay.backends.serializer.references import Names, main_module
from flask_delay.config import Config
from flask_delay.servers.cpython import before_threads_end

# Seconds within which a worker process should have loaded an app.
_LOADING = 60.0


def problem(name: str, settings: Config) -> str | None:
    """Why no task of the `Delay` of this name could run with these settings; None if all can."""
    if settings.of(Settings).app is not None:
        return None
    return (
        f"{name.upper()}_APP is None, and a worker process would not know which app to load: set it"
        f' to where the app is, as FLASK_APP is written ("module:app" or "module:create_app()")'
    )


class Backend(base.Backend):
    """The worker processes of one `Delay` on one app. May be used from any thread."""

    cannot = MappingProxyType(
        {"request": "a worker process has no request; pass the values that the task needs"}
    )

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        """Have none yet. Raises ValueError without the setting `APP`."""
        own, missing = settings.of(Settings), problem(name, settings)
        if own.app is None or missing:
            raise ValueError(missing)
        self.executor: Executor = state.make_executor(
            app,
            settings,
            max_workers=own.processes or _processors(),
            name=f"{name}-process",
            step=self._step,
            # A child may have the app to load, which is none of a task's time.
            late_start=True,
        )
        self._app = own.app
        names = Names(main_module(own.app), is_worker=False)
        names.app = app
        self._parcels = Parcels(names)
        self._app_name = app.name
        self._name = f"{name}-process"
        self._timeout = settings.shutdown_timeout
        self._closed = False
        self._children = _Children()
        _backends.add(self)

    def submit(
        self,
        policy: _Policy | None,
        _options: Mapping[str, object],
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[Any]:
        """Have `fn(*args, **kwargs)` run in a child; see `flask_delay.backends.base`.

        The arguments are those of now. Raises TypeError for what cannot be pickled.
        """
        _check_function(fn, "task")
        for value in (*args, *kwargs.values()):
            context.check(value)
        call = _Call(self, fn)
        call.pack(*args, **kwargs)
        # Also here, for what goes by them: `key` and `unique`.
        return self.executor._submit_with(policy, None, call, *args, **kwargs)  # noqa: SLF001

    def pack(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        """A call for a child. Raises as `submit`."""
        return self._parcels.pack_call(name, fn, args, kwargs)

    def _step(self, fn: Callable[..., Any]) -> "_Call":
        """What is called for a function that is to follow one of the tasks."""
        call = _Call(self, fn)
        # What cannot go there is said now. It goes when its argument is known.
        self.pack(call.__qualname__, fn, (), {})
        return call

    def run(self, name: str, data: bytes) -> Any:
        """Have a call run in a child. Called by a worker, as its task."""
        future = current_task.future
        children = self._mine()
        child, answer = None, None
        try:
            child = children.take(partial(Child, self._app, self._name, self._parcels))
            if child.await_app(future.done) and not current_task.cancelled:
                future._begin()  # noqa: SLF001
                message = TaskMessage(id=current_task.id, name=name, attempt=current_task.attempt)
                answer = child.run(
                    message,
                    data,
                    stopped=lambda: current_task.cancelled,
                    given_up=future.done,
                    progress=current_task.progress,
                )
        except ProcessDied:
            if current_task.cancelled:
                # At exit, when its time was over.
                raise CancelledError("the task was told to stop") from None
            raise
        finally:
            # An exception of `timeout` and `stop` comes by here too: then what runs in the
            # child is ended with it. One that loads the app still goes on for another task.
            if child is not None and child.is_free():
                children.give_back()
                if self._closed:
                    children.end(wait=False)
            else:
                children.kill()
        return _conclude(self._parcels, name, answer)

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """See `flask_delay.backends.base`. The children end when they have nothing left to do."""
        self._closed = True
        self.executor.shutdown(wait, cancel_futures=cancel_futures)
        children = self._mine()
        children.end(wait=wait)
        if wait:
            children.wait(None)

    def diagnose(self) -> Iterator[base.Finding]:
        """Run a task in a worker process."""
        begin = time.perf_counter()
        try:
            name = self.submit(None, {}, _name_of_app).result(_LOADING)
        except TimeoutError:
            yield "wrong", f"no worker process had loaded the app after {_LOADING:g} s"
        except Exception as error:
            # What is missing, why the app cannot be loaded there.
            yield "wrong", f"{type(error).__name__}: {error}"
        else:
            took = time.perf_counter() - begin
            if name == self._app_name:
                yield "ok", f"a task ran in a worker process, after {took:.1f} s"
            else:
                key = f"{self._name.removesuffix('-process').upper()}_APP"
                text = f"a worker process has loaded the app {name!r}: set {key} to where"
                yield "wrong", f"{text} {self._app_name!r} is"

    def end(self, began: float) -> None:
        """End all children, at the process's exit, which began then (monotonic)."""
        self._closed = True
        children = self._mine()
        children.end(wait=True)
        children.strike()
        children.wait(None if self._timeout is None else began + self._timeout)

    def forget_parent(self) -> None:
        """Leave the children alone in a process that was just forked."""
        self._mine()

    def _mine(self) -> "_Children":
        children = self._children
        if children.generation == _generation():
            return children
        children.disown()
        self._children = mine = _Children()
        return mine


def _name_of_app() -> str:
    return context.current().name


class _Children:
    """The children of one process. No lock: each access is one step.

    An exception from outside may come between any two. Then a child may be dropped; it sees
    that, by its connection, and ends.
    """

    def __init__(self) -> None:
        self.generation = _generation()
        self._idle: list[Child] = []
        # By the thread that waits for its task.
        self._busy: dict[int, Child] = {}
        # They were asked to end.
        self._ending: list[Child] = []

    def __del__(self) -> None:
        # The app was dropped, and nobody had it shut down.
        while self._idle and self.generation == _generation():
            self._idle.pop().kill()

    def take(self, make: Callable[[], Child]) -> Child:
        """One that has nothing to do, for this thread; a new one, if there is none."""
        self._reap()
        thread = threading.get_ident()
        while self._idle:
            try:
                self._busy[thread] = child = self._idle.pop()
            except IndexError:
                break
            if child.is_fit():
                return child
            self.kill()
        self._busy[thread] = child = make()
        return child

    def give_back(self) -> None:
        """This thread's child has nothing to do any more."""
        self._idle.append(self._busy.pop(threading.get_ident()))

    def kill(self) -> None:
        """End this thread's child, if it has one."""
        child = self._busy.pop(threading.get_ident(), None)
        if child is not None:
            child.kill()

    def strike(self) -> None:
        """End those that have a task still."""
        for child in list(self._busy.values()):
            child.strike()

    def end(self, *, wait: bool) -> None:
        """Have those end that have nothing to do; say whether `wait` is called for them."""
        while self._idle:
            try:
                child = self._idle.pop()
            except IndexError:
                return
            child.end()
            self._ending.append(child)
            if not wait:
                child.reap_later()

    def wait(self, deadline: float | None) -> None:
        """Wait for those that were asked to end; see `Child.wait`."""
        while self._ending:
            try:
                child = self._ending.pop()
            except IndexError:
                return
            child.wait(deadline)

    def disown(self) -> None:
        """They are another process's."""
        for child in [*self._idle, *self._busy.values(), *self._ending]:
            child.disown()

    def _reap(self) -> None:
        for child in list(self._ending):
            if child.is_over():
                self._ending.remove(child)


class _Call:
    """What a worker calls for one task."""

    def __init__(self, backend: Backend, fn: Callable[..., Any]) -> None:
        self._backend = backend
        self._fn = fn
        self._data: bytes | None = None
        # The task's name is read from here.
        self.__qualname__ = registry.task_name(fn)

    def pack(self, *args: Any, **kwargs: Any) -> bytes:
        """Keep these arguments, as they are now. Raises TypeError for what cannot be pickled."""
        self._data = self._backend.pack(self.__qualname__, self._fn, args, kwargs)
        return self._data

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        data = self._data
        if data is None:
            # Of a task that follows another one, the first time.
            data = self.pack(*args, **kwargs)
        return self._backend.run(self.__qualname__, data)

    # As the function: `limit`, `rate` and `unique` go by it.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self._fn == other._fn

    def __hash__(self) -> int:
        return hash(self._fn)

    def __repr__(self) -> str:
        return repr(self._fn)


def _conclude(parcels: Parcels, name: str, answer: Frame | None) -> Any:
    """Do here what the task has done there."""
    match answer:
        case Frame(Kind.RETURNED, _, _, data):
            return parcels.unpack_result(name, data)
        case Frame(Kind.RAISED, _, text, data):
            raise parcels.unpack_exception(text, data)
        case Frame(Kind.AGAIN, _, [after, None], _):
            current_task.retry(after)
        case Frame(Kind.AGAIN, _, [after, text], data):
            _retry_after(parcels.unpack_exception(text, data), after)
    raise CancelledError("the task was told to stop")


def _retry_after(exception: BaseException, after: float | None) -> NoReturn:
    """Ask for another attempt while this is handled, which is remembered."""
    try:
        raise exception  # noqa: TRY301 (to handle it)
    except BaseException:
        current_task.retry(after)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_backends: weakref.WeakSet[Backend] = weakref.WeakSet()


class _Exit:
    """When the interpreter began to exit: tasks and children have one time limit for both."""

    began: float | None = None

    @classmethod
    def note(cls) -> None:
        cls.began = time.monotonic()

    @classmethod
    def end_children(cls) -> None:
        for backend in list(_backends):
            backend.end(cls.began or time.monotonic())


def _forget_parent() -> None:
    for backend in list(_backends):
        backend.forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
# Before tasks end, and after that: see process/exit.rs.
before_threads_end(_Exit.note)
atexit.register(_Exit.end_children)
