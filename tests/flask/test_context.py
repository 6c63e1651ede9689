"""The contexts that tasks run in, and what may be carried into them."""

import contextvars
import functools
import io
import threading
import weakref
from contextvars import ContextVar

import pytest
from flask import (
    appcontext_pushed,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
    session,
)
from werkzeug.datastructures import FileStorage, ImmutableMultiDict
from werkzeug.local import LocalProxy

from flask_delay import Delay, delay, using
from flask_delay.context import hidden_variables

trail: ContextVar[str] = ContextVar("trail", default="none")


def test_teardown_runs_once_on_the_worker_before_the_future_resolves(app, deadline):
    submitted = threading.Event()
    torn, futures = [], []

    @app.teardown_appcontext
    def teardown(exc):
        torn.append((threading.get_ident(), exc, has_app_context(), futures[0].done()))

    def work():
        assert submitted.wait(deadline)
        return threading.get_ident()

    with app.app_context():
        futures.append(delay(work))
        submitted.set()
        worker = futures[0].result(deadline)
        assert torn == [(worker, None, True, False)]
    # Now the caller's own context has gone, too.
    assert [thread for thread, *_ in torn] == [worker, threading.get_ident()]


def test_teardown_that_fails_fails_the_task(app, deadline):
    @app.teardown_appcontext
    def teardown(_exc):
        if threading.current_thread() is not threading.main_thread():
            raise LookupError("rollback failed")

    with app.app_context():
        future = delay(int)
        with pytest.raises(LookupError, match="rollback failed"):
            future.result(deadline)


def test_context_variables_reach_task_and_callback(app, deadline):
    called = threading.Event()
    seen = []

    def callback(_future):
        seen.append(trail.get())
        called.set()

    def submit():
        trail.set("caller")
        with app.app_context():
            future = delay(trail.get)
            future.add_done_callback(callback)
            return future.result(deadline)

    assert contextvars.copy_context().run(submit) == "caller"
    assert called.wait(deadline)
    assert seen == ["caller"]


def test_what_a_task_sets_stays_in_it(make_app, deadline):
    app = make_app(DELAY_MAX_WORKERS=1)
    with app.app_context():
        delay(trail.set, "task").result(deadline)
        assert trail.get() == "none"
        assert delay(trail.get).result(deadline) == "none"


def test_a_later_change_of_the_caller_does_not_reach_a_queued_task(make_app, deadline):
    app = make_app(DELAY_MAX_WORKERS=1)
    release = threading.Event()
    token = trail.set("submit")
    try:
        with app.app_context():
            delay(release.wait, deadline)
            future = delay(trail.get)
            trail.set("later")
            release.set()
            assert future.result(deadline) == "submit"
    finally:
        trail.reset(token)


def test_current_app_is_the_one_at_submit(make_app, deadline):
    one, two = make_app("one"), make_app("two")
    with one.app_context():
        first = delay(lambda: current_app.name)
        with two.app_context():
            second = delay(lambda: current_app.name)
        third = delay(lambda: current_app.name)
    assert [f.result(deadline) for f in (first, second, third)] == ["one", "two", "one"]


def test_current_app_is_the_app_itself(app, deadline):
    with app.app_context():
        assert delay(lambda: current_app._get_current_object()).result(deadline) is app


def test_task_may_delay_another(make_app, deadline):
    app = make_app(DELAY_MAX_WORKERS=1)

    def outer():
        return delay(lambda: current_app.name).result(deadline)

    with app.app_context():
        assert delay(outer).result(deadline) == "app"


def test_task_may_push_contexts_of_its_own(make_app, deadline):
    one, two = make_app("one"), make_app("two")

    def work():
        with two.test_request_context("/inner"):
            inner = (current_app.name, request.path)
        return inner, current_app.name, has_request_context()

    with one.app_context():
        assert delay(work).result(deadline) == (("two", "/inner"), "one", False)


def test_hidden_are_exactly_the_variables_that_flask_sets(app):
    before = set(contextvars.copy_context())
    with app.test_request_context():
        set_by_flask = set(contextvars.copy_context()) - before
    assert set_by_flask
    assert set(hidden_variables()) == set_by_flask
    assert not has_app_context()


def test_variables_that_listeners_set_are_not_hidden(app, deadline):
    def listener(_sender):
        trail.set("listener")

    hidden_variables.cache_clear()
    try:
        with appcontext_pushed.connected_to(listener):
            assert trail not in hidden_variables()
    finally:
        hidden_variables.cache_clear()


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        (current_app, r"`current_app` is a proxy.*current_app\._get_current_object\(\)"),
        (request, "`request` is bound to the caller's context.*values"),
        (session, "`session` is bound to the caller's context.*values"),
        (g, "`g` is bound to the caller's context.*values"),
        (LocalProxy(lambda: 1), r"`LocalProxy` is a proxy.*proxy\._get_current_object\(\)"),
    ],
    ids=["current_app", "request", "session", "g", "other"],
)
def test_proxy_is_refused_with_the_remedy(app, proxy, message):
    with app.test_request_context(), pytest.raises(TypeError, match=message):
        delay(print, proxy)


