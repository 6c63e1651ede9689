"""Waits that would never end, in the standard library's ways and through keys."""

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, ThreadPoolExecutor

import pytest

from flask_delay import Executor, WaitCycleError, current_task

from .helpers import DEADLINE, fail, occupied, submit


def all_done(*futures):
    return concurrent.futures.wait(futures, DEADLINE).done


def first_done(*futures):
    return concurrent.futures.wait(futures, DEADLINE, FIRST_COMPLETED).done


def first_raised(*futures):
    return concurrent.futures.wait(futures, DEADLINE, FIRST_EXCEPTION).done


def next_completed(*futures):
    return {next(concurrent.futures.as_completed(futures, DEADLINE))}


def result(future):
    return future.result(DEADLINE)


STANDARD = [all_done, first_done, first_raised, next_completed]


class Waiter:
    """A task that waits for others, as it is told."""

    def __init__(self):
        self.told, self.how, self.futures = threading.Event(), None, ()
        self.waits = threading.Event()

    def tell(self, how, *futures):
        self.how, self.futures = how, futures
        self.told.set()

    def __call__(self):
        assert self.told.wait(DEADLINE)
        return self.how(*self.futures)


def until_waiting(executor, count):
    end = threading.Event()
    while executor.stats()["waiting"] < count:
        assert not end.wait(0.001)


# --- The standard library's waits ---------------------------------------------------


@pytest.mark.parametrize("wait", STANDARD)
def test_a_refused_wait_leaves_nothing_behind(wait):
    refused = []

    def outer(other):
        with pytest.raises(WaitCycleError, match=r"outer waits for .*outer"):
            wait(current_task.future)
        refused.append(wait)
        assert current_task.future._waiters == []
        # The worker does not wait any more, nor does the task.
        assert executor.stats()["waiting"] == 0
        assert other.submit(current_task.future.running).result(DEADLINE)
        return result(executor.submit(int, "3"))

    with Executor(1) as executor, Executor(1) as other:
        assert executor.submit(outer, other).result(DEADLINE) == 3
    assert refused == [wait]


@pytest.mark.parametrize("wait", STANDARD)
def test_a_refused_wait_is_out_of_all_lists(wait):
    complete, lists = threading.Event(), []

    def inner(future):
        assert complete.wait(DEADLINE)
        return future().result(DEADLINE)

    def outer():
        futures = [executor.submit(inner, lambda: own) for _ in range(2)]
        own = current_task.future
        complete.set()
        until_waiting(executor, 2)
        with pytest.raises(WaitCycleError, match=r"outer waits for .*inner waits for .*outer"):
            wait(*futures)
        lists.extend(future._waiters for future in futures)
        assert lists == [[], []]
        return 7

    with Executor(3) as executor:
        assert executor.submit(outer).result(DEADLINE) == 7


def test_who_waits_for_all_is_in_a_circle_with_any():
    with Executor(3) as executor, occupied(executor) as (holder,):
        outer, inner = Waiter(), Waiter()
        futures = executor.submit(outer), executor.submit(inner)
        outer.tell(all_done, futures[1], holder)
        until_waiting(executor, 1)
        inner.tell(result, futures[0])
        error = futures[1].exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        assert str(error).endswith(": Waiter waits for Waiter waits for Waiter")


@pytest.mark.parametrize("wait", [first_done, first_raised, next_completed])
def test_who_waits_for_the_first_is_in_a_circle_with_all(wait):
    with Executor(4) as executor:
        outer, one, two = Waiter(), Waiter(), Waiter()
        futures = [executor.submit(task) for task in (outer, one, two)]
        outer.tell(wait, *futures[1:])
        until_waiting(executor, 1)
        one.tell(result, futures[0])
        until_waiting(executor, 2)
        two.tell(result, futures[0])
        assert isinstance(futures[2].exception(DEADLINE), WaitCycleError)
        assert futures[0].result(DEADLINE) == {futures[2]}
        assert futures[1].result(DEADLINE) == {futures[2]}


