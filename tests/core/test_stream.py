"""Generator tasks, and readers of what they yield."""

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
import traceback
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flask_delay import (
    Executor,
    ForkedFutureError,
    Future,
    Retry,
    Stream,
    StreamLagged,
    TaskTimeout,
    WaitCycleError,
    current_task,
)
from flask_delay._native import _scoped_executor
from flask_delay.options import Chosen

from .helpers import DEADLINE, Thing, submit, unlogged

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


def count(most, result=None):
    yield from range(1, most + 1)
    return result


async def count_async(most):
    for number in range(1, most + 1):
        yield number


class Gate:
    """A generator that yields what the test says, when it says so."""

    def __init__(self, *, ignores=()):
        self.opened = threading.Semaphore(0)
        self.items = []
        self.closed = threading.Event()
        self.ignores = ignores

    def __call__(self):
        try:
            while True:
                assert self.opened.acquire(timeout=DEADLINE)
                item = self.items.pop(0)
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return "end"
                yield item
        finally:
            self.closed.set()

    def give(self, *items):
        self.items.extend(items)
        self.opened.release(len(items))


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def executor():
    executor = Executor(2)
    yield executor
    # Also those that a failed test has left.
    stop_all(executor)


def stop_all(executor):
    executor.shutdown(wait=False, cancel_futures=True)
    while not executor.drain(0.05):
        for future, _ in executor._running():
            future.stop(0)
    executor.shutdown()


@pytest.fixture
def small():
    """Makes an executor whose streams keep three items."""
    executor = _scoped_executor(
        scope=_Nothing,
        max_workers=2,
        thread_name_prefix="small",
        stream_items=3,
        stream_bytes=10_000,
    )
    yield executor
    stop_all(executor)


class _Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


BOTH = pytest.mark.parametrize("function", [count, count_async])

# --- Items ---------------------------------------------------------------------------------


@BOTH
def test_items_come_in_order_with_their_numbers(executor, function):
    stream = executor.submit(function, 5).stream()
    assert (stream.number, stream.attempt, stream.ended) == (0, 0, False)
    found = [(item, stream.number, stream.attempt) for item in stream]
    assert found == [(number, number, 1) for number in range(1, 6)]
    assert stream.ended
    with pytest.raises(StopIteration):
        next(stream)


def test_the_result_is_what_the_generator_returns(executor):
    assert executor.submit(count, 2, "done").result(DEADLINE) == "done"
    assert executor.submit(count_async, 2).result(DEADLINE) is None
    assert list(executor.map(count, [1, 2], ["a", "b"])) == ["a", "b"]


@BOTH
def test_an_item_comes_before_the_next_one_is_made(executor, gate, function):
    del function
    future = executor.submit(gate)
    stream = future.stream(timeout=DEADLINE)
    for number in range(10):
        gate.give(number)
        assert next(stream) == number
        assert not future.done()
    gate.give(None)
    assert list(stream) == []
    assert future.result(DEADLINE) == "end"


@BOTH
def test_readers_may_come_late_and_start_anywhere(executor, function):
    future = executor.submit(function, 10)
    assert executor.drain(DEADLINE)
    assert list(future.stream()) == list(range(1, 11))
    assert list(future.stream(7)) == [8, 9, 10]
    assert list(future.stream(after=10)) == []
    assert future.stream(after=3).number == 3


def test_fifty_threads_get_each_item_once(executor, gate):
    future = executor.submit(gate)
    begun = threading.Barrier(51)

    def read():
        stream = future.stream()
        begun.wait(DEADLINE)
        return [(item, stream.number) for item in stream]

    with ThreadPoolExecutor(50) as readers:
        results = [readers.submit(read) for _ in range(50)]
        begun.wait(DEADLINE)
        gate.give(*range(200), None)
        for result in results:
            assert result.result(DEADLINE) == [(number, number + 1) for number in range(200)]


def test_threads_that_share_a_reader_get_each_item_once(executor):
    stream = executor.submit(count, 900).stream()
    with ThreadPoolExecutor(8) as readers:
        results = [readers.submit(list, stream) for _ in range(8)]
        found = [item for result in results for item in result.result(DEADLINE)]
    assert sorted(found) == list(range(1, 901))


def test_after_a_task_then_its_result_is_the_argument(executor):
    assert list(executor.submit(lambda: 3).then(count).stream()) == [1, 2, 3]


