"""`Executor.map`, with `buffersize` as Python 3.14 has it, on every version."""

import gc
import itertools
import operator
import threading
import time
import weakref
from concurrent.futures import CancelledError
from contextlib import closing

import pytest

from flask_delay import Executor

from .helpers import DEADLINE, occupied


@pytest.fixture
def executor():
    with Executor(2) as executor:
        yield executor


@pytest.fixture
def single():
    with Executor(1) as executor:
        yield executor


class Recorder(Executor):
    """Keeps the futures of its tasks."""

    def __init__(self, max_workers):
        super().__init__(max_workers)
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        self.futures.append(future)
        return future


class TestResults:
    def test_in_the_order_of_the_arguments_whatever_ends_first(self, executor):
        second_done = threading.Event()

        def first_last(number):
            if number == 0:
                assert second_done.wait(DEADLINE)
            else:
                second_done.set()
            return number

        assert list(executor.map(first_last, range(20))) == list(range(20))

    def test_of_several_iterables_as_many_as_the_shortest_has(self, executor):
        results = executor.map(lambda *args: args, "abc", itertools.count(), (10, 20))
        assert list(results) == [("a", 0, 10), ("b", 1, 20)]

    @pytest.mark.parametrize("iterables", [(), ([],), ("ab", [])])
    def test_of_nothing(self, executor, iterables):
        results = executor.map(lambda *_: pytest.fail("called"), *iterables)
        assert list(results) == []

    def test_is_an_iterator_that_stays_exhausted(self, executor):
        results = executor.map(abs, [-1])
        assert iter(results) is results
        assert next(results) == 1
        assert next(results, "end") == "end"
        assert next(results, "end") == "end"

    @pytest.mark.parametrize("chunksize", [1, 3, 0, -1, None])
    def test_chunksize_is_accepted_and_means_nothing(self, executor, chunksize):
        assert list(executor.map(abs, range(-5, 0), chunksize=chunksize)) == [5, 4, 3, 2, 1]

    def test_given_out_are_not_kept(self, executor):
        class Thing:
            pass

        results = executor.map(lambda _: Thing(), range(3))
        for thing in results:
            seen = weakref.ref(thing)
            del thing
            gc.collect()
            assert seen() is None

    def test_not_callable_is_refused_at_once(self, executor):
        with pytest.raises(TypeError, match="callable"):
            executor.map(None, [1])

    def test_not_iterable_is_refused_at_once(self, executor):
        with pytest.raises(TypeError, match="iterable"):
            executor.map(abs, 1)

    def test_after_shutdown(self, executor):
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.map(abs, [1])
        assert list(executor.map(abs, [])) == []


class TestSubmits:
    def test_all_at_once_without_being_asked_for_a_result(self, single):
        numbers = iter(range(10))
        ran = []
        results = single.map(ran.append, numbers)
        assert list(numbers) == []
        assert single.drain(DEADLINE)
        assert ran == list(range(10))
        assert list(results) == [None] * 10

    def test_run_also_if_nobody_wants_the_results(self, single):
        ran = []
        with occupied(single):
            single.map(ran.append, range(10))
            gc.collect()
        assert single.drain(DEADLINE)
        assert ran == list(range(10))

    def test_run_also_if_closed_before_the_first_result(self, single):
        # As with a generator, which has nothing to clean up before it has begun.
        ran = []
        with occupied(single):
            results = single.map(ran.append, range(10))
            results.close()
        assert single.drain(DEADLINE)
        assert ran == list(range(10))
        assert list(results) == []

    def test_through_the_submit_of_a_subclass(self):
        with Recorder(2) as executor:
            assert list(executor.map(operator.add, [1, 2, 3], [10, 20, 30])) == [11, 22, 33]
            assert [future.result() for future in executor.futures] == [11, 22, 33]
            assert list(executor.map(abs, [-4, -5], buffersize=1)) == [4, 5]
            assert len(executor.futures) == 5

    def test_what_the_submit_of_a_subclass_returns_is_the_future(self):
        class Other(Executor):
            def submit(self, fn, /, *args, **kwargs):
                future = super().submit(fn, *args, **kwargs)
                return super().submit(lambda: -future.result())

        with Other(1) as executor:
            assert list(executor.map(abs, [-1, 2])) == [-1, -2]

    def test_an_iterable_that_raises_leaves_the_calls_before(self, single):
        def numbers():
            yield 1
            raise LookupError("made to fail")

        ran = []
        with pytest.raises(LookupError, match="made to fail"):
            single.map(ran.append, numbers())
        assert single.drain(DEADLINE)
        assert ran == [1]


