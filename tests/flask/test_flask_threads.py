"""`compat.flask_threads`: threads and pools that share `g` with the code that made them."""

import threading

import pytest
from flask import Flask, current_app, g, has_request_context

from flask_delay import Executor
from flask_delay.compat.flask_threads import AppContextThread, ThreadPoolWithAppContextExecutor

from .conftest import DEADLINE


@pytest.fixture
def app() -> Flask:
    return Flask("app", static_folder=None)


@pytest.fixture
def closed(app) -> list[object]:
    """What a teardown function has found in `g`."""
    found = []
    app.teardown_appcontext(lambda _: found.append(g.pop("connection", None)))
    return found


def use():
    g.more = threading.get_ident()
    return current_app.name, has_request_context(), g.connection


def test_a_thread(app, closed):
    with app.test_request_context("/"):
        g.connection = "the view's"
        seen = []
        thread = AppContextThread(target=lambda *args: seen.append((use(), args)), args=(1,))
        assert isinstance(thread, threading.Thread)
        thread.start()
        thread.join(DEADLINE)
        assert seen == [(("app", False, "the view's"), (1,))]
        assert g.more == thread.ident
        # The thread's teardown does not find what is the view's.
        assert (closed, g.connection) == ([None], "the view's")
    assert closed == [None, "the view's"]


def test_a_pool(app, closed):
    with app.test_request_context("/"):
        g.connection = "the view's"
        with ThreadPoolWithAppContextExecutor(max_workers=2, thread_name_prefix="mine") as pool:
            assert isinstance(pool, Executor)
            future = pool.submit(use)
            assert future.result(DEADLINE) == ("app", False, "the view's")
            assert g.more != threading.get_ident()
            assert list(pool.map(lambda n: (n, g.connection), [1, 2])) == [
                (1, "the view's"),
                (2, "the view's"),
            ]
            name = pool.submit(lambda: threading.current_thread().name).result(DEADLINE)
            assert name.startswith("mine")

            async def look():
                return g.connection

            assert pool.submit(look).result(DEADLINE) == "the view's"
            with pytest.raises(ZeroDivisionError):
                pool.submit(divmod, 1, 0).result(DEADLINE)
        assert set(closed) == {None}
    assert closed[-1] == "the view's"


@pytest.mark.parametrize("make", [AppContextThread, ThreadPoolWithAppContextExecutor])
def test_without_an_app_context(make):
    with pytest.raises(RuntimeError, match="no app context"):
        make()


def test_bad_workers(app):
    with app.app_context(), pytest.raises(ValueError, match="max_workers"):
        ThreadPoolWithAppContextExecutor(0)
