"""The settings: what is allowed, what is not, and what is said about it."""

import dataclasses
import math
import threading
import time
import warnings

import pytest
from flask import Flask

from flask_delay import Delay, QueueFull, delay
from flask_delay.backends import table
from flask_delay.config import Config, load, settings

DEADLINE = 20.0


def test_defaults():
    config = load({}, "DELAY_")
    assert config == Config(
        max_workers=None,
        queue_size=0,
        when_full="block",
        block_timeout=None,
        shutdown_timeout=25.0,
        drain_on_sigterm=True,
        log_failures=True,
        result_limit=1000,
        mode="threads",
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_workers = 1


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MAX_WORKERS", 1, 1),
        ("MAX_WORKERS", "8", 8),
        ("MAX_WORKERS", " 8 ", 8),
        ("MAX_WORKERS", None, None),
        ("MAX_WORKERS", "none", None),
        ("MAX_WORKERS", "None", None),
        ("QUEUE_SIZE", 0, 0),
        ("QUEUE_SIZE", 100, 100),
        ("QUEUE_SIZE", "100", 100),
        ("WHEN_FULL", "block", "block"),
        ("WHEN_FULL", "raise", "raise"),
        ("WHEN_FULL", " Caller_Runs ", "caller_runs"),
        ("WHEN_FULL", "DROP_OLDEST", "drop_oldest"),
        ("BLOCK_TIMEOUT", 0, 0.0),
        ("BLOCK_TIMEOUT", "2.5", 2.5),
        ("BLOCK_TIMEOUT", "none", None),
        ("BLOCK_TIMEOUT", None, None),
        ("SHUTDOWN_TIMEOUT", 0, 0.0),
        ("SHUTDOWN_TIMEOUT", 7, 7.0),
        ("SHUTDOWN_TIMEOUT", 0.5, 0.5),
        ("SHUTDOWN_TIMEOUT", "0.5", 0.5),
        ("SHUTDOWN_TIMEOUT", "none", None),
        ("SHUTDOWN_TIMEOUT", None, None),
        ("DRAIN_ON_SIGTERM", False, False),
        ("DRAIN_ON_SIGTERM", "true", True),
        ("DRAIN_ON_SIGTERM", "False", False),
        ("LOG_FAILURES", "on", True),
        ("LOG_FAILURES", "no", False),
        ("LOG_FAILURES", 0, False),
        ("LOG_FAILURES", "1", True),
        ("RESULT_LIMIT", 0, 0),
        ("RESULT_LIMIT", "20", 20),
        ("MODE", "threads", "threads"),
        ("MODE", " Immediate ", "immediate"),
        ("MODE", "manual", "manual"),
    ],
)
def test_good_value(key, value, expected):
    found = getattr(load({f"DELAY_{key}": value}, "DELAY_"), key.lower())
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("MAX_WORKERS", 0, "integer of at least 1"),
        ("MAX_WORKERS", -1, "integer of at least 1"),
        ("MAX_WORKERS", True, "integer of at least 1"),
        ("MAX_WORKERS", 2.0, "integer of at least 1"),
        ("MAX_WORKERS", "2.5", "integer of at least 1"),
        ("MAX_WORKERS", "many", "integer of at least 1"),
        ("MAX_WORKERS", "", "integer of at least 1"),
        ("MAX_WORKERS", [8], "integer of at least 1"),
        ("MAX_WORKERS", 10**30, "integer of at least 1"),
        ("QUEUE_SIZE", -1, "integer, 0 or more"),
        ("QUEUE_SIZE", None, "integer, 0 or more"),
        ("QUEUE_SIZE", True, "integer, 0 or more"),
        ("QUEUE_SIZE", 1.5, "integer, 0 or more"),
        ("QUEUE_SIZE", 10**30, "integer, 0 or more"),
        ("WHEN_FULL", "drop", '"block", "raise", "caller_runs" or "drop_oldest"'),
        ("WHEN_FULL", "", '"block", "raise", "caller_runs" or "drop_oldest"'),
        ("WHEN_FULL", None, '"block", "raise", "caller_runs" or "drop_oldest"'),
        ("WHEN_FULL", True, '"block", "raise", "caller_runs" or "drop_oldest"'),
        ("BLOCK_TIMEOUT", -1, "seconds, 0 or more"),
        ("BLOCK_TIMEOUT", math.nan, "seconds, 0 or more"),
        ("BLOCK_TIMEOUT", math.inf, "seconds, 0 or more"),
        ("BLOCK_TIMEOUT", False, "seconds, 0 or more"),
        ("BLOCK_TIMEOUT", "1s", "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", -0.1, "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", math.nan, "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", math.inf, "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", "nan", "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", "inf", "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", True, "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", "5s", "seconds, 0 or more"),
        ("SHUTDOWN_TIMEOUT", 10**400, "seconds, 0 or more"),
        ("DRAIN_ON_SIGTERM", None, "true or false"),
        ("DRAIN_ON_SIGTERM", "maybe", "true or false"),
        ("DRAIN_ON_SIGTERM", 2, "true or false"),
        ("LOG_FAILURES", 1.0, "true or false"),
        ("MODE", "eager", '"threads", "immediate" or "manual"'),
        ("MODE", None, '"threads", "immediate" or "manual"'),
        ("LOG_FAILURES", "", "true or false"),
        ("RESULT_LIMIT", -1, "integer, 0 or more"),
        ("RESULT_LIMIT", None, "integer, 0 or more"),
        ("RESULT_LIMIT", "none", "integer, 0 or more"),
        ("RESULT_LIMIT", False, "integer, 0 or more"),
    ],
)
def test_bad_value_names_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ValueError) as info:
        load({f"DELAY_{key}": value}, "DELAY_")
    message = str(info.value)
    assert message.startswith(f"DELAY_{key} is {value!r}, but must be ")
    assert allowed in message
    assert info.value.__suppress_context__


