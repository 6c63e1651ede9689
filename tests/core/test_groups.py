"""Groups of tasks: they end before the block does, whatever happens in it."""

import asyncio
import gc
import random
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from flask_delay import (
    Executor,
    Group,
    Retry,
    TaskTimeout,
    WaitCycleError,
    current_task,
    group,
    task,
)

from .helpers import DEADLINE, Gate, Thing, double, double_async, fail, make, submit, unlogged


@pytest.fixture(params=[1, 3])
def executor(request):
    with Executor(request.param) as executor:
        yield executor


@pytest.fixture
def three():
    with Executor(3) as executor:
        yield executor


def polite(begun=None):
    """Runs until it is told to stop."""
    if begun is not None:
        begun.set()
    end = time.monotonic() + DEADLINE
    while not current_task.cancelled:
        assert time.monotonic() < end, "nobody stopped it"
        time.sleep(0.001)
    current_task.check()


def raising(error):
    raise error


def async_block(executor, body, **options):
    """Run `async with` in a loop of the test; `body` is called with the group and awaited."""

    async def main():
        async with executor.group(**options) as group:
            await body(group)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


# --- The end of the block -------------------------------------------------------------


def test_the_block_is_left_when_all_tasks_have_ended(executor):
    with executor.group() as group:
        futures = [group.delay(double, number) for number in range(20)]
        assert isinstance(group, Group)
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [2 * number for number in range(20)]


def test_a_group_without_tasks(executor):
    with executor.group():
        pass


def test_coroutines_and_functions_together(executor):
    with executor.group() as group:
        futures = [group.delay(double, 1), group.delay(double_async, 2)]
    assert [future.result() for future in futures] == [2, 4]


def test_map(executor):
    with executor.group() as group:
        results = group.map(double, range(5))
    assert list(results) == [0, 2, 4, 6, 8]


def test_tasks_add_tasks_while_the_block_is_being_left(executor):
    seen = []

    def grow(group, depth):
        seen.append(depth)
        if depth:
            group.delay(grow, group, depth - 1)
            group.delay(grow, group, depth - 1)

    with executor.group() as group:
        group.delay(grow, group, 6)
    assert len(seen) == 2**7 - 1


def test_in_a_task_with_one_worker():
    def outer(executor):
        with executor.group() as group:
            inner = [group.delay(nested, executor, number) for number in range(3)]
        return sum(future.result() for future in inner)

    def nested(executor, number):
        with executor.group() as group:
            futures = [group.delay(double, number), group.delay(double_async, number)]
        return sum(future.result() for future in futures)

    with Executor(1) as executor:
        assert executor.submit(outer, executor).result(DEADLINE) == 12


def test_options_and_tasks_with_options(three):
    attempts = []

    @task(retry=Retry(2, backoff=0.001))
    def unsteady():
        attempts.append(None)
        if len(attempts) < 3:
            raise ConnectionError
        return "done"

    with unlogged(), three.group() as group:
        by_task = group.delay(unsteady)
        named = group.using(id="of-the-group", countdown=0.01).delay(double, 2)
        mapped = group.using(limit=1, key="one").map(double, [1, 2])
    assert (by_task.result(), named.id, list(mapped)) == ("done", "of-the-group", [2, 4])


def test_a_task_that_is_unique_is_a_member_once(three):
    gate = Gate()
    with three.group() as group:
        unique = group.using(unique=True, key="key")
        first, second = unique.delay(gate), unique.delay(gate)
        assert first is second
        gate.open()
    assert gate.over


# --- Failures -------------------------------------------------------------------------


def test_the_first_failure_stops_the_others_and_is_raised_plainly(three):
    begun = threading.Event()
    error = ValueError("first")
    with unlogged(), pytest.raises(ValueError, match="first") as raised, three.group() as group:
        runs = group.delay(polite, begun)
        assert begun.wait(DEADLINE)
        waits = group.using(countdown=DEADLINE).delay(double, 1)
        group.delay(raising, error)
    assert raised.value is error
    assert runs.cancelled()
    assert waits.cancelled()


