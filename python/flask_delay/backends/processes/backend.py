"""`backend="processes"`: tasks that compute, in worker processes of this machine.

A second native executor runs these tasks: it provides futures, callbacks, logs, signals, retries
and all options. Each of its workers passes its call to a child process and waits for the answer. A
child runs one task at a time, so a killed child fails only that task.

A child is started with `subprocess` and exchanges frames with cloudpickle's bytes over a socket.
Pools of loky, Pebble or the standard library, with one process each, do not serve (`make bench
CASES=processes` shows what can be measured):

- The native executor already has a queue, futures, retries and deadlines. Of a pool only a process
  that runs calls would be used. No pool can exchange messages with it while it runs a call.
- When the server is killed, a pool's processes stay forever. These children notice it, and end.
- All three pools register their processes with `multiprocessing`. After a fork, as in gunicorn with
  a preloaded app, these records are wrong in the new process. Its exit fails with an
  AssertionError, and with Pebble ends the parent's processes in the middle of a task.
- `ProcessPoolExecutor` and Pebble import the server's `__main__` in each child, and so run an
  unguarded script again.
- loky and `ProcessPoolExecutor` close at the interpreter's exit with tasks in their queues, unless
  the waiting code has registered after them.
- Before Python 3.14, `ProcessPoolExecutor` cannot end the one process whose task takes too long,
  except by a signal to its id.
"""

import atexit
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from flask import Flask

from flask_delay import context, registry, state, uploads
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
from flask_delay.backends.processes.child import Child, rss_of
from flask_delay.backends.processes.frames import Frame, Kind
from flask_delay.backends.processes.pool import Pool
from flask_delay.backends.processes.settings import Settings
from flask_delay.backends.serializer.pickles import Serializer
from flask_delay.backends.serializer.references import Names
from flask_delay.config import Config
from flask_delay.logs import log as _log
from flask_delay.servers.cpython import before_threads_end

# Seconds within which a worker process should have loaded an app.
_LOADING = 60.0
# Within which one says where its task is: less than another process waits for that.
_LOOKING = 0.5
# So many children with too much memory in use after one task are no accident.
_SHORT_LIVES = 3


def problem(name: str, settings: Config) -> str | None:
    """The reason why no task of the `Delay` of this name could run with these settings, or None."""
    if settings.of(Settings).app is not None:
        return None
    return (
        f"{name.upper()}_APP is None, and a worker process would not know which app to load: set it"
        f' to where the app is, as FLASK_APP is written ("module:app" or "module:create_app()")'
    )