def test_bad_value_leaves_the_app_without_delay():
    app = Flask("app")
    app.config["DELAY_MAX_WORKERS"] = 0
    with pytest.raises(ValueError, match="DELAY_MAX_WORKERS is 0"):
        Delay(app)
    assert not app.extensions


def test_environment_variables(monkeypatch):
    monkeypatch.setenv("FLASK_DELAY_MAX_WORKERS", "3")
    monkeypatch.setenv("FLASK_DELAY_QUEUE_SIZE", "50")
    monkeypatch.setenv("FLASK_DELAY_WHEN_FULL", "raise")
    monkeypatch.setenv("FLASK_DELAY_BLOCK_TIMEOUT", "1.5")
    monkeypatch.setenv("FLASK_DELAY_SHUTDOWN_TIMEOUT", "none")
    monkeypatch.setenv("FLASK_DELAY_LOG_FAILURES", "0")
    monkeypatch.setenv("FLASK_DELAY_DRAIN_ON_SIGTERM", "false")
    app = Flask("app")
    app.config.from_prefixed_env()
    Delay(app)
    assert app.extensions["delay"].config == Config(
        max_workers=3,
        queue_size=50,
        when_full="raise",
        block_timeout=1.5,
        shutdown_timeout=None,
        log_failures=False,
        drain_on_sigterm=False,
    )


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("DELAY_MAX_WORKER", r"did you mean DELAY_MAX_WORKERS\?"),
        ("DELAY_WORKERS", r"did you mean DELAY_MAX_WORKERS\?"),
        ("DELAY_MAXWORKERS", r"did you mean DELAY_MAX_WORKERS\?"),
        ("DELAY_LOG_FAILURE", r"did you mean DELAY_LOG_FAILURES\?"),
        ("DELAY_XYZ", "known are MAX_WORKERS, QUEUE_SIZE, "),
    ],
)
def test_unknown_key_is_warned_of(key, hint):
    with pytest.warns(UserWarning, match=f"{key} is not a setting of Flask-Delay: {hint}"):
        load({key: 1}, "DELAY_")


def test_warning_points_at_the_line_that_called_init_app():
    app = Flask("app")
    app.config["DELAY_MAX_WORKER"] = 1
    with pytest.warns(UserWarning, match="DELAY_MAX_WORKER ") as caught:
        Delay().init_app(app)
    assert caught[0].filename == __file__


def test_keys_of_other_instances_are_not():
    config = {
        "DELAY_REPORTS_MAX_WORKERS": 1,
        "DELAY_REPORTS_RESULT_LIMIT": 5,
        "REPORTS_MAX_WORKERS": 2,
        "DELAYED": True,
        "SECRET_KEY": "x",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(config, "DELAY_").max_workers is None
        assert load(config, "DELAY_REPORTS_").max_workers == 1
        assert load(config, "REPORTS_").max_workers == 2


@pytest.fixture
def bounded(make_app):
    """Make an app whose one worker is busy until the end, and whose queue is full."""
    started, end = threading.Event(), threading.Event()

    def make(**config):
        app = make_app(DELAY_MAX_WORKERS=1, DELAY_QUEUE_SIZE=1, **config)
        executor = app.extensions["delay"].executor
        executor.submit(lambda: started.set() or end.wait(DEADLINE))
        assert started.wait(DEADLINE)
        return app, executor.submit(int)

    yield make
    end.set()


def test_full_queue_raises(bounded):
    app, waiting = bounded(DELAY_WHEN_FULL="raise")
    with app.app_context(), pytest.raises(QueueFull):
        delay(int)
    assert waiting.state == "pending"


def test_full_queue_blocks_for_so_long(bounded):
    app, _ = bounded(DELAY_BLOCK_TIMEOUT="0.05")
    begin = time.monotonic()
    with app.app_context(), pytest.raises(QueueFull):
        delay(int)
    assert time.monotonic() - begin >= 0.05


def test_full_queue_has_the_caller_run(bounded):
    app, _ = bounded(DELAY_WHEN_FULL="caller_runs")
    with app.app_context():
        future = delay(threading.get_ident)
        assert future.done()
        assert future.result() == threading.get_ident()


def test_full_queue_drops_the_oldest(bounded, caplog):
    app, waiting = bounded(DELAY_WHEN_FULL="drop_oldest")
    with app.app_context():
        future = delay(int)
    assert waiting.cancelled()
    assert not future.cancelled()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_list_of_settings_is_complete():
    listed = list(settings("REPORTS_"))
    assert [setting.key for setting in listed] == [
        f"REPORTS_{f.name.upper()}"
        for kind in (Config, *table.settings())
        for f in dataclasses.fields(kind)
        if f.name != "of_backends"
    ]
    for setting in listed:
        assert setting.help.endswith(".")
        assert setting.allowed
        # What is said to be the default is allowed.
        loaded = load({setting.key: setting.default}, "REPORTS_")
        assert setting.value(loaded) == setting.value(Config())
