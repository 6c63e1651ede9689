"""The exceptions of tasks: a JSON record in the worker, and an exception again in this process.

Flask-Delay keeps this record beside Celery's own. Celery makes up a class that is not imported, and
replaces an exception with an `__init__` of its own.
"""

from collections.abc import Mapping
from typing import Any

from flask import Flask
from kombu.utils import json

from flask_delay import registry
from flask_delay._native import TaskTimeout
from flask_delay.backends.base import ProcessDied, RemoteError
from flask_delay.backends.serializer import json_values

KEY = "flask_delay"
"""Of Flask-Delay's record in what Celery stores of a failure."""

_dumps: Any = json.dumps
# Characters of a message, and of an attribute.
_MOST = 10_000

_OURS = {
    "billiard.exceptions:SoftTimeLimitExceeded": TaskTimeout,
    "billiard.exceptions:TimeLimitExceeded": TaskTimeout,
    "billiard.exceptions:WorkerLostError": ProcessDied,
}
_TEXTS: dict[type[Exception], str] = {
    TaskTimeout: "task {!r} did not end when its timeout was over",
    ProcessDied: "the worker process of task {!r} ended while it ran",
}
_NOT_THERE = "celery.exceptions:NotRegistered"


def packed(exception: BaseException, app: Flask) -> dict[str, Any]:
    """Make the record: the class, its arguments, its attributes and its message."""
    arguments = _arguments(exception)
    return {
        "class": registry.path_of(type(exception), app.name),
        "args": _carried(list(exception.args)),
        # The arguments of the built-in base class, such as an OSError's file.
        "made": _carried(list(arguments)) if arguments is not exception.args else None,
        "state": {
            name: value
            for name, value in getattr(exception, "__dict__", {}).items()
            if json_values.fault(value, name) is None and len(_dumps(value)) <= _MOST
        },
        "text": _text(exception)[:_MOST],
    }


def unpacked(name: str, meta: Mapping[str, Any], app: Flask) -> BaseException:
    """Restore the exception of a failed task from the record that Celery stores.

    Its class is the one of the worker if this process has imported that, otherwise RemoteError. The
    code of the class does not run.
    """
    stored = meta["result"]
    record = stored.get(KEY) or _celerys(stored)
    path: str = record["class"]
    exception: BaseException
    if ours := _OURS.get(path):
        exception = ours(_TEXTS[ours].format(name))
    else:
        exception = _rebuilt(record, app) or RemoteError(path.replace(":", "."), record["text"])
    if path == _NOT_THERE:
        exception.add_note(
            "The worker does not have the task: its module is not imported there, or it is not"
            " meant for Celery there: say @task(backend='celery'), or set DELAY_BACKEND"
        )
    if traceback := meta.get("traceback"):
        exception.add_note(f"In the Celery worker:\n{traceback}")
    return exception


def exception_class(path: str, app: Flask) -> type[Exception] | None:
    """The exception class of this path; None if this process has not imported it.

    Never returns a class that ends more than a task, such as SystemExit.
    """
    kind = registry.resolve_class(path, app.name if app.import_name == registry.MAIN else "")
    return kind if kind is not None and issubclass(kind, Exception) else None


def _rebuilt(record: Mapping[str, Any], app: Flask) -> Exception | None:
    kind = exception_class(record["class"], app)
    if kind is None:
        return None
    base: Any = _own_of_python(kind)
    args = [record["text"]] if record["args"] is None else record["args"]
    made = args if record.get("made") is None else record["made"]
    try:
        exception: Exception = base.__new__(kind, *made)
        base.__init__(exception, *made)
    except (TypeError, ValueError):
        # An exception group, whose arguments are exceptions.
        return None
    exception.args = tuple(args)
    vars(exception).update(record.get("state") or {})
    return exception


def _celerys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the record of Celery itself, or of a worker of an older version."""
    args = stored.get("exc_message", [])
    args = args if isinstance(args, list | tuple) else [args]
    path = f"{stored.get('exc_module')}:{stored['exc_type']}"
    return {"class": path, "args": args, "text": ", ".join(map(str, args))}


def _arguments(exception: BaseException) -> tuple[Any, ...]:
    """The arguments of the built-in class from which the exception's class derives."""
    base: Any = _own_of_python(type(exception))
    reduced = base.__reduce__(exception)
    arguments: tuple[Any, ...] = reduced[1]
    return arguments


def _own_of_python(kind: type[BaseException]) -> type[BaseException]:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _carried(values: list[Any]) -> list[Any] | None:
    return values if json_values.fault(values, "args") is None else None


def _text(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception as error:
        return f"<its message cannot be had: {type(error).__name__}>"