def test_a_failure_stops_the_others_during_the_block(three):
    with unlogged(), pytest.raises(ValueError, match="made to fail"), three.group() as group:
        runs = group.delay(polite)
        group.delay(fail)
        with pytest.raises(CancelledError):
            runs.result(DEADLINE)
        # Not before the others are told: the block ends here.
        group.delay(double, 1)


def test_with_one_worker_a_coroutine_that_fails_stops_what_runs():
    begun = threading.Event()

    async def failing():
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        raise ValueError("made to fail")

    with (
        unlogged(),
        Executor(1) as executor,
        pytest.raises(ValueError, match="made to fail"),
        executor.group() as group,
    ):
        group.delay(polite, begun)
        group.delay(failing)


def test_several_failures_are_an_exception_group(three):
    barrier = threading.Barrier(2)

    def both(error):
        barrier.wait(DEADLINE)
        raise error

    with (
        unlogged(),
        pytest.raises(ExceptionGroup) as raised,
        three.group() as group,
    ):
        # Each runs before the other fails.
        first, second = group.delay(both, ValueError("a")), group.delay(both, KeyError("b"))
    assert {type(it) for it in raised.value.exceptions} <= {ValueError, KeyError}
    assert all(future.exception() is not None for future in (first, second))


def test_a_failure_while_it_is_stopped_is_raised_too(three):
    begun = threading.Event()

    def cleans_up_badly():
        try:
            polite(begun)
        finally:
            raise KeyError("clean-up")

    with unlogged(), pytest.raises(ExceptionGroup) as raised, three.group() as group:
        group.delay(cleans_up_badly)
        assert begun.wait(DEADLINE)
        group.delay(fail)
    assert [type(it) for it in raised.value.exceptions] == [ValueError, KeyError]


def test_except_star_takes_one_and_several(three):
    caught = []
    with unlogged():
        try:
            with three.group() as group:
                group.delay(fail)
        except* ValueError as errors:
            caught = list(errors.exceptions)
    assert len(caught) == 1


def test_a_failure_that_is_no_exception(three):
    with unlogged(), pytest.raises(SystemExit), three.group() as group:
        group.delay(raising, SystemExit(3))


def test_a_cancelled_task_is_no_failure(three):
    with three.group() as group:
        other = group.delay(double, 2)
        group.using(countdown=DEADLINE).delay(double, 1).cancel()
    assert other.result() == 4


def test_a_task_that_ignores_the_stop_is_given_up(three, wait_until):
    stuck = Gate()
    began = time.monotonic()
    with unlogged(), pytest.raises(ValueError, match="made to fail"), three.group() as group:
        future = group.delay(stuck)
        assert stuck.entered.wait(DEADLINE)
        group.delay(fail)
    assert future.cancelled()
    assert time.monotonic() - began < DEADLINE / 2
    assert three.stats()["stuck"] == 1
    stuck.open()
    assert wait_until(lambda: three.stats()["stuck"] == 0)


# --- Exceptions of the block -----------------------------------------------------------


def test_an_exception_of_the_block_stops_the_tasks(three):
    begun = threading.Event()
    with pytest.raises(KeyError, match="block"), three.group() as group:
        runs = group.delay(polite, begun)
        assert begun.wait(DEADLINE)
        raise KeyError("block")
    assert runs.cancelled()


def test_exceptions_of_the_block_and_of_tasks_are_a_group(three):
    with unlogged(), pytest.raises(ExceptionGroup) as raised, three.group() as group:
        group.delay(fail).exception(DEADLINE)
        raise KeyError("block")
    assert [type(it) for it in raised.value.exceptions] == [KeyError, ValueError]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_is_raised_alone(three, kind):
    begun = threading.Event()
    with unlogged(), pytest.raises(kind), three.group() as group:
        runs = group.delay(polite, begun)
        assert begun.wait(DEADLINE)
        group.delay(fail).exception(DEADLINE)
        raise kind
    assert runs.done()


def test_the_result_of_a_stopped_task_in_the_block_does_not_hide_the_failure(three):
    with unlogged(), pytest.raises(ValueError, match="made to fail"), three.group() as group:
        runs = group.delay(polite)
        group.delay(fail)
        runs.result(DEADLINE)


