"""One task as a record that can be sent to another process, or stored.

Its values are JSON, except for the arguments: each backend has a serializer for them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Self, cast

from flask_delay import registry
from flask_delay.retry import Retry, as_retry

VERSION = 1
"""Of the record. A reader refuses a newer one, and leaves out keys that it does not know."""

# The options that are sent unchanged. Times are sent as fields of the record; the other options are
# for the submitting process.
_CARRIED = ("priority", "timeout")
# The parameters of a Retry that are classes of exceptions.
_KINDS = ("on", "unless")
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


class CarriedRetry:
    """The `Retry` of a task that was submitted elsewhere, to be used as a `Retry`.

    It has the names of the exceptions' classes alone, and compares them with those of an exception.
    """

    def __init__(self, packed: Mapping[str, Any], main: str) -> None:
        """Read what `carried` has made of it. Raises TypeError or ValueError for anything else."""
        self._packed = {name: it for name, it in packed.items() if name not in _KINDS}
        self._names = {name: frozenset(packed[name]) for name in _KINDS if name in packed}
        self._main = main
        # Without any class.
        self._plain = Retry(**self._packed)
        self.times = self._plain.times

    def restricted(self, exception: BaseException) -> Retry:
        """The `Retry` with those of its classes that the exception is of."""
        kinds: dict[str, Any] = {
            name: tuple(
                kind
                for kind in type(exception).__mro__
                if issubclass(kind, BaseException) and registry.path_of(kind, self._main) in names
            )
            for name, names in self._names.items()
        }
        return Retry(**self._packed, **kinds)

    def _after(self, exception: BaseException, attempt: int) -> float | None:
        return self.restricted(exception)._after(exception, attempt)  # noqa: SLF001

    def _delay(self, number: int) -> float:
        return self._plain._delay(number)  # noqa: SLF001


def carried(options: Mapping[str, Any], main: str) -> dict[str, Any]:
    """Those of the options that count where the task runs, in a form for JSON.

    `main` is the name that other processes use for this process's `__main__` module.
    """
    kept = {key: options[key] for key in _CARRIED if key in options}
    if "retry" in options:
        kept["retry"] = _packed(as_retry(options["retry"]), main)
    return kept


def exception_classes(retry: Retry) -> dict[str, tuple[type[BaseException], ...]]:
    """The classes that a `Retry` names, by the parameter that names them."""
    given = {name: cast("Any", getattr(retry, name)) for name in _KINDS}
    return {name: it if isinstance(it, tuple) else (it,) for name, it in given.items()}


def _packed(retry: Retry, main: str) -> dict[str, Any]:
    values: dict[str, Any] = {it.name: getattr(retry, it.name) for it in fields(retry)}
    for name, kinds in exception_classes(retry).items():
        values[name] = [registry.path_of(kind, main) for kind in kinds]
    return values
