"""The interface of Flask-RQ 1.0 on a `Delay`: change the import, keep the rest.

    from flask_delay.compat.flask_rq import RQ

replaces `from flask_rq import RQ`. There is no Redis and no worker to start: jobs run on threads of
the app's own processes. docs/migration.md lists what is different, and what has no counterpart.
"""

import contextvars
import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pkgutil import resolve_name
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, cast, overload
from weakref import WeakKeyDictionary

from flask import Flask

from flask_delay import Delay, Future, config, state, task, using
from flask_delay import Job as DelayJob
from flask_delay._native import _check_call, _check_function
from flask_delay.compat import crontab
from flask_delay.config import setting
from flask_delay.registry import name_of
from flask_delay.validators import checked, optional, text, timezone

__all__ = ["RQ", "Job", "JobWrapper", "Queue"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_DEFAULT = "default"
# Between two queues, so that a task of the first one waits before those of the next for 1,000 s.
_STEP = 100
_AT_FRONT = 1000

# --- Settings -----------------------------------------------------------------------


def _nothing(value: object) -> None:
    if value:
        raise ValueError


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    names = tuple(map(text, value))
    if not 1 <= len(set(names)) == len(names) <= _AT_FRONT // _STEP:
        raise ValueError
    return names


_NO_REDIS = "None or left out: there is no Redis, since jobs run in the app's own processes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(config.Config):
    """The `RQ_` keys: those of Flask-RQ, and all settings of a `Delay`."""

    queues: tuple[str, ...] = setting(
        (_DEFAULT,),
        _names,
        "a list of 1 to 10 names, each once",
        "The queues. A job of an earlier one starts before those of a later one.",
    )
    timezone: str | None = setting(
        None,
        optional(timezone),
        'the name of a time zone, such as "Europe/Berlin", or None for the machine\'s',
        "Whose clocks cron strings go by.",
    )
    connection: None = setting(None, _nothing, _NO_REDIS, "Changes nothing.", shown=False)
    connection_class: None = setting(None, _nothing, _NO_REDIS, "Changes nothing.", shown=False)
    queue_connections: None = setting(None, _nothing, _NO_REDIS, "Changes nothing.", shown=False)


class _Pool(Delay):
    """The `Delay` below an `RQ`, for one app."""

    _kind = Settings

    def __init__(self, app: Flask) -> None:
        super().__init__(name="flask_rq")
        self.prefix = "RQ_"
        # Its name is no name of a setting: `async` is a keyword.
        if app.config.get("RQ_ASYNC") is not None:
            raise ValueError(
                f"RQ_ASYNC is {app.config['RQ_ASYNC']!r}, but that is RQ_MODE here: say"
                f" RQ_MODE = 'immediate' for RQ_ASYNC = False, and leave it out otherwise"
            )
        if app.testing:
            app.config.setdefault("RQ_MODE", "immediate")
        self.init_app(app)
        self.settings = cast("Settings", self._state_of(app).config)


# --- What a job is given ------------------------------------------------------------

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NO_COUNTERPART = {
    "depends_on": "future.then(fn) of the job's `future` calls fn with its result",
    "failure_ttl": "the last RQ_RESULT_LIMIT jobs are known, and durable ones for RQ_JOURNAL_KEEP"
    " seconds",
    "meta": "current_task.progress() tells how far a job is; arguments tell the rest",
    "on_failure": "the job's `future` has add_done_callback(fn)",
    "on_stopped": "the job's `future` has add_done_callback(fn)",
    "on_success": "the job's `future` has add_done_callback(fn)",
    "pipeline": "there is no Redis; Delay.using(durable=True, within=session) submits a task with"
    " a transaction",
    "rate_limit": "Delay.using(rate='10/m')",
    "repeat": "cron_register() makes a job that repeats",
    "result_ttl": "the last RQ_RESULT_LIMIT jobs are known, and durable ones for RQ_JOURNAL_KEEP"
    " seconds",
    "webhooks": "the job's `future` has add_done_callback(fn)",
}


def _seconds(value: object) -> float | None:
    """The seconds of RQ's 180, "180", "3m" or -1, which is no limit."""
    if isinstance(value, str) and value[-1:].lower() in _UNITS:
        return int(value[:-1]) * _UNITS[value[-1:].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    return None if number == -1 else number


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Take RQ's options out of the arguments, and return those of `Delay.using`."""
    for name, remedy in _NO_COUNTERPART.items():
        if given.pop(name, None) is not None:
            raise ValueError(f"the option {name!r} of RQ has no counterpart here: {remedy}")
    options: dict[str, Any] = {}
    for name, ours in (("job_timeout", "timeout"), ("ttl", "expires")):
        value = given.pop(name, None)
        allowed = 'a number of seconds, "30s", "5m", "1h" or "1d", or -1'
        if value is not None:
            seconds = checked(_seconds, value, f"the option {name!r}", allowed)
            options |= {} if seconds is None else {ours: seconds}
    for name, ours in (("job_id", "id"), ("retry", "retry")):
        value = given.pop(name, None)
        options |= {} if value is None else {ours: value}
    if given.pop("at_front", False):
        options["priority"] = _AT_FRONT
    # A job whose id is in use always raises DuplicateTask.
    given.pop("unique", None)
    return options


class Job:
    """What `enqueue` returns: RQ's view of a task. May be used from any thread."""

    def __init__(
        self, future: Future[Any], origin: str, name: str = "", description: str | None = None
    ) -> None:
        """Made by `Queue.enqueue`."""
        self.future = future
        """The task's own future: `result(timeout)`, `then`, `progress`, `await`."""
        self.origin = origin
        self.func_name = name or future.name
        self.description = description or self.func_name
        self.id = future.id

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.func_name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __getattr__(self, name: str) -> NoReturn:
        raise _missing(self, name, "`future` is the task's own future")

    def get_id(self) -> str:
        """The job's id."""
        return self.id

    def get_status(self, refresh: bool = True) -> str:
        """The job's state: "queued", "started", "finished", "failed" or "canceled"."""
        del refresh
        future = self.future
        if not future.done():
            return "started" if future.running() else "queued"
        if future.cancelled():
            return "canceled"
        return "finished" if self._failure() is None else "failed"

    def refresh(self) -> None:
        """Does nothing: the job is always as it is now."""

    @property
    def is_queued(self) -> bool:
        """Whether the job waits for its start, or for its time."""
        return self.get_status() == "queued"

    @property
    def is_started(self) -> bool:
        """Whether the job runs."""
        return self.get_status() == "started"

    @property
    def is_finished(self) -> bool:
        """Whether the job has returned."""
        return self.get_status() == "finished"

    @property
    def is_failed(self) -> bool:
        """Whether the job has raised an exception."""
        return self.get_status() == "failed"

    @property
    def is_canceled(self) -> bool:
        """Whether the job was cancelled."""
        return self.get_status() == "canceled"

    @property
    def enqueued_at(self) -> datetime | None:
        """When the job was enqueued (UTC, aware)."""
        return self.future.enqueued_at

    @property
    def started_at(self) -> datetime | None:
        """When its last attempt started (UTC, aware), or None."""
        return self.future.started_at

    @property
    def ended_at(self) -> datetime | None:
        """When the job ended (UTC, aware), or None."""
        return self.future.finished_at

    @property
    def exc_info(self) -> str | None:
        """The traceback of its exception as text; None if there is none."""
        error = self._failure()
        return None if error is None else "".join(traceback.format_exception(error))

    @property
    def result(self) -> Any:
        """As `return_value()`."""
        return self.return_value()

    def return_value(self, refresh: bool = False) -> Any:
        """What the function returned; None if it has not. Does not wait."""
        del refresh
        return self.future.result() if self.is_finished else None

    def cancel(self) -> None:
        """Cancel the job if it has not started."""
        self.future.cancel()

    def _failure(self) -> BaseException | None:
        if not self.future.done():
            return None
        try:
            return self.future.exception()
        except CancelledError:
            return None


class Queue:
    """A queue of an app. May be used from any thread."""

    def __init__(self, pool: _Pool, name: str) -> None:
        """Made by `RQ.init_app`."""
        self.name = name
        self._pool = pool
        self._priority = -_STEP * pool.settings.queues.index(name)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    def __getattr__(self, name: str) -> NoReturn:
        raise _missing(self, name, "`RQ.extension` is the Delay below, with stats() and tasks()")

    @property
    def is_async(self) -> bool:
        """Whether jobs run in the background."""
        return self._pool.settings.mode != "immediate"

    def enqueue(self, f: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job:
        """Run `f(*args, **kwargs)` in the background, and return its job at once.

        `f` may be text: "package.module.function". The options `job_timeout`, `ttl`, `job_id`,
        `retry`, `at_front` and `description` are taken out of the keyword arguments, and so are
        `args` and `kwargs`, which are the function's arguments then. Raises TypeError and
        ValueError for a bad value and for options of RQ that have no counterpart; TypeError for
        `args` or `kwargs` with further arguments; ValueError for a text that names nothing;
        otherwise as `Delay.delay`.
        """
        return self._enqueue({}, f, args, kwargs)

    def enqueue_at(
        self, when: datetime, f: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Job:
        """`enqueue`, but the job starts at that moment; one without a time zone is the machine's.

        Raises TypeError for anything but a datetime, otherwise as `enqueue`.
        """
        if not isinstance(when, datetime):
            raise TypeError(f"the time of a job must be a datetime, not {when!r}")
        return self._enqueue({"eta": when.astimezone(UTC)}, f, args, kwargs)

    def enqueue_in(
        self, delta: timedelta | float, f: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Job:
        """`enqueue`, but the job starts after that time, a timedelta or seconds."""
        seconds = delta.total_seconds() if isinstance(delta, timedelta) else delta
        return self._enqueue({"countdown": seconds}, f, args, kwargs)

    def fetch_job(self, job_id: str) -> Job | None:
        """The job of this id, whose queue is not known, or None. Raises as `Delay.get`."""
        future = self._pool.get(job_id)
        return None if future is None else Job(future, self.name)

    def _enqueue(
        self,
        when: dict[str, Any],
        f: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Job:
        description = kwargs.pop("description", None)
        options = {"priority": self._priority} | _options(kwargs) | when
        if "args" in kwargs or "kwargs" in kwargs:
            given, named = kwargs.pop("args", None), kwargs.pop("kwargs", None)
            if args or kwargs:
                raise TypeError(
                    "'args' and 'kwargs' are all arguments of the job: put the others there too"
                )
            args, kwargs = tuple(given or ()), dict(named or {})
        function = _resolved(f)
        future = self._pool.using(**options).delay(function, *args, **kwargs)
        return Job(future, self.name, name_of(function), description)


def _resolved(f: Callable[..., Any] | str) -> Callable[..., Any]:
    if isinstance(f, JobWrapper):
        return f.func
    if not isinstance(f, str):
        return f
    try:
        return _resolved(resolve_name(f))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f'{f!r} must name a function that can be imported, as "package.module.function"'
            f" does ({error})"
        ) from error


def _missing(owner: object, name: str, remedy: str) -> AttributeError:
    hint = "" if name.startswith("__") else f": {remedy}"
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{hint}")


class JobWrapper(Generic[_P, _R]):
    """A function that can enqueue itself; a call runs it at once. Made by `RQ.job`."""

    def __init__(self, rq: "RQ", queue: str, func: Callable[_P, _R]) -> None:
        """Made by `RQ.job`. Raises TypeError if `func` is no function."""
        _check_function(func, "job")
        functools.update_wrapper(self, func)
        self.rq = rq
        self.queue = queue
        self.func = func
        # By this, other processes know the function of a durable job; found while it is kept.
        self._task = task(func)

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call the function in this thread."""
        return self.func(*args, **kwargs)

    def enqueue(self, /, *args: Any, **kwargs: Any) -> Job:
        """`Queue.enqueue` of this function in its queue."""
        return self.rq.get_queue(self.queue).enqueue(self.func, *args, **kwargs)

    def enqueue_at(self, when: datetime, /, *args: Any, **kwargs: Any) -> Job:
        """`Queue.enqueue_at` of this function in its queue."""
        return self.rq.get_queue(self.queue).enqueue_at(when, self.func, *args, **kwargs)

    def enqueue_in(self, when: float | timedelta, /, *args: Any, **kwargs: Any) -> Job:
        """`Queue.enqueue_in` of this function in its queue."""
        return self.rq.get_queue(self.queue).enqueue_in(when, self.func, *args, **kwargs)

    def cron_register(self, interval: int | str, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """`RQ.cron_register` of this function in its queue."""
        self.rq.cron_register(self.func, interval, queue=self.queue, args=args, kwargs=kwargs)


class RQ:
    """Flask-RQ's `RQ` on threads managed by Rust.

    `RQ(app)`, or `RQ()` and `init_app(app)`, once for each app. Found as `app.extensions["rq"]`;
    reads the `RQ_` keys. Acts on the current app, or on the only one that it is initialised on.
    Every method may be called from any thread, and in a forked child.
    """

    def __init__(self, app: Flask | None = None) -> None:
        """Make an RQ, and initialise `app` if there is one. Raises as `init_app`."""
        # For each app, in the order of RQ_QUEUES.
        self._queues: WeakKeyDictionary[Flask, dict[str, Queue]] = WeakKeyDictionary()
        self._pools: WeakKeyDictionary[Flask, _Pool] = WeakKeyDictionary()
        self._registered: list[Callable[[_Pool], DelayJob]] = []
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return "<RQ>"

    def __getattr__(self, name: str) -> NoReturn:
        remedy = "there is no worker and no scheduler to start: jobs run in the app's own processes"
        raise _missing(self, name, remedy)

    def init_app(self, app: Flask) -> None:
        """Read the app's settings, make its queues, and start what `cron_register` was told.

        Raises RuntimeError if the app has an extension named "rq"; ValueError for a bad setting,
        also for one that has no counterpart here; and as `cron_register`.
        """
        if "rq" in app.extensions:
            raise RuntimeError(
                f"app {app.name!r} has an extension named 'rq' already; call init_app once"
            )
        pool = _Pool(app)
        self._queues[app] = {name: Queue(pool, name) for name in pool.settings.queues}
        self._pools[app] = pool
        app.extensions["rq"] = self
        for start in self._registered:
            _start(start, pool)

    @property
    def extension(self) -> Delay:
        """The `Delay` below: `get(id)`, `stats()`, `drain(timeout)` and the like."""
        return self._pools[self._app()]

    @property
    def queues(self) -> dict[str, Queue]:
        """The app's queues by name."""
        return self._queues[self._app()]

    def get_queue(self, name: str = _DEFAULT) -> Queue:
        """The queue of this name. Raises KeyError if `RQ_QUEUES` does not have it."""
        try:
            return self.queues[name]
        except KeyError as error:
            error.add_note(f"RQ_QUEUES has {', '.join(map(repr, self.queues))}, not {name!r}.")
            raise

    @property
    def queue(self) -> Queue:
        """The queue "default". Raises KeyError if `RQ_QUEUES` does not have it."""
        return self.get_queue()

    @overload
    def job(self, f: Callable[_P, _R], *, queue: str = ...) -> JobWrapper[_P, _R]: ...

    @overload
    def job(self, *, queue: str = ...) -> Callable[[Callable[_P, _R]], JobWrapper[_P, _R]]: ...

    def job(self, f: Callable[..., Any] | None = None, *, queue: str = _DEFAULT) -> Any:
        """Decorate a function, for `f.enqueue(...)`: `@rq.job`, or `@rq.job(queue="mail")`.

        May be used before `init_app`. Raises TypeError for an object that is not a function.
        """
        if f is not None:
            return JobWrapper(self, queue, f)
        return functools.partial(JobWrapper, self, queue)

    def cron_register(
        self,
        f: Callable[..., Any],
        /,
        interval: int | str,
        *,
        queue: str = _DEFAULT,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        name: str = "",
        **options: Any,
    ) -> None:
        """Run `f` each `interval` seconds, or by a line of a crontab; once on a machine.

        Runs begin with `init_app`, in processes that serve; a line goes by `RQ_TIMEZONE`. `name`
        tells apart several of one function and with the same arguments. Takes the options
        `job_timeout`, `ttl` and `retry`. Raises TypeError and ValueError for bad values and for
        options that have no counterpart; with an app also ValueError for an unknown queue, and as
        `Periodic.delay`.
        """
        function = _resolved(f)
        positional, named = tuple(args or ()), dict(kwargs or {})
        _check_function(function, "job")
        _check_call(function, *positional, **named)
        chosen = _options(options)
        if options:
            raise TypeError(f"cron_register takes no {', '.join(map(repr, options))}")
        if name:
            chosen["key"] = name
        if isinstance(interval, str):
            chosen["cron"] = interval
        else:
            chosen["every"] = interval
        using(**chosen)

        def start(pool: _Pool) -> DelayJob:
            if queue not in pool.settings.queues:
                known = ", ".join(map(repr, pool.settings.queues))
                raise ValueError(f"'queue' is {queue!r}, but RQ_QUEUES has {known}")
            found = {"priority": Queue(pool, queue)._priority, **chosen}  # noqa: SLF001
            if "cron" in chosen:
                zone = pool.settings.timezone or crontab.local_zone("RQ_TIMEZONE")
                found["timezone"] = zone
            job: DelayJob = pool.using(**found).delay(function, *positional, **named)
            return job

        self._registered.append(start)
        for pool in self._pools.values():
            _start(start, pool)

    def _app(self) -> Flask:
        app = state.app_or_none()
        if app is None and len(self._pools) == 1:
            [app] = self._pools
        if app is None or app not in self._pools:
            raise RuntimeError(
                "this RQ is initialised on no app that is current: call its init_app(app), and"
                " push the app's context where there are several: with app.app_context()"
            )
        return app


def _start(start: Callable[[_Pool], DelayJob], pool: _Pool) -> None:
    # No app is current there, so that it is the pool's own.
    contextvars.Context().run(start, pool)
