"""A task as a Celery message: its arguments, and its options."""

import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from flask_delay import validators
from flask_delay.backends.message import TaskMessage
from flask_delay.backends.serializer import json_values
from flask_delay.carried import exception_classes
from flask_delay.retry import as_retry

HEADER = "flask_delay"
"""Of a message: what a worker has to know of the options, and Celery does not tell it."""

LIMITS = ("eta", "expires", "time_limit", "soft_time_limit")
"""The options that are part of a message's body, and not of how it is sent."""

# Seconds that a task has to end after Celery has raised its soft limit in it.
_GRACE = 1.0
_LOWEST = -9


def check(options: Mapping[str, object]) -> None:
    """Raise ValueError for option values that a message cannot carry."""
    priority = options.get("priority", 0)
    if not _LOWEST <= cast("int", priority) <= 0:
        raise ValueError(
            f"the option 'priority' is {priority!r}, but with the backend 'celery' it must be"
            f" between {_LOWEST} and 0: there is none above the default, so give the others a"
            f" lower one"
        )
    if "retry" in options:
        retry = as_retry(options["retry"])
        for name, kinds in exception_classes(retry).items():
            for kind in kinds:
                if not _is_in_module(kind):
                    raise ValueError(
                        f"the option 'retry' is {retry!r}, but {name}={kind!r} cannot be imported"
                        f" by a worker: define it in a module, not in a function"
                    )


def options(message: TaskMessage, *, is_redis: bool) -> dict[str, Any]:
    """The options of a message in Celery's form."""
    found: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    priority = message.options.get("priority", 0)
    if not is_redis:
        found["priority"] = priority - _LOWEST
    elif priority:
        # In Redis 0 is the first priority, which is also that of a message without one.
        found["priority"] = -priority
    if message.eta is not None:
        found["eta"] = datetime.fromtimestamp(message.eta, UTC)
    if message.expires is not None:
        found["expires"] = datetime.fromtimestamp(message.expires, UTC)
    if "timeout" in message.options:
        found["soft_time_limit"] = message.options["timeout"]
        found["time_limit"] = message.options["timeout"] + _GRACE
    if "retry" in message.options:
        headers["retry"] = message.options["retry"]
    found["headers"] = {HEADER: headers}
    return found


def received(request: Any, name: str) -> TaskMessage:
    """Convert a Celery request into the message; `name` is the function's."""
    return TaskMessage(
        id=_identity(request.id),
        name=name,
        options=(request.headers or {}).get(HEADER) or {},
        attempt=request.retries + 1,
    )


def _identity(id: str) -> str:
    try:
        return validators.identity(id)
    except ValueError:
        # The sender may not be Flask-Delay.
        return str(uuid.uuid5(uuid.NAMESPACE_OID, id))


def require_json(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError for the first argument of a task that would not arrive unchanged."""
    for what, values in (("args", list(args)), ("kwargs", dict(kwargs))):
        if fault := json_values.fault(values, what):
            raise TypeError(f"the arguments of task {name!r} cannot be sent: {fault}")


def _is_in_module(kind: type) -> bool:
    """Whether a class can be imported by its name, as a worker will do."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
