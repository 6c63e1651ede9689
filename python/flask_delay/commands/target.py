"""The `Delay` that a command works on."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import click
from flask import Flask
from flask.cli import ScriptInfo

from flask_delay import Delay, Executor
from flask_delay.config import Config
from flask_delay.state import State


class Target(NamedTuple):
    """A `Delay` on the app that Flask found, and its settings there."""

    app: Flask
    delay: Delay
    settings: Config
    executor: Executor
    state: State

    @classmethod
    def find(cls, name: str) -> Self:
        """Load the app and find its `Delay` of this name.

        Raises ClickException if there is none, or if setting up a `Delay` failed.
        """
        app = _load()
        state = app.extensions.get(name)
        if state is not None and _is_delay(state):
            return cls(app, state.owner, state.config, state.executor, state)
        others = ", ".join(key for key, state in app.extensions.items() if _is_delay(state))
        arguments = "app" if name == "delay" else f"app, name={name!r}"
        message = f"app {app.name!r} has no Delay named {name!r}: "
        if others:
            message += f"say which with --name; there are: {others}"
        else:
            message += f"call Delay({arguments}), or init_app(app), where the app is made"
        raise click.ClickException(message)

    @property
    def prefix(self) -> str:
        """The prefix of the config keys."""
        return self.delay.prefix

    @property
    def kind(self) -> type[Config]:
        """The class of the settings."""
        return type(self.settings)

    def __str__(self) -> str:
        return f"Delay {self.delay.name!r} on app {self.app.name!r}"


def _is_delay(extension: object) -> bool:
    return isinstance(getattr(extension, "owner", None), Delay)


def _load() -> Flask:
    info = click.get_current_context().ensure_object(ScriptInfo)
    try:
        return info.load_app()
    except (RuntimeError, ValueError) as error:
        if not _is_ours(error):
            raise
        raise click.ClickException(f"the app cannot be made: {error}") from None


def _is_ours(error: Exception) -> bool:
    """Whether Flask-Delay raised the error, so that its message is complete."""
    raised_in = list(_modules(error))[-1]
    return raised_in.partition(".")[0] == "flask_delay"


def _modules(error: Exception) -> Iterator[str]:
    traceback = error.__traceback__
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__"))
        traceback = traceback.tb_next