def test_each_item_is_made_in_the_context_of_the_task(executor):
    variable.set("submitter's")

    def work():
        yield variable.get(), current_task.future, threading.get_ident()
        variable.set("own")
        yield variable.get(), current_task.future, threading.get_ident()

    future = executor.submit(work)
    first, second = future.stream()
    assert first[0] == "submitter's"
    assert second == ("own", future, first[2])
    assert variable.get() == "submitter's"


# --- The end ---------------------------------------------------------------------------------


async def fail_async():
    yield 1
    raise ValueError("made to fail")


def fail_later():
    yield 1
    raise ValueError("made to fail")


@pytest.mark.parametrize("function", [fail_later, fail_async])
def test_a_failure_is_raised_after_the_last_item(executor, function):
    with unlogged():
        stream = executor.submit(function).stream()
        assert next(stream) == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="made to fail") as info:
                next(stream)
            names = [it.name for it in traceback.extract_tb(info.value.__traceback__)]
            assert names[-1] == function.__name__
    assert stream.ended


def test_stop_iteration_is_no_end(executor):
    def work():
        yield 1
        next(iter(()))

    with unlogged(), pytest.raises(RuntimeError, match="StopIteration"):
        list(executor.submit(work).stream())


def test_a_task_that_is_cancelled_before_it_starts():
    with Executor(1) as executor:
        gate = Gate()
        executor.submit(gate)
        future = executor.submit(count, 3)
        stream = future.stream()
        assert future.cancel()
        gate.give(None)
        with pytest.raises(CancelledError):
            next(stream)


def endless(closed):
    number = 0
    try:
        while True:
            number += 1
            yield number
    finally:
        closed.append((threading.get_ident(), current_task.id))


async def endless_async(closed):
    number = 0
    try:
        while True:
            number += 1
            yield number
    finally:
        closed.append((threading.get_ident(), current_task.id))


def some(stream):
    """An item of a stream that may be faster than this thread."""
    while True:
        try:
            return next(stream)
        except StreamLagged:
            continue


ENDLESS = pytest.mark.parametrize("function", [endless, endless_async])


@ENDLESS
def test_a_stop_ends_it_where_it_yields(executor, function):
    closed = []
    future = executor.submit(function, closed)
    assert some(future.stream(timeout=DEADLINE))
    assert future.stop(None)
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    assert executor.drain(DEADLINE)
    [(thread, id)] = closed
    assert thread != threading.get_ident()
    assert id == future.id
    assert future.stop() is False


@ENDLESS
def test_a_timeout_ends_it(executor, function):
    closed = []
    with unlogged():
        future = submit(executor, function, closed, timeout=0.1)
        stream = future.stream()
        with pytest.raises(TaskTimeout):
            while True:
                try:
                    for _ in stream:
                        pass
                except StreamLagged:
                    continue
    assert executor.drain(DEADLINE)
    assert len(closed) == 1


def test_one_that_nobody_reads_keeps_a_bounded_number(small, wait_until):
    alive = weakref.WeakSet()

    def work():
        while True:
            thing = Thing()
            alive.add(thing)
            yield thing
            made.append(1)

    made = []
    future = small.submit(work)
    assert wait_until(lambda: len(made) > 1000)
    assert len(alive) <= 5
    future.stop(0)
    with pytest.raises(CancelledError):
        future.result(DEADLINE)


def test_one_that_goes_on_after_its_timeout_is_closed_once_its_future_has_ended(executor):
    closed = threading.Event()

    def work():
        try:
            while True:
                try:
                    while True:
                        time.sleep(0.001)
                        yield "before"
                except TaskTimeout:
                    pass
        finally:
            closed.set()

    with unlogged():
        future = submit(executor, work, timeout=0.05)
        with pytest.raises(TaskTimeout):
            list(future.stream())
        assert closed.wait(DEADLINE)
        # Nothing came after the end.
        with pytest.raises(TaskTimeout):
            list(future.stream(timeout=0))


# --- Waiting -----------------------------------------------------------------------------------


def test_a_timeout_is_for_one_item_and_reading_goes_on(executor, gate):
    stream = executor.submit(gate).stream(timeout=0.05)
    with pytest.raises(TimeoutError):
        next(stream)
    gate.give(1)
    assert stream.__class__ is Stream
    patient = stream._future.stream(timeout=DEADLINE)
    assert next(patient) == next(stream) == 1
    assert not stream.ended
    gate.give(None)
    assert list(patient) == []


