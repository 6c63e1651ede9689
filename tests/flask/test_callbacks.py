"""Done callbacks under `Delay`."""

import logging
import threading

import pytest
from flask import Flask, current_app, g, has_request_context, request

from flask_delay import Delay, delay


@pytest.fixture
def extension():
    return Delay()


def test_in_the_order_added_the_default_ones_first(make_app, extension, deadline):
    make_app(extension=extension)
    order, release, called = [], threading.Event(), threading.Event()
    extension.add_default_done_callback(lambda _: order.append("default 1"))
    extension.add_default_done_callback(lambda _: order.append("default 2"))
    future = extension.delay(release.wait, deadline)
    future.add_done_callback(lambda _: order.append("own 1"))
    future.add_done_callback(lambda _: order.append("own 2"))
    future.add_done_callback(lambda _: called.set())
    release.set()
    assert called.wait(deadline)
    assert order == ["default 1", "default 2", "own 1", "own 2"]


def test_default_ones_get_the_very_future(make_app, extension, deadline):
    app = make_app(extension=extension)
    called = threading.Event()
    seen = []

    @extension.add_default_done_callback
    def report(future):
        seen.append((future, current_app._get_current_object(), has_request_context()))
        called.set()

    assert callable(report)
    with app.test_request_context():
        future = delay(int)
    assert called.wait(deadline)
    assert seen == [(future, app, False)]
    assert seen[0][0] is future


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


def test_one_that_fails_is_logged_and_stops_no_other(make_app, extension, deadline, caplog):
    make_app(extension=extension)
    called, release = threading.Event(), threading.Event()
    failure = LookupError("in a callback")

    def fail(_future):
        raise failure

    extension.add_default_done_callback(fail)
    future = extension.delay(release.wait, deadline)
    future.add_done_callback(fail)
    future.add_done_callback(lambda _: called.set())
    with caplog.at_level(logging.ERROR, logger="flask_delay"):
        release.set()
        assert called.wait(deadline)
    records = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[1] for record in records] == [failure, failure]
    assert {record.name.partition(".")[0] for record in records} == {"flask_delay"}
    assert future.result(deadline) is True


def test_of_a_cancelled_task_runs_in_the_cancelling_thread(make_app, extension, deadline):
    app = make_app(extension=extension, DELAY_MAX_WORKERS=1)
    release = threading.Event()
    extension.delay(release.wait, deadline)
    queued = extension.delay(int)
    seen = []
    queued.add_done_callback(
        lambda _: seen.append((threading.get_ident(), current_app.name, has_request_context()))
    )
    with app.test_request_context():
        assert queued.cancel()
    assert seen == [(threading.get_ident(), "app", False)]
    release.set()


def test_may_delay_another_task(make_app, extension, deadline):
    make_app(extension=extension)
    ended = threading.Event()

    def second():
        ended.set()

    extension.delay(int).add_done_callback(lambda _: delay(second))
    assert ended.wait(deadline)