class Backend(base.Backend):
    """The worker processes of one `Delay` on one app. May be used from any thread."""

    cannot = MappingProxyType(
        {
            "request": "a worker process has no request; pass the values that the task needs",
            "stream_wait": "it takes no generator functions",
            "scope": "its limits hold in each process that submits; say durable=True for limits"
            " that hold on the machine",
        }
    )
    runs_durable = True

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        """Create no process yet. Raises ValueError without the setting `APP`."""
        own, missing = settings.of(Settings), problem(name, settings)
        if own.app is None or missing:
            raise ValueError(missing)
        if own.processes_max_rss is not None:
            _require_rss(name)
        self._settings = own
        self.executor: Executor = state.make_executor(
            app,
            settings,
            max_workers=own.processes or _processors(),
            name=f"{name}-process",
            step=self.step,
            # A child may have to load the app first, which does not count as the task's time.
            late_start=True,
        )
        self._app = own.app
        self._uploads = state.uploads_of(app, name, settings)
        names = Names(registry.main_module(own.app), is_worker=False)
        names.app = app
        self._serializer = Serializer(names)
        self._app_name = app.name
        self._name = f"{name}-process"
        self._timeout = settings.shutdown_timeout
        self._closed = False
        # How many children in succession were replaced for their memory after one task.
        self._short_lives = 0
        self._has_complained = False
        self._pool = Pool()
        # The children that run a task, by the address of its future.
        self._begun: dict[int, Child] = {}
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
        """Run `fn(*args, **kwargs)` in a child; see `flask_delay.backends.base`.

        The arguments are copied now. Raises TypeError for arguments that cannot be pickled.
        """
        _check_function(fn, "task", no_items=base.NO_ITEMS)
        if uploads.found(args, kwargs):
            submit = partial(self.submit, policy, {})
            return self._uploads.submit_by(submit, fn, args, kwargs)
        for value in (*args, *kwargs.values()):
            context.check(value)
        call = _Call(self, fn)
        call.pack(*args, **kwargs)
        # The arguments are passed here too: `key` and `unique` depend on them.
        return self.executor._submit_with(policy, None, call, *args, **kwargs)  # noqa: SLF001

    def pack(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        """Pack a call for a child. Raises as `submit`."""
        return self._serializer.pack_call(name, fn, args, kwargs)

    def step(self, fn: Callable[..., Any]) -> "_Call":
        """The call that runs a function whose arguments are not known yet."""
        _check_function(fn, "next step", no_items=base.NO_ITEMS)
        call = _Call(self, fn)
        # Reports a function that cannot be sent now; its argument is packed once known.
        self.pack(call.__qualname__, fn, (), {})
        return call

    def run(self, name: str, data: bytes) -> Any:
        """Run a call in a child. Called by a worker, as its task."""
        future = current_task.future
        pool = self._mine()
        child, answer, has_begun = None, None, False
        try:
            child = pool.take(partial(Child, self._app, self._name, self._serializer))
            if child.await_app(future.done) and not current_task.cancelled:
                future._begin()  # noqa: SLF001
                # A child that dies of loading the app does not die of the task.
                has_begun = True
                self._begun[id(future)] = child
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
            if has_begun:
                future._died()  # noqa: SLF001
            raise
        finally:
            self._begun.pop(id(future), None)
            # An exception of `timeout` and `stop` passes here too: then the child and its task are
            # ended. A child that is still loading the app is kept for another task.
            if child is not None and child.is_free():
                if self._is_worn(child):
                    pool.retire()
                else:
                    pool.give_back()
                if self._closed:
                    pool.end(wait=False)
            else:
                pool.kill()
        return _conclude(self._serializer, name, answer)

    def _is_worn(self, child: Child) -> bool:
        """Whether a child has had its number of tasks, or has more memory in use than it may."""
        most, limit = self._settings.processes_max_tasks, self._settings.processes_max_rss
        if limit is not None:
            rss = rss_of(child.pid)
            if rss >= limit:
                self._complain(child, rss, limit)
                return True
            self._short_lives = 0
        return most is not None and child.calls >= most

    def _complain(self, child: Child, rss: int, limit: int) -> None:
        """Log once that children have too much memory in use from the start."""
        self._short_lives = self._short_lives + 1 if child.calls <= 1 else 0
        if self._short_lives < _SHORT_LIVES or self._has_complained:
            return
        self._has_complained = True
        _log.warning(
            "%s_PROCESSES_MAX_RSS is %d, but the last %d worker processes had more than that in use"
            " after their first task, the last one %d bytes: so each task waits until a new one has"
            " loaded the app; set it higher",
            self._name.removesuffix("-process").upper(),
            limit,
            self._short_lives,
            rss,
        )

    def stack(self, future: Future[Any], /) -> list[str]:
        """See `flask_delay.backends.base`. The child answers by a second thread."""
        child = self._begun.get(id(future))
        if child is None:
            raise LookupError("its worker process has not begun it")
        found = child.stack(_LOOKING)
        # The child may have begun another task.
        if found is None or self._begun.get(id(future)) is not child:
            raise LookupError("its worker process does not say so: it keeps the interpreter busy")
        return found

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """See `flask_delay.backends.base`. The children end when they have no work left."""
        self._closed = True
        self.executor.shutdown(wait, cancel_futures=cancel_futures)
        pool = self._mine()
        pool.end(wait=wait)
        if wait:
            pool.wait(None)

    def diagnose(self) -> Iterator[base.Finding]:
        """Run a task in a worker process."""
        begin = time.perf_counter()
        try:
            name = self.submit(None, {}, _name_of_app).result(_LOADING)
        except TimeoutError:
            yield "wrong", f"no worker process had loaded the app after {_LOADING:g} s"
        except Exception as error:
            # Such as a missing package, or the reason why the app cannot be loaded there.
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
        """End all children at the process's exit, which began at `began` (monotonic)."""
        self._closed = True
        pool = self._mine()
        pool.end(wait=True)
        pool.strike()
        pool.wait(None if self._timeout is None else began + self._timeout)

    def forget_parent(self) -> None:
        """Leave the children alone in a process that was just forked."""
        self._mine()

    def _mine(self) -> "Pool":
        pool = self._pool
        if pool.generation == _generation():
            return pool
        pool.disown()
        self._pool = mine = Pool()
        return mine


def _require_rss(name: str) -> None:
    """Raise ValueError if this system does not tell how much memory a process uses."""
    try:
        rss_of(os.getpid())
    except OSError:
        raise ValueError(
            f"{name.upper()}_PROCESSES_MAX_RSS is set, but this system has no /proc, which tells"
            f" how much memory a process uses: leave it out, or set"
            f" {name.upper()}_PROCESSES_MAX_TASKS"
        ) from None


def _name_of_app() -> str:
    return context.current().name


class _Call:
    """The function that a worker calls for one task."""

    def __init__(self, backend: Backend, fn: Callable[..., Any]) -> None:
        self._backend = backend
        self._fn = fn
        self._data: bytes | None = None
        # The task takes its name from here.
        self.__qualname__ = registry.task_name(fn)

    def pack(self, *args: Any, **kwargs: Any) -> bytes:
        """Keep a copy of these arguments. Raises TypeError for arguments that cannot be pickled."""
        self._data = self._backend.pack(self.__qualname__, self._fn, args, kwargs)
        return self._data

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        data = self._data
        if isinstance(self._fn, uploads.Opening) and self._fn.begun is not None:
            self._fn.begun(current_task.future)
        if data is None:
            # The first attempt of a task that follows another one.
            data = self.pack(*args, **kwargs)
        return self._backend.run(self.__qualname__, data)

    # Equality is that of the function: `limit`, `rate` and `unique` depend on it.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self._fn == other._fn

    def __hash__(self) -> int:
        return hash(self._fn)

    def __repr__(self) -> str:
        return repr(self._fn)


def _conclude(serializer: Serializer, name: str, answer: Frame | None) -> Any:
    """Repeat the task's outcome in this process."""
    match answer:
        case Frame(Kind.RETURNED, _, _, data):
            return serializer.unpack_result(name, data)
        case Frame(Kind.RAISED, _, text, data):
            raise serializer.unpack_exception(text, data)
        case Frame(Kind.AGAIN, _, [after, None], _):
            current_task.retry(after)
        case Frame(Kind.AGAIN, _, [after, text], data):
            _retry_after(serializer.unpack_exception(text, data), after)
    raise CancelledError("the task was told to stop")


def _retry_after(exception: BaseException, after: float | None) -> NoReturn:
    """Ask for another attempt while this exception is handled, so that it is remembered."""
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
    """The time at which the interpreter began to exit: tasks and children share one time limit."""

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
# Called before tasks end; `end` runs after that: see process/exit.rs.
before_threads_end(_Exit.note)
atexit.register(_Exit.end_children)
