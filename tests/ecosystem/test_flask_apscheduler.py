"""Our layer for those who come from Flask-APScheduler, beside the package itself."""

import inspect
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

flask_apscheduler = pytest.importorskip("flask_apscheduler")

from apscheduler.triggers.cron import CronTrigger  # noqa: E402
from flask import Flask  # noqa: E402

from flask_delay._native import _Rhythm  # noqa: E402
from flask_delay.compat.flask_apscheduler import APScheduler, Job  # noqa: E402

# Where no clock changes, since around that APScheduler leaves out a day.
ZONE = ZoneInfo("Asia/Tokyo")
# A Monday.
START = datetime(2026, 1, 5, 7, 31, 4, tzinfo=ZONE)
COUNT = 25

LINES = [
    {"hour": 3},
    {"minute": "*"},
    {"minute": "*/7", "hour": "8-16"},
    {"minute": "5/10"},
    {"second": "*/20"},
    {"hour": "*/5", "minute": "1,59"},
    {"day": 3, "hour": 12},
    {"day": "*/10"},
    {"day": "last"},
    {"day": "1st mon"},
    {"day": "3rd fri, last sun", "hour": 4},
    {"month": "feb"},
    {"month": "*/5", "day": "5-7"},
    {"day_of_week": "sun"},
    {"day_of_week": 0},
    {"day_of_week": "mon-fri", "hour": 9, "minute": 30},
    {"day_of_week": "1-6/2"},
    {"day_of_week": "*/3"},
    {"day_of_week": "5/1", "hour": "20"},
    {"day": "*/2", "day_of_week": "tue,thu"},
    {"week": "*", "day_of_week": "wed", "second": 0},
]


@pytest.fixture
def scheduler() -> APScheduler:
    app = Flask(__name__, static_folder=None)
    app.config["SCHEDULER_TIMEZONE"] = "Asia/Tokyo"
    return APScheduler(app=app)


def theirs(fields) -> list[datetime]:
    trigger, found = CronTrigger(timezone=ZONE, **fields), []
    now = START
    for _ in range(COUNT):
        now = trigger.get_next_fire_time(now if found else None, now)
        found.append(now)
    return found


def ours(options) -> list[datetime]:
    when = {name: options[name] for name in ("every", "cron", "timezone") if name in options}
    rhythm, found = _Rhythm(**when), []
    at = int(START.timestamp()) * 10**9
    for _ in range(COUNT):
        at = rhythm.after(at)
        found.append(datetime.fromtimestamp(at / 1e9, UTC))
    return found


@pytest.mark.parametrize("fields", LINES, ids=str)
def test_a_line_comes_when_theirs_does(scheduler, fields):
    job = scheduler.add_job("it", print, trigger="cron", **fields)
    assert ours(job.options()) == theirs(fields)


def test_everything_public_is_there():
    missing = {"add_listener", "remove_listener", "authenticate", "scheduler"}
    for name, value in vars(flask_apscheduler.APScheduler).items():
        if name.startswith("_") or name in missing:
            continue
        assert hasattr(APScheduler, name), name
        if not inspect.isfunction(value):
            continue
        parameters = list(inspect.signature(getattr(APScheduler, name)).parameters)
        for place, parameter in enumerate(inspect.signature(value).parameters.values()):
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                assert parameters[place] == parameter.name, name


def test_a_job_has_what_theirs_has(scheduler):
    theirs = flask_apscheduler.APScheduler()
    known = {
        "trigger": "interval",
        "seconds": 60,
        "args": (1,),
        "kwargs": {"sep": ","},
        "name": "It",
    }
    there, here = theirs.add_job("it", print, **known), scheduler.add_job("it", print, **known)
    assert isinstance(here, Job)
    for name in ("id", "name", "func", "args", "kwargs", "pending"):
        assert getattr(here, name) == getattr(there, name), name
    for name in ("modify", "reschedule", "pause", "resume", "remove"):
        assert callable(getattr(here, name))
