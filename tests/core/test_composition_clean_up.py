"""`then(fn, on="end")`: tasks that run however the one before has ended."""

import asyncio
from concurrent.futures import CancelledError

import pytest

from flask_delay import Executor, Retry, TaskExpired, gather

from .helpers import DEADLINE, Gate, double, fail, occupied, submit, then


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


def clean(*arguments):
    return ("cleaned", arguments)


async def clean_async():
    await asyncio.sleep(0)
    return ("cleaned", ())


@pytest.mark.parametrize("step", [clean, clean_async])
@pytest.mark.parametrize("is_done", [False, True])
def test_it_runs_without_an_argument_after_each_end(executor, step, is_done):
    for first in (executor.submit(double, 2), executor.submit(fail, "wrong")):
        if is_done:
            first.exception(DEADLINE)
        future = first.then(step, on="end")
        assert future.result(DEADLINE) == ("cleaned", ())
        assert future.attempts == 1


def test_it_runs_after_a_cancellation(executor):
    with occupied(executor):
        first = executor.submit(double, 2)
        future = first.then(clean, on="end")
        assert first.cancel()
    assert future.result(DEADLINE) == ("cleaned", ())


def test_it_runs_after_a_task_that_has_not_begun(executor):
    with occupied(executor):
        first = submit(executor, double, 2, expires=0.05)
        assert type(first.then(double).exception(DEADLINE)) is TaskExpired
        future = first.then(clean, on="end")
    assert future.result(DEADLINE) == ("cleaned", ())


def test_it_runs_once_after_the_last_attempt(executor):
    attempts = []

    def flaky():
        attempts.append(len(attempts))
        raise LookupError

    first = submit(executor, flaky, retry=Retry(2, backoff=0))
    assert first.then(lambda: list(attempts), on="end").result(DEADLINE) == [0, 1, 2]


def test_it_is_followed_like_any_other(executor):
    last = executor.submit(fail, "wrong").then(clean, on="end").then(len)
    assert last.result(DEADLINE) == 2
    both = gather(executor.submit(fail, "wrong").then(clean, on="end"), executor.submit(int))
    assert both.result(DEADLINE) == [("cleaned", ()), 0]


def test_a_failure_before_the_one_before_counts(executor):
    last = executor.submit(fail, "wrong").then(double).then(clean, on="end")
    assert last.result(DEADLINE) == ("cleaned", ())


def test_it_can_be_cancelled(executor):
    gate = Gate()
    first = executor.submit(gate, 3)
    future = first.then(clean, on="end")
    assert gate.entered.wait(DEADLINE)
    assert future.cancel()
    gate.open()
    assert first.result(DEADLINE) == 3
    with pytest.raises(CancelledError):
        future.result(DEADLINE)


def test_a_shutdown_that_cancels_cancels_it():
    executor = Executor(1)
    gate = Gate()
    running = executor.submit(gate, 3)
    assert gate.entered.wait(DEADLINE)
    queued = executor.submit(int)
    futures = [running.then(clean, on="end"), queued.then(clean, on="end")]
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    executor.shutdown()
    assert [future.cancelled() for future in futures] == [True, True]


def test_a_shutdown_waits_for_it():
    executor = Executor(1)
    gate = Gate()
    future = executor.submit(gate, 3).then(clean, on="end")
    executor.shutdown(wait=False)
    gate.open()
    assert future.result(DEADLINE) == ("cleaned", ())
    executor.shutdown()


def test_options_count(executor):
    future = then(executor.submit(fail, "wrong"), clean_late, on="end", timeout=0.05)
    assert type(future.exception(DEADLINE)).__name__ == "TaskTimeout"


async def clean_late():
    await asyncio.sleep(DEADLINE)


@pytest.mark.parametrize("on", ["failure", "", "END"])
def test_another_word_is_refused(executor, on):
    with pytest.raises(ValueError, match=r'on must be "success" or "end", got'):
        executor.submit(int).then(clean, on=on)
    assert executor.stats()["held"] == 0


def test_what_needs_an_argument_is_refused(executor):
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        executor.submit(int).then(double, on="end")
    with pytest.raises(TypeError):
        executor.submit(int).then(clean, "end")
