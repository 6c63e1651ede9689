"""`await future`: in any running event loop, from several at once, and cancelled."""

import asyncio
import concurrent.futures
import gc
import threading
import weakref

import pytest

from flask_delay import Executor, Future

from .helpers import DEADLINE, as_coroutine


def loops():
    yield pytest.param(asyncio.new_event_loop, id="asyncio")
    try:
        import uvloop
    except ImportError:
        missing = pytest.mark.skip(reason="uvloop is not installed")
        yield pytest.param(None, id="uvloop", marks=missing)
    else:
        yield pytest.param(uvloop.new_event_loop, id="uvloop")


@pytest.fixture(params=loops())
def run(request):
    """As `asyncio.run`, in each kind of loop there is; never longer than the deadline."""

    def run(main, *, deadline=DEADLINE):
        async def limited():
            async with asyncio.timeout(deadline):
                return await main

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(limited())

    return run


@pytest.fixture
def executor():
    with Executor(2, "awaited") as executor:
        yield executor


class Blocked:
    """The executor's workers, each held by a task until `release()`."""

    def __init__(self, executor, workers=2):
        self._release = threading.Event()
        started = threading.Semaphore(0)

        def hold():
            started.release()
            assert self._release.wait(DEADLINE)
            return "held"

        self.tasks = [executor.submit(hold) for _ in range(workers)]
        for _ in self.tasks:
            assert started.acquire(timeout=DEADLINE)

    def release(self):
        self._release.set()


@pytest.fixture
def blocked(executor):
    blocked = Blocked(executor)
    yield blocked
    blocked.release()


def fail():
    raise LookupError("on purpose")


class TestOutcome:
    def test_of_a_task_that_runs(self, run, executor):
        name = run(as_coroutine(executor.submit(lambda: threading.current_thread().name)))
        assert name.startswith("awaited")

    def test_of_a_finished_task(self, run, executor):
        future = executor.submit(int, "7")
        assert future.result(DEADLINE) == 7

        async def main():
            # Nothing to wait for: the loop gets no turn.
            turns = []
            asyncio.get_running_loop().call_soon(turns.append, 1)
            assert await future == 7
            assert await future == 7
            assert turns == []

        run(main())

    def test_of_a_failed_task(self, run, executor):
        future = executor.submit(fail)
        with pytest.raises(LookupError, match="on purpose") as info:
            run(as_coroutine(future))
        assert info.value is future.exception()
        with pytest.raises(LookupError):
            run(as_coroutine(future))

    def test_of_a_cancelled_task(self, run, executor, blocked):
        future = executor.submit(int)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            run(as_coroutine(future))

    def test_of_a_task_that_is_cancelled_meanwhile(self, run, executor, blocked):
        future = executor.submit(int)

        async def main():
            asyncio.get_running_loop().call_later(0.01, future.cancel)
            with pytest.raises(asyncio.CancelledError):
                await future

        run(main())

    def test_of_a_task_that_raised_stop_iteration(self, run, executor):
        future = executor.submit(next, iter(()))
        with pytest.raises(RuntimeError) as info:
            run(as_coroutine(future))
        assert isinstance(info.value.__cause__, StopIteration)

    def test_of_a_future_made_by_hand(self, run):
        future = Future()
        threading.Timer(0.01, future.set_result, ["by hand"]).start()
        assert run(as_coroutine(future)) == "by hand"

    def test_needs_a_running_loop(self, executor):
        with pytest.raises(RuntimeError, match="no running event loop"):
            executor.submit(int).__await__().send(None)

    def test_in_a_task(self, executor):
        # Another task's future, in a loop of the task's own.
        future = executor.submit(int, "3")
        task = executor.submit(lambda: asyncio.run(as_coroutine(future)))
        assert task.result(DEADLINE) == 3


