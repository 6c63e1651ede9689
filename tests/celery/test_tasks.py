"""What a task in a Celery worker is to who submits it."""

import threading

import pytest
from flask import Flask, current_app, has_request_context

from flask_delay import delay
from tests.celery import work
from tests.celery.conftest import DEADLINE


def test_result(app: Flask):
    future = work.add.delay(1, b=2)
    assert future.result(DEADLINE) == 3
    assert (future.name, future.state, future.attempts) == ("add", "finished", 1)


def test_callback(app: Flask):
    called = threading.Event()
    seen = []

    def report(future):
        seen.append((future, current_app.name, has_request_context()))
        seen.append(threading.current_thread().name)
        called.set()

    with app.test_request_context():
        future = work.add.delay(1)
    future.add_done_callback(report)
    assert called.wait(DEADLINE)
    assert seen[0] == (future, "site", False)