@pytest.mark.parametrize("wait", [first_done, first_raised, next_completed])
def test_futures_of_other_executors_may_end_at_any_time(wait):
    with ThreadPoolExecutor(1) as other, Executor(1) as executor:
        go = threading.Event()
        foreign = other.submit(lambda: go.wait(DEADLINE) and fail())

        def task():
            threading.Timer(0.05, go.set).start()
            return wait(current_task.future, foreign)

        assert executor.submit(task).result(DEADLINE) == {foreign}
        # Who waits for all waits for itself all the same.
        future = executor.submit(lambda: all_done(current_task.future, foreign))
        assert isinstance(future.exception(DEADLINE), WaitCycleError)


def test_between_two_steps_of_as_completed_nobody_waits():
    """What the loop's body does may be what the others wait for."""
    with Executor(3) as executor:

        def outer():
            own = current_task.future
            inner = executor.submit(lambda: own.result(DEADLINE))
            until_waiting(executor, 1)
            steps = concurrent.futures.as_completed([executor.submit(int), inner], DEADLINE)
            assert next(steps) is not inner
            # Another one may wait for this one now.
            late = executor.submit(lambda: own.result(DEADLINE))
            until_waiting(executor, 2)
            return late

        future = executor.submit(outer)
        late = future.result(DEADLINE)
        assert late.result(DEADLINE) is late


def test_the_body_of_as_completed_holds_its_place():
    """A worker whose task waits makes room for another, which it does not while it works."""
    with Executor(1) as executor:

        def outer():
            futures = [executor.submit(int) for _ in range(3)]
            steps = concurrent.futures.as_completed(futures, DEADLINE)
            return [executor.stats()["waiting"] for _ in steps]

        assert executor.submit(outer).result(DEADLINE) == [0, 0, 0]


def test_waits_within_a_step_of_as_completed():
    with Executor(1) as executor:

        def outer():
            futures = [executor.submit(int) for _ in range(3)]
            for future in concurrent.futures.as_completed(futures, DEADLINE):
                assert result(executor.submit(int)) == future.result() == 0
                assert all_done(executor.submit(int))
            with pytest.raises(WaitCycleError):
                current_task.future.result(DEADLINE)
            return 5

        assert executor.submit(outer).result(DEADLINE) == 5


@pytest.mark.parametrize("wait", STANDARD)
def test_a_coroutine_that_blocks_the_loop_that_its_target_needs(wait):
    async def inner():
        await asyncio.sleep(0)

    async def outer():
        with pytest.raises(WaitCycleError, match="event loop"):
            wait(executor.submit(inner))
        return wait(executor.submit(int))

    with Executor(1) as executor:
        assert len(executor.submit(outer).result(DEADLINE)) == 1


@pytest.mark.parametrize("wait", STANDARD)
def test_waits_keep_no_future(wait):
    class Result:
        pass

    with Executor(1) as executor:
        seen = []

        def outer():
            future = executor.submit(Result)
            wait(future)
            seen.append(weakref.ref(future.result()))
            del future
            gc.collect()
            return seen[0]() is None

        assert executor.submit(outer).result(DEADLINE)


@pytest.mark.parametrize("wait", STANDARD)
def test_a_wait_that_is_over_in_time_is_no_wait_any_more(wait):
    with Executor(2) as executor, Executor(1) as other, occupied(other) as (holder,):

        def outer():
            try:
                done = concurrent.futures.wait([holder], 0.01).done
                assert not done
                for _ in concurrent.futures.as_completed([holder], 0.01):
                    raise AssertionError
            except TimeoutError:
                assert holder._waiters == []
            return executor.stats()["waiting"]

        assert executor.submit(outer).result(DEADLINE) == 0


# --- Keys ---------------------------------------------------------------------------