def test_without_waiting(executor, gate):
    future = executor.submit(gate)
    stream = future.stream(timeout=0)
    with pytest.raises(TimeoutError):
        next(stream)
    gate.give(1, 2, None)
    assert future.result(DEADLINE) == "end"
    assert list(stream) == [1, 2]
    assert list(future.stream(after=1, timeout=0)) == [2]


def test_a_task_may_read_a_task_of_its_own_pool():
    with Executor(1) as executor:

        def read():
            return list(executor.submit(count, 500).stream())

        assert executor.submit(read).result(DEADLINE) == list(range(1, 501))


def test_a_pipeline_of_generators_with_one_worker():
    with Executor(1) as executor:

        def double(depth):
            if depth == 0:
                yield from range(100)
                return
            for item in executor.submit(double, depth - 1).stream():
                yield item + 1

        assert list(executor.submit(double, 5).stream()) == list(range(5, 105))


def test_a_circle_is_refused(executor):
    handed = threading.Event()
    futures = []

    def first():
        assert handed.wait(DEADLINE)
        yield 1
        futures[1].result()

    def second():
        assert handed.wait(DEADLINE)
        yield from futures[0].stream()

    with unlogged():
        futures += [executor.submit(first), executor.submit(second)]
        handed.set()
        errors = [future.exception(DEADLINE) for future in futures]
    # The other one fails with the error of the first to fail.
    assert {type(error) for error in errors} == {WaitCycleError}


def test_a_wait_that_follows_an_item_is_no_circle(executor):
    """The generator waits for its reader's next step just after it has woken the reader."""

    def ask(answers):
        for answer in answers:
            yield answer
            # The reader makes this one.
            made.acquire(timeout=DEADLINE)
            made_for[answer].result(DEADLINE)

    made, made_for = threading.Semaphore(0), {}

    def read():
        future = executor.submit(ask, range(200))
        for item in future.stream():
            made_for[item] = executor.submit(int)
            made.release()
        return future.result(DEADLINE)

    assert executor.submit(read).result(DEADLINE) is None


def test_a_coroutine_may_not_block_its_loop(executor):
    async def read():
        return list(executor.submit(count_async, 3).stream())

    with unlogged(), pytest.raises(WaitCycleError, match="event loop"):
        executor.submit(read).result(DEADLINE)


def test_a_stop_ends_a_reader_that_is_a_task(executor, gate):
    future = executor.submit(gate)
    begun = threading.Event()

    def read():
        begun.set()
        return list(future.stream())

    reader = executor.submit(read)
    assert begun.wait(DEADLINE)
    reader.stop(0.01)
    with pytest.raises(CancelledError):
        reader.result(DEADLINE)
    gate.give(1, None)
    assert list(future.stream()) == [1]


# --- async for -----------------------------------------------------------------------------------


@BOTH
def test_async_for(executor, function):
    async def read():
        stream = executor.submit(function, 5).stream()
        found = [(item, stream.number) async for item in stream]
        assert stream.ended
        return found

    expected = [(number, number) for number in range(1, 6)]
    assert asyncio.run(read()) == expected
    # In a task too, on the loop that runs the generator.
    assert executor.submit(read).result(DEADLINE) == expected


def test_async_readers_wait_without_a_thread(executor, gate):
    async def read():
        future = executor.submit(gate)
        readers = [asyncio.create_task(collect(future.stream())) for _ in range(20)]
        await asyncio.sleep(0)
        for number in range(5):
            gate.give(number)
            await asyncio.sleep(0.001)
        gate.give(ValueError("made to fail"))
        return await asyncio.gather(*readers)

    async def collect(stream):
        found = []
        with pytest.raises(ValueError, match="made to fail"):
            async for item in stream:
                found.append(item)  # noqa: PERF401
        return found

    with unlogged():
        assert asyncio.run(read()) == [list(range(5))] * 20


def test_an_async_timeout_and_a_cancellation(executor, gate):
    async def read():
        future = executor.submit(gate)
        for seconds in (0, 0.01):
            with pytest.raises(TimeoutError):
                await anext(future.stream(timeout=seconds))
        reader = asyncio.create_task(anext(future.stream()))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        # Whoever stops reading does not stop the task.
        assert not future.done()
        gate.give(1, None)
        assert [item async for item in future.stream()] == [1]

    asyncio.run(read())


def test_an_async_circle_is_refused(executor):
    futures = []

    async def first():
        yield 1
        await asyncio.sleep(0.01)
        await futures[1]

    async def second():
        async for _ in futures[0].stream():
            pass

    with unlogged():
        futures += [executor.submit(first), executor.submit(second)]
        errors = [future.exception(DEADLINE) for future in futures]
    assert {type(error) for error in errors} == {WaitCycleError}


