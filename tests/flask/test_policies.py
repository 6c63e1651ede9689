"""Limits, deadlines and retries of an app's tasks: contexts, teardown, signals, status."""

import threading
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack

import pytest
from flask import current_app, g, request

from flask_delay import (
    Delay,
    DuplicateTask,
    QueueFull,
    Retry,
    TaskExpired,
    TaskTimeout,
    current_task,
    delay,
    task_cancelled,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
    using,
)

SOON = 0.05
LATER = Retry(backoff=3600, max_delay=3600)


@pytest.fixture
def extension():
    return Delay()


@pytest.fixture
def make(make_app, extension):
    """An app that notes its teardowns, with one worker."""

    def make(**config):
        app = make_app(extension=extension, **{"DELAY_MAX_WORKERS": 1, **config})
        app.torn = []
        app.register_blueprint(extension.status_blueprint(errors=True), url_prefix="/tasks")

        @app.teardown_appcontext
        def note(error):
            app.torn.append((g.pop("mark", None), type(error), threading.get_ident()))

        return app

    return make


@pytest.fixture
def app(make):
    return make()


@pytest.fixture
def heard():
    """What the signals have told, as (name, attempts)."""
    told = []
    signals = (task_submitted, task_started, task_succeeded, task_failed, task_cancelled)
    with ExitStack() as stack:
        for signal in signals:

            def note(app, future, signal=signal):
                told.append((signal.name, future.attempts))

            stack.enter_context(signal.connected_to(note))
        yield told


def spin():
    g.mark = "spin"
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.001)


def flaky(failures, done=None):
    """Fails so many times; its attempts see nothing of each other."""
    assert "mark" not in g
    g.mark = current_task.attempt
    if current_task.attempt <= failures:
        raise LookupError(current_app.name)
    return current_app.name, current_task.attempt


def settle(app, deadline):
    assert app.extensions["delay"].executor.drain(deadline)


# --- Contexts and teardown ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
def test_each_attempt_has_a_context_of_its_own(make, deadline, mode):
    app = make(DELAY_MODE=mode)
    with app.test_request_context():
        g.mark = "of the caller"
        future = using(retry=Retry(3, backoff=0.001)).delay(flaky, 2)
        app.extensions["delay"].executor.drain(deadline)
        assert g.mark == "of the caller"
    assert future.result(deadline) == ("app", 3)
    assert [mark for mark, *_ in app.torn] == [1, 2, 3, "of the caller"]


@pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
def test_teardown_once_after_a_timeout(make, deadline, mode):
    app = make(DELAY_MODE=mode)
    with app.app_context():
        future = using(timeout=SOON).delay(spin)
        app.extensions["delay"].executor.drain(deadline)
        assert isinstance(future.exception(deadline), TaskTimeout)
        assert [mark for mark, *_ in app.torn] == ["spin"]


def test_teardown_is_told_what_it_is_told_of_any_error(app, deadline):
    with app.app_context():
        delay(flaky, 9).exception(deadline)
        using(timeout=SOON).delay(spin).exception(deadline)
    settle(app, deadline)
    of_error, of_timeout = (kind for mark, kind, _ in app.torn if mark)
    assert (of_timeout is TaskTimeout) == (of_error is LookupError)


def test_teardown_once_on_its_worker_after_a_stop(app, deadline):
    entered, idents = threading.Event(), []

    def work():
        idents.append(threading.get_ident())
        entered.set()
        spin()

    with app.app_context():
        future = delay(work)
    assert entered.wait(deadline)
    app.torn.clear()
    assert future.stop(after=0)
    with pytest.raises(CancelledError):
        future.result(deadline)
    settle(app, deadline)
    assert [(mark, ident) for mark, _, ident in app.torn] == [("spin", idents[0])]


def test_teardown_once_when_code_that_was_stuck_comes_back(app, deadline, wait_until):
    release, idents = threading.Event(), []

    def stuck():
        g.mark = "stuck"
        idents.append(threading.get_ident())
        assert release.wait(deadline)

    with app.app_context():
        future = using(timeout=SOON).delay(stuck)
    assert isinstance(future.exception(deadline), TaskTimeout)
    app.torn.clear()
    with app.app_context():
        assert delay(lambda: current_app.name).result(deadline) == "app"
    settle(app, deadline)
    # Its context is its own thread's, and is torn down there.
    assert "stuck" not in [mark for mark, *_ in app.torn]
    release.set()
    assert wait_until(lambda: app.extensions["delay"].executor.stats()["stuck"] == 0)
    of_stuck = [ident for mark, _, ident in app.torn if mark == "stuck"]
    assert of_stuck == idents


@pytest.mark.parametrize("how", ["cancel", "expires"])
def test_no_context_for_a_task_that_never_starts(app, deadline, how):
    gate = threading.Event()
    with app.app_context():
        delay(gate.wait, deadline)
        future = using(**({"expires": SOON} if how == "expires" else {"limit": 1})).delay(spin)
    app.torn.clear()
    if how == "expires":
        assert isinstance(future.exception(deadline), TaskExpired)
    else:
        assert future.cancel()
    assert app.torn == []
    gate.set()
    settle(app, deadline)
    assert len(app.torn) == 1