def test_proxy_is_refused_by_every_way_in(app):
    extension = app.extensions["delay"].owner
    with app.app_context():
        with pytest.raises(TypeError, match="current_app"):
            extension.delay(print, current_app)
        with pytest.raises(TypeError, match="current_app"):
            extension.executor.submit(print, current_app)
        with pytest.raises(TypeError, match="current_app"):
            list(extension.map(print, [current_app]))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda it: [1, it],
        lambda it: (it,),
        lambda it: {"key": it},
        lambda it: [[it]],
        lambda it: {"key": [it]},
        lambda it: ImmutableMultiDict([("a", 1), ("b", it)]),
    ],
)
def test_proxies_in_a_container_are_refused(app, wrap):
    with app.app_context(), pytest.raises(TypeError, match="`current_app` is a proxy"):
        delay(len, wrap(current_app))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda upload: upload.save,
        lambda upload: functools.partial(len, upload),
        lambda upload: functools.partial(dict, upload=upload),
        lambda upload: functools.partial(functools.partial(len, [upload]), 1),
        lambda upload: functools.partial(upload.save, "path"),
    ],
)
def test_uploads_that_a_function_has_with_it_are_refused(app, deadline, wrap):
    function = wrap(FileStorage(io.BytesIO(b"data"), filename="report.csv"))
    with app.app_context():
        done = delay(int)
        for take in (delay, using(timeout=5).delay, done.then):
            with pytest.raises(TypeError, match=r"'report.csv'.*file\.read\(\)"):
                take(function)


def test_the_stream_of_a_body_is_refused_with_the_remedy(app):
    def view():
        with pytest.raises(TypeError, match=r"stream of a request.*request\.get_data\(\)"):
            delay(len, request.stream)
        return request.get_data()

    app.add_url_rule("/", view_func=view, methods=["POST"])
    assert app.test_client().post("/", data=b"data").data == b"data"


def test_a_long_look_is_not_taken(app, deadline):
    deep, late = [[[current_app]]], [*range(100), current_app]
    with app.app_context():
        assert delay(len, deep).result(deadline) == 1
        assert delay(len, late).result(deadline) == 101
        assert delay(len, dict(enumerate(late))).result(deadline) == 101


def test_unbound_proxy_is_refused_all_the_same(make_app):
    extension = Delay()
    make_app(extension=extension)
    with pytest.raises(TypeError, match="`request`"):
        extension.delay(print, request)


def test_the_app_itself_may_be_an_argument(app, deadline):
    with app.app_context():
        assert delay(lambda given: given is app, current_app._get_current_object()).result(deadline)


# --- Tasks of one request, which share what they carry --------------------------------

mark: ContextVar[object] = ContextVar("mark", default=None)


@pytest.fixture
def held(make_app, deadline):
    """An app whose only worker is busy until the event that is given is set."""
    app, gate = make_app(DELAY_MAX_WORKERS=1), threading.Event()
    with app.app_context():
        delay(gate.wait, deadline)
    yield app, gate
    gate.set()


def test_tasks_do_not_see_what_other_tasks_set(held, deadline):
    app, gate = held

    def view():
        trail.set("view")
        with app.app_context():
            return [delay(lambda: (trail.get(), trail.set("task"))[0]) for _ in range(3)]

    futures = contextvars.Context().run(view)
    gate.set()
    assert [future.result(deadline) for future in futures] == ["view"] * 3


def test_tasks_see_what_is_set_when_they_are_submitted(held, deadline):
    app, gate = held
    futures = []

    def view(*values):
        with app.app_context():
            for variable, value in values:
                variable.set(value)
                futures.append(delay(lambda: (trail.get(), mark in contextvars.copy_context())))

    contextvars.Context().run(view, *[(trail, value) for value in ("one", "one", "two", "one")])
    # As many variables each time, and a value that is the default.
    contextvars.Context().run(view, (mark, None))
    contextvars.Context().run(view, (trail, "three"))
    gate.set()
    assert [future.result(deadline) for future in futures] == [
        ("one", False),
        ("one", False),
        ("two", False),
        ("one", False),
        ("none", True),
        ("three", False),
    ]


def test_what_tasks_share_goes_with_the_last_of_them(held, deadline, wait_until):
    app, gate = held

    class Thing:
        pass

    def view():
        thing = Thing()
        mark.set(thing)
        with app.app_context():
            return weakref.ref(thing), [delay(int), delay(int)]

    watched, futures = contextvars.Context().run(view)
    assert watched()
    gate.set()
    assert [future.result(deadline) for future in futures] == [0, 0]
    assert wait_until(lambda: watched() is None)
