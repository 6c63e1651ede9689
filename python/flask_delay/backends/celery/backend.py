"""Tasks that run in Celery workers.

In this process a task is a message to the broker and a future that the result backend updates, see
`client`. In a Celery worker, `worker` runs it.
"""

import contextlib
import inspect
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

from flask import Flask

from flask_delay import context, registry, state, validators
from flask_delay._native import (
    Executor,
    Future,
    _check_function,
    _generation,
    _Policy,
    _RemoteTask,
)
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
from flask_delay.observe.view import TaskView

_NOT_THERE = "Celery has no such thing; leave it out, or use the backend 'threads'"


class Backend(base.Backend):
    """The Celery app of one `Delay`, and this process's connection to it."""

    cannot = MappingProxyType(
        {
            "limit": _NOT_THERE,
            "rate": _NOT_THERE,
            "unique": _NOT_THERE,
            "debounce": _NOT_THERE,
            "stream_wait": "it takes no generator functions",
            "request": "no request can be sent to a worker: pass the values that the task needs",
        }
    )
    check = staticmethod(messages.check)
    is_shared = True

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
        # One client for each process that is forked from this one. No lock: see `state.State`.
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

        Raises TypeError for a function that is not a `@task`, and for an argument that is not JSON;
        BrokerUnavailable if the task cannot be published; RuntimeError after shutdown.
        """
        del policy
        _check_function(fn, "task", no_items=base.NO_ITEMS)
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

    def find(self, id: str) -> Future[Any] | None:
        """See `base.Backend`. None after shutdown."""
        if self._closed:
            return None
        found = (self._client().follow(it, self._follower) for it in _meant(id))
        return next((future for future in found if future is not None), None)

    def view(self, id: str) -> TaskView | None:
        """See `base.Backend`."""
        found = map(self._client().look, _meant(id))
        return next((view for view in found if view is not None), None)

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Publish no more tasks; with `cancel_futures`, cancel those that have not begun.

        The other futures stay as they are, since no listener is left to update them.
        """
        self._closed = True
        client = self._clients.get(_generation())
        if client is not None:
            client.close(wait, cancel_futures=cancel_futures)

    def diagnose(self) -> Iterator[base.Finding]:
        """Report problems of broker, results and settings, and the number of workers."""
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
        """Run a Celery worker, with the arguments of `celery worker`."""
        cast("Any", self.celery).worker_main(["worker", *arguments])

    def register(self) -> None:
        """Register the functions that are meant for Celery as tasks of the Celery app.

        A worker runs the function that a message names, so no other function may be registered.
        """
        for task in list(registry.decorated.values()):
            if self._why_not(task) is None:
                worker.register(
                    self.celery, registry.name_of(task, self._app.name), task, self._place
                )

    def problems(self) -> list[str]:
        """Problems that keep tasks from running, as sentences without a full stop.

        Opens connections of its own, and takes a few seconds if nothing answers.
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
        """The number of workers that answer within a second. Raises the broker library's errors."""
        return len(self.celery.control.ping(timeout=1.0))

    def _executor(self) -> Executor:
        executor: Executor = self._app.extensions[self._name].executor
        return executor

    def _follower(self, id: str, name: str, recall: Callable[[bool], object]) -> _RemoteTask:
        """A handle of a task that another process has sent."""

        def elsewhere() -> None: ...

        elsewhere.__name__ = elsewhere.__qualname__ = name
        return _RemoteTask(self._executor(), elsewhere, id=id, is_found=True, recall=recall)

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
            # Such an object would take the name of its class.
            why = "it has no name"
        if why is not None:
            raise TypeError(
                f"Celery's workers do not know {fn!r}: {why}; decorate a function of a module that"
                f" they import too with {self._decorator()}"
            )
        return registry.name_of(fn, self._app.name)

    def _why_not(self, task: Any) -> str | None:
        """The reason why a `@task` function is not for Celery workers; None if it is."""
        # A function without an importable name cannot be called from another process.
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
        """Whether the `delay` of a task without its own backend would use this Delay."""
        find = task._find
        if find is state.find:
            return self._name == state.DEFAULT_NAME
        return getattr(find, "__self__", None) is self._app.extensions[self._name].owner

    def _decorator(self) -> str:
        return "@task" if self._default == "celery" else '@task(backend="celery")'


def celery_app(app: Flask, *, name: str = state.DEFAULT_NAME) -> Celery:
    """The Celery app for the tasks of an app's `Delay`, for `celery -A module:celery`.

    Raises RuntimeError if the app has no `Delay` of this name, ValueError for missing or wrong
    settings.
    """
    found = app.extensions.get(name)
    if not isinstance(found, state.State):
        raise RuntimeError(state.not_initialised(app, name))  # noqa: TRY004 (as everywhere)
    return cast("Backend", found.backend("celery")).celery


def _meant(text: str) -> Iterator[str]:
    """The ids that a text may mean: UUIDs have other notations."""
    with contextlib.suppress(ValueError):
        yield validators.identity(text)
        if (other := str(uuid.UUID(text))) != text:
            yield other


def _imported(path: str, key: str) -> Celery:
    module, _, name = path.partition(":")
    found = getattr(import_module(module), name, None)
    if not isinstance(found, Celery):
        message = f"{key} is {path!r}, but there is no Celery app: found {found!r}"
        raise ValueError(message)  # noqa: TRY004 (of a setting)
    return found


def check(app: Flask, *, name: str = state.DEFAULT_NAME) -> tuple[list[str], int] | None:
    """Celery's problems for the `Delay` of this name, and the number of workers that answer.

    Workers are only asked if there are no problems. None if the app does not use Celery. Takes a
    few seconds if nothing answers.
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
    """Register the tasks of an app when Celery asks for them, as it does in every worker."""
    for found in state.states():
        if found.config.mode != "threads":
            continue
        try:
            backend = found.backend("celery")
        except ValueError:
            if found.config.backend == "celery":
                raise
            # This Delay does not use Celery.
            continue
        if isinstance(backend, Backend) and backend.celery is sender:
            backend.register()