def test_ctrl_c_at_the_end_stops_the_tasks(run_script):
    result = run_script(
        """
import os, signal, threading, time
from flask_delay import Executor, current_task

executor = Executor(2)
begun = threading.Event()

def polite():
    begun.set()
    while not current_task.cancelled:
        time.sleep(0.001)
    current_task.check()

def interrupt():
    begun.wait()
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    with executor.group() as group:
        future = group.delay(polite)
except KeyboardInterrupt:
    print("interrupted", future.cancelled())
"""
    )
    assert result.out == "interrupted True\n", result.err


# --- The surrounding task ---------------------------------------------------------------


@pytest.mark.parametrize("after", [1.0, 0, None])
def test_stopping_the_task_of_the_block_stops_the_tasks(three, after):
    begun = threading.Event()
    members = []

    def outer():
        with three.group() as group:
            members.append(group.delay(polite, begun))

    future = three.submit(outer)
    assert begun.wait(DEADLINE)
    assert future.stop(after)
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    with pytest.raises(CancelledError):
        members[0].result(DEADLINE)


def test_a_failure_stops_the_groups_inside_the_others(three):
    begun = threading.Event()
    members = []

    def nested():
        with three.group() as group:
            members.append(group.delay(polite, begun))

    with unlogged(), pytest.raises(ValueError, match="made to fail"), three.group() as group:
        inner = group.delay(nested)
        assert begun.wait(DEADLINE)
        group.delay(fail)
    assert inner.cancelled()
    assert members[0].cancelled()


def test_the_timeout_of_the_surrounding_task(three):
    members = []

    def outer():
        with three.group() as group:
            members.append(group.delay(polite))

    with unlogged(), pytest.raises(TaskTimeout):
        submit(three, outer, timeout=0.05).result(DEADLINE)
    with pytest.raises(CancelledError):
        members[0].result(DEADLINE)


def test_a_circle_is_refused(executor):
    outer_is = []
    known = threading.Event()

    def waits():
        assert known.wait(DEADLINE)
        return outer_is[0].result()

    def outer():
        with executor.group() as group:
            group.delay(waits)

    with unlogged():
        outer_is.append(executor.submit(outer))
        known.set()
        with pytest.raises(WaitCycleError, match="its group"):
            outer_is[0].result(DEADLINE)


# --- The time limit --------------------------------------------------------------------


def test_a_group_that_takes_too_long(three):
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"), three.group(0.05) as group:
        runs, waits = group.delay(polite), group.using(countdown=DEADLINE).delay(double, 1)
    assert runs.cancelled()
    assert waits.cancelled()


def test_a_group_that_ends_in_time(three):
    with three.group(timeout=DEADLINE) as group:
        future = group.delay(double, 1)
    assert future.result() == 2


def test_after_the_time_no_task_is_taken(three):
    with pytest.raises(TimeoutError), three.group(timeout=0.01) as group:
        runs = group.delay(polite)
        time.sleep(0.02)
        group.delay(double, 1)
    assert runs.cancelled()


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
def test_a_bad_time_limit(three, bad):
    with pytest.raises(ValueError, match=f"timeout is {bad!r}, but must be"):
        three.group(timeout=bad)


def test_a_time_limit_of_the_wrong_type(three):
    with pytest.raises(TypeError, match="timeout is '5', but must be"):
        three.group(timeout="5")


# --- Bad input -------------------------------------------------------------------------


def test_after_its_end_it_takes_no_tasks(three):
    with three.group() as group:
        pass
    with pytest.raises(RuntimeError, match="has ended"):
        group.delay(double, 1)
    with pytest.raises(RuntimeError, match="for one block"), group:
        pass


def test_before_its_block_it_takes_no_tasks(three):
    with pytest.raises(RuntimeError, match="has not begun"):
        three.group().delay(double, 1)


@pytest.mark.parametrize(("option", "value"), [("every", 60), ("cron", "* * * * *")])
def test_jobs_are_refused(three, option, value):
    with three.group() as group, pytest.raises(ValueError, match="a job does not end"):
        group.using(**{option: value})


@pytest.mark.parametrize("option", ["within", "after_commit"])
def test_tasks_of_a_transaction_are_refused(three, option):
    orm = pytest.importorskip("sqlalchemy.orm")
    refused = pytest.raises(ValueError, match=f"'{option}'.* is not for a group")
    with three.group() as group, refused:
        group.using(**{option: orm.Session()})


