"""What a task is in a message of Celery's: its arguments, and its options."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flask import Flask

from flask_delay import validators
from flask_delay.backends.celery import names
from flask_delay.backends.serializer import json_values
from flask_delay.retry import Retry

HEADER = "flask_delay"
"""Of a message: what a worker has to know of the options, and Celery does not tell it."""

LIMITS = ("eta", "expires", "time_limit", "soft_time_limit")
"""The options that are part of a message's body, and not of how it is sent."""

# What a task has to end, after Celery has raised its soft limit in it.
_GRACE = 1.0
_LOWEST = -9
# Of a Retry: what classes of exceptions are in.
_KINDS = ("on", "unless")


def check(options: Mapping[str, object]) -> None:
    """Raise ValueError for the values that a message cannot carry."""
    priority = options.get("priority", 0)
    if not _LOWEST <= cast("int", priority) <= 0:
        raise ValueError(
            f"the option 'priority' is {priority!r}, but with the backend 'celery' it must be"
            f" between {_LOWEST} and 0: there is none above the default, so give the others a"
            f" lower one"
        )
    if "retry" in options:
        retry = validators.retry(options["retry"])
        for name in _KINDS:
            for kind in _kinds(getattr(retry, name)):
                if not _is_in_module(kind):
                    raise ValueError(
                        f"the option 'retry' is {retry!r}, but {name}={kind!r} cannot be imported"
                        f" by a worker: define it in a module, not in a function"
                    )


def made(options: Mapping[str, Any], app: Flask, *, is_redis: bool) -> dict[str, Any]:
    """The options as Celery's own; its times count from now, whenever they are sent."""
    message: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    now = datetime.now(UTC)
    priority = options.get("priority", 0)
    if not is_redis:
        message["priority"] = priority - _LOWEST
    elif priority:
        # There 0 goes first, which is also what a message without has.
        message["priority"] = -priority
    if options.get("countdown"):
        message["eta"] = now + timedelta(seconds=options["countdown"])
    if "eta" in options:
        message["eta"] = cast("datetime", options["eta"])
    if "expires" in options:
        message["expires"] = now + timedelta(seconds=options["expires"])
    if "timeout" in options:
        message["soft_time_limit"] = options["timeout"]
        message["time_limit"] = options["timeout"] + _GRACE
    if "retry" in options:
        headers["retry"] = _packed(validators.retry(options["retry"]), app)
    message["headers"] = {HEADER: headers}
    return message


def require_json(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError for the first argument of a task that would not arrive as it is."""
    for what, values in (("args", list(args)), ("kwargs", dict(kwargs))):
        if fault := json_values.fault(values, what):
            raise TypeError(f"the arguments of task {name!r} cannot be sent: {fault}")


def retry_of(headers: Mapping[str, Any], exception: BaseException, app: Flask) -> Retry | None:
    """The retry policy that a message has, as far as this exception is concerned.

    Its classes are only names there, which those of the exception are compared with.
    """
    packed = headers.get("retry")
    if packed is None:
        return None
    kinds = {
        name: tuple(
            kind
            for kind in type(exception).__mro__
            if issubclass(kind, BaseException) and names.path_of(kind, app) in packed[name]
        )
        for name in _KINDS
    }
    return Retry(**{**packed, **kinds})


def _packed(retry: Retry, app: Flask) -> dict[str, Any]:
    packed: dict[str, Any] = {field.name: getattr(retry, field.name) for field in fields(retry)}
    for name in _KINDS:
        packed[name] = [names.path_of(kind, app) for kind in _kinds(packed[name])]
    return packed


def _kinds(given: Any) -> tuple[type[BaseException], ...]:
    return given if isinstance(given, tuple) else (given,)


def _is_in_module(kind: type) -> bool:
    """Whether a class is where its name says, as it will be in a worker."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
