"""Waits for what follows other tasks: those that end, and those that never would."""

import asyncio
import concurrent.futures
import threading

import pytest

from flask_delay import Executor, WaitCycleError, current_task, gather

from .helpers import (
    DEADLINE,
    Gate,
    double,
    double_async,
    occupied,
    submit,
    then,
)


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


@pytest.mark.parametrize("step", [double, double_async])
def test_a_task_may_wait_for_what_follows_another(executor, step):
    def outer():
        futures = [executor.submit(int, "3").then(step).then(step) for _ in range(2)]
        return gather(*futures).result(DEADLINE)

    assert executor.submit(outer).result(DEADLINE) == [12, 12]


def circle(error):
    """The names in the circle."""
    assert isinstance(error, WaitCycleError)
    names = str(error).partition(": ")[2].replace(", which", "")
    for words in (" waits for ", " comes after ", " whose key is held by "):
        names = names.replace(words, "|")
    return [name.rpartition(".")[2] for name in names.replace(",", "").split("|")]


def test_a_task_that_waits_for_what_follows_it(executor):
    def outer():
        return current_task.future.then(double).result(DEADLINE)

    error = executor.submit(outer).exception(DEADLINE)
    assert circle(error) == ["outer", "double", "outer"]
    assert str(error).endswith("outer waits for double, which comes after " + outer.__qualname__)


def test_a_task_that_waits_for_what_follows_it_through_others():
    with Executor(1) as executor, Executor(1) as other:

        def outer():
            own = gather(other.submit(int), current_task.future)
            return gather(own.then(double), other.submit(int)).result(DEADLINE)

        error = executor.submit(outer).exception(DEADLINE)
        assert circle(error) == ["outer", "gather", "double", "gather", "outer"]


@pytest.mark.parametrize("wait", [concurrent.futures.wait, concurrent.futures.as_completed])
def test_standard_waits_for_what_follows_the_waiter(executor, wait):
    def outer():
        return list(wait([current_task.future.then(double)], DEADLINE))

    assert circle(executor.submit(outer).exception(DEADLINE)) == ["outer", "double", "outer"]


def test_a_circle_of_two_tasks():
    with Executor(2) as executor:
        begun, told = threading.Event(), threading.Event()

        def one():
            begun.set()
            return futures["two"].result(DEADLINE)

        def two():
            assert told.wait(DEADLINE)
            return futures["step"].result(DEADLINE)

        futures = {"two": executor.submit(two)}
        first = executor.submit(one)
        futures["step"] = first.then(double)
        assert begun.wait(DEADLINE)
        while executor.stats()["waiting"] == 0:
            assert not told.wait(0.001)
        told.set()
        error = futures["two"].exception(DEADLINE)
        assert circle(error) == ["two", "double", "one", "two"]


def test_a_deep_circle():
    """Each level shows the next one only."""
    with Executor(1) as executor:

        def descend(level):
            if level == 0:
                return top.result(DEADLINE)
            return executor.submit(descend, level - 1).then(double).result(DEADLINE)

        top = executor.submit(descend, 40)
        error = top.exception(DEADLINE)
        assert circle(error) == ["descend", *["descend", "double"] * 40, "descend"]


def test_a_step_whose_key_the_waiter_holds():
    with Executor(3) as executor:

        def outer():
            first = executor.submit(gate)
            step = then(first, double, key="key", limit=1)
            return step.result(DEADLINE)

        gate = Gate()
        error = submit(executor, outer, key="key", limit=1).exception(DEADLINE)
        assert circle(error) == ["outer", "double", "its turn", "outer"]
        gate.open()


def test_a_step_for_which_there_is_room():
    with Executor(3) as executor:

        def outer():
            return then(executor.submit(int, "3"), double, key="key", limit=2).result(DEADLINE)

        assert submit(executor, outer, key="key", limit=2).result(DEADLINE) == 6


def test_a_coroutine_that_blocks_the_loop_that_comes_before_its_target(executor):
    async def outer():
        return gather(executor.submit(int), executor.submit(double_async, 1).then(double)).result()

    error = executor.submit(outer).exception(DEADLINE)
    assert isinstance(error, WaitCycleError)
    assert "event loop" in str(error)


def test_a_coroutine_awaits_what_follows(executor):
    async def outer():
        return await gather(executor.submit(int, "3").then(double_async), executor.submit(int))

    async def inner():
        return await current_task.future.then(double)

    assert executor.submit(outer).result(DEADLINE) == [6, 0]
    assert circle(executor.submit(inner).exception(DEADLINE)) == ["inner", "double", "inner"]


def test_an_await_that_is_cancelled_cancels_the_step_alone(executor):
    async def main():
        awaiting = asyncio.ensure_future(asyncio.wait_for(step, 0.01))
        with pytest.raises(TimeoutError):
            await awaiting

    with occupied(executor):
        first = executor.submit(int)
        step = first.then(double)
        asyncio.run(main())
        assert step.cancelled()
    assert first.result(DEADLINE) == 0
