"""The exceptions of tasks that failed in another process: what is kept of one, and one of that.

Nothing is imported, and no code of an exception's class runs when it is made again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flask_delay import registry


def exception_class(path: str, main: str) -> type[Exception] | None:
    """The exception class of this path; None if this process has not imported it.

    Never returns a class that ends more than a task, such as SystemExit.
    """
    kind = registry.resolve_class(path, main)
    return kind if kind is not None and issubclass(kind, Exception) else None


def made_of(exception: BaseException) -> tuple[Any, ...]:
    """The arguments of the built-in class from which the exception's class derives.

    They are more than `args` for some, such as an OSError with a file.
    """
    base: Any = _own_of_python(type(exception))
    reduced = base.__reduce__(exception)
    arguments: tuple[Any, ...] = reduced[1]
    return arguments


def text_of(exception: BaseException, most: int) -> str:
    """The exception's message, up to `most` characters."""
    try:
        return str(exception)[:most]
    except Exception as error:
        return f"<its message cannot be had: {type(error).__name__}>"


def rebuilt(
    kind: type[Exception],
    made: Sequence[Any],
    args: Sequence[Any],
    attributes: Mapping[str, Any],
) -> Exception | None:
    """Make an exception of the result of `made_of`, its `args` and its attributes.

    None for an exception that cannot be made of them.
    """
    base: Any = _own_of_python(kind)
    try:
        exception: Exception = base.__new__(kind, *made)
        base.__init__(exception, *made)
    except Exception:
        # Such as an exception group, whose arguments are exceptions.
        return None
    # Not by assignment, which a class may take over.
    BaseException.__setattr__(exception, "args", tuple(args))
    _own_attributes(exception).update(attributes)
    return exception


def add_notes(exception: BaseException, notes: Iterable[str]) -> None:
    """Add notes to an exception, as `add_note` does."""
    added = list(notes)
    if added:
        _own_attributes(exception).setdefault("__notes__", []).extend(added)


def _own_attributes(exception: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = BaseException.__getattribute__(exception, "__dict__")
    return found


def _own_of_python(kind: type[BaseException]) -> type[BaseException]:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")