def test_each_attempt_has_the_copy_of_the_request(app, deadline):
    futures = []

    def work():
        read = request.get_data(), request.headers["X-Mine"]
        request.seen = getattr(request, "seen", 0) + 1
        if current_task.attempt < 3:
            raise LookupError(read)
        return read, request.seen

    @app.post("/")
    def view():
        futures.append(using(request=True, retry=Retry(2, backoff=0.001)).delay(work))
        return "ok"

    app.test_client().post("/", data=b"body", headers={"X-Mine": "mine"})
    assert futures[0].result(deadline) == ((b"body", "mine"), 1)


# --- Signals and status -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["threads", "immediate", "manual"])
def test_signals_tell_of_each_start_and_one_end(make, deadline, heard, mode):
    app = make(DELAY_MODE=mode)
    with app.app_context():
        using(retry=Retry(2, backoff=0.001)).delay(flaky, 2)
        settle(app, deadline)
        assert heard == [
            ("task-submitted", 0),
            ("task-started", 1),
            ("task-started", 2),
            ("task-started", 3),
            ("task-succeeded", 3),
        ]
        heard.clear()
        using(retry=Retry(1, backoff=0.001)).delay(flaky, 9)
        settle(app, deadline)
    assert heard == [
        ("task-submitted", 0),
        ("task-started", 1),
        ("task-started", 2),
        ("task-failed", 2),
    ]


def test_one_that_is_there_already_is_not_submitted(app, deadline, heard):
    gate = threading.Event()
    with app.app_context():
        first = using(unique=True, key="key").delay(gate.wait, deadline)
        assert using(unique=True, key="key").delay(int) is first
        with pytest.raises(DuplicateTask):
            using(unique="raise", key="key").delay(int)
    assert [name for name, _ in heard].count("task-submitted") == 1
    gate.set()
    settle(app, deadline)


def test_status_while_it_waits_for_a_retry(app, deadline, wait_until):
    def work():
        current_task.progress(1, 2, "half")
        raise LookupError

    with app.app_context():
        future = using(retry=LATER).delay(work)
    id = future.id
    assert wait_until(lambda: future.attempts == 1 and future.state == "pending")
    client = app.test_client()
    answer = client.get(f"/tasks/{id}")
    assert (answer.status_code, answer.headers["Retry-After"]) == (200, "1")
    told = answer.get_json()
    assert (told["id"], told["state"], told["error"]) == (id, "pending", None)
    assert future.cancel()
    assert client.get(f"/tasks/{id}").get_json()["state"] == "cancelled"


# --- The ways to say it -------------------------------------------------------------


def test_map_with_options(make, deadline):
    app = make(DELAY_MAX_WORKERS=4)
    peak, inside = [], []

    def work(number):
        inside.append(number)
        peak.append(len(inside))
        time.sleep(0.001)
        inside.remove(number)
        return number

    with app.app_context():
        verb = using(key="map", limit=1, retry=1, timeout=deadline)
        assert list(verb.map(work, range(20))) == list(range(20))
        assert list(verb.map(work, range(20), buffersize=3)) == list(range(20))
    assert max(peak) == 1


def test_keys_of_two_apps_have_nothing_in_common(make_app, deadline):
    one, two = make_app("one"), make_app("two", extension=Delay())
    gate = threading.Event()
    with one.app_context():
        first = using(key="key", unique=True).delay(gate.wait, deadline)
    with two.app_context():
        second = using(key="key", unique=True).delay(int)
    assert second is not first
    assert second.result(deadline) == 0
    gate.set()


# --- A bounded queue ----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, "1"])
def test_queue_size_of_an_app(make, deadline, size):
    app = make(DELAY_QUEUE_SIZE=size, DELAY_WHEN_FULL="raise")
    gate, entered = threading.Event(), threading.Event()

    def hold():
        entered.set()
        return gate.wait(deadline)

    @app.get("/")
    def view():
        try:
            delay(int)
        except QueueFull:
            return "busy", 503
        return "ok"

    with app.app_context():
        delay(hold)
    assert entered.wait(deadline)
    client = app.test_client()
    assert [client.get("/").status_code for _ in range(3)] == [200, 503, 503]
    gate.set()
    settle(app, deadline)
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("when_full", ["block", "caller_runs", "drop_oldest"])
def test_when_full_of_an_app(make, deadline, when_full):
    app = make(DELAY_QUEUE_SIZE=1, DELAY_WHEN_FULL=when_full, DELAY_BLOCK_TIMEOUT="0.01")
    gate, entered = threading.Event(), threading.Event()

    def hold():
        entered.set()
        return gate.wait(deadline)

    def name():
        return current_app.name, list(g), threading.get_ident()

    me = threading.get_ident()
    with app.test_request_context():
        g.of_the_caller = 1
        delay(hold)
        assert entered.wait(deadline)
        first = delay(name)
        if when_full == "block":
            with pytest.raises(QueueFull):
                delay(name)
        else:
            second = delay(name)
            assert second.done() == (when_full == "caller_runs")
            assert first.cancelled() == (when_full == "drop_oldest")
        # A task that ran here had a context of its own, and it was this one that was torn down.
        assert (current_app.name, list(g), request.path) == ("app", ["of_the_caller"], "/")
        assert [ident for *_, ident in app.torn] == [me] * (when_full == "caller_runs")
        gate.set()
        settle(app, deadline)
        if when_full == "caller_runs":
            assert second.result(0) == ("app", [], me)
        if when_full != "drop_oldest":
            assert first.result(0)[:2] == ("app", [])
