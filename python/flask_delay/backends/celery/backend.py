"""Tasks that run in Celery workers.

In this process a task is a message to the broker and a future that the result backend feeds,
see `client`; in a worker it is run by `worker`.
"""

import inspect
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

from flask import Flask

from flask_delay import context, registry, state
from flask_delay._native import Executor, Future, _generation, _Policy, _RemoteTask
from flask_delay.config import Config

try:
    import redis
    from celery import Celery, signals
    from celery.backends.redis import RedisBackend
except ImportError as error:
    raise ImportError(
        "the backend 'celery' needs Celery and redis-py, which are not installed:"
        " pip install 'flask-delay[celery]'"
    ) from error

from flask_delay.backends import base
from flask_delay.backends.celery import app as celerys
from flask_delay.backends.celery import connections, messages, worker
from flask_delay.backends.celery.client import Client
from flask_delay.backends.celery.settings import Settings
from flask_delay.backends.message import TaskMessage

_NOT_THERE = "Celery has no such thing; leave it out, or use the backend 'threads'"


class Backend(base.Backend):
    """The Celery app of one `Delay`, and how this process talks to it."""

    cannot = MappingProxyType(
        {
            "limit": _NOT_THERE,
            "rate": _NOT_THERE,
            "unique": _NOT_THERE,
            "request": "no request can be sent to a worker: pass the values that the task needs",
        }
    )
    check = staticmethod(messages.check)

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        self._name = name
        self._app = app
        self._default = settings.backend
        self._place = worker.Place(app, name)
        own = settings.of(Settings)
        if own.celery_app is None:
            self.celery = celerys.made(name, own, app)
        else:
            self.celery = _imported(own.celery_app, f"{name.upper()}_CELERY_APP")
        celerys.require(self.celery)
        results = self.celery.backend
        if not isinstance(results, RedisBackend):
            raise ValueError(  # noqa: TRY004 (of a setting)
                f"the results of the Celery app {self.celery.main!r} are kept by"
                f" {type(results).__name__}, which does not tell when they come: set its"
                f" result_backend to a Redis, such as 'redis://localhost:6379/1'"
            )
        for problem in celerys.without_effect(self.celery):
            warnings.warn(problem, stacklevel=2)
        # One for each process that is forked from this one. No lock: see `state.State`.
        self._clients: dict[int, Client] = {}
        self._buffers = own.celery_when_down == "buffer"
        self._closed = False

    def submit(
        self,
        policy: _Policy | None,
        options: Mapping[str, object],
        fn: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[Any]:
        """Publish the task; see `base.Backend`.

        Raises TypeError for what is no `@task` function, and for an argument that is not
        JSON; BrokerUnavailable if it cannot be published; RuntimeError after shutdown.
        """
        del policy
        name = self._name_of(fn)
        for value in (*args, *kwargs.values()):
            context.check(value)
        messages.require_json(name, args, kwargs)
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        client = self._client()
        id = str(options.get("id") or uuid.uuid4())
        handle = _RemoteTask(
            self._executor(),
            fn,
            id=id,
            is_chosen="id" in options,
            recall=lambda terminate: client.recall(id, terminate=terminate),
        )
        try:
            handle.announce()
            message = TaskMessage.of(id, name, args, kwargs, options=options, main=self._app.name)
            client.publish(handle, message)
        except BaseException:
            handle.withdraw()
            raise
        return handle.future

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Publish no more; with `cancel_futures` cancel what has not begun.

        Nobody listens for the other futures any more, so they are left as they are.
        """
        self._closed = True
        client = self._clients.get(_generation())
        if client is not None:
            client.close(wait, cancel_futures=cancel_futures)

    def diagnose(self) -> Iterator[base.Finding]:
        """Say what is wrong with the broker, the results and settings, and how many workers are."""
        problems = self.problems()
        for problem in problems:
            yield "wrong", problem
        if problems:
            return
        if workers := self.workers():
            yield "ok", f"the broker and the results answer, and workers: {workers}"
        else:
            yield "note", "no worker answers: start one with `flask delay worker`"

    def work(self, arguments: Sequence[str]) -> None:
        """Be a Celery worker, with the arguments of `celery worker`."""
        cast("Any", self.celery).worker_main(["worker", *arguments])

    def register(self) -> None:
        """Make the functions that are meant for Celery tasks of the Celery app, for its workers.

        A worker runs what a message names, so nothing else may be there to be named.
        """
        for task in list(registry.decorated.values()):
            if self._why_not(task) is None:
                worker.register(
                    self.celery, registry.name_of(task, self._app.name), task, self._place
                )

    def problems(self) -> list[str]:
        """What keeps tasks from being run, as sentences without a full stop.

        Opens connections of its own, and takes a few seconds if nobody is there.
        """
        found = list(celerys.without_effect(self.celery))
        # Without its password.
        where = self.celery.connection_for_write().as_uri()
        try:
            with connections.to_broker(self.celery) as connection:
                connection.ensure_connection(**connections.ONCE_MORE)
        except Exception as error:
            found.append(f"the broker {where} cannot be reached: {error}")
        results: Any = self.celery.backend
        try:
            connections.to_results(results.client).ping()
        except (redis.RedisError, OSError) as error:
            found.append(f"the results' Redis {results.as_uri()} cannot be reached: {error}")
        return found

    def workers(self) -> int:
        """How many workers answer within a second. Raises what the broker's library does."""
        return len(self.celery.control.ping(timeout=1.0))

    def _executor(self) -> Executor:
        executor: Executor = self._app.extensions[self._name].executor
        return executor

    def _client(self) -> Client:
        generation = _generation()
        client = self._clients.get(generation)
        if client is None:
            client = self._clients.setdefault(
                generation, Client(self.celery, self._app, buffers=self._buffers)
            )
        return client

    def _name_of(self, fn: Callable[..., Any]) -> str:
        fn = getattr(fn, "__wrapped__", fn)
        task = registry.decorated.get(registry.name_of(fn))
        why = f"it has no {self._decorator()}" if task is None else self._why_not(task)
        if task is None and inspect.ismethod(fn):
            why = "it is a method"
        if task is not None and registry.qualname_of(fn) is None:
            # It would have that of its class.
            why = "it has no name"
        if why is not None:
            raise TypeError(
                f"Celery's workers do not know {fn!r}: {why}; decorate a function of a module that"
                f" they import too with {self._decorator()}"
            )
        return registry.name_of(fn, self._app.name)

    def _why_not(self, task: Any) -> str | None:
        """Why a `@task` function is none of Celery's workers; None if it is."""
        # What has no name cannot be called from elsewhere.
        owner, _, _ = getattr(task, "__qualname__", "").rpartition(".")
        if not hasattr(task, "__qualname__"):
            return "it has no name"
        if owner and not owner.endswith("<locals>"):
            return "it is a method"
        chosen = task._chosen.backend  # noqa: SLF001
        if chosen is None and self._is_of_ours(task):
            chosen = self._default
        return None if chosen == "celery" else "it is not meant for them"

    def _is_of_ours(self, task: Any) -> bool:
        """Whether a task without a backend of its own goes to this Delay: as its `delay` does."""
        find = task._find  # noqa: SLF001
        if find is state.find:
            return self._name == state.DEFAULT_NAME
        return getattr(find, "__self__", None) is self._app.extensions[self._name].owner

    def _decorator(self) -> str:
        return "@task" if self._default == "celery" else '@task(backend="celery")'


def celery_app(app: Flask, *, name: str = state.DEFAULT_NAME) -> Celery:
    """The Celery app that the tasks of an app's `Delay` go to, for `celery -A module:celery`.

    Raises RuntimeError if the app has no `Delay` of this name, ValueError for settings that
    are missing or wrong.
    """
    found = app.extensions.get(name)
    if not isinstance(found, state.State):
        raise RuntimeError(state.not_initialised(app, name))  # noqa: TRY004 (as everywhere)
    return cast("Backend", found.backend("celery")).celery


def _imported(path: str, key: str) -> Celery:
    module, _, name = path.partition(":")
    found = getattr(import_module(module), name, None)
    if not isinstance(found, Celery):
        message = f"{key} is {path!r}, but there is no Celery app: found {found!r}"
        raise ValueError(message)  # noqa: TRY004 (of a setting)
    return found


def check(app: Flask, *, name: str = state.DEFAULT_NAME) -> tuple[list[str], int] | None:
    """What is wrong with Celery for the `Delay` of this name, and how many workers answer.

    Workers are only asked if nothing is wrong. None if the app has nothing to do with Celery.
    Takes a few seconds if nobody is there.
    """
    found: state.State = app.extensions[name]
    if found.config.mode != "threads":
        return None
    try:
        backend = cast("Backend", found.backend("celery"))
    except ValueError as error:
        return ([str(error)], 0) if found.config.backend == "celery" else None
    problems = backend.problems()
    return problems, 0 if problems else backend.workers()


@signals.import_modules.connect(weak=False)  # type: ignore[untyped-decorator]
def _register(sender: object, **_: object) -> None:
    """Celery wants to know the tasks of an app, as it does in every worker."""
    for found in state.states():
        if found.config.mode != "threads":
            continue
        try:
            backend = found.backend("celery")
        except ValueError:
            if found.config.backend == "celery":
                raise
            # A Delay that has nothing to do with Celery.
            continue
        if isinstance(backend, Backend) and backend.celery is sender:
            backend.register()