def test_a_submit_that_fails_is_an_exception_of_the_block(three):
    with pytest.raises(TypeError), three.group() as group:
        group.delay(double)


def test_a_plain_block_in_a_coroutine_task_is_refused(three):
    async def blocks():
        with three.group():
            pass

    with unlogged(), pytest.raises(RuntimeError, match="async with"):
        three.submit(blocks).result(DEADLINE)


# --- async with ------------------------------------------------------------------------


def test_async_in_a_loop_of_the_user(executor):
    futures = []

    async def body(group):
        futures.extend([group.delay(double, 1), group.delay(double_async, 2)])
        assert await futures[0] == 2

    async_block(executor, body)
    assert [future.result() for future in futures] == [2, 4]


def test_async_in_a_coroutine_task(executor):
    async def outer():
        async with executor.group() as group:
            futures = [group.delay(double, 1), group.delay(double_async, 2), group.delay(nested)]
        return [future.result() for future in futures]

    async def nested():
        async with executor.group() as group:
            future = group.delay(double, 3)
        return future.result()

    assert executor.submit(outer).result(DEADLINE) == [2, 4, 6]


def test_a_failure_cancels_the_async_block(three):
    async def body(group):
        runs.append(group.delay(polite))
        group.delay(fail)
        await asyncio.sleep(DEADLINE * 2)

    runs = []
    with unlogged(), pytest.raises(ValueError, match="made to fail"):
        async_block(three, body)
    assert runs[0].cancelled()


def test_after_an_async_block_that_failed_the_code_goes_on(three):
    async def main():
        with unlogged(), pytest.raises(ValueError, match="made to fail"):
            async with three.group() as group:
                group.delay(fail)
                await asyncio.sleep(DEADLINE)
        assert not asyncio.current_task().cancelling()
        await asyncio.sleep(0)
        return True

    assert asyncio.run(main())


def test_the_time_limit_of_an_async_block(three):
    async def body(group):
        group.delay(polite)
        await asyncio.sleep(DEADLINE * 2)

    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"):
        async_block(three, body, timeout=0.05)


def test_cancelling_what_leaves_an_async_block_stops_the_tasks(three):
    begun = threading.Event()

    async def main():
        async def block():
            async with three.group() as group:
                members.append(group.delay(polite, begun))

        running = asyncio.ensure_future(block())
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    members = []
    asyncio.run(main())
    assert members[0].cancelled()


def test_stopping_a_coroutine_task_stops_its_group(three):
    begun = threading.Event()
    members = []

    async def outer():
        async with three.group() as group:
            members.append(group.delay(polite, begun))

    future = three.submit(outer)
    assert begun.wait(DEADLINE)
    future.stop()
    with pytest.raises(CancelledError):
        members[0].result(DEADLINE)
    assert future.cancelled()


def test_exceptions_of_an_async_block_and_of_tasks(three):
    async def body(group):
        # The callback that cancels the block comes after this.
        with pytest.raises(ValueError, match="made to fail"):
            group.delay(fail).result(DEADLINE)
        raise KeyError("block")

    with unlogged(), pytest.raises(ExceptionGroup) as raised:
        async_block(three, body)
    assert [type(it) for it in raised.value.exceptions] == [KeyError, ValueError]


def test_a_circle_of_coroutines_is_refused(three):
    outer_is = []
    known = threading.Event()

    async def waits():
        assert await asyncio.to_thread(known.wait, DEADLINE)
        return await outer_is[0]

    async def outer():
        async with three.group() as group:
            group.delay(waits)

    with unlogged():
        outer_is.append(three.submit(outer))
        known.set()
        with pytest.raises(WaitCycleError, match="its group"):
            outer_is[0].result(DEADLINE)


# --- Modes, processes, memory -----------------------------------------------------------


def grouped(executor):
    return Group(
        lambda chosen, *_: executor.submit, lambda: executor.submit, None, executor.run_pending
    )


def test_the_mode_manual_runs_the_tasks_at_the_end():
    executor = make("manual")
    with grouped(executor) as group:
        future = group.delay(double, 2)
        assert not future.done()
    assert future.result() == 4
    executor.shutdown()


