"""The options of a task that go with it to another process, in a form for JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from flask_delay import registry
from flask_delay.retry import Retry, as_retry

# The options that are sent unchanged. Times are sent apart; the other options are for the
# submitting process.
_CARRIED = ("priority", "timeout")
# The parameters of a Retry that are classes of exceptions.
_KINDS = ("on", "unless")


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
