"""The exceptions of tasks: a JSON record in the worker, and an exception again in this process.

Flask-Delay keeps this record beside Celery's own. Celery makes up a class that is not imported, and
replaces an exception with an `__init__` of its own.
"""

from collections.abc import Mapping
from typing import Any

from flask import Flask
from kombu.utils import json

from flask_delay import failures, registry
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
    made = failures.made_of(exception)
    return {
        "class": registry.path_of(type(exception), app.name),
        "args": _carried(list(exception.args)),
        # The arguments of the built-in base class, such as an OSError's file.
        "made": _carried(list(made)) if made is not exception.args else None,
        "state": {
            name: value
            for name, value in getattr(exception, "__dict__", {}).items()
            if json_values.fault(value, name) is None and len(_dumps(value)) <= _MOST
        },
        "text": failures.text_of(exception, _MOST),
    }


def unpacked(name: str, meta: Mapping[str, Any], app: Flask) -> BaseException:
    """Restore the exception of a failed task from the record that Celery stores.

    Its class is the one of the worker if this process has imported that, otherwise RemoteError. The
    code of the class does not run.
    """
    stored = meta["result"]
    record = stored.get(KEY) or _celerys(stored)
    path: str = record["class"]
    exception: BaseException | None
    if ours := _OURS.get(path):
        exception = ours(_TEXTS[ours].format(name))
    else:
        exception = _rebuilt(record, app)
    if exception is None:
        exception = RemoteError(path.replace(":", "."), record["text"])
    if path == _NOT_THERE:
        exception.add_note(
            "The worker does not have the task: its module is not imported there, or it is not"
            " meant for Celery there: say @task(backend='celery'), or set DELAY_BACKEND"
        )
    if traceback := meta.get("traceback"):
        failures.add_notes(exception, [f"In the Celery worker:\n{traceback}"])
    return exception


def exception_class(path: str, app: Flask) -> type[Exception] | None:
    """As `failures.exception_class`, for a path that a worker of this app has sent."""
    return failures.exception_class(path, app.name if app.import_name == registry.MAIN else "")


def _rebuilt(record: Mapping[str, Any], app: Flask) -> Exception | None:
    kind = exception_class(record["class"], app)
    if kind is None:
        return None
    args = [record["text"]] if record["args"] is None else record["args"]
    made = args if record.get("made") is None else record["made"]
    return failures.rebuilt(kind, made, args, record.get("state") or {})


def _celerys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the record of Celery itself, or of a worker of an older version."""
    args = stored.get("exc_message", [])
    args = args if isinstance(args, list | tuple) else [args]
    path = f"{stored.get('exc_module')}:{stored['exc_type']}"
    return {"class": path, "args": args, "text": ", ".join(map(str, args))}


def _carried(values: list[Any]) -> list[Any] | None:
    return values if json_values.fault(values, "args") is None else None
