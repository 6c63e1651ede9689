"""Checks that JSON carries a value unchanged; other values are refused before they are sent."""

from collections.abc import Iterable
from typing import Any

from kombu.utils import json

_PLAIN = frozenset({str, bool, type(None), int, float})
_SEQUENCES = frozenset({list, tuple})
# kombu reads an object with these keys as a value of another type.
_MARKED = {"__type__", "__value__"}


def fault(value: object, path: str) -> str | None:
    """Name the place in `value` that JSON would change, and the change; else None.

    `path` is the name of `value`. Tuples are allowed, though they arrive as lists. The text has
    types and keys, but no values.
    """
    try:
        return _fault(value, path)
    except RecursionError:
        return f"{path} is nested too deeply, or contains itself, so JSON cannot carry it"


def _fault(value: object, path: str) -> str | None:
    kind = type(value)
    if kind in _PLAIN and not _is_long(value):
        return None
    if kind in _SEQUENCES:
        items: Any = value
        return _first(_fault(item, f"{path}[{number}]") for number, item in enumerate(items))
    if kind is dict:
        return _fault_of_dict(value, path)  # type: ignore[arg-type]
    return _fault_of_leaf(value, path)


def _fault_of_dict(value: dict[Any, Any], path: str) -> str | None:
    for key in value:
        if type(key) is not str:
            return (
                f"{path} has the key {key!r}, which is of type {type(key).__name__} and which JSON"
                f" would make a string: use strings as keys"
            )
    if value.keys() == _MARKED:
        return (
            f"{path} has the keys '__type__' and '__value__' alone, by which Celery marks values of"
            f" other types: use other keys"
        )
    return _first(_fault(item, f"{path}[{key!r}]") for key, item in value.items())


def _fault_of_leaf(value: object, path: str) -> str | None:
    """`_fault` for the types that kombu encodes in its own way: dates, UUIDs, decimals, bytes."""
    kind = _name(value)
    dumps: Any = json.dumps
    loads: Any = json.loads
    try:
        arrived = loads(dumps(value))
    except (TypeError, ValueError, OverflowError) as error:
        return (
            f"{path} is of type {kind}, and JSON cannot carry it ({error}): pass what it can, such"
            f" as the id of a row or a path"
        )
    if type(arrived) is type(value) and (arrived == value or repr(arrived) == repr(value)):
        return None
    return (
        f"{path} is of type {kind}, and would arrive as one of type {_name(arrived)}: convert it"
        f" to what JSON has, and back in the task if need be"
    )


def _is_long(value: object) -> bool:
    # Python refuses to write and to read integers of more than 4300 digits.
    return type(value) is int and value.bit_length() > 4096  # noqa: PLR2004


def _first(faults: Iterable[str | None]) -> str | None:
    return next(filter(None, faults), None)


def _name(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
