"""What is asked of a durable task, for people who look at its row."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask_delay.journal.functions import Functions
from flask_delay.observe.view import Lane, rate_text
from flask_delay.retry import as_retry

# Characters of arguments.
_LONGEST = 200


class Terms(NamedTuple):
    """The options of a task that count where it runs."""

    priority: int = 0
    timeout: float | None = None
    most_attempts: int | None = 1
    """None: without end, or not known here."""


def terms_of(functions: Functions, name: str, options: str | None) -> Terms:
    """Those of the row's options, which go before those of the function in this process."""
    values: dict[str, Any] = {}
    most: int | None = None
    with suppress(LookupError):
        values = dict(functions.find(name)._chosen.given)  # noqa: SLF001
        most = 1
    with suppress(ValueError, TypeError, RecursionError):
        if options is not None:
            values |= json.loads(options)
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        retry = values["retry"]
        times = retry["times"] if isinstance(retry, Mapping) else as_retry(retry).times
        most = None if times is None else int(times) + 1
    priority, timeout = values.get("priority"), values.get("timeout")
    return Terms(
        priority if type(priority) is int else 0,
        float(timeout) if isinstance(timeout, int | float) else None,
        most,
    )


def lane_of(told: Mapping[str, Any] | None) -> Lane | None:
    """The limit and the rate of a row, as the native module tells them."""
    if told is None:
        return None
    rate = None if told["rate"] is None else rate_text(told["rate"][0], told["rate"][1] / 1e6)
    name = f"key {told['key']}" if told["is_given"] else told["key"]
    return Lane(name, told["running"], told["limit"], rate)


def arguments_of(text: str | None) -> str | None:
    """The beginning of a row's arguments as text: that of their JSON, so nothing of it runs."""
    if text is None:
        return None
    try:
        record = json.loads(text)
        named = (f"{key}={_short(value)}" for key, value in (record["kwargs"] or {}).items())
        found = ", ".join([*map(_short, record["args"]), *named])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Too long for a list, or written by something else than a journal.
        found = text.partition("[")[2]
    return found[:_LONGEST]


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[: _LONGEST + 1]


def moment(micros: int | None) -> datetime | None:
    """A time of a row, unless something else than a journal has written it."""
    try:
        return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return None
