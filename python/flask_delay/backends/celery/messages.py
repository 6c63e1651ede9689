"""What a task is in a message of Celery's: its arguments, and its options."""

import inspect
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, cast

from kombu.utils import json

from flask_delay import parsing
from flask_delay.retry import Retry

HEADER = "flask_delay"
"""Of a message: what a worker has to know of the options, and Celery does not tell it."""

LIMITS = ("countdown", "eta", "expires", "time_limit", "soft_time_limit")
"""The options that are part of a message's body, and not of how it is sent."""

# What a task has to end, after Celery has raised its soft limit in it.
_GRACE = 1.0
_LOWEST = -9


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
        retry = parsing.retry(options["retry"])
        for name in ("on", "unless"):
            for kind in _kinds(getattr(retry, name)):
                if _found(_path(kind)) is not kind:
                    raise ValueError(
                        f"the option 'retry' is {retry!r}, but {name}={kind!r} cannot be imported"
                        f" by a worker: define it in a module, not in a function"
                    )


def made(options: Mapping[str, Any], *, is_redis: bool) -> dict[str, Any]:
    """The options as Celery's own."""
    message: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    priority = options.get("priority", 0)
    if not is_redis:
        message["priority"] = priority - _LOWEST
    elif priority:
        # There 0 goes first, which is also what a message without has.
        message["priority"] = -priority
    if options.get("countdown"):
        message["countdown"] = options["countdown"]
    if "eta" in options:
        message["eta"] = cast("datetime", options["eta"])
    if "expires" in options:
        message["expires"] = options["expires"]
        headers["expires"] = options["expires"]
    if "timeout" in options:
        message["soft_time_limit"] = options["timeout"]
        message["time_limit"] = options["timeout"] + _GRACE
    if "retry" in options:
        headers["retry"] = _packed(parsing.retry(options["retry"]))
    message["headers"] = {HEADER: headers}
    return message


def require_json(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError for the first argument of a task that JSON cannot carry."""
    named = [(str(number), value) for number, value in enumerate(args, 1)]
    named += [(repr(key), value) for key, value in kwargs.items()]
    dumps: Any = json.dumps
    for what, value in named:
        try:
            dumps(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(
                f"argument {what} of task {name!r} is {_short(value)}, which JSON cannot carry to"
                f" a worker ({error}): pass what it can, such as the id of a row or a path"
            ) from None


def retry_of(headers: Mapping[str, Any]) -> Retry | None:
    """The retry policy that a message has."""
    packed = headers.get("retry")
    if packed is None:
        return None
    kinds = {
        name: tuple(kind for path in packed[name] if (kind := _found(path)) is not None)
        for name in ("on", "unless")
    }
    return Retry(
        packed["times"],
        backoff=packed["backoff"],
        max_delay=packed["max_delay"],
        jitter=packed["jitter"],
        # Of a message that another version has sent.
        waits=packed.get("waits"),
        **kinds,
    )


def _packed(retry: Retry) -> dict[str, Any]:
    packed: dict[str, Any] = {
        name: getattr(retry, name) for name in ("times", "backoff", "max_delay", "jitter", "waits")
    }
    for name in ("on", "unless"):
        packed[name] = [_path(kind) for kind in _kinds(getattr(retry, name))]
    return packed


def _kinds(given: Any) -> tuple[type[BaseException], ...]:
    return given if isinstance(given, tuple) else (given,)


def _path(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _found(path: str) -> Any:
    """The exception class of this path; None if there is none."""
    module, _, names = path.partition(":")
    found: Any
    try:
        found = import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return None
    # A message comes from outside: nothing else is ever got by its name.
    is_exception = inspect.isclass(found) and issubclass(found, BaseException)
    return found if is_exception else None


def _short(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
