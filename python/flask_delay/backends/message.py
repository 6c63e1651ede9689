"""One task as a record that can be sent to another process, or stored.

Its values are JSON, except for the arguments: each backend has a serializer for them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Self, cast

from flask_delay.carried import CarriedRetry, carried
from flask_delay.retry import Retry

VERSION = 1
"""Of the record. A reader refuses a newer one, and leaves out keys that it does not know."""

_NUMBER = (int, float)
# The types that `from_dict` accepts for each field, None where the default is None.
_TYPES: Mapping[str, Any] = {
    "id": str,
    "name": str,
    "args": (list, tuple),
    "kwargs": dict,
    "options": dict,
    "attempt": int,
    "eta": _NUMBER,
    "expires": _NUMBER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMessage:
    """One attempt of a task: its function and its options."""

    id: str
    name: str
    """What all processes call the function."""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those that count where the task runs: `priority`, `timeout`, and `retry` as a dict."""
    attempt: int = 1
    """The number of the attempt; the first is 1."""
    eta: float | None = None
    """When the task may start at the earliest, in seconds since 1970."""
    expires: float | None = None
    """When the task may start at the latest, in seconds since 1970."""

    @classmethod
    def of(
        cls,
        id: str,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        options: Mapping[str, Any],
        main: str,
    ) -> Self:
        """Make the message of a submit with these `options` of `using`. Its times count from now.

        `main` is the name that other processes use for this process's `__main__` module.
        """
        now = time.time()
        eta = now + options["countdown"] if options.get("countdown") else None
        if "eta" in options:
            eta = cast("datetime", options["eta"]).timestamp()
        return cls(
            id=id,
            name=name,
            args=args,
            kwargs=kwargs,
            options=carried(options, main),
            eta=eta,
            expires=now + options["expires"] if "expires" in options else None,
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`, from this version of the package or another one.

        Raises ValueError for the record of a newer version, TypeError for a field that is missing
        or has the wrong type.
        """
        version = record.get("version")
        if type(version) is not int or not 1 <= version <= VERSION:
            raise ValueError(f"a task's message of version {version!r} cannot be read here")
        found = {it.name: record[it.name] for it in fields(cls) if it.name in record}
        for name, value in found.items():
            if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
                raise TypeError(f"a task's message has {value!r} as its {name!r}")
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """The message as a dict for JSON; empty fields are left out."""
        values = {it.name: getattr(self, it.name) for it in fields(self)}
        return {"version": VERSION, **{name: it for name, it in values.items() if it}}

    def retry_for(self, exception: BaseException, main: str) -> Retry | None:
        """The task's `Retry`, restricted to this exception; None without one.

        The message only has the names of classes, which are compared with the names of the
        exception's classes. `main` is the name that other processes use for this process's
        `__main__`.
        """
        packed = self.options.get("retry")
        return None if packed is None else CarriedRetry(packed, main).restricted(exception)
