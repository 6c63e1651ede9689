"""Done callbacks under `Delay`."""

import threading

import pytest
from flask import Flask, current_app, g, has_request_context, request

from flask_delay import Delay, delay


@pytest.fixture
def extension():
    return Delay()


def test_default_ones_reach_every_app(make_app, extension, deadline):
    seen = threading.Semaphore(0)
    names = []

    def report(_future):
        names.append(current_app.name)
        seen.release()

    early = make_app("early", extension)
    extension.add_default_done_callback(report)
    late = make_app("late", extension)
    for app in (early, late):
        with app.app_context():
            extension.delay(int)
        assert seen.acquire(timeout=deadline)
    assert names == ["early", "late"]


def test_default_ones_of_one_delay_do_not_reach_another(make_app, extension, deadline):
    app = make_app(extension=extension)
    reports = Delay(app, name="reports")
    names = []
    extension.add_default_done_callback(lambda future: names.append(future.name))
    reports.delay(int)
    assert reports.drain(deadline)
    extension.delay(str)
    assert extension.drain(deadline)
    assert names == ["str"]


@pytest.mark.parametrize("fn", [None, 1, "print"])
def test_not_callable(make_app, extension, fn):
    with pytest.raises(TypeError, match="callable"):
        extension.add_default_done_callback(fn)
    make_app(extension=extension)
    with pytest.raises(TypeError, match="callable"):
        extension.add_default_done_callback(fn)


def test_added_after_the_end_runs_at_once_here(make_app, extension, deadline):
    app = make_app(extension=extension)
    seen = []

    def callback(future):
        seen.append(
            (
                future,
                threading.get_ident(),
                current_app._get_current_object(),
                has_request_context(),
            )
        )
        g.left = True

    with app.test_request_context("/here"):
        future = delay(int)
        future.result(deadline)
        future.add_done_callback(callback)
        # Neither the caller's request nor its g has changed.
        assert request.path == "/here"
        assert "left" not in g
    future.add_done_callback(callback)
    other = Flask("other")
    with other.test_request_context():
        future.add_done_callback(callback)
        assert current_app.name == "other"
    assert seen == [(future, threading.get_ident(), app, False)] * 3
    assert seen[0][0] is future


def test_may_delay_another_task(make_app, extension, deadline):
    make_app(extension=extension)
    ended = threading.Event()

    def second():
        ended.set()

    extension.delay(int).add_done_callback(lambda _: delay(second))
    assert ended.wait(deadline)
