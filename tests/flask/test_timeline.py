"""The timeline of a task on the live page: why it was held, and how its attempts failed."""

import os
import threading
from dataclasses import replace

import pytest

from flask_delay import Delay, Retry, current_task, task, using
from flask_delay.dashboard import recorder

JSON = {"Accept": "application/json"}
AGAIN = Retry(3, waits=[0.0])


def fail_once():
    if current_task.attempt == 1:
        raise ConnectionError("amqp://shop:hunter2@host is <down>")


@task(durable=True, retry=AGAIN)
def fail_once_durably():
    fail_once()


@task(durable=True)
def work(*_):
    pass


@pytest.fixture(autouse=True)
def _hear_no_more():
    yield
    recorder._recorders.clear()


@pytest.fixture
def extension():
    return Delay()


@pytest.fixture(params=[None, True], ids=["alone", "journal"])
def app(request, make_app, extension):
    return mounted(make_app, extension, DELAY_JOURNAL=request.param)


@pytest.fixture
def durable_app(make_app, extension):
    return mounted(make_app, extension, DELAY_JOURNAL=True)


def mounted(make_app, extension, redact=None, **config):
    app = make_app(extension=extension, DELAY_MAX_WORKERS=2, **config)
    page = extension.dashboard_blueprint(authorize=None, redact=redact)
    app.register_blueprint(page, url_prefix="/tasks")
    # From the first request on, the journal notes events.
    app.test_client().get("/tasks/")
    return app


def submit(app, fn, *args, **options):
    with app.app_context():
        return using(**options).delay(fn, *args)


def timeline(app, future):
    client = app.test_client()
    return client.get(f"/tasks/tasks/{future.id}", headers=JSON).get_json()["timeline"]


def kinds(found):
    return [it["kind"] for it in found]


def test_a_plain_task_that_was_held_and_ran_again(app, wait_until):
    future = submit(app, fail_once, countdown=0.01, retry=AGAIN)
    future.result(20)
    found = timeline(app, future)
    expected = ["submitted", "held", "started", "retrying", "started", "finished"]
    assert kinds(found) == expected
    assert found[1]["text"].startswith("until 2")
    assert [it["text"] for it in found[2:5]] == ["attempt 1", "attempt 1", "attempt 2"]
    error = found[3]["error"]
    assert error["class"] == "ConnectionError"
    assert error["message"].endswith("@host is <down>")
    assert "hunter2" not in error["message"]
    text = app.test_client().get(f"/tasks/tasks/{future.id}").text
    assert "ConnectionError" in text
    assert "is &lt;down&gt;" in text


def test_the_journal_has_it_for_the_pages_of_other_processes(durable_app, wait_until):
    future = submit(durable_app, fail_once, countdown=0.01, retry=AGAIN)
    future.result(20)
    journal = durable_app.extensions["delay"].store.shared()
    # Published after all that: its past is told, too.
    id = future.id

    def told():
        return [(kind, text) for _, kind, text, *_ in journal.events(id)]

    assert wait_until(lambda: len(told()) > 1)
    found = dict(told())
    assert found["held"].startswith("until ")
    assert found["retrying"].splitlines()[:2] == ["attempt 1", "ConnectionError"]


def test_a_published_task_tells_of_each_attempt(durable_app, wait_until, deadline):
    is_published = threading.Event()

    def work():
        is_published.wait(deadline)
        fail_once()

    future = submit(durable_app, work, countdown=0.01, retry=AGAIN)
    id = future.id
    is_published.set()
    future.result(20)
    journal = durable_app.extensions["delay"].store.shared()

    def told():
        return [(kind, (text or "").split("\n")[0]) for _, kind, text, *_ in journal.events(id)]

    assert wait_until(lambda: ("started", "attempt 2") in told())
    starts = [text for kind, text in told() if kind == "started"]
    assert sorted(starts) == ["attempt 1", "attempt 2"]
    assert [kind for kind, _ in told() if kind != "started"] == ["held", "retrying"]


def test_a_plain_task_behind_another_one(app, deadline):
    go, started = threading.Event(), threading.Event()

    def hold():
        started.set()
        go.wait(deadline)

    one = {"limit": 1, "key": "bell"}
    first = submit(app, hold, **one)
    assert started.wait(deadline)
    behind = submit(app, int, **one)
    with app.app_context():
        after = behind.then(str)
    held = [it for it in timeline(app, behind) if it["kind"] == "held"]
    assert [it["text"] for it in held] == ["by its limit or its rate"]
    held = [it for it in timeline(app, after) if it["kind"] == "held"]
    assert [it["text"] for it in held] == [f"after int {behind.id[:8]}"]
    go.set()
    after.result(deadline)
    assert kinds(timeline(app, first)) == ["submitted", "started", "finished"]


def test_a_durable_task_that_was_held_and_ran_again(durable_app):
    future = submit(durable_app, fail_once_durably, countdown=0.01)
    future.result(20)
    found = timeline(durable_app, future)
    expected = ["submitted", "held", "started", "retrying", "started", "finished"]
    assert kinds(found) == expected
    assert found[1]["text"].startswith("until 2")
    assert found[3]["error"]["class"] == "ConnectionError"
    # Also that of its first start.
    assert [it["pid"] for it in found[1:5]] == [os.getpid()] * 4


def test_a_durable_task_says_what_holds_it(durable_app, extension):
    extension.pause("work")
    with durable_app.app_context():
        paused = work.delay()
        after = paused.then(work)
    for future, text in [(paused, "until it is resumed"), (after, f"after work {paused.id[:8]}")]:
        held = [it for it in timeline(durable_app, future) if it["kind"] == "held"]
        assert [it["text"] for it in held] == [text]
    extension.resume("work")
    after.result(20)


def test_redact_decides_what_is_seen_of_an_attempt(make_app, extension):
    def redact(view):
        return replace(view, error=view.error and ValueError("hidden"))

    app = mounted(make_app, extension, redact=redact)
    future = submit(app, fail_once, retry=AGAIN)
    future.result(20)
    [error] = [it["error"] for it in timeline(app, future) if it["kind"] == "retrying"]
    assert error == {"class": "ValueError", "message": "hidden"}


def test_without_a_page_nothing_is_noted(make_app, extension):
    app = make_app(extension=extension)
    future = submit(app, fail_once, countdown=0.01, retry=AGAIN)
    future.result(20)
    assert app.extensions["delay"].executor._notes(future.id) == []


def test_the_notes_of_a_task_are_bound(make_app, extension):
    app = mounted(make_app, extension)
    with app.app_context():
        futures = [using(countdown=60).delay(int) for _ in range(1_001)]
    notes = [app.extensions["delay"].executor._notes(future._quiet_id()) for future in futures]
    assert [len(it) for it in notes] == [0] + [1] * 1_000
    for future in futures:
        future.cancel()