class TestWithAsyncio:
    def test_gather(self, run, executor):
        async def main():
            return await asyncio.gather(*(executor.submit(pow, n, 2) for n in range(50)))

        assert run(main()) == [n * n for n in range(50)]

    def test_gather_with_exceptions(self, run, executor):
        async def main():
            futures = executor.submit(int), executor.submit(fail)
            return await asyncio.gather(*futures, return_exceptions=True)

        zero, error = run(main())
        assert zero == 0
        assert isinstance(error, LookupError)

    def test_task_group(self, run, executor):
        async def main():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(as_coroutine(executor.submit(int))) for _ in range(9)]
            return [task.result() for task in tasks]

        assert run(main()) == [0] * 9

    def test_task_group_that_fails_cancels_the_rest(self, run, executor):
        async def main(waiting):
            async with asyncio.TaskGroup() as group:
                group.create_task(as_coroutine(waiting))
                group.create_task(as_coroutine(failing))

        failing = executor.submit(fail)
        blocked = Blocked(executor)
        waiting = executor.submit(int)
        with pytest.raises(ExceptionGroup) as info:
            run(main(waiting))
        assert info.group_contains(LookupError, match="on purpose")
        assert waiting.cancelled()
        blocked.release()

    def test_as_completed(self, run, executor):
        async def main():
            futures = [executor.submit(int, n) for n in range(20)]
            return sorted([await done for done in asyncio.as_completed(futures)])

        assert run(main()) == list(range(20))

    def test_wait_for_in_time(self, run, executor):
        async def main():
            return await asyncio.wait_for(executor.submit(int, "5"), DEADLINE)

        assert run(main()) == 5

    def test_wait_for_too_long_cancels(self, run, executor, blocked):
        waiting = executor.submit(int)
        with pytest.raises(TimeoutError):
            run(asyncio.wait_for(waiting, 0.01))
        assert waiting.cancelled()

    def test_timeout_cancels(self, run, executor, blocked):
        waiting = executor.submit(int)

        async def main():
            async with asyncio.timeout(0.01):
                await waiting

        with pytest.raises(TimeoutError):
            run(main())
        assert waiting.cancelled()

    def test_shield(self, run, executor, blocked):
        waiting = executor.submit(int)

        async def main():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waiting), 0.01)
            assert waiting.state == "pending"
            blocked.release()
            return await waiting

        assert run(main()) == 0

    def test_wrap_future(self, run, executor):
        async def main():
            return await asyncio.wrap_future(executor.submit(int, "6"))

        assert run(main()) == 6

    def test_the_loop_goes_on_meanwhile(self, run, executor, blocked):
        async def main():
            turns = 0

            async def tick():
                nonlocal turns
                while turns < 20:
                    await asyncio.sleep(0)
                    turns += 1
                blocked.release()

            ticker = asyncio.create_task(tick())
            assert await blocked.tasks[0] == "held"
            await ticker
            return turns

        assert run(main()) == 20


class TestCancel:
    def test_of_a_task_that_has_not_started(self, run, executor, blocked):
        waiting = executor.submit(int)
        notified = []
        waiting.add_done_callback(notified.append)

        async def main():
            awaiting = asyncio.create_task(as_coroutine(waiting))
            await asyncio.sleep(0)
            assert awaiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaiting

        run(main())
        assert waiting.cancelled()
        assert notified == [waiting]

    def test_of_a_task_that_runs_leaves_it(self, run, executor, blocked):
        running = blocked.tasks[0]

        async def main():
            awaiting = asyncio.create_task(as_coroutine(running))
            await asyncio.sleep(0)
            awaiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaiting
            assert running.running()
            blocked.release()
            return await running

        assert run(main()) == "held"

    def test_comes_through_when_the_task_is_done_at_the_same_time(self, run):
        async def main():
            future = Future()
            awaiting = asyncio.create_task(as_coroutine(future))
            await asyncio.sleep(0)
            future.set_result(1)
            # The loop has been told, and the awaiting task has not had its turn.
            awaiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaiting
            assert future.result() == 1

        run(main())

    def test_leaves_nothing_behind_on_a_future_that_goes_on(self, run):
        class Marker:
            pass

        future = Future()
        future.set_running_or_notify_cancel()
        references = []

        async def wait_with(marker):
            references.append(weakref.ref(marker))
            await future

        async def main():
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(wait_with(Marker()), 0.001)

        before = len(gc.get_referents(future))
        run(main())
        gc.collect()
        assert [ref() for ref in references] == [None] * 10
        assert len(gc.get_referents(future)) == before


