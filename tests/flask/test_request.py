"""From a view, over a real WSGI server."""

import threading
from contextvars import ContextVar

from flask import current_app, g, has_request_context, request

from flask_delay import current_task, delay

tenant: ContextVar[str] = ContextVar("tenant")


def test_view_answers_while_its_task_goes_on(app, serve, fetch, deadline):
    release, reported = threading.Event(), threading.Event()
    futures, reports, inside = [], [], []

    def work(n, *, num):
        inside.append(current_task.future)
        assert release.wait(deadline)
        return n, num

    def report(future):
        reports.append((future, current_app._get_current_object(), has_request_context()))
        reported.set()

    @app.get("/test")
    def view():
        future = delay(work, 10, num=request.args.get("num"))
        future.add_done_callback(report)
        futures.append(future)
        return {"msg": "ok", "task": future.id}

    # The task cannot end before the answer is here.
    answer = fetch(f"{serve(app)}/test?num=7")

    (future,) = futures
    assert answer == {"msg": "ok", "task": future.id}
    assert not future.done()
    assert not reports
    release.set()
    assert reported.wait(deadline)
    assert future.result(deadline) == (10, "7")
    assert len(reports) == 1
    assert reports[0][0] is future
    assert reports[0][1] is app
    assert reports[0][2] is False
    assert inside[0] is future


def test_view_that_waits_keeps_its_own_context(app, serve, fetch, deadline):
    closed = []

    @app.teardown_appcontext
    def close(_exc):
        closed.append(g.pop("connection", None))

    def work():
        g.connection = "task's"

    @app.get("/")
    def view():
        g.connection = "view's"
        delay(work).result(deadline)
        return {"connection": g.connection, "closed": list(closed)}

    assert fetch(f"{serve(app)}/") == {"connection": "view's", "closed": ["task's"]}


def test_context_variables_of_the_request_are_carried(app, serve, fetch, deadline):
    reported = threading.Event()
    seen = []

    def callback(_future):
        seen.append(tenant.get())
        reported.set()

    @app.get("/<name>")
    def view(name):
        tenant.set(name)
        future = delay(lambda: tenant.get())
        future.add_done_callback(callback)
        return {"tenant": future.result(deadline)}

    address = serve(app)
    for name in ("a", "b"):
        assert fetch(f"{address}/{name}") == {"tenant": name}
        assert reported.wait(deadline)
        reported.clear()
    assert seen == ["a", "b"]


def test_every_task_of_many_concurrent_requests_runs(app, serve, fetch, deadline):
    done = threading.Semaphore(0)

    @app.get("/<int:n>")
    def view(n):
        future = delay(pow, n, 2)
        future.add_done_callback(lambda _: done.release())
        return {"task": future.id}

    address = serve(app)
    answers = []

    def client(start):
        answers.extend((n, fetch(f"{address}/{n}")["task"]) for n in range(start, start + 10))

    clients = [threading.Thread(target=client, args=(start,)) for start in range(0, 80, 10)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(deadline)
    for _ in range(80):
        assert done.acquire(timeout=deadline)
    extension = app.extensions["delay"].owner
    assert len(answers) == 80
    assert {n: extension.get(id).result() for n, id in answers} == {n: n * n for n in range(80)}