class TestCancels:
    """What has not started, and only that."""

    def start(self, executor, **options):
        """The first result has been taken, the second call runs, the others are queued."""
        release, entered = threading.Event(), threading.Event()

        def call(number):
            if number == 1:
                entered.set()
                assert release.wait(DEADLINE)
            return number

        results = executor.map(call, range(5), **options)
        assert next(results) == 0
        assert entered.wait(DEADLINE)
        return results, release

    def check(self, executor, release):
        first, second, *others = executor.futures
        try:
            assert len(others) == 3
            assert all(future.cancelled() for future in others)
            assert second.running()
        finally:
            release.set()
        assert (first.result(DEADLINE), second.result(DEADLINE)) == (0, 1)

    def test_when_closed(self):
        with Recorder(1) as executor:
            results, release = self.start(executor)
            results.close()
            self.check(executor, release)
            assert list(results) == []
            results.close()

    def test_at_the_end_of_closing(self):
        with Recorder(1) as executor:
            results, release = self.start(executor)
            with closing(results):
                pass
            self.check(executor, release)

    def test_when_dropped(self):
        with Recorder(1) as executor:
            results, release = self.start(executor)
            del results
            gc.collect()
            self.check(executor, release)

    def test_when_time_is_over(self):
        with Recorder(1) as executor:
            results, release = self.start(executor, timeout=0.5)
            with pytest.raises(TimeoutError):
                next(results)
            self.check(executor, release)
            assert list(results) == []

    def test_when_the_one_that_is_due_has_not_started_in_time(self):
        with Recorder(1) as executor:
            with occupied(executor):
                results = executor.map(abs, range(3), timeout=0)
                with pytest.raises(TimeoutError):
                    next(results)
            assert [future.cancelled() for future in executor.futures[1:]] == [True] * 3

    def test_when_a_call_raises(self):
        reached = threading.Event()

        def fail(number):
            if number == 0:
                # Until the others are queued behind it.
                assert reached.wait(DEADLINE)
                raise LookupError("made to fail")
            # The worker is here when the main thread learns of the failure.
            assert release.wait(DEADLINE)

        release = threading.Event()
        with Recorder(1) as executor:
            results = executor.map(fail, range(5))
            reached.set()
            with pytest.raises(LookupError, match="made to fail"):
                next(results)
            release.set()
            assert list(results) == []
            executor.drain(DEADLINE)
            # The second may have started; nothing had begun the others.
            assert all(future.cancelled() for future in executor.futures[2:])

    def test_those_of_a_buffer_and_submits_no_more(self):
        numbers = iter(range(100))
        with Recorder(1) as executor:
            results = executor.map(abs, numbers, buffersize=3)
            assert next(results) == 0
            executor.drain(DEADLINE)
            with occupied(executor):
                assert next(results) == 1
                results.close()
                assert executor.futures[5].cancelled()
            assert next(numbers) == 5
            assert list(results) == []

    def test_a_cancelled_call_is_raised(self):
        with Recorder(1) as executor:
            with occupied(executor):
                results = executor.map(abs, range(3))
                executor.futures[1].cancel()
                with pytest.raises(CancelledError):
                    next(results)
            assert all(future.cancelled() for future in executor.futures[1:])


