"""Flask-Executor's interface on a `Delay`: change the import, keep the rest.

    from flask_delay.compat.flask_executor import Executor

replaces `from flask_executor import Executor`. docs/migration.md lists the intended differences and
their reasons.
"""

import functools
import os
import re
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload
from weakref import WeakKeyDictionary

from flask import Flask

from flask_delay import Delay, config, context, state
from flask_delay._native import _check_function
from flask_delay.backends import table
from flask_delay.compat.futures import FutureCollection, FutureProxy
from flask_delay.options import watched
from flask_delay.submit import OPTIONED, Mapper
from flask_delay.validators import count, one_of, optional, switch

__all__ = [
    "Executor",
    "ExecutorJob",
    "FutureCollection",
    "FutureProxy",
    "propagate_exceptions_callback",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_Callback = TypeVar("_Callback", bound=Callable[[futures.Future[Any]], object])

_FUTURES_MAX_LENGTH = 50

# For a generator function, none of whose code Flask-Executor would run.
_NO_ITEMS = (
    "it would never run under Flask-Executor, whose future has the generator; give a function that"
    " iterates, or give flask_delay.delay() the generator function and read future.stream()"
)


_flag = functools.partial(switch, yes=frozenset({"t"}), no=frozenset({"f", "none", ""}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(config.Config):
    """The `EXECUTOR_` keys: those of Flask-Executor, and all settings of a `Delay`."""

    type: str = field(
        default="thread",
        metadata={
            "parse": one_of("thread", "process"),
            "allowed": "'thread' or 'process'",
            "help": 'Where tasks run: "process" is a concurrent.futures.ProcessPoolExecutor, whose'
            " tasks have no context.",
        },
    )
    # Its tasks have the request, which cannot be sent to a worker process.
    backend: str = field(
        default="threads",
        metadata={
            "parse": one_of(table.THREADS),
            "allowed": "'threads', since the tasks of an Executor have the request: give what"
            ' needs processes to a Delay, with @task(backend="processes")',
            "help": "Where tasks run.",
        },
    )
    # With a short interval, a thread that waits for a future sometimes overtakes its default
    # callbacks. Code written for Flask-Executor does not expect that.
    switch_interval: float | None = field(
        default=None,
        metadata=config.Config.__dataclass_fields__["switch_interval"].metadata,
    )
    futures_max_length: int | None = field(
        default=None,
        metadata={
            "parse": optional(count(0)),
            "allowed": f"an integer, 0 or more, or None for {_FUTURES_MAX_LENGTH}",
            "help": "How many futures `submit_stored` keeps; those not done always are.",
        },
    )
    propagate_exceptions: bool = field(
        default=False,
        metadata={
            "parse": _flag,
            "allowed": "true or false",
            "help": "True insists on the log of failed tasks, which is there by default.",
        },
    )
    push_app_context: bool = field(
        default=True,
        metadata={
            "parse": _flag,
            "allowed": "true or false",
            "help": "Whether `g` of a task that is submitted in a request has what it has there.",
        },
    )

    def __post_init__(self) -> None:
        """Refuse two values for one setting."""
        if self.propagate_exceptions and not self.log_failures:
            raise ValueError(
                "EXECUTOR_PROPAGATE_EXCEPTIONS is true, but EXECUTOR_LOG_FAILURES is false: both"
                " say whether failed tasks are logged, so leave one of them out"
            )


class _Pool(Delay):
    """The `Delay` below an `Executor`; its messages name that `Executor`."""

    _kind = Settings

    def __init__(self, name: str) -> None:
        super().__init__(name=f"flask_executor_{name}" if name else "flask_executor")
        self.prefix = f"{name.upper()}_EXECUTOR_" if name else "EXECUTOR_"
        self._given = name

    def settings(self, app: Flask) -> Settings:
        return cast("Settings", self._state_of(app).config)

    def _state_of(self, app: Flask) -> state.State:
        if app.extensions.get(self.name) is None:
            raise RuntimeError(
                f"the {_named(self._given)} is not initialised on app {app.name!r}; call its"
                f" init_app(app)"
            )
        return super()._state_of(app)


def propagate_exceptions_callback(future: futures.Future[Any]) -> None:
    """Raise the exception of a future that is done, if it has one."""
    error = future.exception()
    if error is not None:
        raise error


def _named(name: str) -> str:
    return f"Executor {name!r}" if name else "Executor"


class Executor(Mapper, futures.Executor):
    """Flask-Executor's `Executor` on threads managed by Rust.

    `Executor(app)`, or `Executor()` and `init_app(app)`, once for each app. It is found as
    `app.extensions["executor"]` and reads the `EXECUTOR_...` keys; with the name "mail", as
    `app.extensions["mailexecutor"]` and `MAIL_EXECUTOR_...`.

    A task has a fresh app context of the current app, or of the only app there is. If it was
    submitted in a request, it has a snapshot of that request with the attributes that were set on
    it, and a shallow copy of `g`: what lies in there is shared with the view, and may not be safe
    to use in two threads, or after the request. `EXECUTOR_PUSH_APP_CONTEXT = False` leaves `g`
    empty. Every method may be called from any thread, and in a forked child.
    """

    def __init__(self, app: Flask | None = None, name: str = "") -> None:
        """Make an executor, and initialise `app` if there is one.

        Raises ValueError if `name` has characters other than ASCII letters, digits and underscores,
        otherwise as `init_app`.
        """
        if type(name) is not str or re.fullmatch(r"\w*", name, re.ASCII) is None:
            raise ValueError(
                f"the name of an Executor may have ASCII letters, digits and underscores,"
                f" not {name!r}"
            )
        self.name = name
        self.futures = FutureCollection(_FUTURES_MAX_LENGTH)
        self._pool = _Pool(name)
        # Of apps with EXECUTOR_TYPE "process".
        self._processes: WeakKeyDictionary[Flask, futures.ProcessPoolExecutor] = WeakKeyDictionary()
        self._shutdown = False
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<{_named(self.name)}>"

    def init_app(self, app: Flask) -> None:
        """Read the app's settings and give it a pool, which starts no thread yet.

        Raises RuntimeError if the app has an Executor of this name already, ValueError for a bad
        config value, such as `EXECUTOR_TYPE = "process"`.
        """
        key = f"{self.name}executor"
        if key in app.extensions:
            raise RuntimeError(
                f"app {app.name!r} has an extension named {key!r} already; call init_app once,"
                f" or give this Executor another name"
            )
        self._pool.init_app(app)
        app.extensions[key] = self
        settings = self._pool.settings(app)
        if settings.futures_max_length is not None:
            self.futures.max_length = settings.futures_max_length
        if settings.type == "process":
            self._processes[app] = futures.ProcessPoolExecutor(settings.max_workers)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` takes it for, as with Flask-Executor, beside its own class."""
        return futures.ProcessPoolExecutor if self._processes else futures.ThreadPoolExecutor

    @property
    def _self(self) -> "Executor":
        return self

    @property
    def _max_workers(self) -> int:
        given = self._pool.settings(self._pool._state().app).max_workers  # noqa: SLF001
        return given or min(32, (os.cpu_count() or 1) + 4)

    @property
    def extension(self) -> Delay:
        """The `Delay` below: `get(id)`, `stats()`, `drain(timeout)` and the like."""
        return self._pool

    @overload
    def submit(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_T]: ...

    @overload
    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_T]: ...

    def submit(
        self, fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[Any]:
        """Run `fn(*args, **kwargs)` in the background and return its future at once.

        In a request the task sees a snapshot of the request. Raises TypeError if `fn` is not
        callable, or if an argument would not outlive the request (an upload, a proxy such as
        `request`); RuntimeError after `shutdown`.
        """
        submit, fn = self._submitting(fn)
        return FutureProxy(submit(fn, *args, **kwargs))

    @overload
    def submit_stored(
        self,
        future_key: Hashable,
        fn: Callable[_P, Coroutine[Any, Any, _T]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> FutureProxy[_T]: ...

    @overload
    def submit_stored(
        self, future_key: Hashable, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_T]: ...

    def submit_stored(
        self, future_key: Hashable, fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[Any]:
        """`submit`, and keep the future in `futures` under `future_key`.

        Raises ValueError, and submits nothing, if that key is in use.
        """
        with self.futures.reserved(future_key) as store:
            future = self.submit(fn, *args, **kwargs)
            store(future)
        return future

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        _check_function(fn, "task", no_items=_NO_ITEMS)
        if self._processes:
            processes = self._processes.get(self._pool._state().app)  # noqa: SLF001
            if processes is not None:
                return functools.partial(self._submit_to, processes), fn
        # One snapshot for all tasks of a map.
        if not context.in_request():
            return self._pool._submitting(fn, many=many)  # noqa: SLF001
        found = self._pool._state()  # noqa: SLF001
        # A task of `@task` has options, and its own idea of `g`.
        if not self._pool.settings(found.app).push_app_context or issubclass(type(fn), OPTIONED):
            return self._pool.using(request=True)._submitting(fn, many=many)  # noqa: SLF001
        scope = context.lent(found.app, live=False)
        submit = functools.partial(found.executor._submit_with, None, scope)  # noqa: SLF001
        return watched(submit, {"request": True}), fn

    def _submit_to(
        self, processes: futures.Executor, fn: Any, /, *args: Any, **kwargs: Any
    ) -> futures.Future[Any]:
        future = processes.submit(fn, *args, **kwargs)
        callbacks: tuple[Callable[[Any], object], ...] = self._pool._default_callbacks()
        for callback in callbacks:
            future.add_done_callback(callback)
        return future

    @overload
    def job(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]]
    ) -> "ExecutorJob[_P, Coroutine[Any, Any, _T], _T]": ...

    @overload
    def job(self, fn: Callable[_P, _T]) -> "ExecutorJob[_P, _T, _T]": ...

    def job(self, fn: Callable[_P, Any]) -> "ExecutorJob[_P, Any, Any]":
        """Decorate `fn`, for `fn.submit(...)`, `fn.submit_stored(...)` and `fn.map(...)`.

        May be used before `init_app`. Raises TypeError if `fn` is not callable, or is a
        generator function; and with processes, which would look for the function under its name.
        """
        if self._processes:
            raise TypeError(
                f"{fn!r} cannot be a job, since EXECUTOR_TYPE is 'process': submit the function"
                f" itself, or use threads"
            )
        return ExecutorJob(self, fn)

    def add_default_done_callback(self, fn: _Callback) -> _Callback:
        """Call `fn(future)` for every task from now on, before its own callbacks.

        `fn` runs in an app context, without a request. Returns `fn`, so it may be used as a
        decorator. Raises TypeError if `fn` is not callable, or is a coroutine function.
        """
        return self._pool.add_default_done_callback(fn)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; let the accepted ones end, or cancel those not started.

        With `wait`, returns when all tasks have ended. May be called more than once.
        """
        self._shutdown = True
        for processes in list(self._processes.values()):
            processes.shutdown(wait, cancel_futures=cancel_futures)
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


class ExecutorJob(Generic[_P, _R, _T]):
    """A function that can submit itself; a call runs it at once, as before."""

    def __init__(self, executor: Executor, fn: Callable[_P, _R]) -> None:
        """Made by `Executor.job`. Raises TypeError if `fn` cannot be submitted."""
        _check_function(fn, "job", no_items=_NO_ITEMS)
        functools.update_wrapper(self, fn)
        self.executor = executor
        # A task of it has a result of type _T, whatever a call returns.
        self.fn: Callable[_P, Any] = fn

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call the function in this thread."""
        result: _R = self.fn(*args, **kwargs)
        return result

    def submit(self, *args: _P.args, **kwargs: _P.kwargs) -> FutureProxy[_T]:
        """`Executor.submit` of this function."""
        return self.executor.submit(self.fn, *args, **kwargs)

    def submit_stored(
        self, future_key: Hashable, /, *args: _P.args, **kwargs: _P.kwargs
    ) -> FutureProxy[_T]:
        """`Executor.submit_stored` of this function."""
        return self.executor.submit_stored(future_key, self.fn, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], **kwargs: Any) -> Iterator[_T]:
        """`Executor.map` of this function."""
        return self.executor.map(self.fn, *iterables, **kwargs)
