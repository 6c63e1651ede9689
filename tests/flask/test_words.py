"""Schedules of jobs in the words that people use."""

import pytest

from flask_delay.dashboard import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("every 1 s", "every second"),
        ("every 0.5 s", "every 0.5 s"),
        ("every 60 s", "every minute"),
        ("every 90 s", "every 90 seconds"),
        ("every 300 s", "every 5 minutes"),
        ("every 3600 s", "every hour"),
        ("every 5400 s", "every 90 minutes"),
        ("every 86400 s", "every day"),
        ("every 604800 s", "every week"),
        ("every 1.2096e+06 s", "every 14 days"),
        ("* * * * * UTC", "every minute, UTC"),
        ("*/5 * * * * UTC", "every 5 minutes, UTC"),
        ("*/7 * * * * UTC", "*/7 * * * * UTC"),
        ("0 * * * * UTC", "every hour, UTC"),
        ("15 * * * * UTC", "every hour, 15 min past, UTC"),
        ("0 3 * * * Europe/Berlin", "every day at 03:00, Europe/Berlin"),
        ("30 9 * * mon-fri UTC", "Monday to Friday at 09:30, UTC"),
        ("30 9 * * 1-5 UTC", "Monday to Friday at 09:30, UTC"),
        ("0 4 * * 7 UTC", "every Sunday at 04:00, UTC"),
        ("0 0 1 * * UTC", "on day 1 of each month at 00:00, UTC"),
        ("0 0 1 * 1 UTC", "0 0 1 * 1 UTC"),
        ("0 0 1 1 * UTC", "0 0 1 1 * UTC"),
        ("0,30 9 * * * UTC", "0,30 9 * * * UTC"),
        ("0 9 * * 1,2 UTC", "0 9 * * 1,2 UTC"),
        ("0 9 * * mon-fri-sun UTC", "0 9 * * mon-fri-sun UTC"),
        ("every now and then", "every now and then"),
        ("every so s", "every so s"),
        ("", ""),
    ],
)
def test_schedule(text, expected):
    assert words.schedule(text) == expected
