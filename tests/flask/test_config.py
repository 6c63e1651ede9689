"""The settings: what is allowed, what is not, and what is said about it."""

import dataclasses
import math
import warnings

import pytest
from flask import Flask

from flask_delay import Delay
from flask_delay.config import Config, load, settings


def test_defaults():
    config = load({}, "DELAY_")
    assert config == Config(
        max_workers=None,
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
    monkeypatch.setenv("FLASK_DELAY_SHUTDOWN_TIMEOUT", "none")
    monkeypatch.setenv("FLASK_DELAY_LOG_FAILURES", "0")
    monkeypatch.setenv("FLASK_DELAY_DRAIN_ON_SIGTERM", "false")
    app = Flask("app")
    app.config.from_prefixed_env()
    Delay(app)
    assert app.extensions["delay"].config == Config(
        max_workers=3,
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


def test_list_of_settings_is_complete():
    listed = list(settings("REPORTS_"))
    assert [setting.key for setting in listed] == [
        f"REPORTS_{f.name.upper()}" for f in dataclasses.fields(Config)
    ]
    for setting in listed:
        assert setting.help.endswith(".")
        assert setting.allowed
        # What is said to be the default is allowed.
        assert load({setting.key: setting.default}, "REPORTS_") == Config()
