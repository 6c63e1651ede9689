"""A task that was sent to this process: one attempt, and what follows."""

import logging

import pytest
from flask import Flask, current_app

from flask_delay import Progress, Retry, current_task, task_failed, task_started, task_succeeded
from flask_delay.backends import execution
from flask_delay.backends.execution import Attempt
from flask_delay.backends.message import TaskMessage


@pytest.fixture
def app():
    return Flask("shop")


@pytest.fixture
def executor(app):
    return execution.make_executor(app, "here", sends_started=True, shutdown_timeout=0)


def message(app, *, attempt=1, **options):
    made = TaskMessage.of("an-id", "work", (), {}, options=options, main=app.name)
    return TaskMessage.from_dict({**made.to_dict(), "attempt": attempt})


def look():
    return current_app.name, current_task.id, current_task.attempt, current_task.future.name


async def look_async():
    return look()


@pytest.mark.parametrize("fn", [look, look_async])
def test_an_attempt(app, executor, fn):
    future = Attempt(message(app, attempt=3), fn).run(executor)
    assert future.result(0) == ("shop", "an-id", 3, "work")


def test_progress_is_reported(app, executor):
    told = []
    work = Attempt(message(app), lambda: current_task.progress(1, 2, "one"))
    work.run(executor, report=told.append)
    assert told == [Progress(1, 2, "one")]


def fail():
    raise LookupError("no such row")


async def fail_async():
    fail()


def concluded(app, executor, fn=fail, attempt=1, logs=True, **options):
    work = Attempt(message(app, attempt=attempt, **options), fn)
    future = work.run(executor)
    return work.conclude(app, future, future.exception(), logs=logs)


@pytest.mark.parametrize("fn", [fail, fail_async])
def test_a_failure_is_logged_and_told(app, executor, caplog, fn):
    failed = []

    def receive(_, future):
        failed.append((current_app.name, future.name, future.id))

    with task_failed.connected_to(receive, sender=app):
        exception, after = concluded(app, executor, fn)
    assert (type(exception), after) == (LookupError, None)
    assert failed == [("shop", "work", "an-id")]
    assert caplog.messages == ["task work (an-id) failed"]
    assert "no such row" in caplog.text


def test_nothing_is_logged_unless_asked_for(app, executor, caplog):
    concluded(app, executor, logs=False)
    concluded(app, executor, logs=False, retry=1)
    assert not caplog.messages


def test_a_retry_follows(app, executor, caplog):
    failed = []
    retry = Retry(2, backoff=4, jitter=False)
    with task_failed.connected_to(lambda _, future: failed.append(future), sender=app):
        assert concluded(app, executor, retry=retry)[1] == 4
        assert concluded(app, executor, retry=retry, attempt=2)[1] == 8
        assert not failed
        assert concluded(app, executor, retry=retry, attempt=3)[1] is None
    assert len(failed) == 1
    assert caplog.messages == [
        "task work (an-id) failed and runs again in 4.000 s",
        "task work (an-id) failed and runs again in 8.000 s",
        "task work (an-id) failed",
    ]


def ask():
    try:
        fail()
    except LookupError:
        current_task.retry(after=3)


def test_a_task_asks_for_a_retry(app, executor, caplog):
    caplog.set_level(logging.INFO)
    assert concluded(app, executor, ask)[1] == 3
    assert concluded(app, executor, lambda: current_task.retry())[1] == 0
    exception, after = concluded(app, executor, ask, retry=1, attempt=2)
    assert (type(exception), after) == (LookupError, None)
    used_up, _ = concluded(app, executor, lambda: current_task.retry(), retry=1, attempt=2)
    assert str(used_up) == "task 'work' asked to run again, but its 1 retries are used up"
    assert caplog.messages[0] == "task work (an-id) asked to run again in 3.000 s"


@pytest.mark.parametrize("how", ["check", "refusal"])
def test_what_no_retry_can_mend(app, executor, how):
    wrong = TypeError("it cannot be sent")
    value = (lambda _: wrong) if how == "check" else wrong
    ran = []
    work = Attempt(message(app, retry=5), lambda: ran.append(1), **{how: value})
    future = work.run(executor)
    assert future.exception() is wrong
    assert ran == ([1] if how == "check" else [])
    assert work.conclude(app, future, wrong, logs=False) == (wrong, None)


def test_signals(app, executor, caplog):
    seen = []
    with task_started.connected_to(lambda _, future: seen.append(future), sender=app):
        future = Attempt(message(app), look).run(executor)
        quiet = execution.make_executor(app, "q", sends_started=False, shutdown_timeout=0)
        Attempt(message(app), look).run(quiet)
    assert seen == [future]

    def receive(_, future):
        raise ValueError

    with task_succeeded.connected_to(receive, sender=app):
        execution.send(task_succeeded, app, future)
    assert caplog.messages == ["a receiver of a signal of task work (an-id) raised"]