def test_the_mode_immediate():
    executor = make("immediate")
    with unlogged(), pytest.raises(ValueError, match="made to fail"), executor.group() as group:
        assert group.delay(double, 2).result() == 4
        group.delay(fail)
        group.delay(double, 2)
    executor.shutdown()


@pytest.mark.keeps_threads
def test_a_function_of_the_module_uses_the_executor_of_the_process():
    with group() as made:
        assert made.delay(double, 2).result(DEADLINE) == 4


def test_a_forked_child_leaves_the_group_alone(run_script):
    result = run_script(
        """
import os, threading
from flask_delay import Executor, ForkedFutureError

executor = Executor(1)
gate = threading.Event()
with executor.group() as group:
    future = group.delay(gate.wait)
    child = os.fork()
    if child == 0:
        try:
            group.delay(int)
        except ForkedFutureError:
            print("refused", flush=True)
        try:
            group.__exit__(None, None, None)
        except ForkedFutureError:
            print("not awaited", flush=True)
        with executor.group() as own:
            print(own.delay(int, "3").result(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    gate.set()
print(future.result())
"""
    )
    assert result.out == "refused\nnot awaited\n3\nTrue\n", result.err


def test_the_process_ends_after_a_task_that_waits_for_its_group(run_script):
    result = run_script(
        """
import threading, time
from flask_delay import Executor

executor = Executor(1)
begun = threading.Event()

def member(number):
    time.sleep(0.02)
    print("member", number, flush=True)

def outer():
    with executor.group() as group:
        for number in range(3):
            group.delay(member, number)
        begun.set()
    print("left", flush=True)

executor.submit(outer)
begun.wait()
"""
    )
    assert result.out == "member 0\nmember 1\nmember 2\nleft\n", result.err


def test_a_group_is_freed(three):
    watched = []

    def failing():
        thing = Thing()
        watched.append(weakref.ref(thing))
        raise ValueError("made to fail", thing)

    def block():
        with unlogged(), pytest.raises(ValueError, match="made to fail"), three.group() as made:
            watched.append(weakref.ref(made))
            made.delay(polite)
            made.delay(failing)

    block()
    gc.collect()
    assert [it() for it in watched] == [None, None]


def test_the_waker_of_a_stop_is_removed(three):
    def outer():
        with three.group() as group:
            watched.append(weakref.ref(group))
        del group
        gc.collect()
        return watched[0]() is None

    watched = []
    assert three.submit(outer).result(DEADLINE)


# --- At random -------------------------------------------------------------------------


def grow(executor, rng, depth):
    """A block with random tasks in it; what it is expected to raise is what it raises."""
    with executor.group() as group:
        for _ in range(rng.randrange(4)):
            kind = rng.randrange(5 if depth else 3)
            if kind == 0:
                group.delay(double, 1)
            elif kind == 1:
                group.delay(double_async, 1)
            elif kind == 2 and rng.random() < 0.15:
                group.delay(fail)
            elif kind == 3:
                group.delay(grow, executor, random.Random(rng.random()), depth - 1)
            elif kind == 4:
                group.delay(grow_async, executor, random.Random(rng.random()), depth - 1)


async def grow_async(executor, rng, depth):
    async with executor.group() as group:
        for _ in range(rng.randrange(3)):
            fn = rng.choice([grow, grow_async]) if depth else double_async
            arguments = (executor, random.Random(rng.random()), depth - 1) if depth else (1,)
            group.delay(fn, *arguments)


def leaves(error):
    """The exceptions in a group of them, and in those inside."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for it in error.exceptions for leaf in leaves(it)]
    return [error]


@pytest.mark.parametrize("workers", [1, 3])
def test_random_trees_of_groups_end(workers):
    failed = 0
    with unlogged(), Executor(workers) as executor:
        for seed in range(60):
            future = executor.submit(grow, executor, random.Random(seed), 3)
            error = future.exception(DEADLINE)
            failed += error is not None
            assert all(type(it) is ValueError for it in leaves(error) if error is not None)
        assert executor.drain(DEADLINE)
        stats = executor.stats()
    assert 0 < failed < 60
    assert (stats["queued"], stats["held"], stats["waiting"]) == (0, 0, 0)
