"""What messages carry, whom they may call, and which settings count; without a Redis."""

import gc
import json
import math
import re
import sys
import types
import weakref
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo
from kombu.utils import json as kombus
from markupsafe import Markup

from flask_delay import (
    Delay,
    ProcessDied,
    Progress,
    RemoteError,
    Retry,
    TaskExpired,
    TaskTimeout,
    registry,
    task,
)
from flask_delay.backends import celery as backend
from flask_delay.backends.celery import celery_app, errors, messages, results
from flask_delay.backends.message import TaskMessage
from flask_delay.backends.serializer import json_values
from flask_delay.commands import delay as group
from flask_delay.observe.view import TaskView

URL = "redis://127.0.0.1:1/0"


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Name(StrEnum):
    A = "a"


class Custom:
    def __json__(self):
        return "custom"


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        2**64,
        -0.0,
        math.inf,
        math.nan,
        "\ud800",
        b"\xff",
        b"abc",
        [1, [2]],
        {"a": {"__type__": 1}},
        datetime(2026, 1, 2, 3, tzinfo=UTC),
        datetime(2026, 7, 2, 3, tzinfo=ZoneInfo("Europe/Berlin")),
        date(2026, 1, 2),
        Decimal("1.10"),
        Decimal("NaN"),
        UUID(int=1),
    ],
)
def test_json_carries(value):
    assert json_values.fault({"x": [value, (value,)]}, "args") is None
    arrived = kombus.loads(kombus.dumps([value]))[0]
    assert (type(arrived), repr(arrived)) == (type(value), repr(value)) or arrived == value


LOOP: list[object] = []
LOOP.append(LOOP)
DEEP: list[object] = []
for _ in range(5_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({1: "a", "1": "b"}, "has the key 1, which is of type int"),
        ({None: 1}, "has the key None"),
        ({Name.A: 1}, r"has the key .*, which is of type Name"),
        ({1, 2}, "is of type set, and JSON cannot carry it"),
        (Colour.RED, r"is of type .*Colour, and JSON cannot carry it"),
        (Number.ONE, r"is of type .*Number, and would arrive as one of type int"),
        (Name.A, r"is of type .*Name, and would arrive as one of type str"),
        (Markup("<b>"), r"is of type markupsafe\.Markup, and would arrive as one of type str"),
        (Point(1, 2), r"is of type .*Point, and would arrive as one of type list"),
        (OrderedDict(a=1), r"is of type collections\.OrderedDict, .* of type dict"),
        (Custom(), r"is of type .*Custom, and would arrive as one of type str"),
        (bytearray(b"a"), "is of type bytearray"),
        pytest.param(10**5000, "is of type int, and JSON cannot carry it", id="long"),
        ({"__type__": "decimal", "__value__": "1"}, "has the keys '__type__' and '__value__'"),
        (LOOP, "nested too deeply, or contains itself"),
        (DEEP, "nested too deeply, or contains itself"),
    ],
)
def test_what_json_would_change_is_refused(value, told):
    with pytest.raises(TypeError, match=rf"args\[1\]\['rows'\]\[0\].*{told}|nested too deeply"):
        messages.require_json("shop.f", (1, {"rows": [value]}), {})
    with pytest.raises(TypeError, match=rf"task 'shop\.f' .*kwargs\['b'\].*{told}|nested"):
        messages.require_json("shop.f", (), {"b": value})


def test_values_are_not_told():
    with pytest.raises(TypeError) as caught:
        messages.require_json("shop.f", ({"password"},), {"b": Markup("secret")})
    assert "password" not in str(caught.value)


def submitted(app, **options):
    return TaskMessage.of("1", "shop.f", (), {}, options=options, main=app.name)


def test_times_count_from_the_submit():
    """And not from when the broker is back."""
    before = datetime.now(UTC)
    message = submitted(Flask("shop"), countdown=5, expires=9)
    sent = messages.options(message, is_redis=True)
    assert timedelta(0) <= sent["eta"] - before - timedelta(seconds=5) < timedelta(seconds=5)
    assert round((sent["expires"] - sent["eta"]).total_seconds(), 3) == 4


# --- Errors ---


def arrived(exception, app=None):
    app = app or Flask("shop")
    record = json.loads(json.dumps(errors.packed(exception, app)))
    stored = {"exc_module": "x", "exc_type": "y", "exc_message": [], errors.KEY: record}
    return errors.unpacked("f", {"result": stored, "traceback": "line 1"}, app)


class Silent(Exception):
    """Whose code must not run here."""

    def __new__(cls, *_args):
        made.append("new")
        return super().__new__(cls)

    def __init__(self, code):
        made.append("init")
        super().__init__()
        self.code = code


made: list[str] = []


def test_no_code_of_the_class_runs():
    error = Silent(7)
    made.clear()
    got = arrived(error)
    assert type(got) is Silent
    assert (got.args, got.code, made) == (error.args, 7, [])


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("none")


def test_an_error_without_words():
    got = errors.packed(Wordless(object()), Flask("shop"))
    assert got["text"] == "<its message cannot be had: RuntimeError>"
    assert type(arrived(Wordless(object()))) is Wordless


