"""Nothing fails silently."""

import logging

import pytest
from flask import Flask

from flask_delay import Delay

LOGGER = "flask_delay"


class Broken(Exception):
    pass


def fail():
    raise Broken("the disk is full")


@pytest.fixture
def extension():
    return Delay()


def failures(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_logged_when_nobody_holds_the_future(make_app, extension, deadline, caplog):
    make_app(extension=extension)
    with caplog.at_level(logging.ERROR, logger=LOGGER):
        extension.delay(fail)
        assert extension.drain(deadline)
    assert len(failures(caplog)) == 1


def test_not_logged_when_switched_off(make_app, extension, deadline, caplog):
    make_app(extension=extension, DELAY_LOG_FAILURES=False)
    with caplog.at_level(logging.ERROR, logger=LOGGER):
        future = extension.delay(fail)
        assert isinstance(future.exception(deadline), Broken)
        assert extension.drain(deadline)
    assert not failures(caplog)


def test_of_the_app_context_fails_the_task(deadline):
    class Unusable(Flask):
        def app_context(self):
            raise Broken("no context")

    app = Unusable("app")
    extension = Delay(app)
    try:
        assert isinstance(extension.delay(int).exception(deadline), Broken)
    finally:
        extension.shutdown()