def test_an_async_generator_lets_other_coroutines_run(executor):
    closed = []
    future = executor.submit(endless_async, closed)

    async def other():
        await asyncio.sleep(0)
        return "ran"

    assert executor.submit(other).result(DEADLINE) == "ran"
    future.cancel()
    assert executor.drain(DEADLINE)
    assert len(closed) == 1


# --- A bounded number of items -------------------------------------------------------------------


def test_a_slow_reader_is_told_what_it_missed(small):
    future = small.submit(count, 10)
    stream = future.stream()
    assert small.drain(DEADLINE)
    with pytest.raises(StreamLagged, match="7 items.* number 8") as info:
        next(stream)
    assert (info.value.missed, info.value.oldest) == (7, 8)
    # It goes on, and so does a new one.
    assert list(stream) == [8, 9, 10]
    assert list(future.stream(after=info.value.oldest - 1)) == [8, 9, 10]
    assert list(future.stream(after=9)) == [10]


def test_large_items_are_fewer(small):
    def work():
        for number in range(5):
            yield bytes([number]) * 4_000
        yield b"x" * 1_000_000

    future = small.submit(work)
    assert small.drain(DEADLINE)
    [newest] = future.stream(after=5)
    assert len(newest) == 1_000_000
    with pytest.raises(StreamLagged) as info:
        next(future.stream())
    assert (info.value.missed, info.value.oldest) == (5, 6)


def test_an_item_whose_size_cannot_be_told_fails_the_task(executor):
    class Odd:
        def __sizeof__(self):
            raise ValueError("made to fail")

    def work():
        try:
            yield Odd()
        finally:
            closed.append(1)

    closed = []
    with unlogged(), pytest.raises(ValueError, match="made to fail"):
        next(executor.submit(work).stream())
    assert closed == [1]


@pytest.mark.parametrize("function", [count, count_async])
def test_a_generator_waits_for_a_reader_that_is_behind(small, function, wait_until):
    future = submit(small, function, 50, stream_wait=DEADLINE)
    stream = future.stream()
    assert next(stream) == 1
    assert wait_until(lambda: _is_asleep(future))
    assert not future.done()
    assert list(stream) == list(range(2, 51))
    assert future.done() or future.result(DEADLINE) is None


@pytest.mark.parametrize("function", [count, count_async])
def test_it_does_not_wait_without_a_reader(small, function):
    assert submit(small, function, 50, stream_wait=DEADLINE).result(DEADLINE) is None


@pytest.mark.parametrize("function", [count, count_async])
def test_it_waits_once_for_a_reader_that_never_reads(small, function):
    began = time.monotonic()
    future = submit(small, function, 50, stream_wait=0.1)
    stream = future.stream()
    assert future.result(DEADLINE) is None
    assert time.monotonic() - began < DEADLINE / 2
    with pytest.raises(StreamLagged):
        next(stream)


@pytest.mark.parametrize("function", [count, count_async])
def test_it_goes_on_when_the_reader_goes(small, function):
    future = submit(small, function, 50, stream_wait=DEADLINE * 10)
    stream = future.stream()
    next(stream)
    del stream
    gc.collect()
    assert future.result(DEADLINE) is None


@ENDLESS
@pytest.mark.parametrize("after", [None, 0])
def test_a_stop_ends_it_while_it_waits(small, function, after, wait_until):
    closed = []
    future = submit(small, function, closed, stream_wait=DEADLINE * 10)
    stream = future.stream()
    assert next(stream) == 1
    assert wait_until(lambda: _is_asleep(future))
    assert future.stop(after)
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    assert small.drain(DEADLINE)
    assert len(closed) == 1
    # The last item may have taken the place of one.
    with pytest.raises((CancelledError, StreamLagged)):
        list(stream)
    with pytest.raises(CancelledError):
        list(stream)


def _is_asleep(future):
    """Whether no item comes: three are kept, and a reader needs the oldest."""
    before = sum(1 for _ in _now(future))
    time.sleep(0.02)
    return before == sum(1 for _ in _now(future)) == 3


def _now(future):
    stream = future.stream(after=1, timeout=0)
    try:
        yield from stream
    except (TimeoutError, StreamLagged):
        return


