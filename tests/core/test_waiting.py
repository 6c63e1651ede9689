"""Waiting for futures: nothing is missed, nothing stands still."""

import asyncio
import concurrent.futures
import functools
import itertools
import threading
import traceback
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError

import pytest

from flask_delay import Executor, Future, WaitCycleError, current_task

from .helpers import DEADLINE, Gate, Peak, fail, occupied, submit, together

# --- The standard library's waits ---------------------------------------------------


@pytest.fixture
def mix():
    """Futures: returned, raised, cancelled, pending, and the executor's holder."""
    with Executor(1) as executor:
        returned, raised = executor.submit(int), executor.submit(fail)
        assert executor.drain(DEADLINE)
        with occupied(executor) as (holder,):
            cancelled, pending = executor.submit(int), executor.submit(int)
            cancelled.cancel()
            yield returned, raised, cancelled, pending, holder


def test_wait_for_the_first(mix):
    returned, raised, cancelled, pending, holder = mix
    done, left = concurrent.futures.wait(mix, DEADLINE, FIRST_COMPLETED)
    assert (done, left) == ({returned, raised, cancelled}, {pending, holder})


def test_wait_for_the_first_exception(mix):
    returned, raised, cancelled, pending, _ = mix
    done = concurrent.futures.wait(mix, DEADLINE, FIRST_EXCEPTION).done
    assert done == {returned, raised, cancelled}
    done, left = concurrent.futures.wait([returned, cancelled, pending], 0.01, FIRST_EXCEPTION)
    assert (done, left) == ({returned, cancelled}, {pending})


def test_wait_for_all_is_limited_in_time(mix):
    done, left = concurrent.futures.wait(mix, 0.01, ALL_COMPLETED)
    assert (len(done), len(left)) == (3, 2)
    assert concurrent.futures.wait(mix[:3]).not_done == set()


