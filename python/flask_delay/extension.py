"""`Delay`, the Flask extension, and `delay`, the one verb that most apps need."""

import functools
import threading
import weakref
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, Unpack, cast, overload
from uuid import UUID

from flask import Blueprint, Flask, request_started

from flask_delay import config, context, state, tasks
from flask_delay._native import Executor, Future, _check_callback
from flask_delay.logs import log as _log
from flask_delay.observe import stats, status
from flask_delay.observe.stats import Stats
from flask_delay.observe.view import TaskView
from flask_delay.options import NONE, AllOptions, Chosen, Options
from flask_delay.periodic import job as jobs
from flask_delay.periodic.job import Job
from flask_delay.servers import gevent, sigterm, uwsgi
from flask_delay.submit import OPTIONED, Periodic, Submitter, Using, made, submitting
from flask_delay.tasks import Decorator

_current_app = context.current

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Callback = TypeVar("_Callback", bound=Callable[[Future[Any]], object])


class Delay(Submitter):
    """Background tasks for Flask apps.

    `Delay(app)`, or `Delay()` and `init_app(app)`, once for each app. Several on one app
    need different names; `name` is the key in `app.extensions`, and in upper case the
    prefix of the config keys: `DELAY_MAX_WORKERS`, `REPORTS_MAX_WORKERS`.

    The methods act on the current app; without an app context on the only app that this
    Delay is initialised on, and raise RuntimeError if it is none or several. They may
    be called from any thread, and in a forked child.
    """

    # The settings there are. Whoever puts another interface on a Delay may have more.
    _kind: type[config.Config] = config.Config

    def __init__(self, app: Flask | None = None, *, name: str = state.DEFAULT_NAME) -> None:
        """Make a Delay, and initialise `app` if there is one.

        Raises ValueError if `name` is not an ASCII identifier, else as `init_app`.
        """
        if type(name) is not str or not (name.isascii() and name.isidentifier()):
            message = f"the name of a Delay must be an ASCII identifier, not {name!r}"
            raise ValueError(message)
        self.name = name
        # What its config keys begin with.
        self.prefix = f"{name.upper()}_"
        # Weak, so that an app which is dropped can go. Replaced and never changed, so
        # that readers need no lock.
        self._apps: tuple[weakref.ref[Flask], ...] = ()
        self._callbacks: tuple[Callable[[Future[Any]], object], ...] = ()
        self._lock = threading.Lock()
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<Delay {self.name!r}>"

    def init_app(self, app: Flask) -> None:
        """Read the app's settings and give it a pool, which starts no thread yet.

        Raises RuntimeError if the app has something of this name already, ValueError for
        a bad config value. With `DRAIN_ON_SIGTERM`, and if called in the main thread,
        SIGTERM will let accepted tasks end, unless someone handles that signal.
        """
        settings = config.load(app.config, self.prefix, self._kind)
        with self._lock:
            if self.name in app.extensions:
                if isinstance(app.extensions[self.name], state.State):
                    message = (
                        f"app {app.name!r} has an extension named {self.name!r} already;"
                        f" call init_app once, or give this Delay another name"
                    )
                else:
                    message = state.not_initialised(app, self.name)
                raise RuntimeError(message)
            executor = state.make_executor(
                app, settings, max_workers=settings.max_workers, name=self.name
            )
            for callback in self._callbacks:
                executor.add_default_done_callback(callback)
            app.extensions[self.name] = state.State(self, settings, executor, app)
            alive = tuple(ref for ref in self._apps if ref() is not None)
            self._apps = (*alive, weakref.ref(app))
        if settings.drain_on_sigterm:
            sigterm.drain_on_sigterm()
        gevent.check()
        uwsgi.check(forked=jobs.restart, ended=jobs.end)
        # Once it serves, all that starts jobs has been imported.
        request_started.connect(_tell_unstarted, sender=app)

    @overload
    def using(self, **options: Unpack[Options]) -> Using: ...

    @overload
    def using(self, **options: Unpack[AllOptions]) -> Periodic: ...

    def using(self, **options: Unpack[AllOptions]) -> Any:
        """The verbs `delay` and `map` with options: `using(timeout=5).delay(fn, x)`.

        With `every` or `cron`, `delay` makes a job: `using(every=60).delay(fn, x)`. Raises
        TypeError for an option that is not known or of the wrong type, ValueError for a
        value that is not allowed and for options that make no sense together.
        """
        return made(self._find, options)

    @property
    def task(self) -> Decorator:
        """The decorator `task`, for tasks of this Delay."""
        return Decorator(self._find)

    def get(self, id: str | UUID) -> Future[Any] | None:
        """The future of the task with this id, or None.

        Found are tasks of this process whose id was asked for, or given by the option `id`:
        those that are not done, and the last `RESULT_LIMIT` that are.
        """
        return self._state().get(str(id))

    def status_blueprint(
        self,
        *,
        name: str | None = None,
        url_prefix: str | None = None,
        results: bool = False,
        errors: bool = False,
    ) -> Blueprint:
        """Make a blueprint whose `GET /<id>` tells as JSON how far the task with that id is.

        Known are the tasks that `get` finds. The answer holds `state`, `progress` and, of a
        task that failed, the `error`'s class. With `errors` it holds the error's message
        too, up to 1,000 characters of it and without the passwords of URLs; what else is in
        there, anybody reads who has the id. With `results` it holds what the task returned,
        if that can be JSON. Of an unknown id it is 404, of one that was
        forgotten 410. `name` is the blueprint's (default: as "delay_status"). May be called
        before `init_app`, and for each of several apps.
        """
        return status.blueprint(
            f"{self.name}_status" if name is None else name,
            url_prefix,
            view=self._view,
            is_gone=self._is_gone,
            results=results,
            errors=errors,
        )

    def add_default_done_callback(self, fn: _Callback) -> _Callback:
        """Call `fn(future)` for every task submitted from now on, before its own callbacks.

        On all apps that this Delay is or will be initialised on. Returns `fn`, so it may
        be used as a decorator. Raises TypeError if `fn` is not callable, or is a coroutine
        function, which nobody would await.
        """
        _check_callback(fn)
        with self._lock:
            self._callbacks = (*self._callbacks, fn)
            for ref in self._apps:
                app = ref()
                for executor in self._state_of(app).executors() if app is not None else ():
                    executor.add_default_done_callback(fn)
        return fn

    def run_pending(self, n: int | None = None) -> int:
        """Run up to `n` tasks that wait (None: all, and those that they submit), oldest first.

        For tests with `DELAY_MODE = "manual"`: in the calling thread; returns how many runs
        there were, each retry being one. Raises RuntimeError in any other mode.
        """
        return self._state().executor.run_pending(n)

    def stats(self) -> Stats:
        """What there is now, and what has become of the tasks that ended in this process.

        Of now, as at `Executor.stats`: `queued`, `held`, `running`, `waiting`, `stuck`, `idle`,
        `threads`. Since the process began: `done` (returned), `failed` (raised, or not started
        in time), `cancelled`, and `retried`, how often a task was to run once more. `tasks` has
        these four for each task's name, and in seconds `wait`, from the submit, or from when its
        `countdown` or `eta` has passed, to the first start, and `run`, the last attempt; both of
        tasks that have returned or failed. After 200 names, further ones are counted as
        "(others)". Tasks in worker processes are among them; those of a name that tasks on
        threads have too, as "name (processes)".

        A task is counted before its callbacks run. A forked process begins at 0.
        """
        own, *others = (
            (name, cast("Stats", executor.stats())) for name, executor in self._state().pools()
        )
        return functools.reduce(lambda sum_, it: stats.added(sum_, it[1], it[0]), others, own[1])

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing accepted is left to do, tasks that tasks submit included.

        False if `timeout` seconds were not enough. A task whose future has ended by its
        `timeout` or `stop` is not waited for, though its code goes on. New tasks are still
        taken. Raises WaitCycleError when called from one of the pool's own tasks.
        """
        return self._state().drain(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; let the accepted ones end, or cancel those not started.

        Jobs are cancelled. With `wait` returns when all have ended. May be called more than
        once.
        """
        self._state().shutdown(wait, cancel_futures=cancel_futures)

    @property
    def jobs(self) -> list[Job]:
        """The jobs of this process that were not cancelled."""
        return self._state().jobs.all()

    def job(self, name: str) -> Job:
        """The job of this name: to run it now, to pause it, to cancel it.

        `name` is its function's name, with the module ("shop.tasks.tidy") or, if no other job
        has it, without; or the string that it was given as `key`; or its `id`. Only jobs of
        this process that were not cancelled have one. Raises LookupError if there is none or
        several; TypeError for what is no string.
        """
        return self._state().jobs.find(name)

    @property
    def executor(self) -> Executor:
        """The app's pool, for libraries that take a `concurrent.futures.Executor`.

        Its tasks are those of `delay`, with an app context and no request.
        """
        return self._state().executor

    def _executors(self) -> list[Executor]:
        """The pools of all its apps."""
        apps = [app for ref in self._apps if (app := ref()) is not None]
        return [executor for app in apps for executor in self._state_of(app).executors()]

    def _default_callbacks(self) -> tuple[Callable[[Future[Any]], object], ...]:
        return self._callbacks

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if issubclass(type(fn), OPTIONED):
            return submitting(self._find, NONE, fn, many=many)
        return self._state().submit, fn

    def _find(self, chosen: Chosen, future: Future[Any] | None = None) -> Callable[..., Any]:
        app = state.app_or_none() or self._only_app()
        return self._state_of(app).find(chosen, future)

    def _view(self, id: str) -> TaskView | None:
        return self._state().view(id)

    def _is_gone(self, id: str) -> bool:
        return self._state().is_gone(id)

    def _state(self) -> state.State:
        return self._state_of(state.app_or_none() or self._only_app())

    def _state_of(self, app: Flask) -> state.State:
        found = app.extensions.get(self.name)
        if isinstance(found, state.State) and found.owner is self:
            return found
        if isinstance(found, state.State):
            message = (
                f"app {app.name!r} has another Delay named {self.name!r}; use that one,"
                f" or give this one another name and call init_app(app)"
            )
        else:
            message = state.not_initialised(app, self.name)
        raise RuntimeError(message)

    def _only_app(self) -> Flask:
        apps = [app for ref in self._apps if (app := ref()) is not None]
        if len(apps) == 1:
            return apps[0]
        if apps:
            names = ", ".join(repr(app.name) for app in apps)
            message = (
                f"the Delay {self.name!r} is initialised on several apps ({names}), and"
                f" none is current; push one's context: with app.app_context()"
            )
        else:
            message = f"the Delay {self.name!r} is initialised on no app; call init_app(app)"
            if self._apps:
                message += "; the one that it was initialised on is gone: keep a reference to that"
        raise RuntimeError(message)