def test_a_timeout_ends_it_while_it_waits_as_if_the_yield_had_raised(small):
    caught = []

    def work():
        for number in range(10):
            try:
                yield number
            except TaskTimeout as error:
                caught.append(number)
                raise KeyError(number) from error

    with unlogged():
        future = submit(small, work, timeout=0.2, stream_wait=DEADLINE * 10)
        stream = future.stream()
        with pytest.raises(KeyError):
            future.result(DEADLINE)
    assert caught == [3]
    # None is lost without a word.
    with pytest.raises(StreamLagged):
        next(stream)
    found = []
    with pytest.raises(KeyError):
        found.extend(stream)
    assert found == [1, 2, 3]


# --- Retries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_items_of_another_attempt_follow_and_name_it(executor, is_async):
    def work():
        yield from ("a", "b")
        if current_task.attempt < 2:
            raise ValueError("made to fail")
        yield "c"

    async def work_async():
        for item in work():
            yield item

    function = work_async if is_async else work
    with unlogged():
        stream = submit(executor, function, retry=Retry(1, backoff=0)).stream()
        found = [(item, stream.number, stream.attempt) for item in stream]
    assert found == [("a", 1, 1), ("b", 2, 1), ("a", 3, 2), ("b", 4, 2), ("c", 5, 2)]


def test_an_attempt_may_ask_for_the_next_one(executor):
    def work():
        yield current_task.attempt
        if current_task.attempt < 3:
            current_task.retry(0)

    assert list(submit(executor, work, retry=5).stream()) == [1, 2, 3]


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [int, lambda: count(3), asyncio.sleep])
def test_other_tasks_have_no_stream(executor, function):
    arguments = (0,) if function is asyncio.sleep else ()
    future = executor.submit(function, *arguments)
    with pytest.raises(TypeError, match=r'task ".*" has no stream.* function that yields'):
        future.stream()
    with pytest.raises(TypeError, match="has no stream"):
        Future().stream()


@pytest.mark.parametrize("wrong", ["1", 1.5, None, True])
def test_an_after_of_another_type(executor, wrong):
    with pytest.raises(TypeError, match="after must be the number of an item, or 0, got"):
        executor.submit(count, 3).stream(wrong)


@pytest.mark.parametrize("wrong", [-1, 2**70])
def test_an_after_out_of_range(executor, wrong):
    with pytest.raises(ValueError, match="after must be the number of an item, or 0, got"):
        executor.submit(count, 3).stream(wrong)


def test_an_after_of_the_future(executor):
    future = executor.submit(count, 3)
    assert executor.drain(DEADLINE)
    with pytest.raises(ValueError, match=r"after is 4, but the last item .* has the number 3"):
        future.stream(after=4)
    with pytest.raises(ValueError, match="after is 1, but .* the number 0"):
        executor.submit(count, 0).stream(1)


@pytest.mark.parametrize(("wrong", "kind"), [("1", TypeError), (float("nan"), ValueError)])
def test_a_bad_timeout(executor, wrong, kind):
    with pytest.raises(kind, match="timeout must be a number of seconds"):
        executor.submit(count, 3).stream(timeout=wrong)
    with pytest.raises(TypeError):
        executor.submit(count, 3).stream(0, 1)


def test_waiting_for_readers_is_for_generator_functions(executor):
    with pytest.raises(TypeError, match="'stream_wait' is for generator functions.*int.* is none"):
        submit(executor, int, stream_wait=1)
    done = executor.submit(count, 3, 5)
    with pytest.raises(TypeError, match="'stream_wait'"):
        done._then_with(_policy(stream_wait=1), None, str)
    for wrong, kind in (("1", TypeError), (0, ValueError), (-1, ValueError)):
        with pytest.raises(kind, match="'stream_wait'"):
            submit(executor, count, 3, stream_wait=wrong)
    with pytest.raises(ValueError, match="'stream_wait'.* nobody reads"):
        submit(executor, count, 3, stream_wait=1, every=60)
    with pytest.raises(ValueError, match="'stream_wait'.*durable"):
        submit(executor, count, 3, stream_wait=1, durable=True)


def _policy(**options):
    return Chosen(options).policy


# --- Processes ----------------------------------------------------------------------------------


def test_a_forked_process_is_told_that_it_will_get_nothing(executor, gate):
    future = executor.submit(gate)
    before = future.stream(timeout=DEADLINE)
    gate.give(1)
    assert next(before) == 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for read in (lambda: next(before), lambda: future.stream()):
                with pytest.raises(ForkedFutureError):
                    read()
            # A pool of its own.
            assert list(executor.submit(count, 3).stream()) == [1, 2, 3]
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.give(2, None)
    assert list(before) == [2]


