"""What futures, policies and exceptions keep of what they were given, and for how long."""

import asyncio
import concurrent.futures
import gc
import logging
import threading
import traceback
import uuid
import weakref

import pytest

from flask_delay import Executor, Retry, current_task
from flask_delay._native import _Policy, _RemoteTask, _Rhythm, _Ticker, _Waiting

from .helpers import DEADLINE, Gate, Thing, make, submit, unlogged


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


# --- Circles ------------------------------------------------------------------------


def through_a_key_function(_):
    thing = Thing()
    thing.policy = _Policy(key=lambda *_: thing, limit=1)
    return thing


def through_a_retry(_):
    class Error(Exception):
        pass

    Error.policy = _Policy(retry=Retry(on=Error))
    return Error


def through_a_key(executor):
    thing = Thing()
    thing.future = submit(executor, int, key=thing, limit=1)
    thing.future.result(DEADLINE)
    return thing


def through_a_task_from_elsewhere(executor):
    thing = Thing()
    elsewhere = _RemoteTask(executor, int, id=str(uuid.uuid4()))
    elsewhere.future.mark = thing
    thing.elsewhere = elsewhere
    elsewhere.finish(None)
    return thing


def through_a_coroutine(executor):
    thing = Thing()

    async def body():
        (handle,) = (
            it
            for it in gc.get_objects()
            if type(it).__name__ == "_CoroutineTask" and it.future is future
        )
        thing.handle = handle

    future = executor.submit(body)
    future.mark = thing
    future.result(DEADLINE)
    return thing


def through_an_event(executor):
    def task():
        waiter = concurrent.futures._base._FirstCompletedWaiter()
        thing = waiter.event
        current_task.future._waiters.append(waiter)
        assert waiter.event is not thing
        thing.event = waiter.event
        current_task.future._waiters.remove(waiter)
        return thing

    return executor.submit(task).result(DEADLINE)


def through_a_ticker(executor):
    thing = Thing()
    thing.ticker = _Ticker(executor, _Rhythm(every=3600), thing.method)
    return thing


CIRCLES = [
    through_a_key_function,
    through_a_retry,
    through_a_key,
    through_a_task_from_elsewhere,
    through_a_coroutine,
    through_an_event,
    through_a_ticker,
]


@pytest.mark.parametrize("circle", CIRCLES)
def test_a_circle_is_collected(executor, circle, wait_until):
    kept = weakref.ref(circle(executor))
    executor.drain(DEADLINE)

    def gone():
        gc.collect()
        return kept() is None

    assert wait_until(gone, 5)


def test_a_circle_through_a_wait_is_collected(executor, wait_until):
    gate, thing = Gate(), Thing()
    before = submit(executor, gate, key="k", limit=1)
    behind = submit(executor, int, key="k", limit=1)
    waiter = executor.submit(int)
    # A wait refers to a task that its key holds up.
    behind.mark, thing.waiting = thing, _Waiting(waiter, behind)
    kept = weakref.ref(thing)
    gate.open()
    assert behind.result(DEADLINE) == 0
    executor.drain(DEADLINE)
    del thing, before, behind, waiter

    def gone():
        gc.collect()
        return kept() is None

    assert wait_until(gone, 5)


def test_a_finished_future_lets_go_of_its_key_function(executor):
    thing = Thing()
    kept = weakref.ref(thing)
    future = submit(executor, int, key=lambda thing=thing: str(thing), limit=1, unique="raise")
    assert future.result(DEADLINE) == 0
    executor.drain(DEADLINE)
    del thing
    gc.collect()
    assert kept() is None


# --- Tracebacks and frames ----------------------------------------------------------


def length(error):
    return len(traceback.extract_tb(error.__traceback__))


def test_a_thousand_results_leave_the_traceback_as_it_was(executor):
    def fail():
        raise ValueError("made to fail")

    def ask():
        thing = Thing()
        things.append(weakref.ref(thing))
        future.result(DEADLINE)

    things = []
    with unlogged():
        future = executor.submit(fail)
        error = future.exception(DEADLINE)
    before = length(error)
    for _ in range(1000):
        with pytest.raises(ValueError) as raised:
            ask()
        assert raised.value is error
        # This frame, that of `ask`, and the task's.
        assert length(error) == before + 2
        del raised
    gc.collect()
    assert sum(thing() is not None for thing in things) <= 1


def test_awaiting_a_failure_many_times_does_not_lengthen_its_traceback(executor):
    def fail():
        raise ValueError("made to fail")

    async def ask():
        lengths = set()
        for _ in range(100):
            try:
                await future
            except ValueError as error:
                lengths.add(length(error))
        return lengths

    with unlogged():
        future = executor.submit(fail)
        future.exception(DEADLINE)
    assert len(asyncio.run(ask())) == 1