class TestSeveralLoops:
    def test_on_one_future(self, run, executor, blocked):
        waiting = executor.submit(lambda: threading.current_thread().name)
        awaiting = threading.Barrier(9)

        async def main():
            asyncio.get_running_loop().call_soon(awaiting.wait, DEADLINE)
            return await waiting

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            names = [threads.submit(run, main()) for _ in range(8)]
            awaiting.wait(DEADLINE)
            blocked.release()
            (name,) = {name.result(DEADLINE) for name in names}
        assert name.startswith("awaited")

    def test_one_of_them_cancels_for_all(self, run, executor, blocked):
        waiting = executor.submit(int)
        awaiting = threading.Event()

        async def patient():
            asyncio.get_running_loop().call_soon(awaiting.set)
            await waiting

        async def hasty():
            async with asyncio.timeout(0.01):
                await waiting

        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            other = threads.submit(run, patient())
            assert awaiting.wait(DEADLINE)
            with pytest.raises(TimeoutError):
                run(hasty())
            # `concurrent.futures` makes its own error of asyncio's.
            with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
                other.result(DEADLINE)

    def test_loop_closed_before_the_task_ends(self, run_script):
        done = run_script(
            """if True:
            import asyncio, threading
            from flask_delay import Executor

            release = threading.Event()
            executor = Executor(1)
            started = threading.Event()
            held = executor.submit(lambda: (started.set(), release.wait(20))[1])
            assert started.wait(20)

            async def left_behind():
                await held

            # Not asyncio.run, which would cancel the await.
            loop = asyncio.new_event_loop()
            coroutine = left_behind()
            # A step by hand, so that no asyncio task is left to complain.
            async def main():
                coroutine.send(None)
            loop.run_until_complete(main())
            loop.close()
            release.set()
            assert held.result(20)
            print("done")
            """,
            flags=("-X", "dev", "-W", "error"),
        )
        assert (done.rc, done.out, done.err) == (0, "done\n", "")

    def test_loop_that_was_stopped_with_the_await_cancelled(self, run_script):
        done = run_script(
            """if True:
            import asyncio, threading
            from flask_delay import Executor

            release = threading.Event()
            executor = Executor(1)
            started = threading.Event()
            held = executor.submit(lambda: (started.set(), release.wait(20))[1])
            assert started.wait(20)

            async def main():
                asyncio.create_task(wait())
                await asyncio.sleep(0)

            async def wait():
                await held

            asyncio.run(main())
            release.set()
            assert held.result(20)
            print("done")
            """,
            flags=("-X", "dev", "-W", "error"),
        )
        assert (done.rc, done.out, done.err) == (0, "done\n", "")


def test_no_wake_up_is_lost(run, executor):
    """Tasks that end at the very moment they begin to be awaited."""

    async def main():
        for _ in range(300):
            futures = [executor.submit(int, n) for n in range(20)]
            assert await asyncio.gather(*futures) == list(range(20))

    run(main(), deadline=2 * DEADLINE)


def test_no_wake_up_is_lost_in_one_of_several_loops(run, executor):
    rounds = 300
    start = threading.Barrier(4)
    shared = [[None] * 5 for _ in range(rounds)]

    async def main(submits):
        for batch in shared:
            if submits:
                batch[:] = [executor.submit(int, n) for n in range(5)]
            start.wait(DEADLINE)
            assert await asyncio.gather(*batch) == list(range(5))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        done = [threads.submit(run, main(n == 0), deadline=2 * DEADLINE) for n in range(4)]
        for thread in done:
            thread.result(2 * DEADLINE)


def test_awaits_and_cancellations_race(run, executor):
    """A cancelled await never loses a result that another one waits for."""

    async def main():
        outcomes = {"done": 0, "cancelled": 0}
        for number in range(300):
            future = executor.submit(int, number)
            first = asyncio.create_task(as_coroutine(future))
            second = asyncio.create_task(as_coroutine(future))
            await asyncio.sleep(0)
            first.cancel()
            results = await asyncio.gather(first, second, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError) or results[0] == number
            if future.cancelled():
                assert isinstance(results[1], asyncio.CancelledError)
                outcomes["cancelled"] += 1
            else:
                assert results[1] == number
                outcomes["done"] += 1
        return outcomes

    outcomes = run(main())
    assert sum(outcomes.values()) == 300