EXIT = """
import sys, threading
from flask_delay import Executor
from flask_delay._native import _end_within

begun = threading.Event()

def work():
    try:
        while True:
            yield 1
            begun.set()
    finally:
        print("closed", flush=True)

executor = Executor(1)
future = executor.submit(work)
assert begun.wait(20)
_end_within(0.2)
"""


def test_at_exit_an_endless_one_is_closed_when_its_time_is_up(run_script):
    result = run_script(EXIT)
    assert (result.rc, result.out) == (0, "closed\n")


def test_shutdown_waits_until_it_is_stopped(executor):
    future = executor.submit(endless, [])
    waits = threading.Thread(target=executor.shutdown)
    waits.start()
    waits.join(0.1)
    assert waits.is_alive()
    future.stop(0)
    waits.join(DEADLINE)
    assert not waits.is_alive()


def test_a_signal_ends_a_wait(executor, gate):
    future = executor.submit(gate)

    def handler(*_):
        raise InterruptedError("by the signal")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            next(future.stream())
    finally:
        signal.signal(signal.SIGALRM, before)
    gate.give(None)
    assert list(future.stream()) == []


# --- Memory ---------------------------------------------------------------------------------------


def test_items_go_with_the_future(executor):
    def work():
        things = [Thing() for _ in range(3)]
        alive.extend(weakref.ref(thing) for thing in things)
        while things:
            yield things.pop()

    alive = []
    future = executor.submit(work)
    stream = future.stream()
    assert len(list(stream)) == 3
    assert executor.drain(DEADLINE)
    # In a circle, which the collector finds.
    alive[0]().circle = (future, stream)
    del future, stream
    gc.collect()
    assert [it() for it in alive] == [None] * 3


def test_what_the_generator_had_goes_at_its_end(executor):
    def work(thing):
        yield 1
        thing.mark = True

    thing = Thing()
    alive = weakref.ref(thing)
    future = executor.submit(work, thing)
    del thing
    assert list(future.stream()) == [1]
    assert executor.drain(DEADLINE)
    gc.collect()
    assert alive() is None


def test_a_closed_generator_that_yields_again_fails(executor):
    def work():
        try:
            while True:
                yield 1
        finally:
            yield "stubborn"

    with unlogged():
        future = executor.submit(work)
        assert some(future.stream()) == 1
        future.stop(None)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            future.result(DEADLINE)


# --- All of it ---------------------------------------------------------------------------------


class Readers(RuleBasedStateMachine):
    """A stream that keeps three items, against a list of all."""

    def __init__(self):
        super().__init__()
        self.executor = _scoped_executor(
            scope=_Nothing, max_workers=1, thread_name_prefix="machine", stream_items=3
        )
        self.gate = Gate()
        self.future = self.executor.submit(self.gate)
        self.given = 0
        self.over = False
        self.readers = []
        # Sees each item as it comes, so that the others need not wait.
        self.witness = self.future.stream(timeout=DEADLINE)

    @precondition(lambda self: not self.over)
    @rule(count=st.integers(1, 5))
    def give(self, count):
        for _ in range(count):
            self.given += 1
            self.gate.give(self.given)
            assert next(self.witness) == self.given

    @precondition(lambda self: not self.over)
    @rule()
    def end(self):
        self.over = True
        self.gate.give(None)
        assert list(self.witness) == []

    @rule(data=st.data())
    def read(self, data):
        after = data.draw(st.integers(0, self.given))
        self.readers.append([self.future.stream(after, timeout=0), after])

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), most=st.integers(1, 5))
    def take(self, data, most):
        pair = data.draw(st.sampled_from(self.readers))
        stream, last = pair
        dropped = max(self.given - 3, 0)
        for _ in range(most):
            if last < dropped:
                with pytest.raises(StreamLagged) as info:
                    next(stream)
                assert (info.value.missed, info.value.oldest) == (dropped - last, dropped + 1)
                last = dropped
            elif last < self.given:
                last += 1
                assert next(stream) == last
            else:
                with pytest.raises(StopIteration if self.over else TimeoutError):
                    next(stream)
            assert stream.number == last
        pair[1] = last

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data):
        self.readers.remove(data.draw(st.sampled_from(self.readers)))

    @invariant()
    def is_as_it_says(self):
        assert self.future.done() == self.over or not self.over

    def teardown(self):
        if not self.over:
            self.gate.give(None)
        with closing(self.gate()):
            self.executor.shutdown()


Readers.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestReaders = Readers.TestCase
