"""What the values of options are read as: functions that raise TypeError or ValueError.

Each returns what the value is to the native module; None if it is as if it were not given.
"""

import re
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from uuid import UUID

from flask_delay._native import _check_callback
from flask_delay.backends import table
from flask_delay.retry import Retry


def flag(value: object) -> bool | None:
    """True, or None for False."""
    if not isinstance(value, bool):
        raise TypeError
    return value or None


def integer(least: int, most: int) -> Callable[[object], int]:
    """What reads an integer from `least` to `most`."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError
        if not least <= value <= most:
            raise ValueError
        return value

    return parse


def seconds(value: object) -> float:
    """A number of seconds above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    # NaN is in no range at all.
    if not 0 < value <= threading.TIMEOUT_MAX:
        raise ValueError
    return float(value)


def countdown(value: object) -> float | None:
    """A number of seconds; None for 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError
    return float(value) or None


def eta(value: object) -> float:
    """A moment, in seconds since 1970."""
    if not isinstance(value, datetime):
        raise TypeError
    if value.utcoffset() is None:
        # Whose noon it is, nobody knows.
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
    """A line of a crontab, which the native module looks at."""
    if not isinstance(value, str):
        raise TypeError
    return value


def timezone(value: object) -> str:
    """The name of a time zone, which is not looked at here."""
    # A ZoneInfo has its name as its key.
    name = getattr(value, "key", None) if isinstance(value, tzinfo) else value
    if not isinstance(name, str):
        raise TypeError
    return name


def key(value: object) -> object:
    """Something hashable, or a plain function."""
    if value is None:
        raise TypeError
    # Either raises TypeError itself.
    if callable(value):
        # What an async one returns would be another key each time.
        _check_callback(value)
    else:
        hash(value)
    return value


_RATE = re.compile(r"([0-9]+)/([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rate(value: object) -> tuple[int, float]:
    """A number of tasks, and in how many seconds."""
    if not isinstance(value, str):
        raise TypeError
    match = _RATE.fullmatch(value)
    if match is None:
        raise ValueError
    count = int(match[1])
    if not 1 <= count <= sys.maxsize:
        raise ValueError
    return count, _UNITS[match[2]]


def unique(value: object) -> str | None:
    """What a second task gets: "return" or "raise"."""
    if isinstance(value, bool):
        return "return" if value else None
    if not isinstance(value, str):
        raise TypeError
    if value != "raise":
        raise ValueError
    return value


_LONGEST_ID = 100


def identity(value: object) -> str:
    """An id, as `Future.id` shows it."""
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str):
        raise TypeError
    # It stands in addresses and in lines of the log. A surrogate is not printable either.
    if not 1 <= len(value) <= _LONGEST_ID or not value.isprintable() or "/" in value:
        raise ValueError
    return value


def backend(value: object) -> str:
    """The name of a backend."""
    if not isinstance(value, str):
        raise TypeError
    if not table.is_known(value):
        raise ValueError
    return value


def retry(value: object) -> Retry:
    """A `Retry`."""
    if isinstance(value, Retry):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return Retry(value)
