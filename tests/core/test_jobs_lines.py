"""Lines of a crontab, against a second reading of them: all days of some years, one by one."""

import calendar
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from flask_delay._native import _Rhythm

FIELDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
START = datetime(2023, 1, 1, tzinfo=UTC)
DAYS = 800


@st.composite
def items(draw, least, most):
    """One item of a list, and what it means."""
    first = draw(st.integers(least, most))
    last = draw(st.integers(first, most))
    step = draw(st.integers(1, last - first + 1))
    top = 6 if most == 7 else most
    star = draw(st.integers(1, top - least + 1))
    return draw(
        st.sampled_from(
            [
                (f"{first}", [first]),
                (f"{first:02}", [first]),
                (f"{first}-{last}", range(first, last + 1)),
                (f"{first}-{last}/{step}", range(first, last + 1, step)),
                ("*", range(least, top + 1)),
                (f"*/{star}", range(least, top + 1, star)),
            ]
        )
    )


@st.composite
def fields(draw, name):
    """A field, and what it means."""
    found = draw(st.lists(items(*FIELDS[name]), min_size=1, max_size=3))
    text = ",".join(text for text, _ in found)
    if name == "month" and draw(st.booleans()):
        # By names, in whichever case.
        numbers = sorted({number for _, meant in found for number in meant})
        text = ",".join(
            draw(st.sampled_from([str.lower, str.upper]))(calendar.month_abbr[n]) for n in numbers
        )
    return text, {
        number % 7 if name == "weekday" else number for _, meant in found for number in meant
    }


def is_day(day, days, weekdays):
    by_month, by_week = day.day in days[1], day.isoweekday() % 7 in weekdays[1]
    if days[0].startswith("*") or weekdays[0].startswith("*"):
        return by_month and by_week
    return by_month or by_week


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*(fields(name) for name in FIELDS)),
    st.timedeltas(timedelta(), timedelta(days=365)),
)
def test_a_line_comes_when_it_says(line, after):
    text = " ".join(text for text, _ in line)
    (_, minutes), (_, hours), days, (_, months), weekdays = line
    now = START + after
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    later = [(h, m) for h in hours for m in minutes if (h, m) > (now.hour, now.minute)]
    expected = None
    for number in range(DAYS):
        day = today + timedelta(days=number)
        if day.month in months and is_day(day, days, weekdays) and (number or later):
            hour, minute = (min(hours), min(minutes)) if number else min(later)
            expected = day.replace(hour=hour, minute=minute)
            break
    found = _Rhythm(cron=text).after(int(now.timestamp()) * 10**9 + now.microsecond * 1000)
    if expected is not None:
        assert found is not None, text
        assert datetime.fromtimestamp(found / 10**9, UTC) == expected, text
    elif found is not None:
        # A day in February that this span does not have.
        assert datetime.fromtimestamp(found / 10**9, UTC) > today + timedelta(days=DAYS - 1), text