def _tell_unstarted(app: Flask, **_: object) -> None:
    """Name the jobs that somebody has declared and nobody has started. Once in a process."""
    request_started.disconnect(_tell_unstarted, sender=app)
    found = app.extensions.get(state.DEFAULT_NAME)
    # In a test, what starts them may be left out on purpose.
    if app.testing or (isinstance(found, state.State) and not found.jobs.active):
        return
    for name, job in sorted(tasks.unstarted.items()):
        tasks.unstarted.pop(name, None)
        _log.warning(
            "%r is declared, but was never started as a job: call its delay() where the app is set"
            " up",
            job,
        )


@overload
def delay(
    fn: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
) -> Future[_T]: ...


@overload
def delay(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...


def delay(fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[Any]:
    """Run `fn(*args, **kwargs)` in the background and return its future at once.

    In an app context the task is one of the app's `Delay`, as by `Delay.delay`; elsewhere of the
    only app that has one; and where there is none, of an `Executor` that the whole process
    shares, made at first use. A `Task` is run with its options, as by its own `delay`. May be
    called from any thread. Raises RuntimeError if the current app has no `Delay` of the default
    name, or if none is current and several have one; else as `Delay.delay`.
    """
    if type(fn) is not FunctionType and issubclass(type(fn), OPTIONED):
        submit, fn = submitting(state.find, NONE, fn)
        future: Future[Any] = submit(fn, *args, **kwargs)
        return future
    # As `state.find`, in as few steps as can be: a call in Python costs half a submit.
    try:
        app = _current_app()
    except RuntimeError:
        app = None
    if app is None:
        only = state.only_state()
        submit = state.shared_executor().submit if only is None else only.submit
    else:
        found = app.extensions.get(state.DEFAULT_NAME)
        if type(found) is not state.State:
            found = state.default_state(app)
        submit = found.submit
    # Not where the error of the look-up would be its own error's context.
    return submit(fn, *args, **kwargs)
