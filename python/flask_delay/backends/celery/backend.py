"""Tasks that run in Celery workers.

In this process a task is a message to the broker and a future that the result backend feeds,
see `wire`; in a worker it is run by `worker`.
"""

import inspect
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from flask import Flask

from flask_delay import context, pools, tasks
from flask_delay._native import Executor, Future, _Elsewhere, _generation, _Policy
from flask_delay.config import Config

try:
    from celery import Celery, signals
    from celery.backends.redis import RedisBackend
except ImportError as error:
    raise ImportError(
        "the backend 'celery' needs Celery and redis-py, which are not installed:"
        " pip install 'flask-delay[celery]'"
    ) from error

from flask_delay.backends.celery import messages, worker
from flask_delay.backends.celery.wire import Message, Wire

_NOT_THERE = "Celery has no such thing; leave it out, or use the backend 'threads'"


class Backend:
    """The Celery app of one `Delay`, and how this process talks to it."""

    cannot: Mapping[str, str] = {
        "limit": _NOT_THERE,
        "rate": _NOT_THERE,
        "unique": _NOT_THERE,
        "request": "no request can be sent to a worker: pass the values that the task needs",
    }
    check = staticmethod(messages.check)
    # Its futures are in the app's own.
    executor: Executor | None = None

    def __init__(self, name: str, settings: Config, app: Flask) -> None:
        self._name = name
        self._app = app
        self.celery = _celery_app(name, settings, app)
        results = self.celery.backend
        if not isinstance(results, RedisBackend):
            raise ValueError(  # noqa: TRY004 (of a setting)
                f"the results of the Celery app {self.celery.main!r} are kept by"
                f" {type(results).__name__}, which does not tell when they come: set its"
                f" result_backend to a Redis, such as 'redis://localhost:6379/1'"
            )
        # One for each process that is forked from this one. No lock: see `pools.State`.
        self._wires: dict[int, Wire] = {}
        self._buffers = settings.celery_when_down == "buffer"
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
        """Publish the task; see `elsewhere.Backend`.

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
        wire = self._wire()
        id = str(options.get("id") or uuid.uuid4())
        handle = _Elsewhere(
            self._executor(),
            fn,
            id=id,
            is_chosen="id" in options,
            recall=lambda terminate: wire.recall(id, terminate=terminate),
        )
        try:
            handle.announce()
            wire.publish(handle, Message(id, name, args, kwargs, options))
        except BaseException:
            handle.withdraw()
            raise
        return handle.future

    def drain(self, timeout: float | None) -> bool:
        """Nothing is left to do here: what was published is the broker's."""
        del timeout
        return True

    def shutdown(self, wait: bool, *, cancel_futures: bool) -> None:
        """Publish no more; with `cancel_futures` cancel what has not begun.

        Nobody listens for the other futures any more, so they are left as they are.
        """
        self._closed = True
        wire = self._wires.get(_generation())
        if wire is not None:
            wire.close(wait, cancel_futures=cancel_futures)

    def register(self) -> None:
        """Make all functions with `@task` tasks of the Celery app, for its workers."""
        for task in list(tasks.known.values()):
            # What has no name cannot be called from elsewhere.
            if hasattr(task, "__qualname__"):
                name = self._qualified(task)
                worker.register(self.celery, name, task, self._name, self._app)

    def _executor(self) -> Executor:
        executor: Executor = self._app.extensions[self._name].executor
        return executor

    def _wire(self) -> Wire:
        generation = _generation()
        wire = self._wires.get(generation)
        if wire is None:
            wire = self._wires.setdefault(generation, Wire(self.celery, buffers=self._buffers))
        return wire

    def _name_of(self, fn: Callable[..., Any]) -> str:
        fn = getattr(fn, "__wrapped__", fn)
        if tasks.key_of(fn) not in tasks.known or inspect.ismethod(fn):
            raise TypeError(
                f"{fn!r} is not known to Celery's workers: decorate a function, not a method, with"
                f" @task, in a module that they import too"
            )
        return self._qualified(fn)

    def _qualified(self, fn: Any) -> str:
        # Who starts a script has it as `__main__`, and a worker by its name.
        module = self._app.name if fn.__module__ == "__main__" else fn.__module__
        return f"{module}.{fn.__qualname__}"


def celery_app(app: Flask, *, name: str = pools.DEFAULT_NAME) -> Celery:
    """The Celery app that the tasks of an app's `Delay` go to, for `celery -A module:celery`.

    Raises RuntimeError if the app has no `Delay` of this name, ValueError for settings that
    are missing or wrong.
    """
    state = app.extensions.get(name)
    if not isinstance(state, pools.State):
        raise RuntimeError(pools.not_initialised(app, name))  # noqa: TRY004 (as everywhere)
    return cast("Backend", state.backend("celery")).celery


_PREFIX = "CELERY_"


def _celery_app(name: str, settings: Config, app: Flask) -> Celery:
    prefix = f"{name.upper()}_{_PREFIX}"
    if settings.celery_app is not None:
        return _imported(settings.celery_app, f"{prefix}APP")
    given = dict(app.config.get("CELERY") or {})
    for key, value in app.config.items():
        if key.startswith(_PREFIX):
            given[key.removeprefix(_PREFIX).lower()] = value
    broker = settings.celery_broker_url or given.get("broker_url")
    if not broker:
        raise ValueError(
            f"the backend 'celery' needs a Celery app: set {prefix}APP to where one is, such as"
            f" 'module:celery', or {prefix}BROKER_URL to make one"
        )
    given["broker_url"] = broker
    if settings.celery_result_backend:
        given["result_backend"] = settings.celery_result_backend
    elif str(broker).startswith(("redis:", "rediss:")):
        given.setdefault("result_backend", broker)
    # Not the current one: that is for the user's own to be.
    celery = Celery(app.name, set_as_current=False)
    celery.conf.update(given)
    return celery


def _imported(path: str, key: str) -> Celery:
    module, _, name = path.partition(":")
    found = getattr(import_module(module), name, None)
    if not isinstance(found, Celery):
        message = f"{key} is {path!r}, but there is no Celery app: found {found!r}"
        raise ValueError(message)  # noqa: TRY004 (of a setting)
    return found


@signals.import_modules.connect(weak=False)  # type: ignore[untyped-decorator]
def _register(sender: object, **_: object) -> None:
    """Celery wants to know the tasks of an app, as it does in every worker."""
    for state in pools.states():
        if state.config.mode != "threads":
            continue
        try:
            backend = state.backend("celery")
        except ValueError:
            if state.config.backend == "celery":
                raise
            # A Delay that has nothing to do with Celery.
            continue
        if isinstance(backend, Backend) and backend.celery is sender:
            backend.register()
