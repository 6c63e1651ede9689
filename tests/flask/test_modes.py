"""`DELAY_MODE`: tasks without threads have the contexts that tasks on threads have."""

import threading

import pytest
from flask import current_app, g, has_request_context

from flask_delay import Delay, delay


def look():
    fresh = list(g)
    g.task = True
    return threading.get_ident(), current_app.name, fresh, has_request_context()


def test_immediate_has_contexts_of_its_own(make_app):
    app = make_app(DELAY_MODE="immediate")
    torn = []

    @app.teardown_appcontext
    def teardown(_exc):
        torn.append(list(g))

    with app.test_request_context():
        g.mine = True
        future = delay(look)
        assert future.done()
        assert future.result() == (threading.get_ident(), "app", [], False)
        assert torn == [["task"]]
        assert list(g) == ["mine"]
        assert has_request_context()
    assert torn == [["task"], ["mine"]]


def test_immediate_callbacks_have_an_app_context_and_no_request(make_app):
    app = make_app(DELAY_MODE="immediate")
    seen = []
    app.extensions["delay"].owner.add_default_done_callback(lambda _: seen.append(look()[1:]))
    with app.test_request_context():
        delay(int)
    assert seen == [("app", [], False)]


def test_manual_runs_when_told(make_app):
    extension = Delay()
    app = make_app(extension=extension, DELAY_MODE="manual")
    with app.test_request_context():
        future = delay(look)
        assert not future.done()
    assert extension.executor.run_pending() == 1
    assert future.result() == (threading.get_ident(), "app", [], False)


def test_threads_are_the_default(make_app):
    extension = Delay()
    make_app(extension=extension)
    with pytest.raises(RuntimeError, match="manual"):
        extension.executor.run_pending()