def test_a_long_attribute_is_left_out():
    error = LookupError("no")
    error.short, error.page = "a", "x" * 20_000
    got = arrived(error)
    assert (got.short, hasattr(got, "page")) == ("a", False)


def stored(path, *args):
    module, _, kind = path.partition(":")
    return {
        "result": {"exc_module": module, "exc_type": kind, "exc_message": list(args)},
        "traceback": None,
    }


def test_celerys_own_records():
    app = Flask("shop")

    def of(path, *args):
        return errors.unpacked("f", stored(path, *args), app)

    assert type(of("billiard.exceptions:TimeLimitExceeded", 3)) is TaskTimeout
    assert type(of("billiard.exceptions:SoftTimeLimitExceeded")) is TaskTimeout
    assert type(of("billiard.exceptions:WorkerLostError", "lost")) is ProcessDied
    error = of("json.decoder:JSONDecodeError", "Expecting value")
    assert (type(error), str(error)) == (json.JSONDecodeError, "Expecting value")
    error = of("nowhere:Odd", "how", "odd")
    assert (type(error), str(error)) == (RemoteError, "nowhere.Odd: how, odd")
    error = of("celery.exceptions:NotRegistered", "shop.f")
    assert "or set DELAY_BACKEND" in error.__notes__[0]


def test_a_forged_failure_makes_nothing_but_exceptions(monkeypatch):
    """Nor does it import: a lazy module would."""
    asked = []
    lazy = types.ModuleType("lazy_module")
    lazy.__getattr__ = asked.append
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    app = Flask("shop")
    for path in (
        "os:system",
        "builtins:SystemExit",
        "builtins:int",
        "antigravity:x",
        "lazy_module:Error",
        "lazy_module:Error.more",
    ):
        assert type(errors.unpacked("f", stored(path, "a"), app)) is RemoteError
    assert not asked
    assert "antigravity" not in sys.modules


def test_the_classes_of_a_script(monkeypatch):
    """`python shop.py` has them in `__main__`, and a worker in `shop`."""
    script = types.ModuleType("__main__")
    script.Odd = type("Odd", (ValueError,), {"__module__": "__main__"})
    monkeypatch.setitem(sys.modules, "__main__", script)
    app = Flask("__main__")
    app.name = "shop"
    assert registry.path_of(script.Odd, "shop") == "shop:Odd"
    assert errors.exception_class("shop:Odd", app) is script.Odd
    sent = messages.options(submitted(app, retry=Retry(2, on=script.Odd)), is_redis=True)
    request = types.SimpleNamespace(id="1", retries=0, headers=sent["headers"])
    received = messages.received(request, "f")
    theirs = type("Odd", (ValueError,), {"__module__": "shop"})
    retry = received.retry_for(theirs(), "shop")
    assert retry.on == (theirs,)
    other = received.retry_for(KeyError(), "shop")
    assert other.on == ()
    assert other._after(KeyError(), 1) is None


# --- Whom messages may call ---


def make(**settings):
    app = Flask("shop", static_folder=None)
    app.config.update({"DELAY_CELERY_BROKER_URL": URL} | settings)
    Delay(app)
    return app


@task
def plain():
    return "plain"


@task(backend="celery")
def for_celery():
    return "celery"


@task(backend="threads")
def for_threads():
    pass


class Thing:
    @task(backend="celery")
    def method(self):
        pass


def registered(app, name="delay"):
    state = app.extensions[name]
    state.backend("celery").register()
    known = celery_app(app, name=name).tasks
    return {key.rpartition(".")[2] for key in known if key.startswith(__name__)}


def test_what_is_registered():
    assert registered(make()) == {"for_celery"}
    assert registered(make(DELAY_BACKEND="celery")) == {"for_celery", "plain"}


def test_what_is_registered_for_one_of_several():
    app = make(DELAY_BACKEND="threads", MAIL_BACKEND="celery", MAIL_CELERY_BROKER_URL=URL)
    mail = Delay(app, name="mail")

    def post():
        pass

    post.__qualname__ = "post"
    post = mail.task(post)
    assert registered(app) == {"for_celery"}
    assert registered(app, "mail") == {"for_celery", "post"}


def test_a_dropped_app_is_let_go_of():
    """And the next one, at its address, has a context of its own."""

    def run(number):
        app = make(NUMBER=number)
        registered(app)
        seen = []
        app.teardown_appcontext(lambda _: seen.append(number))
        celery_app(app).tasks[f"{__name__}.for_celery"].apply(task_id=str(UUID(int=number)))
        assert seen == [number]
        return weakref.ref(app)

    for number in range(3):
        ref = run(number)
        gc.collect()
        assert ref() is None


