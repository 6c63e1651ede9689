"""Futures of tasks that run elsewhere: what a backend tells them, and what they ask of it."""

import gc
import threading
import uuid
import weakref

import pytest
from tests.core.helpers import DEADLINE, Thing

from flask_delay import DuplicateTask, Executor, ForkedFutureError, Future, Progress, current_task
from flask_delay._native import TaskRetry, _RemoteTask, _scoped_executor


def task():
    return current_task.id, current_task.attempt


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


@pytest.fixture
def immediate():
    return _scoped_executor(
        max_workers=1,
        thread_name_prefix="here",
        scope=threading.Lock,
        hidden=(),
        reject_types=(),
        reject=repr,
        log_failures=False,
        shutdown_timeout=0,
        result_limit=0,
        mode="immediate",
    )


def made(executor, fn=task, **more):
    id = str(uuid.uuid4())
    handle = _RemoteTask(executor, fn, id=id, **more)
    assert handle.future.id == id
    return handle


def test_its_way(executor):
    handle = made(executor)
    future = handle.future
    assert isinstance(future, Future)
    assert (future.name, future.state, future.attempts) == ("task", "pending", 0)
    assert executor._get(future.id) is future
    handle.start()
    handle.start()
    assert (future.state, future.attempts) == ("running", 1)
    handle.again()
    handle.again()
    assert (future.state, future.attempts) == ("pending", 1)
    handle.start()
    handle.progress(1, None, "half")
    assert future.progress == Progress(1, None, "half")
    assert handle.finish("result")
    assert (future.result(), future.state, future.attempts) == ("result", "finished", 2)
    assert not handle.finish("another")
    assert not handle.fail(ValueError())
    assert not handle.abandon()
    handle.start()
    handle.again()
    assert future.result() == "result"


def test_what_ends_without_having_begun(executor):
    for end, arguments in (("finish", [1]), ("fail", [ValueError("no")]), ("abandon", [])):
        handle = made(executor)
        assert getattr(handle, end)(*arguments)
        assert handle.future.done()
        assert handle.future.started_at is not None
    assert handle.future.cancelled()


def test_callbacks_run_on_a_worker(executor):
    handle = made(executor)
    seen = []
    called = threading.Event()

    def callback(future):
        seen.append((future, threading.current_thread() is threading.main_thread()))
        called.set()

    handle.future.add_done_callback(callback)
    handle.fail(ValueError("no"))
    assert isinstance(handle.future.exception(), ValueError)
    assert called.wait(DEADLINE)
    assert seen == [(handle.future, False)]


def test_cancel_recalls_what_has_not_begun(executor):
    asked = []
    handle = made(executor, recall=asked.append)
    assert handle.future.cancel()
    assert handle.future.cancel()
    assert asked == [False]
    begun = made(executor, recall=asked.append)
    begun.start()
    assert not begun.future.cancel()
    assert begun.future.stop(after=None)
    assert asked == [False]
    assert begun.future.running()
    assert begun.future.stop()
    assert begun.future.cancelled()
    assert asked == [False, True]
    assert not begun.finish(1)
    waiting = made(executor, recall=asked.append)
    assert waiting.future.stop()
    assert asked == [False, True, True]


def test_nothing_waits_for_it():
    with Executor(1) as executor:
        handle = made(executor)
        assert executor.drain(DEADLINE)
    assert handle.future.state == "pending"
    assert handle.finish(1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        made(executor)


def test_a_callback_after_shutdown():
    with Executor(1) as executor:
        handle = made(executor)
    seen = []
    handle.future.add_done_callback(seen.append)
    handle.finish(1)
    assert seen == [handle.future]


def test_an_id_that_was_chosen(executor):
    first = _RemoteTask(executor, task, id="mine", is_chosen=True)
    assert executor._get("mine") is first.future
    with pytest.raises(DuplicateTask, match='the id "mine" already'):
        _RemoteTask(executor, task, id="mine", is_chosen=True)
    first.withdraw()
    assert executor._get("mine") is None
    # One that was not is found once it was asked for.
    other = _RemoteTask(executor, task, id="yours")
    assert executor._get("yours") is None
    assert other.future.id == "yours"
    assert executor._get("yours") is other.future


def test_nothing_is_kept(executor):
    function, recall = Thing(), Thing()
    handle = made(executor, function.method, recall=recall.method)
    refs = [weakref.ref(function), weakref.ref(recall)]
    handle.finish(None)
    del function, recall
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_run_here(immediate):
    handle = made(immediate, attempts=2)
    future = handle.run()
    assert future is handle.future
    assert future.result() == (future.id, 3)


def test_run_a_coroutine_here(immediate):
    async def coroutine():
        return current_task.attempt

    assert made(immediate, coroutine).run().result() == 1


def test_reports(immediate):
    told = []

    def work():
        current_task.progress(1, 2, "one")

    handle = made(immediate, work, report=told.append)
    assert handle.run().progress == Progress(1, 2, "one")
    assert told == [Progress(1, 2, "one")]


def test_what_runs_again_is_others_business(immediate):
    def work():
        current_task.retry(after=3)

    exception = made(immediate, work).run().exception()
    assert type(exception) is TaskRetry
    assert exception.args == (3.0,)


def test_fork(run_script):
    done = run_script("""
import os, uuid
from flask_delay import Executor
from flask_delay._native import _RemoteTask
executor = Executor(1)
future = _RemoteTask(executor, print, id=str(uuid.uuid4())).future
if os.fork() == 0:
    try:
        future.result(1)
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)
os.wait()
""")
    assert (done.rc, done.out) == (0, f"{ForkedFutureError.__name__}\n")


KNOWN = ["flask_delay.backends.base", "flask_delay.backends.table"]


def test_the_threads_know_nothing_of_it(run_script):
    done = run_script("""
import sys
from flask import Flask
from flask_delay import Delay, task
app = Flask("app")
Delay(app)
@task
def work():
    return 1
with app.app_context():
    assert work.delay().result(20) == 1
print(sorted(name for name in sys.modules if "celery" in name or "delay.backends." in name))
""")
    assert (done.rc, done.out) == (0, f"{KNOWN}\n"), done.err