def test_the_error_says_what_holds_the_key():
    with Executor(2) as executor:

        def inner():
            pass

        def middle():
            submit(executor, inner, key="key", limit=1).result(DEADLINE)

        def outer():
            executor.submit(middle).result(DEADLINE)

        error = submit(executor, outer, key="key", limit=1).exception(DEADLINE)
        first, second, third = (fn.__qualname__ for fn in (outer, middle, inner))
        assert str(error) == (
            f'waiting for task "{third}" would never end: {second} waits for {third}, '
            f"whose key is held by {first}, which waits for {second}"
        )


def test_a_circle_through_another_executor():
    with Executor(1) as one, Executor(1) as two:

        def inner():
            return 1

        def middle():
            return submit(one, inner, key="key", limit=1).result(DEADLINE)

        def outer():
            return two.submit(middle).result(DEADLINE)

        error = submit(one, outer, key="key", limit=1).exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        assert one.drain(DEADLINE)


@pytest.mark.parametrize("wait", STANDARD)
def test_standard_waits_for_what_the_own_key_holds(wait):
    with Executor(2) as executor:

        def outer():
            inner = submit(executor, int, key="key", limit=1)
            with pytest.raises(WaitCycleError, match="whose key is held by"):
                wait(inner)
            assert inner._waiters == []
            return inner

        inner = submit(executor, outer, key="key", limit=1).result(DEADLINE)
        assert inner.result(DEADLINE) == 0


def test_one_of_two_that_are_waited_for_may_be_held():
    with Executor(2) as executor:

        def outer():
            inner = submit(executor, int, key="key", limit=1)
            return first_done(inner, executor.submit(int)) == {inner}

        assert submit(executor, outer, key="key", limit=1).result(DEADLINE) is False


def test_a_rate_is_no_circle():
    with Executor(2) as executor:

        def outer():
            return submit(executor, int, "4", key="key", rate="1/s").result(DEADLINE)

        assert submit(executor, outer, key="key", rate="1/s").result(DEADLINE) == 4


def test_held_behind_one_with_a_smaller_limit():
    with Executor(3) as executor:

        def outer():
            first = submit(executor, int, key="key", limit=1)
            with pytest.raises(WaitCycleError):
                submit(executor, int, key="key", limit=9).result(DEADLINE)
            return first

        assert submit(executor, outer, key="key", limit=1).result(DEADLINE).result(DEADLINE) == 0


def test_a_wait_for_the_next_attempt_whose_key_the_waiter_holds():
    with Executor(2) as executor:
        started = threading.Event()

        def inner():
            if current_task.attempt == 1:
                started.set()
                current_task.retry(after=0.05)
            return current_task.attempt

        def outer(future):
            # It has left its place to this one, and wants one again.
            return future.result(DEADLINE)

        future = submit(executor, inner, key="key", limit=1)
        assert started.wait(DEADLINE)
        waiter = submit(executor, outer, future, key="key", limit=1)
        assert isinstance(waiter.exception(DEADLINE), WaitCycleError)
        assert future.result(DEADLINE) == 2


def test_a_coroutine_that_awaits_what_its_own_key_holds():
    async def inner():
        return 1

    async def outer():
        return await submit(executor, inner, key="key", limit=1)

    with Executor(1) as executor:
        error = submit(executor, outer, key="key", limit=1).exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        assert executor.drain(DEADLINE)


def test_two_keys_refuse_one_of_two():
    with Executor(2) as executor:
        for _ in range(100):
            met = threading.Barrier(2)

            def outer(other, met=met):
                met.wait(DEADLINE)
                inner = submit(executor, int, key=other, limit=1)
                met.wait(DEADLINE)
                return inner.result(DEADLINE)

            pairs = [("a", "b"), ("b", "a")]
            futures = [submit(executor, outer, other, key=key, limit=1) for key, other in pairs]
            errors = [future.exception(DEADLINE) for future in futures]
            assert [type(error) for error in errors if error] == [WaitCycleError]
            assert executor.drain(DEADLINE)
