"""`Delay`, the Flask extension, and `delay`, the one function that most apps need."""

import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, Unpack, cast, overload
from uuid import UUID

from flask import Blueprint, Flask, request_started

from flask_delay import config, context, groups, state, tasks, validators
from flask_delay._native import Executor, Future, _check_callback
from flask_delay.groups import Group
from flask_delay.journal.store import FORGETTABLE
from flask_delay.logs import log as _log
from flask_delay.observe import status
from flask_delay.observe.stats import JournalStats, Stats
from flask_delay.observe.view import STATES, TaskView
from flask_delay.options import NONE, AllOptions, Chosen, Options
from flask_delay.periodic import job as jobs
from flask_delay.periodic.job import Job
from flask_delay.servers import gevent, role, sigterm, uwsgi
from flask_delay.submit import OPTIONED, Periodic, Submitter, Using, made, submitting
from flask_delay.tasks import Decorator

_current_app = context.current

_P = ParamSpec("_P")
_T = TypeVar("_T")
# Of `authorize`, which has no default: the error says more than Python's.
_NOT_GIVEN: Any = object()
_Callback = TypeVar("_Callback", bound=Callable[[Future[Any]], object])


class Delay(Submitter):
    """Background tasks for Flask apps.

    `Delay(app)`, or `Delay()` and `init_app(app)`, once for each app. Several on one app need
    different names; `name` is the key in `app.extensions`, and in upper case the prefix of the
    config keys: `DELAY_MAX_WORKERS`, `REPORTS_MAX_WORKERS`.

    The methods act on the current app. Without an app context they act on the only app on which
    this Delay is initialised, and raise RuntimeError if there are none or several. They may be
    called from any thread, and in a forked child.
    """

    # The class of the settings. A subclass with another interface may have more settings.
    _kind: type[config.Config] = config.Config

    def __init__(self, app: Flask | None = None, *, name: str = state.DEFAULT_NAME) -> None:
        """Make a Delay, and initialise `app` if there is one.

        Raises ValueError if `name` is not an ASCII identifier, otherwise as `init_app`.
        """
        if type(name) is not str or not (name.isascii() and name.isidentifier()):
            message = f"the name of a Delay must be an ASCII identifier, not {name!r}"
            raise ValueError(message)
        self.name = name
        # The prefix of its config keys.
        self.prefix = f"{name.upper()}_"
        # Weak, so that a dropped app can be freed. Replaced and never changed, so that readers need
        # no lock.
        self._apps: tuple[weakref.ref[Flask], ...] = ()
        self._callbacks: tuple[Callable[[Future[Any]], object], ...] = ()
        self._has_page = False
        self._lock = threading.Lock()
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<Delay {self.name!r}>"

    def init_app(self, app: Flask) -> None:
        """Read the app's settings and give it a pool, which starts no thread yet.

        Raises RuntimeError if `app.extensions` has this name already; ValueError for a bad config
        value, and for a place where no journal can be; JournalUnavailable if the app has a journal
        that cannot be opened. With a journal, this process runs durable tasks once the app is made.
        With `DRAIN_ON_SIGTERM`, and if called in the main thread, SIGTERM lets accepted tasks end,
        unless the signal has a handler already.
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
            files = state.uploads_of(app, self.name, settings)
            executor = state.make_executor(
                app, settings, max_workers=settings.max_workers, name=self.name, files=files
            )
            for callback in self._callbacks:
                executor.add_default_done_callback(callback)
            app.extensions[self.name] = found = state.State(self, settings, executor, app, files)
            if self._has_page:
                found.record()
            alive = tuple(ref for ref in self._apps if ref() is not None)
            self._apps = (*alive, weakref.ref(app))
        if settings.drain_on_sigterm:
            sigterm.drain_on_sigterm()
        gevent.check()
        uwsgi.check(forked=role.forked, ended=jobs.end)
        # When the app serves, every module that starts jobs has been imported.
        request_started.connect(_tell_unstarted, sender=app)

    @overload
    def using(self, **options: Unpack[Options]) -> Using: ...

    @overload
    def using(self, **options: Unpack[AllOptions]) -> Periodic: ...

    def using(self, **options: Unpack[AllOptions]) -> Any:
        """The methods `delay` and `map` with options: `using(timeout=5).delay(fn, x)`.

        With `every` or `cron`, `delay` makes a job: `using(every=60).delay(fn, x)`. Raises
        TypeError for an unknown option or one of the wrong type, ValueError for a bad value and for
        options that contradict each other.
        """
        return made(self._find, options)

    def group(self, timeout: float | None = None) -> Group:
        """Make a group of tasks: a `with` block that ends when all tasks of the group have ended.

        See `Group`; its tasks are those of `delay`. `timeout` is in seconds, from the beginning of
        the block. Raises TypeError or ValueError for a bad one.
        """
        return groups.of_state(self._state(), timeout)

    @property
    def task(self) -> Decorator:
        """The decorator `task`, for tasks of this Delay."""
        return Decorator(self._find)

    def get(self, id: str | UUID) -> Future[Any] | None:
        """The future of the task with this id, or None.

        Finds tasks of this process that have the option `id` or whose id was asked for: all
        unfinished ones, and the last `RESULT_LIMIT` finished ones. With a journal, durable tasks of
        all processes are found, and with the setting `JOURNAL` their other tasks too. If a backend
        shares its results between processes, tasks of all processes are found as long as these are
        kept. Raises JournalUnavailable if the journal cannot be read, BrokerUnavailable if such
        results cannot be reached.
        """
        return self._state().get(str(id))

    def tasks(
        self,
        state: str | None = None,
        name: str | None = None,
        limit: int = 100,
        before: str | UUID | None = None,
    ) -> list[TaskView]:
        """Up to `limit` tasks of the app's journal, newest first, whichever process has them.

        With `state`, only tasks in this state: "ready", "scheduled", "blocked", "parked",
        "running", "finished", "failed", "cancelled" or "dead". With `name`, only those of the
        function with this registered name ("shop.tasks.tidy"), or without the module if that is
        unique. With `before`, only those that were submitted before the task with this id: the last
        one of a list leads to the next. Plain tasks are there as for `get`. Without a journal there
        are none. Raises ValueError for another state, TypeError or ValueError for a bad limit,
        LookupError for an unknown name or id, JournalUnavailable if the journal cannot be read.
        """
        count = validators.checked(validators.integer(1), limit, "limit", "an integer, 1 or more")
        if state is not None:
            _check_state(state, STATES)
        last = None if before is None else str(before)
        return self._state().store.tasks([] if state is None else [state], name, count, last)

    def retry(self, id: str | UUID) -> Future[Any]:
        """Have a durable task that failed, or is a dead letter, run once more; its new future.

        It is the same task: it keeps its id and its arguments, and the number of its attempts goes
        on, so that the `retry` of its `@task` may allow no further attempt after this one. A dead
        letter begins with 0 deaths. Futures that have ended stay as they are. Raises LookupError
        for an unknown or forgotten id; ValueError for a task that has not failed, or is not
        durable; DuplicateTask if another task with the same `unique` key has not ended;
        JournalUnavailable if the task does not run again.
        """
        return self._state().store.retry(str(id))

    def pause(self, name: str | None = None) -> None:
        """Start no more durable tasks of a function, in any process, until `resume`.

        `name` is as in `tasks`; with None, no durable task of the app starts. Tasks that run go on;
        others are accepted, and wait. The pause survives restarts. Plain tasks are not affected.
        Raises LookupError for an unknown name, RuntimeError in a mode for tests or after
        `shutdown`, JournalUnavailable if the journal cannot be written.
        """
        self._state().store.pause(name)

    def resume(self, name: str | None = None) -> None:
        """End the pause of a function; with None, every pause of the app. Raises as `pause`."""
        self._state().store.resume(name)

    def prune(
        self, older_than: float = 0, *, state: str | None = None, name: str | None = None
    ) -> int:
        """Forget tasks of the journal that ended more than `older_than` seconds ago; how many.

        With `state`, only those that are "finished", "failed", "cancelled" or "dead"; with None,
        all of them but dead letters. `name` is as in `tasks`. Without this call a task is forgotten
        by the settings `JOURNAL_KEEP` and `JOURNAL_LIMIT`. Raises ValueError for another state,
        TypeError or ValueError for a bad number, LookupError for an unknown name,
        JournalUnavailable if the journal cannot be written, after which some may be forgotten.
        """
        age = validators.checked(
            validators.wait, older_than, "older_than", "a number of seconds, 0 or more"
        )
        if state is not None:
            _check_state(state, (*FORGETTABLE, "dead"))
        return self._state().store.prune(age, state, name)

    def status_blueprint(
        self,
        *,
        name: str | None = None,
        url_prefix: str | None = None,
        results: bool = False,
        errors: bool = False,
    ) -> Blueprint:
        """Make a blueprint whose `GET /<id>` returns the state of the task with that id as JSON.

        It finds the tasks that `get` finds. The answer has `state`, `progress` and, for a task that
        failed, the `error`'s class; for a durable task also `attempts`, `deaths` and why it
        `waits`. With `errors` it has the error's message too, up to 1,000 characters and without
        the passwords of URLs. Everything else in the message is readable for anyone with the id.
        With `results` it has the task's result, if that can be JSON. The status is 404 for an
        unknown id, 410 for a forgotten one, and 503 if the journal or the results of a backend
        cannot be reached. `name` is the blueprint's name (default: as "delay_status"). May be
        called before `init_app`, and for each of several apps.
        """
        return status.blueprint(
            f"{self.name}_status" if name is None else name,
            url_prefix,
            view=self._view,
            is_gone=self._is_gone,
            results=results,
            errors=errors,
        )

    def dashboard_blueprint(
        self,
        *,
        authorize: Callable[[], Any] | None = _NOT_GIVEN,
        name: str | None = None,
        url_prefix: str | None = None,
        title: str | None = None,
        environment: str | tuple[str, str] | None = None,
        arguments: bool = False,
        redact: Callable[[TaskView], TaskView] | None = None,
        actor: Callable[[], object] | None = None,
        poll: float = 2.0,
    ) -> Blueprint:
        """Make a blueprint with a page of the tasks: what runs, what waits and why, what failed.

        `authorize` must be given. It is called before each request, and returns what the visitor
        may do: "read" or True to look; "act" to do everything; a set of "stop", "cancel", "retry",
        "run" and "pause" to do those; False or None for a 403; or a response, such as a redirect to
        a login, which is returned as it is. With None instead of a function, everyone who reaches
        the page may look.

        `title` is the heading, `environment` a badge beside it: a text, or a text and a colour such
        as ("production", "#b3261e"). `redact(view)` returns the view of a task as it may be seen.
        `actor()` returns the visitor's name for the log and for the signal `dashboard_acted`.
        `poll` is the number of seconds between two updates of an open page, from 1 to 60. `name` is
        the blueprint's name (default: as "delay_dashboard"). May be called before
        `init_app`, and for each of several apps. Raises TypeError without `authorize`, TypeError
        and ValueError for bad arguments.
        """
        # Not before: an app without the page pays nothing for it.
        from flask_delay.dashboard import blueprint as dashboard  # noqa: PLC0415

        page = dashboard.blueprint(
            f"{self.name}_dashboard" if name is None else name,
            url_prefix,
            self._state,
            **({} if authorize is _NOT_GIVEN else {"authorize": authorize}),
            title=title,
            environment=environment,
            arguments=arguments,
            redact=redact,
            actor=actor,
            poll=poll,
        )
        with self._lock:
            self._has_page = True
            for ref in self._apps:
                app = ref()
                if app is not None:
                    self._state_of(app).record()
        return page

    def stream_blueprint(
        self,
        *,
        authorize: Callable[[], Any] | None = _NOT_GIVEN,
        name: str | None = None,
        url_prefix: str | None = None,
        max_streams: int | None = None,
        results: bool = False,
        errors: bool = False,
    ) -> Blueprint:
        """Make a blueprint that gives the items of a generator task to a browser, as they come.

        `GET /<id>/events` has them as server-sent events, each with its number as the id: a browser
        that comes back goes on after the last one it got. `GET /<id>/items?after=n&wait=10` has
        those after number n as JSON, and waits up to 10 seconds for the first. `GET /stream.js` is
        a script for a page, with the function `followTask`.

        `authorize` must be given. It is called before each request, and returns True if the visitor
        may read; False or None for a 403; or a response, such as a redirect to a login, which is
        returned as it is. With None instead of a function, everyone who has the id may read.

        `max_streams` is how many threads of a process may wait for items at the same time (default:
        half of the server's threads; none if it has one). When there are no more, and with 0,
        requests are answered at once with the items there are, and the client asks again.
        `results` and `errors` are those of `status_blueprint`, for the state at the end. `name` is
        the blueprint's name (default: as "delay_stream"). May be called before `init_app`, and for
        each of several apps. Raises TypeError without `authorize`, TypeError and ValueError for bad
        arguments.
        """
        # Not before: an app without streams pays nothing for it.
        from flask_delay.streams import blueprint as streams  # noqa: PLC0415

        return streams.blueprint(
            f"{self.name}_stream" if name is None else name,
            url_prefix,
            self._state,
            **({} if authorize is _NOT_GIVEN else {"authorize": authorize}),
            max_streams=max_streams,
            results=results,
            errors=errors,
        )

    def add_default_done_callback(self, fn: _Callback) -> _Callback:
        """Call `fn(future)` for every task submitted from now on, before its own callbacks.

        Applies to all apps on which this Delay is or will be initialised. Returns `fn`, so it may
        be used as a decorator. Raises TypeError if `fn` is not callable, or is a coroutine
        function, which nothing would await.
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
        """Run up to `n` waiting tasks (None: all, and tasks that they submit), oldest first.

        For tests with `DELAY_MODE = "manual"`. Runs the tasks in the calling thread; returns the
        number of attempts, retries included. Raises RuntimeError in any other mode.
        """
        return self._state().executor.run_pending(n)

    def stats(self) -> Stats:
        """The current counts, and the outcomes of the tasks that ended in this process.

        Current, as in `Executor.stats`: `queued`, `held`, `running`, `waiting`, `stuck`, `idle`,
        `threads`. Since the process began: `done` (returned), `failed` (raised, or not started in
        time), `cancelled`, and `retried`, the number of retries. `tasks` has these four for each
        task name. For tasks that returned or failed it also has `wait` and `run` in seconds. `wait`
        counts from the submit, or from the end of `countdown` or `eta`, to the first start; `run`
        is the last attempt. After 200 names, further ones are counted as "(others)". Tasks in
        worker processes are included; if tasks on threads have the same name, as "name
        (processes)".

        A task is counted before its callbacks run. A forked process begins at 0.
        """
        found, counts = self._state().stats(), self._state().store.stats()
        return found if counts is None else {**found, "journal": counts}

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no accepted task is left, including tasks submitted by tasks.

        Returns False if `timeout` seconds were not enough. Does not wait for a task whose future
        was ended by its `timeout` or by `stop`, though its code may still run. New tasks are still
        accepted. Raises WaitCycleError when called from one of the pool's own tasks.
        """
        return self._state().drain(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; let the accepted ones end, or cancel those not started.

        Cancels jobs. With `wait`, returns when all tasks have ended. May be called more than once.
        """
        self._state().shutdown(wait, cancel_futures=cancel_futures)

    @property
    def jobs(self) -> list[Job]:
        """The jobs of this process that were not cancelled."""
        return self._state().jobs.all()

    def job(self, name: str) -> Job:
        """The job of this name: to run it now, to pause it, to cancel it.

        `name` is the function's name with its module ("shop.tasks.tidy"), or without it if that is
        unique; or the string given as `key`; or the job's `id`. Finds only jobs of this process
        that were not cancelled. Raises LookupError if there is none or several; TypeError if `name`
        is not a string.
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

    def _journal_counts(self) -> JournalStats | None:
        """The sums for the journals of all its apps; None without one."""
        apps = [app for ref in self._apps if (app := ref()) is not None]
        # Each file once: apps may share one.
        stores = {store.path: store for store in (self._state_of(app).store for app in apps)}
        found = [store.stats() for store in stores.values()]
        counts = [it for it in found if it is not None]
        if not counts:
            return None
        sums = {key: sum(cast("dict[str, int]", it)[key] for it in counts) for key in counts[0]}
        return cast("JournalStats", {**sums, "oldest": max(it["oldest"] for it in counts)})

    def _default_callbacks(self) -> tuple[Callable[[Future[Any]], object], ...]:
        return self._callbacks

    def _submitting(
        self, fn: Any, *, many: bool = False
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        if issubclass(type(fn), OPTIONED):
            return submitting(self._find, NONE, fn, many=many)
        return self._state().submit, fn

    def _find(
        self, chosen: Chosen, future: Future[Any] | None = None, on: str = "success"
    ) -> Callable[..., Any]:
        app = state.app_or_none() or self._only_app()
        return self._state_of(app).find(chosen, future, on)

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


def _check_state(state: str, allowed: Sequence[str]) -> None:
    if state not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"state is {state!r}, but must be None or one of {known}")


def _tell_unstarted(app: Flask, **_: object) -> None:
    """Log the jobs that were declared but not started. Once in a process."""
    request_started.disconnect(_tell_unstarted, sender=app)
    found = app.extensions.get(state.DEFAULT_NAME)
    # A test may leave them unstarted on purpose.
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
    fn: Callable[_P, Coroutine[Any, Any, _T] | Generator[Any, Any, _T]],
    /,
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Future[_T]: ...


@overload
def delay(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...


def delay(fn: Callable[_P, Any], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[Any]:
    """Run `fn(*args, **kwargs)` in the background and return its future at once.

    In an app context the task belongs to the app's `Delay`, as with `Delay.delay`. Elsewhere it
    belongs to the only app that has one. Without such an app it runs on an `Executor` that the
    whole process shares, made at first use. A `Task` runs with its options, as by its own `delay`.
    May be called from any thread. Raises RuntimeError if the current app has no `Delay` of the
    default name, or if no app is current and several have one; otherwise as `Delay.delay`.
    """
    if type(fn) is not FunctionType and issubclass(type(fn), OPTIONED):
        submit, fn = submitting(state.find, NONE, fn)
        future: Future[Any] = submit(fn, *args, **kwargs)
        return future
    # Repeats `state.find` in as few steps as possible: a Python call costs half a submit.
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
    # Outside the handler: the look-up's error must not become the context of the submit's error.
    return submit(fn, *args, **kwargs)
