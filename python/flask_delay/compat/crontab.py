"""When jobs of APScheduler and RQ run: as a line of a crontab, a period, a time zone."""

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flask_delay.validators import checked

UNITS = ("weeks", "days", "hours", "minutes", "seconds")
FIELDS = ("year", "month", "day", "week", "day_of_week", "hour", "minute", "second")
"""From the largest to the smallest: what is smaller than all that is given has its least value."""

_LEAST = {"month": "1", "day": "1", "hour": "0", "minute": "0", "second": "0"}
_MOST = {"month": 12, "day": 31, "hour": 23, "minute": 59}
# APScheduler counts from Monday.
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NTH = re.compile(r"(1st|2nd|3rd|4th|5th|last) +([a-z]{3})")
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>[0-9]+))?")


def interval(given: Mapping[str, Any], since: datetime | None) -> timedelta:
    """The period of an interval; its ticks are the multiples of it since 1970 (UTC).

    Raises ValueError for a bad one, and for a start that is no such tick.
    """
    units = {name: given[name] for name in UNITS if name in given}
    try:
        period = timedelta(**units)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{', '.join(map(repr, units))}: {error}") from None
    if not period > timedelta():
        raise ValueError(f"the interval must be above 0: give one of {', '.join(UNITS)}")
    if since is not None and (since - datetime(1970, 1, 1, tzinfo=UTC)) % period:
        raise ValueError(
            f"'start_date' is {given['start_date']!r}, but the runs come at multiples of the"
            f" interval since 1970 (UTC): leave it out, or use the trigger 'cron'"
        )
    return period


def line(given: Mapping[str, Any], timezone: str) -> dict[str, Any]:
    """The options of `Delay.using` that say when.

    Raises ValueError for what no line of a crontab can say.
    """
    fields = _fields(given)
    every = _seconds(fields)
    if every is not None:
        return {"every": every}
    for name, remedy in (
        ("year", "let the function look at the year"),
        ("week", "let the function look at the week"),
        ("second", "give the second 0, or use the trigger 'interval'"),
    ):
        if fields[name] != ("0" if name == "second" else "*"):
            raise ValueError(f"{name!r} is {fields[name]!r}, which has no counterpart: {remedy}")
    day, weekday = fields["day"], _weekdays(fields["day_of_week"])
    ordinals = [_NTH.fullmatch(part.strip()) for part in day.split(",")]
    if day == "last":
        day = "L"
    elif all(ordinals):
        if weekday != "*":
            raise ValueError(_two_days(given))
        day, weekday = "*", ",".join(_ordinal(*it.groups()) for it in ordinals if it)
    elif any(ordinals) or "last" in day:
        raise ValueError(f"'day' is {day!r}: give such days a job of their own")
    else:
        day = _plain("day", day)
    if not (day.startswith("*") or weekday == "*" or weekday.startswith("*")):
        raise ValueError(_two_days(given))
    minute, hour, month = (_plain(name, fields[name]) for name in ("minute", "hour", "month"))
    return {"cron": f"{minute} {hour} {day} {month} {weekday}", "timezone": timezone}


def _fields(given: Mapping[str, Any]) -> dict[str, str]:
    named = [name for name in FIELDS if given.get(name) is not None]
    if not named:
        raise ValueError(f"say when: give some of {', '.join(FIELDS)}")
    fields = {}
    for name in FIELDS:
        if name in named:
            fields[name] = str(given[name]).strip().lower()
        else:
            is_smaller = FIELDS.index(name) > max(map(FIELDS.index, named))
            fields[name] = _LEAST.get(name, "*") if is_smaller else "*"
    return fields


def _seconds(fields: Mapping[str, str]) -> int | None:
    """The period of a line that says nothing but "every n seconds", and None for others."""
    step = re.fullmatch(r"\*(?:/([0-9]+))?", fields["second"])
    if step is None or any(fields[name] != "*" for name in FIELDS if name != "second"):
        return None
    period = int(step[1] or 1)
    # A longer one would begin anew with each minute.
    return period if period and 60 % period == 0 else None


def _plain(name: str, field: str) -> str:
    """The field as a crontab has it, where "5/10" needs its end."""
    return re.sub(r"(?<![-\d])(\d+)/(\d+)", rf"\1-{_MOST[name]}/\2", field.replace(" ", ""))


def _weekdays(field: str) -> str:
    """The days by their names, since APScheduler's numbers are others."""
    days = {
        day
        for part in field.split(",")
        for day in checked(
            _range,
            part,
            "'day_of_week'",
            "as 'mon', 'mon-fri', 'sat,sun' or '0-4', where 0 is Monday",
        )
    }
    return "*" if len(days) == len(_WEEKDAYS) else ",".join(_WEEKDAYS[day] for day in sorted(days))


def _range(text: object) -> range:
    part = _PART.fullmatch(str(text).strip())
    if part is None:
        raise ValueError
    if part["first"] == "*":
        first, last = 0, len(_WEEKDAYS) - 1
    else:
        first = last = _weekday(part["first"])
        if part["last"] or part["step"]:
            last = _weekday(part["last"] or "6")
    found = range(first, last + 1, int(part["step"] or 1))
    if not found:
        raise ValueError
    return found


def _weekday(text: str) -> int:
    day = int(text) if text.isdigit() else _WEEKDAYS.index(text)
    if day >= len(_WEEKDAYS):
        raise ValueError
    return day


def _ordinal(which: str, day: str) -> str:
    if day not in _WEEKDAYS:
        raise ValueError(f"'day' has the weekday {day!r}, but those are {', '.join(_WEEKDAYS)}")
    return f"{day}L" if which == "last" else f"{day}#{which[0]}"


def _two_days(given: Mapping[str, Any]) -> str:
    return (
        f"'day' is {given['day']!r} and 'day_of_week' {given['day_of_week']!r}: APScheduler asks"
        f" for both, a crontab for either; give one, and let the function look at the other"
    )


def local_zone(setting: str) -> str:
    """The name of the machine's time zone. Raises ValueError if it is not known."""
    if not time.timezone and not time.daylight:
        return "UTC"
    link = str(Path("/etc/localtime").resolve())
    for name in (os.environ.get("TZ", "").lstrip(":"), link.partition("zoneinfo/")[2]):
        try:
            zone = ZoneInfo(name)
        except (ValueError, OSError, LookupError):
            continue
        # A name such as "CET" may be that of a zone with other rules.
        if _same_clock(zone):
            return name
    raise ValueError(
        f"the name of this machine's time zone is not known: say {setting}, such as"
        f' "Europe/Berlin"'
    )


def _same_clock(zone: ZoneInfo) -> bool:
    now = time.time()
    moments = [datetime.fromtimestamp(now + days * 86400, UTC) for days in range(0, 366, 30)]
    return all(at.astimezone(zone).utcoffset() == at.astimezone().utcoffset() for at in moments)