@pytest.mark.parametrize("mode", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
@pytest.mark.parametrize("end", ["result", "exception", "cancel"])
def test_wait_wakes_when_the_last_one_ends(mode, end):
    with Executor(1) as executor:
        for _ in range(20):
            go = threading.Event()
            executor.submit(go.wait, DEADLINE)
            future = executor.submit(fail if end == "exception" else int)
            wait = functools.partial(concurrent.futures.wait, [future], DEADLINE, mode)
            done, left = together(wait, future.cancel if end == "cancel" else go.set)[0]
            go.set()
            assert (done, left) == ({future}, set())
            assert future.finished_at is not None


def test_as_completed_yields_each_once_and_is_limited_in_time(mix):
    returned, raised, cancelled, pending, _ = mix
    futures = [returned, raised, cancelled, pending]
    seen = []
    with pytest.raises(TimeoutError, match="1 .*unfinished"):
        for future in concurrent.futures.as_completed(futures * 2, 0.01):
            seen.append(future)  # noqa: PERF402
    assert len(seen) == 3
    assert set(seen) == {returned, raised, cancelled}


def test_no_wake_up_is_lost_when_tasks_end_meanwhile():
    with Executor(3) as executor:
        for number in range(300):
            futures = [executor.submit(int) for _ in range(number % 7 + 1)]
            if number % 2:
                futures.append(executor.submit(lambda: None))
                futures[0].cancel()
            seen = list(concurrent.futures.as_completed(futures, DEADLINE))
            assert sorted(map(id, seen)) == sorted(map(id, futures))
            futures = [executor.submit(int) for _ in range(4)]
            assert concurrent.futures.wait(futures, DEADLINE).not_done == set()
            assert all(future.done() for future in futures)
            futures = [executor.submit(int) for _ in range(4)]
            assert concurrent.futures.wait(futures, DEADLINE, FIRST_COMPLETED).done


def test_waits_over_finished_futures_in_opposite_order_do_not_lock_each_other_out():
    with Executor(1) as executor:
        futures = [executor.submit(int) for _ in range(50)]
        executor.drain(DEADLINE)

    def wait(order):
        for _ in range(200):
            assert not concurrent.futures.wait(order, DEADLINE).not_done
        return True

    mixed = functools.partial(wait, futures), functools.partial(wait, futures[::-1])
    assert together(*mixed) == [True, True]


def test_finished_futures_have_lists_of_waiters_of_their_own():
    with Executor(1) as executor:
        one, two = executor.submit(int), executor.submit(int)
    assert one._waiters is one._waiters
    assert one._waiters is not two._waiters
    assert isinstance(one._waiters, list)


def test_conditions_of_finished_futures_lock_nobody_out():
    with Executor(1) as executor:
        one, two = executor.submit(int), executor.submit(int)
    with one._condition:
        thread = threading.Thread(target=lambda: two._condition.acquire())
        thread.start()
        thread.join(DEADLINE)
        assert not thread.is_alive()


# --- asyncio ------------------------------------------------------------------------


def test_asyncio_wraps_futures():
    async def main(executor):
        loop = asyncio.get_running_loop()
        assert await asyncio.wrap_future(executor.submit(int, "1")) == 1
        assert await loop.run_in_executor(executor, int, "2") == 2
        with pytest.raises(ValueError, match="made to fail"):
            await loop.run_in_executor(executor, fail)
        wrapped = [loop.run_in_executor(executor, int, str(number)) for number in range(200)]
        assert await asyncio.gather(*wrapped) == list(range(200))
        with occupied(executor):
            future = executor.submit(int)
            waiter = asyncio.wrap_future(future)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await asyncio.sleep(0)
            assert future.cancelled()
            future = executor.submit(int)
            waiter = asyncio.wrap_future(future)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter

    with Executor(1) as executor:
        asyncio.run(asyncio.wait_for(main(executor), DEADLINE))


# --- Many threads, one future -------------------------------------------------------


@pytest.mark.parametrize("end", ["result", "exception", "cancel"])
def test_every_thread_that_waits_is_woken(end):
    def ask(future):
        try:
            return future.result(DEADLINE)
        except (ValueError, CancelledError) as error:
            return type(error)

    expected = {"result": 0, "exception": ValueError, "cancel": CancelledError}[end]
    with Executor(1) as executor:
        for _ in range(25):
            go = threading.Event()
            executor.submit(go.wait, DEADLINE)
            future = executor.submit(fail if end == "exception" else int)
            asks = [functools.partial(ask, future)] * 8
            results = together(*asks, future.cancel if end == "cancel" else go.set)
            go.set()
            assert results[:8] == [expected] * 8


def test_a_thread_whose_time_is_over_does_not_disturb_the_others():
    def impatient(future):
        with pytest.raises(TimeoutError):
            future.result(0.01)
        return "over"

    with Executor(1) as executor:
        go = threading.Event()
        future = executor.submit(go.wait, DEADLINE)
        quick = [functools.partial(impatient, future)] * 4
        assert together(*quick) == ["over"] * 4
        slow = [functools.partial(future.result, DEADLINE)] * 4
        assert together(*slow, go.set)[:4] == [True] * 4


# --- Tasks that wait for tasks ------------------------------------------------------


def test_nested_waits_with_one_worker():
    with Executor(1) as executor:

        def task(depth):
            return depth and 1 + executor.submit(task, depth - 1).result(DEADLINE)

        assert executor.submit(task, 100).result(DEADLINE) == 100


WAYS = {
    "result": lambda future: future.result(DEADLINE),
    "exception": lambda future: future.exception(DEADLINE) or future.result(0),
    "wait": lambda future: concurrent.futures.wait([future], DEADLINE).done.pop().result(0),
    "wait for the first": lambda future: (
        concurrent.futures.wait([future], DEADLINE, FIRST_COMPLETED).done.pop().result(0)
    ),
    "as_completed": lambda future: next(concurrent.futures.as_completed([future], DEADLINE)).result(
        0
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_any_depth_with_one_worker(way, wait_until):
    with Executor(1, idle_timeout=0.02) as executor:

        def task(depth):
            return depth and 1 + WAYS[way](executor.submit(task, depth - 1))

        assert executor.submit(task, 60).result(DEADLINE) == 60
        # Those that were needed meanwhile go.
        assert executor.drain(DEADLINE)
        assert wait_until(lambda: executor.stats()["threads"] == 1)


def test_all_ways_mixed_with_one_worker():
    with Executor(1) as executor:

        def task(depth):
            if not depth:
                return 1
            futures = [executor.submit(task, depth - 1) for _ in range(2)]
            if depth % 3 == 0:
                futures = concurrent.futures.wait(futures, DEADLINE).done
            elif depth % 3 == 1:
                futures = concurrent.futures.as_completed(futures, DEADLINE)
            return sum(future.result(DEADLINE) for future in futures)

        assert executor.submit(task, 7).result(DEADLINE) == 128


@pytest.mark.parametrize("way", WAYS)
def test_a_waiting_worker_runs_nothing_on_its_stack(way):
    """Neither what it waits for nor anything else: it could need what the waiter has locked."""
    with Executor(1) as executor:
        lock, seen = threading.Lock(), []

        def other():
            names = [frame.name for frame in traceback.extract_stack()]
            seen.append((threading.get_ident(), "outer" in names))
            # Another thread would only have to wait; the same one never got it.
            return lock.acquire(timeout=0)

        def outer():
            with lock:
                unrelated = [executor.submit(other) for _ in range(3)]
                inner = executor.submit(other)
                WAYS[way](inner)
                assert [future.result(DEADLINE) for future in unrelated] == [False] * 3
                return threading.get_ident()

        ident = executor.submit(outer).result(DEADLINE)
        assert len(seen) == 4
        assert [(worker == ident, inside) for worker, inside in seen] == [(False, False)] * 4


def test_exception_of_a_nested_task_comes_through():
    with Executor(1) as executor:
        future = executor.submit(lambda: executor.submit(fail).result(DEADLINE))
        assert isinstance(future.exception(DEADLINE), ValueError)


def test_map_inside_a_task_of_the_same_pool():
    with Executor(1) as executor:
        future = executor.submit(lambda: list(executor.map(str, range(5))))
        assert future.result(DEADLINE) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("wait", ["wait", "as_completed"])
def test_standard_waits_inside_a_task_of_the_same_pool(wait):
    def task():
        futures = [executor.submit(int) for _ in range(3)]
        done = getattr(concurrent.futures, wait)(futures, timeout=2)
        return len(done.done if wait == "wait" else list(done))

    with Executor(1) as executor:
        assert executor.submit(task).result(DEADLINE) == 3


def test_a_task_waits_for_what_another_thread_waits_for_already(wait_until):
    def task():
        assert gate.wait(DEADLINE)
        return concurrent.futures.wait([later], 2).done

    gate, seen = threading.Event(), []
    with Executor(1) as executor:
        outer, later = executor.submit(task), executor.submit(int)
        wait = functools.partial(concurrent.futures.wait, [later], DEADLINE)
        thread = threading.Thread(target=lambda: seen.append(wait().done))
        thread.start()
        assert wait_until(lambda: later._waiters)
        gate.set()
        assert outer.result(DEADLINE) == {later}
        thread.join(DEADLINE)
    assert seen == [{later}]
    assert later._waiters == []


def test_pools_wait_for_each_others_tasks():
    with Executor(1) as one, Executor(1) as two, Executor(1) as three:

        def task(depth, *pools):
            if not depth:
                return 0
            return 1 + pools[0].submit(task, depth - 1, *pools[1:], pools[0]).result(DEADLINE)

        futures = [one.submit(task, 20, two, three, one) for _ in range(3)]
        assert [future.result(DEADLINE) for future in futures] == [20] * 3


def test_a_wait_in_a_worker_may_be_limited_in_time():
    with Executor(1) as executor, Executor(1) as other, occupied(other) as (holder,):

        def task():
            with pytest.raises(TimeoutError):
                holder.result(0.01)
            return executor.submit(int, "3").result(DEADLINE)

        assert executor.submit(task).result(DEADLINE) == 3


def test_waiting_tasks_are_counted():
    with Executor(1) as executor, Executor(1) as other:
        with occupied(other) as (holder,):
            outer = executor.submit(holder.result, DEADLINE)
            with occupied(executor):
                stats = executor.stats()
                assert (stats["waiting"], stats["running"], stats["threads"]) == (1, 1, 2)
        outer.result(DEADLINE)
        executor.drain(DEADLINE)
        assert executor.stats()["waiting"] == 0


# --- Circles ------------------------------------------------------------------------


def test_a_task_that_waits_for_itself():
    def alone():
        with pytest.raises(WaitCycleError, match=r"alone.* waits for .*alone"):
            current_task.future.exception(DEADLINE)
        current_task.future.result()

    with Executor(1) as executor:
        assert isinstance(executor.submit(alone).exception(DEADLINE), WaitCycleError)


class Ring:
    """Each task waits for the next one, the last for the first."""

    def __init__(self):
        self.complete, self.futures = threading.Event(), []

    def follow(self, number):
        assert self.complete.wait(DEADLINE)
        return self.futures[number % len(self.futures)].result(DEADLINE)

    def first(self):
        return self.follow(1)

    def second(self):
        return self.follow(2)

    def third(self):
        return self.follow(3)


@pytest.mark.parametrize("names", [("first", "second"), ("first", "second", "third")])
@pytest.mark.parametrize("pools", [1, 3])
def test_a_circle_of_waits_raises_and_names_the_chain(names, pools):
    ring = Ring()
    executors = [Executor(3) for _ in range(pools)]
    for number, name in enumerate(names):
        ring.futures.append(executors[number % pools].submit(getattr(ring, name)))
    ring.complete.set()
    errors = [future.exception(DEADLINE) for future in ring.futures]
    for executor in executors:
        executor.shutdown()
    # One wait is refused; its error goes around the circle.
    assert {type(error) for error in errors} == {WaitCycleError}
    assert len({id(error) for error in errors}) == 1
    chain = str(errors[0]).partition(": ")[2].split(" waits for ")
    assert chain[0] == chain[-1]
    # In the order in which they wait.
    start = chain.index("Ring.first")
    around = chain[start:-1] + chain[:start] if start else chain[:-1]
    assert around == [f"Ring.{name}" for name in names]


def all_done(future, *_):
    return concurrent.futures.wait([future]).done


def first_done(future, *_):
    return concurrent.futures.wait([future], return_when=FIRST_COMPLETED).done


def next_completed(future, *_):
    return next(concurrent.futures.as_completed([future]))


STANDARD = [all_done, first_done, next_completed]


@pytest.mark.parametrize("wait", STANDARD)
def test_a_task_that_waits_for_itself_in_the_standard_ways(wait):
    def alone():
        wait(current_task.future)

    with Executor(1) as executor:
        error = executor.submit(alone).exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        assert chain_of(error) == ["alone", "alone"]
        assert executor.submit(int).result(DEADLINE) == 0


@pytest.mark.parametrize("ways", list(itertools.product(STANDARD, [*STANDARD, Future.result])))
def test_a_circle_through_standard_waits_names_the_chain(ways):
    complete, futures = threading.Event(), []

    def first():
        assert complete.wait(DEADLINE)
        ways[0](futures[1])

    def second():
        assert complete.wait(DEADLINE)
        ways[1](futures[0])

    with Executor(2) as executor:
        futures += [executor.submit(first), executor.submit(second)]
        complete.set()
        errors = [future.exception(DEADLINE) for future in futures]
        # One is refused; the other one's wait then ends, with the first one's error or without.
        found = [error for error in errors if error is not None]
        assert found
        assert all(isinstance(error, WaitCycleError) for error in found)
        chain = chain_of(found[0])
        assert chain in (["first", "second", "first"], ["second", "first", "second"])
        assert executor.submit(int).result(DEADLINE) == 0


def chain_of(error):
    names = str(error).partition(": ")[2].split(" waits for ")
    return [name.rpartition(".")[2] for name in names]


def test_several_futures_of_which_one_waits_for_the_waiter():
    """It is no circle while another one may end first."""
    complete, futures = threading.Event(), []

    def outer():
        assert complete.wait(DEADLINE)
        free = executor.submit(int)
        done = concurrent.futures.wait([futures[1], free], DEADLINE, FIRST_COMPLETED).done
        return done == {free}

    def inner():
        assert complete.wait(DEADLINE)
        return futures[0].result(DEADLINE)

    with Executor(2) as executor:
        futures += [executor.submit(outer), executor.submit(inner)]
        complete.set()
        assert [future.result(DEADLINE) for future in futures] == [True, True]


# --- Circles through keys -----------------------------------------------------------


KEYED = [Future.result, *STANDARD]


@pytest.mark.parametrize("wait", KEYED)
def test_a_task_that_waits_for_one_that_its_own_key_holds(wait):
    with Executor(2) as executor:

        def inner():
            return 1

        def outer():
            wait(submit(executor, inner, key="key", limit=1))

        future = submit(executor, outer, key="key", limit=1)
        error = future.exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        names = [name for name in ("outer", "inner") if name in str(error)]
        assert names == ["outer", "inner"]
        # The one that was held may start now.
        assert executor.drain(DEADLINE)
        assert executor.stats()["held"] == 0


def test_a_task_that_waits_for_one_that_waits_for_one_that_the_key_holds():
    with Executor(1) as executor:

        def last():
            return 1

        def middle():
            return submit(executor, last, key="key", limit=1).result(DEADLINE)

        def outer():
            return executor.submit(middle).result(DEADLINE)

        future = submit(executor, outer, key="key", limit=1)
        error = future.exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        assert all(name in str(error) for name in ("outer", "middle", "last"))
        assert executor.drain(DEADLINE)


def test_a_circle_of_two_keys():
    """Each has a key, and waits for a task of the other's."""
    met = threading.Barrier(2)
    with Executor(2) as executor:

        def inner():
            return 1

        def outer(other):
            met.wait(DEADLINE)
            return submit(executor, inner, key=other, limit=1).result(DEADLINE)

        futures = [submit(executor, outer, other, key=key, limit=1) for key, other in ("ab", "ba")]
        errors = [future.exception(DEADLINE) for future in futures]
        # The one that is refused lets its key go, and with that the other one goes on.
        assert [type(error) for error in errors if error] == [WaitCycleError]
        assert [future.result(0) for future in futures if not future.exception(0)] == [1]


def test_it_is_no_circle_while_the_limit_leaves_room():
    with Executor(1) as executor:

        def task(depth):
            if not depth:
                return 0
            return 1 + submit(executor, task, depth - 1, key="key", limit=5).result(DEADLINE)

        assert submit(executor, task, 4, key="key", limit=5).result(DEADLINE) == 4
        error = submit(executor, task, 5, key="key", limit=5).exception(DEADLINE)
        assert isinstance(error, WaitCycleError)


def test_it_is_no_circle_while_another_one_of_the_key_will_end():
    with Executor(3) as executor:
        gate, waits = Gate(), threading.Event()
        submit(executor, gate, key="key", limit=2)
        assert gate.entered.wait(DEADLINE)

        def outer():
            inner = submit(executor, int, "1", key="key", limit=2)
            waits.set()
            return inner.result(DEADLINE)

        future = submit(executor, outer, key="key", limit=2)
        assert waits.wait(DEADLINE)
        with pytest.raises(TimeoutError):
            future.result(0.05)
        gate.open()
        assert future.result(DEADLINE) == 1


def test_it_is_a_circle_when_all_of_the_key_wait_for_it():
    met = threading.Barrier(2)
    with Executor(2) as executor:

        def outer():
            inner = submit(executor, int, "1", key="key", limit=2)
            met.wait(DEADLINE)
            return inner.result(DEADLINE)

        futures = [submit(executor, outer, key="key", limit=2) for _ in range(2)]
        errors = [future.exception(DEADLINE) for future in futures]
        # One is refused, which lets one that is held start.
        assert [type(error) for error in errors if error] == [WaitCycleError]


def test_it_is_no_circle_if_the_wait_is_for_another_key():
    with Executor(2) as executor:

        def outer():
            return submit(executor, int, "1", key="other", limit=1).result(DEADLINE)

        assert submit(executor, outer, key="key", limit=1).result(DEADLINE) == 1


def test_a_wait_for_a_retry_is_no_circle():
    with Executor(1) as executor:

        def inner():
            if current_task.attempt < 3:
                current_task.retry(after=0.001)
            return current_task.attempt

        def outer():
            return executor.submit(inner).result(DEADLINE)

        assert executor.submit(outer).result(DEADLINE) == 3


def test_a_pool_is_usable_after_a_circle():
    with Executor(1) as executor:
        for _ in range(20):
            future = executor.submit(lambda: current_task.future.result())
            assert isinstance(future.exception(DEADLINE), WaitCycleError)
        assert executor.submit(int).result(DEADLINE) == 0
        assert executor.stats()["threads"] == 1


# --- The limit ----------------------------------------------------------------------


def test_the_limit_holds_again_after_waits():
    limit = 2
    with Executor(limit) as executor:

        def task(depth):
            return depth and executor.submit(task, depth - 1).result(DEADLINE)

        for future in [executor.submit(task, 10) for _ in range(10)]:
            future.result(DEADLINE)
        assert executor.drain(DEADLINE)
        peak, met = Peak(), threading.Barrier(limit)

        def count():
            with peak:
                met.wait(DEADLINE)

        for future in [executor.submit(count) for _ in range(100 * limit)]:
            future.result(DEADLINE)
        assert peak.most == limit