# --- Settings ---


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"CELERY_TASK_ALWAYS_EAGER": True}, "set DELAY_MODE to 'immediate'"),
        ({"CELERY_RESULT_SERIALIZER": "pickle"}, "result_serializer is 'pickle'"),
        ({"CELERY_ACCEPT_CONTENT": ["yaml"]}, "add 'json'"),
        ({"CELERY_RESULT_ACCEPT_CONTENT": ["yaml"]}, "add 'json'"),
    ],
)
def test_settings_that_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        celery_app(make(**settings))
    found, workers = backend.check(make(DELAY_BACKEND="celery", **settings))
    assert told in found[0]
    assert workers == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"CELERY_TASK_SERIALIZER": "pickle"}, "task_serializer has no effect .* are JSON"),
        ({"CELERY_TASK_ACKS_LATE": False}, "task_acks_late has no effect"),
        ({"CELERY": {"task_ignore_result": True}}, "task_ignore_result has no effect"),
        ({"CELERY_TASK_PUBLISH_RETRY_POLICY": {"max_retries": 9}}, "refused within two seconds"),
        ({"CELERY_TASK_DEFAULT_PRIORITY": 5}, "say `priority` in @task"),
        (
            {"CELERY_TASK_ANNOTATIONS": {"*": {"queue": "slow"}}},
            "say 'queue', which .* task_routes",
        ),
        ({"CELERY_TASK_DEFAULT_QUEU": "slow"}, "did you mean task_default_queue?"),
        ({"CELERY_ACCEPT_CONTENT": ["json", "pickle"]}, "run any code in the workers"),
    ],
)
def test_settings_without_effect(settings, told):
    with pytest.warns(UserWarning, match=told):
        celery_app(make(**settings))


def test_settings_with_effect():
    """No warning of them; and those of others are none of our business."""
    app = make(
        CELERY={
            "task_serializer": "json",
            "task_acks_late": True,
            "task_routes": {"shop.*": "slow"},
            "task_annotations": {"*": {"rate_limit": "10/s"}},
            "beat_schedule": {},
            "redbeat_redis_url": URL,
        }
    )
    connection = celery_app(app).amqp.router.route({}, "shop.f")
    assert connection["queue"].name == "slow"


def test_check_without_a_broker():
    (told,), workers = backend.check(make(DELAY_BACKEND="celery", DELAY_CELERY_BROKER_URL=None))
    assert "needs a Celery app" in told
    assert workers == 0
    found, _ = backend.check(make(DELAY_BACKEND="celery"))
    assert re.fullmatch(r"the broker redis://.*127\.0\.0\.1:1/0 cannot be reached: .*", found[0])
    assert re.fullmatch(r"the results' Redis redis://127\.0\.0\.1:1/0 cannot be .*", found[1])


def test_check_tells_no_password():
    url = "redis://:hunter2@127.0.0.1:1/0"
    found, _ = backend.check(make(DELAY_BACKEND="celery", DELAY_CELERY_BROKER_URL=url))
    assert len(found) == 2
    assert "hunter2" not in str(found)


def test_check_of_an_app_without_celery():
    assert backend.check(make(DELAY_CELERY_BROKER_URL=None)) is None
    assert backend.check(make(DELAY_BACKEND="celery", DELAY_MODE="immediate")) is None


def test_the_command_check():
    def check(app):
        info = ScriptInfo(create_app=lambda: app)
        result = CliRunner().invoke(group, ["check"], obj=info, prog_name="flask delay")
        app.extensions["delay"].shutdown(True, cancel_futures=False)
        return result

    result = check(make(DELAY_BACKEND="celery"))
    assert result.exit_code == 1
    assert re.search(
        "^WRONG  celery +the broker redis:.* cannot be reached: ", result.output, re.MULTILINE
    )
    assert "celery" not in check(make(DELAY_CELERY_BROKER_URL=None)).output


# --- What Celery stores ---


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"status": "STARTED", "result": {}}, {"state": "running"}),
        (
            {"status": "PROGRESS", "result": {"done": 1, "total": 2, "note": "half"}},
            {"state": "running", "progress": Progress(1, 2, "half")},
        ),
        ({"status": "RETRY", "result": {}}, {"state": "pending"}),
        ({"status": "SUCCESS", "result": [1]}, {"state": "finished", "result": [1]}),
        ({"status": "REVOKED", "result": {}}, {"state": "cancelled"}),
    ],
)
def test_a_view_of_what_celery_stores(stored, expected):
    view = results.view_of("an-id", "f", stored, Flask("shop"))
    assert view == TaskView(id="an-id", name="f", **expected)
    assert view.is_over == (view.state in ("finished", "cancelled"))


def test_a_view_of_a_failure():
    expired = {"exc_type": "TaskRevokedError", "exc_message": ["expired"]}
    failed = {"exc_module": "builtins", "exc_type": "KeyError", "exc_message": ["a"]}
    for stored, kind in (
        ({"status": "REVOKED", "result": expired}, TaskExpired),
        ({"status": "FAILURE", "result": failed}, KeyError),
    ):
        view = results.view_of("an-id", "f", stored, Flask("shop"))
        assert (view.state, type(view.error)) == ("finished", kind)


def test_a_view_of_a_state_of_the_tasks_own():
    view = results.view_of("an-id", "f", {"status": "CUSTOM", "result": 1}, Flask("shop"))
    assert (view.state, view.result) == ("running", None)