def fail_with(things):
    thing = Thing()
    things.append(weakref.ref(thing))
    raise ValueError("made to fail")


def test_failures_whose_id_was_asked_for_let_go_of_their_frames():
    executor, things = make(result_limit=200), []
    with unlogged():
        ids = [executor.submit(fail_with, things).id for _ in range(200)]
        assert executor.drain(DEADLINE)
        # The last ones are looked at when others end.
        assert executor.submit(int).id
        assert executor.drain(DEADLINE)
        gc.collect()
        assert sum(thing() is not None for thing in things) <= 3
        error = executor._get(ids[100]).exception()
        assert [it.name for it in traceback.extract_tb(error.__traceback__)] == ["fail_with"]
        assert "made to fail" in "".join(traceback.format_exception(error))
        executor.shutdown()


def test_the_frames_of_a_failure_that_somebody_has_stay():
    executor, things = make(result_limit=20), []
    with unlogged():
        mine = executor.submit(fail_with, things)
        assert mine.id
        for _ in range(20):
            assert executor.submit(fail_with, []).id
        assert executor.drain(DEADLINE)
        assert things[0]() is not None
        assert "thing" in mine.exception().__traceback__.tb_frame.f_locals
        # And go once nobody has it.
        del mine
        for _ in range(40):
            assert executor.submit(fail_with, []).id
        assert executor.drain(DEADLINE)
        gc.collect()
        assert things[0]() is None
        executor.shutdown()


def test_a_coroutine_that_goes_on_is_not_ended_with_the_frames_of_a_failure():
    executor = make(result_limit=20)
    caught, go_on = [], asyncio.Event()

    async def goes_on():
        try:
            raise ValueError("made to fail")
        except ValueError as error:
            caught.append(error)
        await go_on.wait()
        return "went on"

    async def open_it():
        go_on.set()

    def fail():
        raise caught[0]

    with unlogged():
        coroutine = executor.submit(goes_on)
        while not caught:
            threading.Event().wait(0.001)
        failed = executor.submit(fail)
        assert failed.id
        assert failed.exception(DEADLINE)
        del failed
        for _ in range(5):
            assert executor.submit(fail_with, []).id
        assert executor.drain(0) is False
        executor.submit(open_it)
        assert coroutine.result(DEADLINE) == "went on"
        executor.shutdown()


# --- Attempts -----------------------------------------------------------------------


def chain(error):
    found = []
    while error is not None:
        found.append(error)
        error = error.__context__
    return found


def test_many_attempts_keep_the_last_few_without_their_frames(executor, caplog):
    things, lines = [], []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(len(logging.Formatter().format(record)))

    def task():
        if current_task.attempt == 100:
            gc.collect()
            counted.append(sum(thing() is not None for thing in things))
        thing = Thing()
        things.append(weakref.ref(thing))
        raise ValueError(current_task.attempt)

    counted, handler = [], Lines()
    caplog.set_level(logging.CRITICAL, "flask_delay")
    logger = logging.getLogger("flask_delay")
    level, logger.level = logger.level, logging.WARNING
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        future = submit(executor, task, retry=Retry(99, backoff=0))
        error = future.exception(DEADLINE)
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = level, propagate
    assert future.attempts == 100
    assert [it.args for it in chain(error)] == [(number,) for number in (100, 99, 98, 97, 96, 95)]
    # With the lines of their tracebacks, without what their frames held.
    assert all("in task" in "".join(traceback.format_tb(it.__traceback__)) for it in chain(error))
    assert counted == [0]
    # One attempt's line is about that attempt.
    assert len(lines) == 100
    assert max(lines[:99]) < 1.2 * min(lines[:99])
    assert lines[99] < 8 * min(lines)


def test_one_exception_for_all_attempts_does_not_grow(executor):
    error, lengths = ValueError("always the same"), []

    def task():
        lengths.append(length(error))
        raise error

    with unlogged():
        future = submit(executor, task, retry=Retry(50, backoff=0))
        assert future.exception(DEADLINE) is error
    assert len(lengths) == 51
    assert max(lengths) <= 2
    assert chain(error) == [error]


def test_coroutines_that_are_tried_again_keep_no_frames(executor):
    things, counted = [], []

    async def task():
        if current_task.attempt == 20:
            gc.collect()
            counted.append(sum(thing() is not None for thing in things))
        thing = Thing()
        things.append(weakref.ref(thing))
        raise ValueError(current_task.attempt)

    with unlogged():
        future = submit(executor, task, retry=Retry(19, backoff=0))
        assert future.exception(DEADLINE).args == (20,)
    assert counted[0] <= 1
