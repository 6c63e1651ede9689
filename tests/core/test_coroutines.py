"""Tasks given as `async def`: one event loop for all, and all that holds for other tasks."""

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import sys
import threading
import time
import weakref
from concurrent.futures.thread import BrokenThreadPool
from textwrap import dedent
from unittest.mock import AsyncMock, Mock

import pytest

from flask_delay import Executor, Future, TaskTimeout, WaitCycleError, aio, current_task
from flask_delay._native import _Policy

from .helpers import DEADLINE, as_coroutine, occupied

DEV = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")

color: contextvars.ContextVar[object] = contextvars.ContextVar("color")


@pytest.fixture
def executor():
    with Executor(2, "pool") as executor:
        yield executor


def thread_name():
    return threading.current_thread().name


async def answer():
    return 42


async def later(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value


async def fail():
    await asyncio.sleep(0)
    raise LookupError("on purpose")


class Gate:
    """A coroutine function that holds on until it is opened or cancelled."""

    def __init__(self):
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self._loop = None
        self._open = None

    async def __call__(self):
        self._loop = asyncio.get_running_loop()
        self._open = asyncio.Event()
        self.started.set()
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            await asyncio.sleep(0)
            self.ended.set()
        return "opened"

    def open(self):
        self._loop.call_soon_threadsafe(self._open.set)


@pytest.fixture
def gate():
    return Gate()


class TestOutcome:
    def test_result(self, executor):
        assert executor.submit(answer).result(DEADLINE) == 42
        assert executor.submit(later, 7, delay=0.002).result(DEADLINE) == 7

    def test_runs_on_the_thread_of_the_loop(self, executor):
        async def where():
            await asyncio.sleep(0)
            return thread_name(), asyncio.get_running_loop()

        with Executor(1) as other:
            first, second = executor.submit(where), other.submit(where)
            assert first.result(DEADLINE) == second.result(DEADLINE)
        assert first.result()[0].startswith("delay-loop")
        # It needs no worker of its pool.
        assert executor.stats()["threads"] == 0

    def test_failure_is_logged_with_its_traceback(self, executor, caplog):
        future = executor.submit(fail)
        with pytest.raises(LookupError, match="on purpose"):
            future.result(DEADLINE)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("flask_delay", logging.ERROR)
        assert record.getMessage() == f"task fail ({future.id}) failed"
        assert record.exc_info[1] is future.exception()
        frames = [frame.name for frame in traceback_of(future)]
        assert frames == ["fail"]

    def test_wrong_arguments(self, executor, caplog):
        with pytest.raises(TypeError, match=r"answer\(\) takes 0 positional arguments but 1 was"):
            executor.submit(answer, 1)
        assert caplog.records == []

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_base_exceptions_end_the_task_alone(self, executor, error, caplog):
        async def leave():
            await asyncio.sleep(0)
            raise error("on purpose")

        assert isinstance(executor.submit(leave).exception(DEADLINE), error)
        assert executor.submit(answer).result(DEADLINE) == 42

    def test_properties(self, executor, gate):
        future = executor.submit(gate)
        assert gate.started.wait(DEADLINE)
        assert future.state == "running"
        assert future.running()
        assert future.attempts == 1
        gate.open()
        assert future.result(DEADLINE) == "opened"
        assert future.enqueued_at <= future.started_at <= future.finished_at

    def test_nothing_is_kept_of_it(self, executor):
        class Big:
            pass

        async def hold(big):
            color.set(big)
            await asyncio.sleep(0)

        big = Big()
        reference = weakref.ref(big)
        future = executor.submit(hold, big)
        del big
        future.result(DEADLINE)
        # The loop's thread lets go of the context in its own time.
        executor.submit(later).result(DEADLINE)
        gc.collect()
        assert reference() is None
        assert future.name.endswith("hold")


def traceback_of(future):
    import traceback

    return traceback.extract_tb(future.exception().__traceback__)[-1:]


class TestWhatCounts:
    class Callable:
        async def __call__(self, value=42):
            return value

        async def method(self, value):
            return value

        @classmethod
        async def for_class(cls, value):
            return value

        @staticmethod
        async def static(value):
            return value

    @pytest.mark.parametrize(
        "function",
        [
            functools.partial(later, 42),
            functools.partial(functools.partial(later), 42),
            Callable(),
            functools.partial(Callable(), 42),
            functools.partial(Callable().method, 42),
            functools.partial(Callable.for_class, 42),
            functools.partial(Callable.static, 42),
            AsyncMock(return_value=42),
        ],
        ids=lambda function: type(function).__name__,
    )
    def test_is_awaited(self, executor, function):
        assert executor.submit(function).result(DEADLINE) == 42

    def test_methods(self, executor):
        owner = self.Callable()
        assert executor.submit(owner.method, 1).result(DEADLINE) == 1
        assert executor.submit(owner.for_class, 2).result(DEADLINE) == 2

    @pytest.mark.parametrize("mock", [Mock, AsyncMock])
    def test_a_mock_has_every_attribute_for_ever(self, executor, mock):
        future = executor.submit(mock(return_value=42))
        assert future.result(DEADLINE) == 42
        assert future.name == mock.__name__

    def test_map(self, executor):
        assert list(executor.map(later, range(20))) == list(range(20))
        assert list(executor.map(later, range(20), buffersize=3)) == list(range(20))

    def test_one_after_the_other_while_the_loop_comes_to_rest(self, executor):
        # The loop's worker could look whether it is to run just before it was told so.
        pause = threading.Event()
        for number in range(2000):
            assert executor.submit(later, number, 0).result(DEADLINE) == number
            pause.wait(number % 7 * 1e-5)

    def test_async_generator_function(self, executor):
        async def generate():
            yield 1

        for function in (generate, functools.partial(generate)):
            future = executor.submit(function)
            assert list(future.stream()) == [1]
            assert future.result(DEADLINE) is None

    def test_function_that_returns_a_coroutine(self, executor):
        def wrapper():
            return answer()

        error = executor.submit(wrapper).exception(DEADLINE)
        assert isinstance(error, TypeError)
        assert "nobody awaits" in str(error)
        assert "the async function itself" in str(error)

    def test_coroutine_itself_is_refused(self, executor):
        coroutine = answer()
        with pytest.raises(TypeError, match="must be callable"):
            executor.submit(coroutine)
        coroutine.close()


class TestContext:
    def test_variables_are_carried(self, executor):
        async def look():
            await asyncio.sleep(0)
            return color.get()

        def submit(value):
            color.set(value)
            return executor.submit(look)

        futures = [contextvars.Context().run(submit, n) for n in range(20)]
        assert [future.result(DEADLINE) for future in futures] == list(range(20))

    def test_none_of_another_task_or_of_the_loop(self, executor):
        async def look(value):
            before = color.get(None)
            color.set(value)
            await asyncio.sleep(0.001)
            return before, color.get()

        def submit():
            return [executor.submit(look, n) for n in range(20)]

        futures = contextvars.Context().run(submit)
        assert [future.result(DEADLINE) for future in futures] == [(None, n) for n in range(20)]

    def test_current_task(self, executor):
        async def look():
            seen = [current_task.future, current_task.id]
            await asyncio.sleep(0.001)
            seen += [current_task.future, current_task.attempt, current_task.cancelled]
            current_task.check()
            return seen

        futures = [executor.submit(look) for _ in range(20)]
        for future in futures:
            expected = [future, future.id, future, 1, False]
            assert future.result(DEADLINE) == expected

    @pytest.mark.keeps_threads
    def test_current_task_in_what_it_starts(self, executor):
        async def child():
            return current_task.future

        async def look():
            return (
                await asyncio.to_thread(lambda: current_task.future),
                await asyncio.create_task(child()),
                await executor.submit(lambda: current_task.future),
            )

        future = executor.submit(look)
        thread, task, worker = future.result(DEADLINE)
        assert thread is task is future
        assert worker is not future

    def test_no_current_task_elsewhere_on_the_loop(self, executor):
        async def look():
            context = contextvars.Context()
            return await asyncio.create_task(other(), context=context)

        async def other():
            current_task.id  # noqa: B018

        error = executor.submit(look).exception(DEADLINE)
        assert isinstance(error, RuntimeError)
        assert "no task runs" in str(error)

    def test_progress(self, executor, gate):
        async def work():
            current_task.progress(1, 2, "half")
            await gate()
            current_task.progress(2, 2)

        future = executor.submit(work)
        assert gate.started.wait(DEADLINE)
        assert future.progress == (1, 2, "half")
        gate.open()
        future.result(DEADLINE)
        assert future.progress == (2, 2, "")


class TestCallbacks:
    def test_run_on_a_worker_in_order_in_the_context_of_the_coroutine(self, executor, gate):
        seen = []

        async def work():
            await gate()
            color.set("of the coroutine")
            return 1

        future = executor.submit(work)
        for number in range(3):
            future.add_done_callback(
                lambda future, number=number: seen.append(
                    (number, future, thread_name()[:4], color.get())
                )
            )
        assert gate.started.wait(DEADLINE)
        gate.open()
        assert executor.drain(DEADLINE)
        assert seen == [(n, future, "pool", "of the coroutine") for n in range(3)]

    def test_of_one_that_fails_or_cancels_itself(self, executor):
        async def cancel_itself():
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        seen = []
        executor.add_default_done_callback(
            lambda future: seen.append((future.state, thread_name()[:4]))
        )
        executor.submit(fail)
        executor.submit(cancel_itself)
        assert executor.drain(DEADLINE)
        assert sorted(seen) == [("cancelled", "pool"), ("finished", "pool")]

    def test_that_raise_are_logged(self, executor, gate, caplog):
        seen = []
        future = executor.submit(gate)
        future.add_done_callback(lambda _: 1 / 0)
        future.add_done_callback(seen.append)
        assert gate.started.wait(DEADLINE)
        gate.open()
        assert executor.drain(DEADLINE)
        assert seen == [future]
        (record,) = caplog.records
        assert isinstance(record.exc_info[1], ZeroDivisionError)

    def test_that_block_hold_up_no_other_coroutine(self, executor, gate):
        release = threading.Event()
        future = executor.submit(gate)
        future.add_done_callback(lambda _: release.wait(DEADLINE))
        assert gate.started.wait(DEADLINE)
        gate.open()
        assert future.result(DEADLINE) == "opened"
        assert executor.submit(later, 1).result(DEADLINE) == 1
        assert not executor.drain(0.01)
        release.set()
        assert executor.drain(DEADLINE)

    def test_wait_for_a_worker_but_the_result_does_not(self, executor, gate):
        """Busy workers, which may be waiting for this very coroutine, cannot hold it up."""
        seen = []
        with occupied(executor, 2):
            future = executor.submit(gate)
            future.add_done_callback(seen.append)
            assert gate.started.wait(DEADLINE)
            gate.open()
            assert future.result(DEADLINE) == "opened"
            assert asyncio.run(as_coroutine(future)) == "opened"
            assert seen == []
        assert executor.drain(DEADLINE)
        assert seen == [future]

    def test_are_run_although_the_pool_is_shut_down(self, gate):
        seen = []
        executor = Executor(1)
        with occupied(executor):
            future = executor.submit(gate)
            future.add_done_callback(seen.append)
            assert gate.started.wait(DEADLINE)
            gate.open()
            assert future.result(DEADLINE) == "opened"
            # It lies in the queue for its callbacks, and is not one that has not started.
            executor.shutdown(wait=False, cancel_futures=True)
            assert future.result() == "opened"
        executor.shutdown()
        assert seen == [future]


def test_callbacks_come_though_no_worker_can_run_a_task(caplog):
    called = []
    executor = Executor(1, initializer=fail_at_once)
    future = executor.submit(later, "ran")
    future.add_done_callback(called.append)
    assert future.result(DEADLINE) == "ran"
    # The worker that was started for the callback alone has found that out.
    assert executor.drain(DEADLINE)
    assert called == [future]
    with pytest.raises(BrokenThreadPool):
        executor.submit(int)
    executor.shutdown()


def fail_at_once():
    raise ValueError


class TestMany:
    def test_sleep_at_once_without_threads(self, executor):
        before = threading.active_count()
        start = time.monotonic()
        futures = [executor.submit(asyncio.sleep, 0.5, n) for n in range(10_000)]
        assert threading.active_count() <= before + 2
        assert [future.result(DEADLINE) for future in futures] == list(range(10_000))
        # One after another would take more than an hour.
        assert time.monotonic() - start < 15

    def test_submitted_from_several_threads(self, executor):
        def submit(base):
            return [executor.submit(later, base + n) for n in range(500)]

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            batches = list(threads.map(submit, range(0, 2000, 500)))
        results = [future.result(DEADLINE) for batch in batches for future in batch]
        assert results == list(range(2000))

    def test_with_pauses_in_which_the_loop_stops(self, executor):
        for number in range(500):
            assert executor.submit(later, number, delay=0).result(DEADLINE) == number

    def test_wait_and_as_completed(self, executor):
        futures = [executor.submit(later, n) for n in range(50)]
        done, pending = concurrent.futures.wait(futures, DEADLINE)
        assert (len(done), len(pending)) == (50, 0)
        futures = [executor.submit(later, n) for n in range(50)]
        results = {f.result() for f in concurrent.futures.as_completed(futures, DEADLINE)}
        assert results == set(range(50))


class TestCancel:
    def test_reaches_the_coroutine(self, executor, gate):
        future = executor.submit(gate)
        assert gate.started.wait(DEADLINE)
        assert future.cancel()
        assert future.cancelled()
        assert gate.cancelled.wait(DEADLINE)
        assert gate.ended.wait(DEADLINE)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        assert executor.drain(DEADLINE)

    def test_before_its_first_step(self, executor):
        ran = []

        async def never():
            ran.append(1)

        async def cancel_at_once():
            # On the loop's thread: no other task makes a step meanwhile.
            futures = [executor.submit(never) for _ in range(10)]
            return [future.cancel() for future in futures]

        assert executor.submit(cancel_at_once).result(DEADLINE) == [True] * 10
        assert executor.drain(DEADLINE)
        assert ran == []

    def test_at_any_moment(self, executor):
        """From another thread, in all states: it is cancelled or runs to its end."""
        started, ended = [], []

        async def step(number):
            started.append(number)
            try:
                await asyncio.sleep(0)
            finally:
                ended.append(number)
            return number

        futures = []
        for number in range(2000):
            future = executor.submit(step, number)
            futures.append(future)
            if number % 3:
                futures[number - number % 7].cancel()
        assert executor.drain(DEADLINE)
        for number, future in enumerate(futures):
            assert future.cancelled() or future.result(0) == number
        assert sorted(started) == sorted(ended)
        assert set(started) >= {n for n, future in enumerate(futures) if not future.cancelled()}

    def test_in_its_own_coroutine(self, executor):
        async def cancel_itself():
            assert current_task.future.cancel()
            await asyncio.sleep(DEADLINE)

        future = executor.submit(cancel_itself)
        assert executor.drain(DEADLINE)
        assert future.cancelled()

    def test_is_final_even_if_suppressed(self, executor, gate):
        async def stubborn():
            try:
                await gate()
            except asyncio.CancelledError:
                return "went on"

        future = executor.submit(stubborn)
        assert gate.started.wait(DEADLINE)
        assert future.cancel()
        assert executor.drain(DEADLINE)
        assert future.cancelled()
        assert gate.ended.is_set()

    def test_error_on_the_way_out_is_logged(self, executor, gate, caplog):
        async def clumsy():
            try:
                await gate()
            finally:
                raise LookupError("while it was cancelled")

        future = executor.submit(clumsy)
        assert gate.started.wait(DEADLINE)
        assert future.cancel()
        assert executor.drain(DEADLINE)
        assert future.cancelled()
        (record,) = caplog.records
        assert isinstance(record.exc_info[1], LookupError)

    def test_by_the_coroutine(self, executor, caplog):
        async def give_up():
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        future = executor.submit(give_up)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(DEADLINE)
        assert future.cancelled()
        assert caplog.records == []

    def test_callbacks_run_once(self, executor, gate):
        seen = []
        future = executor.submit(gate)
        future.add_done_callback(seen.append)
        assert gate.started.wait(DEADLINE)
        assert future.cancel()
        assert future.cancel()
        assert executor.drain(DEADLINE)
        assert seen == [future]

    def test_of_an_await_reaches_the_coroutine(self, executor, gate):
        inner = executor.submit(gate)

        async def wait():
            async with asyncio.timeout(0.01):
                await inner

        assert isinstance(executor.submit(wait).exception(DEADLINE), TimeoutError)
        assert gate.cancelled.wait(DEADLINE)
        assert inner.cancelled()

    def test_none_after_the_end(self, executor):
        future = executor.submit(answer)
        assert future.result(DEADLINE) == 42
        assert not future.cancel()
        assert future.result() == 42


class TestWaiting:
    def test_of_a_coroutine_for_another(self, executor):
        async def sum_up():
            futures = [executor.submit(later, n) for n in range(20)]
            return sum([await future for future in futures])

        assert executor.submit(sum_up).result(DEADLINE) == sum(range(20))

    def test_of_a_coroutine_for_a_worker(self, executor):
        async def work():
            return await executor.submit(thread_name)

        assert executor.submit(work).result(DEADLINE).startswith("pool")

    def test_of_a_worker_for_a_coroutine(self):
        with Executor(1, "pool") as executor:

            def work():
                return executor.submit(again).result(DEADLINE)

            async def again():
                return await executor.submit(thread_name)

            assert executor.submit(work).result(DEADLINE).startswith("pool")

    def test_that_would_block_the_loop_is_refused(self, executor):
        async def block():
            return executor.submit(answer).result()

        error = executor.submit(block).exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        assert "await future" in str(error)

    @pytest.mark.parametrize("wait", [Executor.drain, Executor.shutdown])
    def test_for_the_pool_itself_is_refused(self, executor, wait):
        async def block():
            wait(executor)

        assert isinstance(executor.submit(block).exception(DEADLINE), WaitCycleError)

    def test_for_itself_raises(self, executor):
        async def wait():
            await current_task.future

        error = executor.submit(wait).exception(DEADLINE)
        assert isinstance(error, WaitCycleError)
        name = wait.__qualname__
        assert str(error).endswith(f"never end: {name} waits for {name}")

    @pytest.mark.keeps_threads
    def test_in_a_circle_of_coroutines_raises(self, executor):
        futures = {}
        ready = threading.Event()

        async def first():
            await asyncio.to_thread(ready.wait, DEADLINE)
            return await futures["second"]

        async def second():
            await asyncio.to_thread(ready.wait, DEADLINE)
            return await futures["first"]

        for function in (first, second):
            futures[function.__name__] = executor.submit(function)
        ready.set()
        for future in futures.values():
            error = future.exception(DEADLINE)
            assert isinstance(error, WaitCycleError)
            assert "first" in str(error)
            assert "second" in str(error)

    def test_in_a_circle_with_a_worker_raises(self, executor):
        futures = {}
        ready = threading.Event()

        async def coroutine():
            return await futures["worker"]

        def worker():
            assert ready.wait(DEADLINE)
            return futures["coroutine"].result()

        futures["worker"] = executor.submit(worker)
        futures["coroutine"] = executor.submit(coroutine)
        ready.set()
        for future in futures.values():
            assert isinstance(future.exception(DEADLINE), WaitCycleError)

    def test_that_has_ended_is_no_part_of_a_circle(self, executor, gate):
        """A wait that timed out, and one that is over, are not held against anybody."""
        futures = {}

        async def first():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(futures["second"]), 0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await futures["held"]
            return "first"

        async def second():
            return await futures["first"]

        with occupied(executor, 2):
            futures["held"] = executor.submit(int)
            futures["second"] = executor.submit(gate)
            futures["first"] = executor.submit(first)
            assert executor.submit(second).result(DEADLINE) == "first"
            gate.open()


class HastyExecutor:
    """Its worker has run what it is given, or is in the loop, before `submit` returns."""

    def __init__(self, executor, loop):
        self._executor, self._loop = executor, loop

    def submit(self, run):
        future = self._executor.submit(run)
        end = time.monotonic() + DEADLINE
        while not (future.done() or self._loop.is_running()):
            assert time.monotonic() < end
            time.sleep(0.001)

    def __getattr__(self, name):
        return getattr(self._executor, name)


class TestCleaningUp:
    """What a coroutine does when its task was cancelled already."""

    @pytest.mark.parametrize("end", [Future.cancel, Future.stop])
    def test_has_its_task_until_it_ends(self, executor, wait_until, end):
        begun, seen = threading.Event(), []

        async def left_behind():
            await asyncio.sleep(0.05)
            seen.append(repr(current_task))

        async def work():
            begun.set()
            try:
                await asyncio.sleep(DEADLINE)
            finally:
                seen.append((current_task.id, current_task.cancelled))
                others.append(asyncio.create_task(left_behind()))

        others = []
        future = executor.submit(work)
        future.add_done_callback(lambda _: seen.append(repr(current_task)))
        assert begun.wait(DEADLINE)
        assert end(future)
        assert wait_until(lambda: len(seen) == 3)
        none = "<current_task: none on this thread>"
        assert (future.id, end is Future.stop) in seen
        assert seen.count(none) == 2

    def test_has_it_after_its_timeout(self, executor):
        seen = []

        async def work():
            try:
                await asyncio.sleep(DEADLINE)
            finally:
                seen.append(current_task.id)

        future = executor._submit_with(_Policy(timeout=0.05), None, work)
        assert isinstance(future.exception(DEADLINE), TaskTimeout)
        assert executor.drain(DEADLINE)
        assert seen == [future.id]


class TestLoop:
    def test_runs_though_its_worker_comes_before_submit_returns(self, monkeypatch, wait_until):
        loop, begun = aio._Loop(), threading.Event()
        hasty = HastyExecutor(loop._executor, loop._loop)
        monkeypatch.setattr(loop, "_executor", hasty)
        # None: it was cancelled, so there is nothing to run.
        loop.start(Mock(begin=lambda canceller: begun.set()))
        assert begun.wait(DEADLINE)
        assert wait_until(lambda: not loop._loop.is_running())
        loop.close()

    def test_is_uvloops_if_that_is_installed(self, executor):
        uvloop = pytest.importorskip("uvloop")

        async def which():
            return asyncio.get_running_loop()

        assert isinstance(executor.submit(which).result(DEADLINE), uvloop.Loop)

    def test_is_asyncios_without_uvloop(self, run_script):
        done = run_script(
            dedent("""
                import asyncio, sys
                sys.modules["uvloop"] = None
                from flask_delay import Executor

                async def which():
                    return type(asyncio.get_running_loop()).__module__

                print(Executor().submit(which).result(20))
            """),
            flags=DEV,
        )
        assert (done.rc, done.err) == (0, "")
        assert done.out.startswith("asyncio.")

    def test_starts_no_thread_before_the_first_coroutine(self, run_script):
        done = run_script(
            dedent("""
                import threading
                from flask_delay import Executor
                executor = Executor()
                executor.submit(int).result(20)
                assert not [t for t in threading.enumerate() if "loop" in t.name]
            """)
        )
        assert (done.rc, done.err) == (0, "")

    @pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
    def test_outlives_a_child_that_raises(self, executor, error, caplog):
        async def leave():
            raise error("on purpose")

        async def start():
            child = asyncio.create_task(leave())
            with pytest.raises(error):
                await child
            return await later("went on")

        assert executor.submit(start).result(DEADLINE) == "went on"
        assert "goes on" in caplog.text

    def test_outlives_someone_who_stops_it(self, executor):
        async def stop():
            asyncio.get_running_loop().stop()
            return await later("went on")

        assert executor.submit(stop).result(DEADLINE) == "went on"
        assert executor.submit(answer).result(DEADLINE) == 42

    def test_runs_on_for_tasks_that_coroutines_left_behind(self, executor):
        ended = threading.Event()

        async def child():
            await later()
            ended.set()

        children = []

        async def start():
            children.append(asyncio.create_task(child()))

        executor.submit(start).result(DEADLINE)
        assert ended.wait(DEADLINE)

    def test_does_not_remember_each_task_next_to_one_left_behind(self, executor):
        async def start():
            open_ = asyncio.Event()
            return asyncio.create_task(open_.wait()), open_, asyncio.get_running_loop()

        child, open_, loop = executor.submit(start).result(DEADLINE)
        for _ in range(100):
            executor.submit(answer).result(DEADLINE)
        # Its callbacks, by the only public way to look at them.
        assert len(gc.get_referents(child)) < 30
        loop.call_soon_threadsafe(open_.set)

    def test_submit_in_a_signal_handler(self, run_script):
        done = run_script(
            dedent("""
                import asyncio, signal, time
                from flask_delay import Executor

                executor = Executor()
                futures = []

                async def work():
                    await asyncio.sleep(0)

                def handler(*_):
                    futures.append(executor.submit(work))

                # Before, because the first one takes longer than the signals are apart.
                executor.submit(work).result(20)
                signal.signal(signal.SIGALRM, handler)
                signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
                for _ in range(3000):
                    futures.append(executor.submit(work))
                signal.setitimer(signal.ITIMER_REAL, 0)
                for future in futures:
                    future.result(20)
                assert len(futures) > 3000
            """)
        )
        assert (done.rc, done.err) == (0, "")


class TestShutdown:
    def test_waits_for_coroutines_and_their_callbacks(self, gate):
        seen = []
        executor = Executor()
        future = executor.submit(gate)
        future.add_done_callback(seen.append)
        assert gate.started.wait(DEADLINE)
        threading.Timer(0.05, gate.open).start()
        executor.shutdown()
        assert future.result(0) == "opened"
        assert seen == [future]

    def test_refuses_more(self, executor):
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(answer)

    def test_without_waiting(self, gate):
        executor = Executor()
        future = executor.submit(gate)
        assert gate.started.wait(DEADLINE)
        executor.shutdown(wait=False)
        gate.open()
        assert future.result(DEADLINE) == "opened"

    def test_cancels_what_has_not_started(self, executor):
        """As for threads, what runs goes on."""
        ran = []

        async def never():
            ran.append(1)

        async def shut_down():
            # On the loop's thread, where no other task starts meanwhile.
            future = executor.submit(never)
            executor.shutdown(wait=False, cancel_futures=True)
            return future

        future = executor.submit(shut_down).result(DEADLINE)
        executor.shutdown()
        assert future.cancelled()
        assert ran == []

    def test_drain_waits_and_says_when_not_in_time(self, executor, gate):
        future = executor.submit(gate)
        assert gate.started.wait(DEADLINE)
        assert not executor.drain(0.01)
        gate.open()
        assert executor.drain(DEADLINE)
        assert future.done()

    def test_dropped_executor(self, gate):
        future = Executor().submit(gate)
        gc.collect()
        assert gate.started.wait(DEADLINE)
        gate.open()
        assert future.result(DEADLINE) == "opened"


PRELUDE = """
import asyncio, gc, logging, os, sys, threading, time
if "uvloop" not in sys.argv:
    sys.modules["uvloop"] = None
from flask import Flask
from flask_delay import Delay, Executor, delay

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
# Development mode tells of slow steps; on a busy machine any may be one.
slow = lambda record: not record.getMessage().startswith("Executing ")
logging.getLogger("asyncio").addFilter(slow)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def kinds():
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return ["asyncio"]
    return ["asyncio", "uvloop"]


@pytest.fixture(params=kinds())
def run(request, run_script):
    """Run a script with each kind of loop, in development mode; nothing may be warned of."""
    return lambda script: run_script(PRELUDE + dedent(script), request.param, flags=DEV)


class TestExit:
    def test_drains_coroutines_and_their_callbacks(self, run):
        done = run("""
            executor = Executor()

            async def work(number):
                await asyncio.sleep(0.1)
                say("end", number)
                if number == 0:
                    executor.submit(work, "child").add_done_callback(lambda _: say("called"))

            for number in range(2):
                executor.submit(work, number).add_done_callback(lambda _: say("called"))
        """)
        assert (done.rc, done.err) == (0, "")
        assert sorted(done.out.split("\n")) == sorted(
            ["", "end 0", "end 1", "end child", "called", "called", "called"]
        )

    def test_when_idle(self, run):
        done = run("""
            async def work():
                await asyncio.sleep(0)

            executor = Executor()
            executor.submit(work).result(20)
        """)
        assert (done.rc, done.out, done.err) == (0, "", "")

    def test_what_does_not_end_in_time_is_cancelled_and_named(self, run):
        done = run("""
            app = Flask("app")
            app.config["DELAY_SHUTDOWN_TIMEOUT"] = 0.2
            Delay(app)

            async def endless():
                try:
                    await asyncio.sleep(60)
                finally:
                    say("finally")

            with app.app_context():
                delay(endless)
        """)
        assert (done.rc, done.out) == (0, "finally\n")
        (warning,) = done.err.splitlines()
        assert warning.startswith("WARNING flask_delay: 1 task did not finish")
        assert "endless" in warning

    @pytest.mark.parametrize(
        "stuck",
        ["time.sleep(60)", "[await suppress() for _ in range(10000)]"],
        ids=["blocks the loop", "suppresses its cancellation"],
    )
    def test_what_never_ends_is_named_too(self, run, stuck):
        done = run(f"""
            app = Flask("app")
            app.config["DELAY_SHUTDOWN_TIMEOUT"] = 0.2
            Delay(app)
            started = threading.Event()

            async def suppress():
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass

            async def stuck():
                started.set()
                {stuck}

            with app.app_context():
                delay(stuck)
            assert started.wait(20)
        """)
        assert (done.rc, done.out) == (0, "")
        (warning,) = done.err.splitlines()
        assert "stuck" in warning

    def test_cancels_tasks_that_coroutines_left_behind(self, run):
        done = run("""
            children = []

            async def child(number):
                try:
                    await asyncio.sleep(0.01 if number == 0 else 60)
                    say("end", number)
                finally:
                    await asyncio.sleep(0.01)
                    say("finally", number)

            async def work():
                children.extend(asyncio.create_task(child(n)) for n in range(3))
                await asyncio.sleep(0)

            Executor().submit(work).result(20)
            while not children[0].done():
                time.sleep(0.01)
        """)
        assert (done.rc, done.err) == (0, "")
        assert sorted(done.out.splitlines()) == ["end 0", "finally 0", "finally 1", "finally 2"]

    def test_cancels_tasks_left_behind_by_the_last_task(self, run):
        done = run("""
            children = set()

            async def child():
                try:
                    await asyncio.sleep(60)
                finally:
                    say("finally")

            async def work():
                await asyncio.sleep(0.1)
                children.add(asyncio.create_task(child()))
                await asyncio.sleep(0)

            executor = Executor()
            executor.submit(work)
        """)
        assert (done.rc, done.out, done.err) == (0, "finally\n", "")

    def test_closes_async_generators(self, run):
        done = run("""
            kept = []

            async def generate():
                try:
                    yield 1
                finally:
                    say("closed")

            async def work():
                generator = generate()
                kept.append(generator)
                await anext(generator)

            Executor().submit(work).result(20)
        """)
        assert (done.rc, done.out, done.err) == (0, "closed\n", "")

    @pytest.mark.skipif(
        sys.version_info[:2] == (3, 12) and sys.version_info < (3, 12, 2),
        reason="CPython 3.12.0 and 3.12.1 start no threads once the exit has begun (gh-113964)",
    )
    def test_to_thread_on_the_way_out(self, run):
        done = run("""
            async def work():
                await asyncio.sleep(0.1)
                say(await asyncio.to_thread(int, "7"))

            Executor().submit(work)
        """)
        assert (done.rc, done.out, done.err) == (0, "7\n", "")

    def test_submit_in_an_exit_function(self, run):
        done = run("""
            import atexit

            async def work(word):
                await asyncio.sleep(0.05)
                say(word)

            def late():
                try:
                    executor.submit(work, "late")
                except RuntimeError:
                    say("refused")

            executor = Executor()
            atexit.register(late)
            executor.submit(work, "early")
        """)
        assert (done.rc, done.out, done.err) == (0, "early\nrefused\n", "")

    def test_hooks_are_not_spammed(self, run):
        done = run("""
            sys.unraisablehook = lambda it: say("unraisable", it)
            threading.excepthook = lambda it: say("excepthook", it)
            executor = Executor(4)

            async def work(number):
                if number % 3 == 0:
                    executor.submit(time.sleep, 0.01)
                await asyncio.sleep(0.01 * (number % 5))

            futures = [executor.submit(work, number) for number in range(200)]
            for future in futures[::7]:
                future.cancel()
        """)
        assert (done.rc, done.out, done.err) == (0, "", "")


@pytest.mark.skipif("not hasattr(__import__('os'), 'fork')")
class TestFork:
    def test_child_has_its_own_loop(self, run):
        done = run("""
            executor = Executor()

            async def where():
                await asyncio.sleep(0.01)
                return os.getpid()

            assert executor.submit(where).result(20) == os.getpid()
            for busy in (False, True):
                held = executor.submit(asyncio.sleep, 0.5, "held") if busy else None
                child = os.fork()
                if child == 0:
                    assert executor.submit(where).result(20) == os.getpid()
                    if busy:
                        try:
                            held.result(0)
                        except RuntimeError as error:
                            say(type(error).__name__)
                    executor.submit(where).add_done_callback(lambda _: say("child drained"))
                    sys.exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert executor.submit(where).result(20) == os.getpid()
                if busy:
                    assert held.result(20) == "held"
        """)
        assert (done.rc, done.err) == (0, "")
        assert done.out.splitlines() == ["child drained", "ForkedFutureError", "child drained"]

    def test_end_of_a_child_does_not_wake_the_parents_loop_no_more(self, run):
        """Both share the selector: a child that closed its copy would cut the parent's."""
        done = run("""
            executor = Executor()

            async def work():
                await asyncio.sleep(0)

            executor.submit(work).result(20)
            child = os.fork()
            if child == 0:
                executor.submit(work).result(20)
                gc.collect()
                sys.exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            # The loop sleeps with nothing but its wake-up call to hear of the next task.
            held = executor.submit(asyncio.sleep, 20)
            for _ in range(20):
                time.sleep(0.01)
                executor.submit(work).result(5)
            held.cancel()
        """)
        assert (done.rc, done.out, done.err) == (0, "", "")

    def test_in_a_coroutine(self, run):
        done = run("""
            executor = Executor()

            async def fork():
                child = os.fork()
                if child == 0:
                    os._exit(7)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

            print(executor.submit(fork).result(20))
        """)
        assert (done.rc, done.out, done.err) == (0, "7\n", "")