class TestTimeout:
    def test_is_for_all_results_together(self, executor):
        release = threading.Event()
        waits = [0, 0.3, DEADLINE]
        began = time.monotonic()
        results = executor.map(release.wait, waits, timeout=0.7)
        assert next(results) is False
        assert next(results) is False
        with pytest.raises(TimeoutError):
            next(results)
        # Not 0.3 s and then 0.7 s more.
        assert 0.7 <= time.monotonic() - began < 1.0
        release.set()

    def test_runs_from_the_call_of_map(self, single):
        with occupied(single):
            results = single.map(abs, [1], timeout=0.5)
            time.sleep(0.6)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                next(results)
            assert time.monotonic() - began < 0.4

    def test_that_is_over_takes_nothing_from_what_is_done(self, executor):
        results = executor.map(abs, [-1, -2], timeout=0)
        assert executor.drain(DEADLINE)
        assert list(results) == [1, 2]

    @pytest.mark.parametrize("timeout", [None, DEADLINE, int(DEADLINE), 1e300, float("inf")])
    def test_that_is_long_enough(self, executor, timeout):
        assert list(executor.map(abs, [-1, -2], timeout=timeout)) == [1, 2]

    def test_an_error_of_a_call_is_not_the_end_of_the_time(self, executor):
        def fail(_):
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            next(executor.map(fail, [1], timeout=DEADLINE))

    @pytest.mark.parametrize("timeout", ["1", object()])
    def test_of_the_wrong_type(self, executor, timeout):
        with pytest.raises(TypeError, match="timeout must be a number"):
            executor.map(abs, [1], timeout=timeout)


class TestBuffersize:
    @pytest.mark.parametrize("buffersize", [1, 2, 4, 8, True])
    def test_all_results_in_order(self, executor, buffersize):
        assert list(executor.map(str, range(4), buffersize=buffersize)) == ["0", "1", "2", "3"]

    def test_several_iterables(self, executor):
        results = executor.map(operator.add, itertools.count(), (10, 20, 30), buffersize=2)
        assert list(results) == [10, 21, 32]

    @pytest.mark.parametrize("iterables", [(), ([],)])
    def test_of_nothing(self, executor, iterables):
        assert list(executor.map(str, *iterables, buffersize=2)) == []

    def test_takes_no_more_than_that_before_the_first_result(self, executor):
        numbers = iter(range(10))
        executor.map(str, numbers, buffersize=3)
        assert next(numbers) == 3

    def test_takes_one_more_for_each_result_before_it_is_there(self, single):
        taken = []

        def numbers():
            for number in itertools.count():
                taken.append(number)
                yield number

        results = single.map(abs, numbers(), buffersize=2)
        assert taken == [0, 1]
        for number in range(5):
            assert next(results) == number
            assert taken == list(range(number + 3))

    def test_infinite_iterables(self, executor):
        results = executor.map(operator.mul, itertools.count(), itertools.count(1), buffersize=2)
        assert [next(results) for _ in range(100)] == [n * (n + 1) for n in range(100)]

    def test_an_iterable_that_raises_later(self):
        def numbers():
            yield from range(3)
            raise LookupError("made to fail")

        with Recorder(1) as executor:
            results = executor.map(abs, numbers(), buffersize=2)
            assert next(results) == 0
            # The third is in the buffer; to give out the second, a fourth is asked for.
            with pytest.raises(LookupError, match="made to fail"):
                next(results)
            assert next(results, "end") == "end"

    def test_a_shutdown_in_between(self, executor):
        results = executor.map(abs, itertools.count(), buffersize=2)
        assert next(results) == 0
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            next(results)
        assert next(results, "end") == "end"

    def test_does_not_keep_the_executor(self):
        executor = Executor(1)
        results = executor.map(abs, range(10), buffersize=3)
        seen = weakref.ref(executor)
        del executor
        gc.collect()
        assert seen() is None
        # What was submitted is given out, and nothing more can be.
        assert list(results) == [0, 1, 2]

    def test_timeout(self, single):
        with occupied(single):
            results = single.map(abs, itertools.count(), buffersize=2, timeout=0.05)
            with pytest.raises(TimeoutError):
                next(results)
            assert list(results) == []

    @pytest.mark.parametrize("buffersize", ["2", 2.0, object()])
    def test_of_the_wrong_type(self, executor, buffersize):
        with pytest.raises(TypeError, match="buffersize must be an integer or None"):
            executor.map(str, range(4), buffersize=buffersize)

    @pytest.mark.parametrize("buffersize", [0, -1])
    def test_out_of_range(self, executor, buffersize):
        numbers = iter(range(4))
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            executor.map(str, numbers, buffersize=buffersize)
        assert next(numbers) == 0
