"""Tasks that teardown functions submit: accepted, and not without end."""

import logging
import threading

import pytest
from flask import current_app, g, has_request_context, request

from flask_delay import Retry, current_task, delay, using

MODES = pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])


def finish(app, deadline):
    assert app.extensions["delay"].executor.drain(deadline)


async def name_async():
    return current_app.name


@MODES
def test_after_a_request(make_app, deadline, mode):
    app = make_app(DELAY_MODE=mode)
    futures = []

    @app.teardown_request
    def of_request(_exc):
        futures.append(delay(lambda: current_app.name))

    @app.teardown_appcontext
    def of_app(_exc):
        if g.pop("in_view", False):
            futures.append(delay(name_async))

    @app.get("/")
    def view():
        g.in_view = True
        return "ok"

    assert app.test_client().get("/").status_code == 200
    finish(app, deadline)
    assert [future.result(deadline) for future in futures] == ["app", "app"]


def test_with_a_copy_of_the_request(app, deadline):
    futures = []

    @app.teardown_request
    def of_request(_exc):
        if not futures:
            futures.append(using(request=True).delay(lambda: request.path))

    app.add_url_rule("/x", view_func=lambda: "ok")
    app.test_client().get("/x")
    assert futures[0].result(deadline) == "/x"


def test_of_the_app_context_there_is_no_request_to_copy(app):
    errors = []

    @app.teardown_appcontext
    def of_app(_exc):
        with pytest.raises(RuntimeError, match="there is none") as info:
            using(request=True).delay(int)
        errors.append(info.value)

    with app.app_context():
        assert not has_request_context()
    assert len(errors) == 1


@MODES
def test_a_task_may_leave_one_more(make_app, deadline, mode):
    app = make_app(DELAY_MODE=mode)
    sent = []

    @app.teardown_appcontext
    def flush(_exc):
        if batch := g.pop("batch", None):
            delay(sent.append, batch)

    def collect():
        g.batch = [1, 2]

    async def collect_async():
        collect()

    with app.app_context():
        delay(collect)
        finish(app, deadline)
        delay(collect_async)
        finish(app, deadline)
    assert sent == [[1, 2], [1, 2]]


@MODES
@pytest.mark.parametrize("function", [int, name_async])
def test_without_end_is_refused(make_app, deadline, caplog, mode, function):
    app = make_app(DELAY_MODE=mode)
    futures = []

    @app.teardown_appcontext
    def always(_exc):
        futures.append(delay(function))

    with app.app_context():
        pass
    finish(app, deadline)
    # Of one that runs in the caller, `delay` returns last.
    good, bad = sorted(futures, key=lambda future: future.exception(deadline) is not None)
    assert good.exception() is None
    with pytest.raises(RuntimeError, match="teardown function.*without end.*only after requests"):
        bad.result()
    assert "without end" in caplog.text


def test_what_a_task_submits_itself_is_not_a_teardowns(make_app):
    """In the caller, a task runs while another's context is being left."""
    app = make_app(DELAY_MODE="immediate")
    depth = []

    @app.teardown_appcontext
    def once(_exc):
        if not depth:
            depth.append(1)
            delay(outer)

    def outer():
        depth.append(2)
        delay(inner).result()

    def inner():
        g.more = True
        delay(depth.append, 3).result()

    @app.teardown_appcontext
    def more(_exc):
        if g.pop("more", None):
            delay(depth.append, 4)

    with app.app_context():
        delay(int)
    assert depth == [1, 2, 3, 4]


# --- One that fails ------------------------------------------------------------------


def fail_after(app, times=None):
    """Have the teardown after tasks raise, so many times."""
    failed = []

    @app.teardown_appcontext
    def teardown(_exc):
        if g.pop("in_task", False) and (times is None or len(failed) < times):
            failed.append(1)
            raise LookupError("rollback failed")


@MODES
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failing_teardown_does_not_have_the_work_done_again(
    make_app, deadline, caplog, mode, is_async
):
    app = make_app(DELAY_MODE=mode)
    fail_after(app)
    ran = []

    def charge():
        g.in_task = True
        ran.append(1)
        return "charged"

    async def charge_async():
        return charge()

    with app.app_context():
        future = using(retry=Retry(3, backoff=0)).delay(charge_async if is_async else charge)
        finish(app, deadline)
        # The work was done, but what belongs to it was not: the future says so.
        with pytest.raises(LookupError, match="rollback failed"):
            future.result(deadline)
    assert (len(ran), future.attempts) == (1, 1)
    [record] = [it for it in caplog.records if it.levelno >= logging.WARNING]
    assert "failed" in record.getMessage()
    assert future.id in record.getMessage()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_teardown_that_fails_after_a_failure_leaves_it_to_be_retried(app, deadline, is_async):
    fail_after(app, times=1)

    def work():
        g.in_task = True
        if current_task.attempt == 1:
            raise ConnectionError
        return current_task.attempt

    async def work_async():
        return work()

    with app.app_context():
        function = work_async if is_async else work
        assert using(retry=Retry(3, backoff=0)).delay(function).result(deadline) == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_teardown_may_ask_for_the_work_to_be_done_again(app, deadline, is_async):
    @app.teardown_appcontext
    def teardown(_exc):
        if g.pop("again", False):
            current_task.retry()

    def work():
        g.again = current_task.attempt == 1
        return current_task.attempt

    async def work_async():
        return work()

    with app.app_context():
        function = work_async if is_async else work
        assert using(retry=Retry(3, backoff=0)).delay(function).result(deadline) == 2


def test_an_app_context_that_cannot_be_entered_is_tried_again(make_app, deadline, monkeypatch):
    app = make_app(DELAY_MAX_WORKERS=1)
    push, tried = type(app.app_context()).push, []

    def refuse(context):
        if threading.current_thread() is not threading.main_thread():
            tried.append(1)
            if len(tried) == 1:
                raise ConnectionError
        push(context)

    with app.app_context():
        monkeypatch.setattr(type(app.app_context()), "push", refuse)
        assert using(retry=Retry(3, backoff=0)).delay(int).result(deadline) == 0
    assert len(tried) == 2
