"""Where tasks go: to the pool of a `Delay` on an app, or to the one of the process."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from flask import Flask

from flask_delay import config, context
from flask_delay._native import Executor, Future
from flask_delay.jobs import Jobs
from flask_delay.options import Chosen, submitter

DEFAULT_NAME = "delay"
"""Of the `Delay` that the functions of the package use."""


class Owner(Protocol):
    """A `Delay`, as far as it is known here."""

    name: str
    prefix: str


class State:
    """What one `Delay` keeps on one app, in `app.extensions`."""

    __slots__ = ("__weakref__", "config", "executor", "jobs", "owner", "submit")

    def __init__(
        self, owner: "Owner", settings: config.Config, executor: Executor, app: Flask
    ) -> None:
        self.owner = owner
        self.config = settings
        self.executor = executor
        self.jobs = Jobs(
            executor,
            folder=Path(app.instance_path) / owner.name,
            active=settings.mode == "threads",
            check=context.check,
        )
        # Bound once, since every task comes through here.
        self.submit: Callable[..., Future[Any]] = executor.submit
        _states.add(self)


_states: weakref.WeakSet[State] = weakref.WeakSet()


def limits() -> dict[str, float | None]:
    """What each Delay of this process has for `SHUTDOWN_TIMEOUT`, by its config key."""
    return {
        f"{state.owner.prefix}SHUTDOWN_TIMEOUT": state.config.shutdown_timeout for state in _states
    }


def app_or_none() -> Flask | None:
    """The current app itself, or None."""
    try:
        return context.current()
    except RuntimeError:
        return None


def default_state(app: Flask) -> State:
    """What the app's `Delay` of the default name keeps; RuntimeError if it has none."""
    state = app.extensions.get(DEFAULT_NAME)
    if isinstance(state, State):
        return state
    raise RuntimeError(not_initialised(app, DEFAULT_NAME))


def not_initialised(app: Flask, name: str) -> str:
    """What to say of an app without a `Delay` of this name."""
    arguments = "app" if name == DEFAULT_NAME else f"app, name={name!r}"
    return (
        f"the Delay {name!r} is not initialised on app {app.name!r}; call"
        f" Delay({arguments}), or init_app(app) if there is one already"
    )


_shared: dict[str, Jobs] = {}


def shared_executor() -> Executor:
    """The executor of the whole process, made at first use."""
    return shared_jobs().executor


def shared_jobs() -> Jobs:
    """The jobs of that executor, which each process runs for itself."""
    jobs = _shared.get(DEFAULT_NAME)
    if jobs is None:
        # Atomic and without a lock, which a fork in another thread could leave locked;
        # who comes second drops a pool that has no threads yet.
        new = Jobs(Executor(thread_name_prefix=DEFAULT_NAME))
        jobs = _shared.setdefault(DEFAULT_NAME, new)
    return jobs


def jobs_of(app: Flask | None) -> Jobs:
    """Those of the app's default `Delay` or, without an app, of the process's pool.

    Raises RuntimeError if the app has none.
    """
    return shared_jobs() if app is None else default_state(app).jobs


def find(chosen: Chosen) -> Callable[..., Any]:
    """What submits to the current app's default `Delay` or, without an app, to the process's pool.

    Raises RuntimeError if the app has none, and as `submitter`.
    """
    app = app_or_none()
    return submitter(chosen, jobs_of(app), app)
