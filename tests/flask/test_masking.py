"""Passwords are not shown: in settings, errors of settings, and the status page."""

import time

import pytest
from flask import Flask

from flask_delay import Delay
from flask_delay.masking import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://:hun/ter@2@h:6379/0", "rediss://:***@h:6379/0"),
        ("amqp://me@example.org:hunter2@h//", "amqp://me@example.org:***@h//"),
        ("redis://h/0?password=hunter2&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0?db=1&PASSWORD=hunter2", "redis://h/0?db=1&PASSWORD=***"),
        ("redis://h?ssl_password=hunter2", "redis://h?ssl_password=***"),
        ("sqs://h?aws_secret_access_key=hunter2", "sqs://h?aws_secret_access_key=***"),
        (
            "sentinel://:hunter2@h1:26379;sentinel://:hunter2@h2:26379",
            "sentinel://:***@h1:26379;sentinel://:***@h2:26379",
        ),
        (
            "{'sentinel_kwargs': {'password': 'hunter2'}}",
            "{'sentinel_kwargs': {'password': '***'}}",
        ),
        ("{'password': 1234, 'db': 1}", "{'password': '***', 'db': 1}"),
        ('{"api_key": "hun\\"ter2", "db": 1}', '{"api_key": \'***\', "db": 1}'),
        ("https://hunter2@sentry.io/1", "https://***@sentry.io/1"),
        ("host=db password='hunter 2' user=me", "host=db password=*** user=me"),
        ("Server=db;Pwd=hunter2;Uid=me", "Server=db;Pwd=***;Uid=me"),
        # What is none.
        ("redis://me@h:6379/0", "redis://me@h:6379/0"),
        ("http://h:8080/a?b=c", "http://h:8080/a?b=c"),
        ("password authentication failed for user 'me'", None),
        ("max_tokens=500, passed=3", None),
    ],
)
def test_masked(text, shown):
    assert masked(text) == (text if shown is None else shown)


@pytest.mark.parametrize("piece", ["a", "://", "://a:", "password", "'password'", "token=", "a@"])
def test_takes_no_longer_for_a_text_that_was_made_for_it(piece):
    # Seconds of the processor, at least, if the time grew by the square.
    start = time.process_time()
    masked(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 2


def test_bad_setting_is_named_without_its_password():
    app = Flask("app")
    app.config["DELAY_CELERY_APP"] = "redis://:hunter2@h"
    app.config["DELAY_MAX_WORKERS"] = "redis://h/0?password=hunter2"
    with pytest.raises(ValueError, match=r"DELAY_MAX_WORKERS is 'redis://h/0\?password=\*\*\*'"):
        Delay(app)
