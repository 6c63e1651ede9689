"""What there is to say about a task, from a live future and from what Celery stores."""

import pytest
from flask import Flask

from flask_delay import Delay, Progress, current_task
from flask_delay.observe.view import view_of


@pytest.fixture
def background():
    app = Flask("shop")
    background = Delay(app)
    with app.app_context():
        yield background
        background.shutdown()


def work():
    current_task.progress(1, 2, "half")
    return "result"


def fail():
    raise LookupError("no such row")


def test_of_a_future(background, deadline):
    future = background.delay(work)
    future.result(deadline)
    view = view_of(future)
    assert (view.id, view.name, view.state) == (future.id, "work", "finished")
    assert (view.progress, view.attempts) == (Progress(1, 2, "half"), 1)
    assert (view.result, view.error) == ("result", None)
    assert view.enqueued_at <= view.started_at <= view.finished_at
    assert view.is_over


def test_of_one_that_failed(background, deadline):
    future = background.delay(fail)
    error = future.exception(deadline)
    view = view_of(future)
    assert (view.error, view.result, view.is_over) == (error, None, True)


def test_of_one_that_has_not_begun(background):
    future = background.using(countdown=60).delay(work)
    view = view_of(future)
    assert (view.state, view.attempts, view.started_at) == ("pending", 0, None)
    assert not view.is_over
    future.cancel()
    assert view_of(future).state == "cancelled"
    # The older one is as it was.
    assert view.state == "pending"


def test_by_id(background, deadline):
    future = background.delay(work)
    future.result(deadline)
    assert background._view(future.id) == view_of(future)
    assert background._view("another") is None


def test_in_a_forked_process(run_script):
    done = run_script("""
import os, threading
from flask_delay import Executor
from flask_delay.observe.view import view_of
with Executor(1) as executor:
    done, gate = executor.submit(int), threading.Event()
    running = executor.submit(gate.wait)
    done.result()
    if os.fork() == 0:
        print(view_of(done).state, view_of(running), flush=True)
        os._exit(0)
    os.wait()
    gate.set()
""")
    assert (done.rc, done.out) == (0, "finished None\n"), done.err
