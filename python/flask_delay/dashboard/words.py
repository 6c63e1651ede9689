"""What people call things that have a shorter name in code."""

_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_UNITS = (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
# The fields of a line of a crontab, and the time zone.
_FIELDS = 6


def schedule(text: str) -> str:
    """When a job runs: "every hour", "Monday to Friday at 09:00, Europe/Berlin".

    `text` is `Job.schedule`, and is returned as it is where no words are shorter.
    """
    if text.startswith("every ") and text.endswith(" s"):
        try:
            return _every(float(text[6:-2]))
        except ValueError:
            return text
    fields = text.split()
    if len(fields) != _FIELDS:
        return text
    *line, zone = fields
    words = _of_line(*line)
    return text if words is None else f"{words}, {zone}"


def _every(seconds: float) -> str:
    for unit, size in _UNITS:
        count, rest = divmod(seconds, size)
        if count >= 1 and not rest and (count == 1 or unit != "week"):
            return f"every {unit}" if count == 1 else f"every {count:g} {unit}s"
    return f"every {seconds:g} s"


def _of_line(minute: str, hour: str, day: str, month: str, weekday: str) -> str | None:
    if month != "*":
        return None
    if day == weekday == "*" and (often := _often(minute, hour)):
        return often
    if not (_is_number(minute) and _is_number(hour)):
        return None
    days = _days(day, weekday)
    return None if days is None else f"{days} at {int(hour):02}:{int(minute):02}"


def _often(minute: str, hour: str) -> str | None:
    """Of what runs at least once an hour."""
    if hour != "*":
        return None
    if _is_number(minute):
        return "every hour" if int(minute) == 0 else f"every hour, {int(minute)} min past"
    if minute == "*":
        return "every minute"
    step = minute.removeprefix("*/")
    # Another step begins anew in each hour.
    if step != minute and _is_number(step) and int(step) > 1 and 60 % int(step) == 0:
        return f"every {int(step)} minutes"
    return None


def _days(day: str, weekday: str) -> str | None:
    if weekday == "*":
        if day == "*":
            return "every day"
        return f"on day {int(day)} of each month" if _is_number(day) else None
    if day != "*":
        return None
    names = [_weekday(it) for it in weekday.split("-")]
    match names:
        case [str(only)]:
            return f"every {only}"
        case [str(first), str(last)]:
            return f"{first} to {last}"
        case _:
            return None


def _weekday(text: str) -> str | None:
    if _is_number(text) and int(text) <= len(_DAYS):
        return _DAYS[int(text) % len(_DAYS)]
    return next((it for it in _DAYS if it[:3].upper() == text.upper()), None)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
