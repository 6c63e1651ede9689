"""Validators for the values of options, of settings, and of `Retry`.

Each function returns the converted value, and raises TypeError or ValueError for one that is not
allowed. To the native module, None means that an option is not given.
"""

import os
import re
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import TypeVar
from uuid import UUID

from flask_delay._native import _check_callback

_T = TypeVar("_T")


def checked(
    parse: Callable[[object], _T],
    value: object,
    name: str,
    allowed: str | Callable[[], str],
    show: Callable[[object], str] = repr,
) -> _T:
    """Read a value; the TypeError or ValueError names it and the `allowed` values."""
    try:
        return parse(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        remedy = allowed if isinstance(allowed, str) else allowed()
        raise kind(f"{name} is {show(value)}, but must be {remedy}") from None


# --- Numbers ------------------------------------------------------------------------


def integer(least: int, most: int = sys.maxsize) -> Callable[[object], int]:
    """Make a validator for an integer from `least` to `most`."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError
        if not least <= value <= most:
            raise ValueError
        return value

    return parse


def wait(value: object) -> float:
    """A number of seconds, 0 or more."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    # The upper limit is that of Python's own locks; NaN is in no range at all.
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError
    return float(value)


def seconds(value: object) -> float:
    """A number of seconds above 0."""
    number = wait(value)
    if not number:
        raise ValueError
    return number


def countdown(value: object) -> float | None:
    """A number of seconds; None for 0."""
    return wait(value) or None


# --- Settings, which may be text ----------------------------------------------------


def spelled(kind: Callable[[str], object], parse: Callable[[object], _T]) -> Callable[[object], _T]:
    """Make a validator that accepts text too, as from the environment, and then calls `parse`."""
    return lambda value: parse(kind(value) if isinstance(value, str) else value)


def count(least: int) -> Callable[[object], int]:
    """Make a validator for an integer of at least `least`, also as text."""
    return spelled(int, integer(least))


def optional(parse: Callable[[object], _T]) -> Callable[[object], _T | None]:
    """Make a validator that accepts None as well as the values of `parse`."""

    def parse_optional(value: object) -> _T | None:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        return parse(value)

    return parse_optional


def text(value: object) -> str:
    """A text that is not blank."""
    if not isinstance(value, str):
        raise TypeError
    if not value.strip():
        raise ValueError
    return value.strip()


def database(value: object) -> str:
    """The URL of a database that SQLAlchemy can use here."""
    url = text(value)
    try:
        # For an app without this setting, it need not be there.
        from sqlalchemy import create_engine  # noqa: PLC0415

        # Connects to nothing, but imports the driver.
        create_engine(url)
    except Exception as error:
        raise ValueError from error
    return url


def one_of(*names: str) -> Callable[[object], str]:
    """Make a validator for one of the names."""

    def parse(value: object) -> str:
        name = text(value).lower()
        if name not in names:
            raise ValueError
        return name

    return parse


_YES = frozenset({"true", "yes", "on", "1"})
_NO = frozenset({"false", "no", "off", "0"})


def switch(
    value: object, yes: frozenset[str] = frozenset(), no: frozenset[str] = frozenset()
) -> bool:
    """True or false, or a word for it; `yes` and `no` are further words."""
    # As text: `Config.from_prefixed_env` makes an integer of a "1".
    word = str(value).strip().lower()
    if word not in _YES | yes | _NO | no:
        raise ValueError
    return word in _YES | yes


def folder(value: object) -> str:
    """The path of a folder or file."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError
    if not path.strip() or "\0" in path:
        raise ValueError
    return path


def file_or_default(value: object) -> bool | str:
    """The path of a file, or True for the default one."""
    if value is True or (isinstance(value, str) and value.strip().lower() in _YES):
        return True
    return folder(value)


def import_path(value: object) -> str:
    """A name in a module: "module:name"."""
    module, colon, name = text(value).partition(":")
    if not (module and colon and name):
        raise ValueError
    return f"{module}:{name}"


# --- Options ------------------------------------------------------------------------


def flag(value: object) -> bool | None:
    """True, or None for False."""
    if not isinstance(value, bool):
        raise TypeError
    return value or None


def eta(value: object) -> float:
    """A moment, in seconds since 1970."""
    if not isinstance(value, datetime):
        raise TypeError
    if value.utcoffset() is None:
        # A datetime without a time zone is ambiguous.
        raise ValueError
    return value.timestamp()


SHORTEST_PERIOD = 0.001
"""In seconds: a job that is due more often than it can run takes a processor for nothing."""


def every(value: object) -> float:
    """A number of seconds, or a timedelta, of at least `SHORTEST_PERIOD`."""
    period = seconds(value.total_seconds() if isinstance(value, timedelta) else value)
    if period < SHORTEST_PERIOD:
        raise ValueError
    return period


def cron(value: object) -> str:
    """A line of a crontab, which the native module checks."""
    if not isinstance(value, str):
        raise TypeError
    return value


def timezone(value: object) -> str:
    """The name of a time zone; the native module checks that it exists."""
    # The key of a ZoneInfo is its name.
    name = getattr(value, "key", None) if isinstance(value, tzinfo) else value
    if not isinstance(name, str):
        raise TypeError
    return name


def key(value: object) -> object:
    """Something hashable, or a plain function."""
    if value is None:
        raise TypeError
    # Either function raises TypeError itself.
    if callable(value):
        # Each call of an async function would return a different key.
        _check_callback(value)
    else:
        hash(value)
    return value


_RATE = re.compile(r"([0-9]+)/([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rate(value: object) -> tuple[int, float]:
    """A number of tasks, and a period in seconds."""
    if not isinstance(value, str):
        raise TypeError
    match = _RATE.fullmatch(value)
    if match is None:
        raise ValueError
    count = int(match[1])
    if not 1 <= count <= sys.maxsize:
        raise ValueError
    return count, _UNITS[match[2]]


def scope(value: object) -> str | None:
    """Where a limit and a rate hold: "machine", or None for "process"."""
    if not isinstance(value, str):
        raise TypeError
    if value not in {"process", "machine"}:
        raise ValueError
    return value if value == "machine" else None


def unique(value: object) -> str | None:
    """The answer to a second task of a key: "return" or "raise"."""
    if isinstance(value, bool):
        return "return" if value else None
    if not isinstance(value, str):
        raise TypeError
    if value != "raise":
        raise ValueError
    return value


def durable(value: object) -> bool | str | None:
    """True or "disk", or None for False."""
    return value if value == "disk" and isinstance(value, str) else flag(value)


def session(value: object) -> object:
    """A session of SQLAlchemy, or what stands for one in each thread."""
    found: list[type] = []
    for module, names in _SESSIONS.items():
        # Not imported: without it, there is no session.
        kinds = vars(sys.modules.get(module, object))
        found += [kinds[name] for name in names if name in kinds]
    if not isinstance(value, tuple(found)):
        raise TypeError
    return value


_SESSIONS = {
    "sqlalchemy.orm": ("Session", "scoped_session"),
    "sqlalchemy.ext.asyncio": ("AsyncSession", "async_scoped_session"),
}


def missed(value: object) -> str:
    """What a job does about a tick at which no process was there: "run" or "skip"."""
    if not isinstance(value, str):
        raise TypeError
    if value not in {"run", "skip"}:
        raise ValueError
    return value


_LONGEST_ID = 100
_LONGEST_NAME = 200


def identity(value: object) -> str:
    """An id, as `Future.id` shows it."""
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str):
        raise TypeError
    # Ids appear in URLs and in log lines. A surrogate is not printable either.
    if not 1 <= len(value) <= _LONGEST_ID or not value.isprintable() or "/" in value:
        raise ValueError
    return value


def name(value: object) -> str:
    """A name that stands in the journal: of a function, or the key of `once`."""
    if not isinstance(value, str):
        raise TypeError
    if not value.strip() or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError
    return value


def names(value: object) -> tuple[str, ...]:
    """Names in a list or tuple."""
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(map(name, value))
