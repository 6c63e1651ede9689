"""The executor: what it is given, how many run it, how it ends."""

import concurrent.futures
import functools
import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_delay import Executor, Future, WaitCycleError, current_task

from .helpers import DEADLINE, Thing, fail, occupied, together


def echo(*args, **kwargs):
    return args, kwargs


# --- Submit and map -----------------------------------------------------------------


@pytest.fixture(scope="module")
def shared():
    with Executor(1) as executor:
        executor.submit(int).result(DEADLINE)
        yield executor


@pytest.mark.parametrize("count", range(21))
@pytest.mark.parametrize("keywords", [0, 1, 5])
def test_any_number_of_arguments(count, keywords, shared):
    args = tuple(object() for _ in range(count))
    kwargs = {f"k{number}": object() for number in range(keywords)}
    assert shared.submit(echo, *args, **kwargs).result(DEADLINE) == (args, kwargs)


values = st.builds(object) | st.none() | st.integers() | st.text(max_size=3) | st.just([])
names = st.text(min_size=1) | st.sampled_from(["self", "fn", "args", "kwargs", "timeout"])


@settings(max_examples=40, deadline=None)
@given(args=st.lists(values, max_size=20), kwargs=st.dictionaries(names, values, max_size=8))
def test_the_function_gets_exactly_what_was_given(args, kwargs, shared):
    given_args, given_kwargs = shared.submit(echo, *args, **kwargs).result(DEADLINE)
    assert (list(given_args), given_kwargs) == (args, kwargs)
    assert list(given_kwargs) == list(kwargs)
    assert all(one is two for one, two in zip(given_args, args, strict=True))
    assert all(given_kwargs[name] is kwargs[name] for name in kwargs)


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (Thing().method, (1, 2), (1, 2)),
        (functools.partial(echo, 1, key=2), (3,), ((1, 3), {"key": 2})),
        (int, ("12",), 12),
        (max, (1, 5, 3), 5),
        ("{} {}".format, (1, 2), "1 2"),
        (type("Callable", (), {"__call__": lambda self, x: x})(), (7,), 7),
    ],
)
def test_any_callable_is_a_task(function, args, expected, shared):
    assert shared.submit(function, *args).result(DEADLINE) == expected


def test_tasks_run_in_the_order_of_submit():
    with Executor(1) as executor:
        order = []
        with occupied(executor):
            for number in range(100):
                executor.submit(order.append, number)
        executor.drain(DEADLINE)
        assert order == list(range(100))


def test_map_gives_results_in_order_and_raises_the_first_error(shared):
    assert list(shared.map(pow, [2, 3, 4], [5, 2, 3])) == [32, 9, 64]
    results = shared.map(int, ["1", "x", "3"])
    assert next(results) == 1
    with pytest.raises(ValueError, match="invalid literal"):
        next(results)


def test_map_cancels_what_is_left_when_time_is_over():
    with Executor(1) as executor:
        with occupied(executor):
            ran = []
            with pytest.raises(TimeoutError):
                list(executor.map(ran.append, range(5), timeout=0.01))
        executor.drain(DEADLINE)
        assert ran == []


def test_submit_from_many_threads_loses_nothing():
    with Executor(2) as executor:
        ran = []

        def submit():
            for _ in range(500):
                executor.submit(ran.append, 1)

        together(*[submit] * 8)
        assert executor.drain(DEADLINE)
        assert len(ran) == 4000


def test_it_is_a_true_executor():
    with Executor() as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert repr(executor).startswith("<Executor delay-")


# --- Workers ------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_workers_run_at_once_and_no_more(limit):
    with Executor(limit) as executor:
        with occupied(executor, limit):
            queued = [executor.submit(int) for _ in range(3)]
            stats = executor.stats()
            assert (stats["running"], stats["threads"], stats["queued"]) == (limit, limit, 3)
            assert not any(future.running() or future.done() for future in queued)
        executor.drain(DEADLINE)
        assert executor.stats()["threads"] <= limit


def test_a_sleeping_worker_is_called_before_a_new_one_is_started():
    with Executor(5) as executor:
        for _ in range(50):
            executor.submit(int).result(DEADLINE)
            assert executor.drain(DEADLINE)
        assert executor.stats()["threads"] == 1


def test_idle_threads_retire_to_one(wait_until):
    with Executor(4, idle_timeout=0.02) as executor:
        for _ in range(2):
            with occupied(executor, 4):
                assert executor.stats()["threads"] == 4
            assert wait_until(lambda: executor.stats()["threads"] == 1)
        assert executor.submit(int).result(DEADLINE) == 0


def test_workers_that_are_about_to_retire_lose_no_task():
    with Executor(4, idle_timeout=0.0005) as executor:
        pause = threading.Event()
        for number in range(300):
            futures = [executor.submit(int) for _ in range(number % 6 + 1)]
            assert [future.result(DEADLINE) for future in futures] == [0] * len(futures)
            # About as long as a worker sleeps, so that it wakes and is called at once.
            pause.wait(number % 10 * 0.0001)


def test_stats_count_everything():
    executor = Executor(2)
    keys = ("queued", "running", "waiting", "idle", "threads", "held", "stuck")
    assert executor.stats() == dict.fromkeys(keys, 0)
    with occupied(executor, 2):
        executor.submit(int)
        assert tuple(executor.stats()[key] for key in keys) == (1, 2, 0, 0, 2, 0, 0)
    assert executor.drain(DEADLINE)
    assert tuple(executor.stats()[key] for key in keys) == (0, 0, 0, 2, 2, 0, 0)
    executor.shutdown()
    assert executor.stats() == dict.fromkeys(keys, 0)


# --- Shutdown -----------------------------------------------------------------------


def test_with_statement_waits_for_what_was_accepted():
    ran = []
    with Executor(1) as executor:
        go = threading.Event()
        executor.submit(go.wait, DEADLINE)
        futures = [executor.submit(ran.append, number) for number in range(10)]
        go.set()
    assert ran == list(range(10))
    assert all(future.done() for future in futures)
    assert executor.stats()["threads"] == 0


def test_shutdown_without_waiting_still_runs_what_was_accepted():
    executor = Executor(1)
    with occupied(executor):
        future = executor.submit(int)
        assert executor.shutdown(wait=False) is None
        assert not future.done()
    assert future.result(DEADLINE) == 0
    executor.shutdown()


def test_shutdown_may_cancel_what_has_not_started():
    executor = Executor(1)
    with occupied(executor) as (running,):
        called = []
        queued = [executor.submit(called.append, 1) for _ in range(100)]
        queued[0].add_done_callback(called.append)
        executor.shutdown(wait=False, cancel_futures=True)
        assert called == [queued[0]]
        assert all(future.cancelled() for future in queued)
        assert running.running()
    with pytest.raises(CancelledError):
        queued[-1].result(0)
    executor.shutdown()
    assert running.result(0) is None


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("wait", [False, True])
def test_submit_after_shutdown_is_refused_and_shutdown_may_be_repeated(used, wait):
    executor = Executor(1)
    if used:
        executor.submit(int).result(DEADLINE)
    executor.shutdown(wait)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)
        executor.shutdown(cancel_futures=True)
    assert executor.drain(0)


def test_shutdown_from_several_threads():
    executor = Executor(2)
    futures = [executor.submit(int) for _ in range(100)]
    together(*[executor.shutdown] * 4)
    assert all(future.done() for future in futures)


def test_submit_races_with_shutdown_nothing_accepted_is_lost():
    for _ in range(100):
        executor, accepted = Executor(2), []

        def submit(executor=executor, accepted=accepted):
            while True:
                try:
                    accepted.append(executor.submit(int))
                except RuntimeError:
                    return

        together(submit, submit, executor.shutdown)
        assert [future.result(DEADLINE) for future in accepted] == [0] * len(accepted)


def test_waiting_for_its_own_pool_is_refused_in_a_task():
    with Executor(1) as executor, Executor(1) as other:
        for wait in (executor.drain, executor.shutdown):
            future = other.submit(lambda: executor.submit(int).result(DEADLINE))
            assert future.result(DEADLINE) == 0
            assert isinstance(executor.submit(wait).exception(DEADLINE), WaitCycleError)


def test_a_task_may_shut_its_pool_down_without_waiting():
    executor = Executor(1)
    executor.submit(executor.shutdown, False).result(DEADLINE)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)
    executor.shutdown()


def test_a_task_may_have_a_pool_of_its_own():
    def task():
        with Executor(1) as inner:
            return inner.submit(int, "5").result(DEADLINE)

    with Executor(1) as executor:
        assert executor.submit(task).result(DEADLINE) == 5


# --- Drain --------------------------------------------------------------------------


def test_drain_waits_for_tasks_that_tasks_submit():
    with Executor(2) as executor:
        ran = []

        def task(depth):
            ran.append(depth)
            if depth:
                executor.submit(task, depth - 1)

        executor.submit(task, 50)
        assert executor.drain(DEADLINE)
        assert ran == list(range(50, -1, -1))
        assert executor.submit(int).result(DEADLINE) == 0


def test_drain_is_limited_in_time():
    with Executor(1) as executor:
        assert executor.drain()
        with occupied(executor):
            for timeout in (0, -1, 0.01):
                start = time.monotonic()
                assert executor.drain(timeout) is False
                assert time.monotonic() - start < DEADLINE / 2
        assert executor.drain(DEADLINE) is True


def test_drain_waits_for_callbacks():
    with Executor(1) as executor:
        go, called = threading.Event(), []
        future = executor.submit(go.wait, DEADLINE)
        future.add_done_callback(lambda _: called.append(go.wait(DEADLINE)))
        go.set()
        assert executor.drain(DEADLINE)
        assert called == [True]


# --- Subclasses, and executors that are dropped --------------------------------------


def test_subclass_with_its_own_signature():
    class Counting(Executor):
        def __init__(self, label, *, size):
            super().__init__(size, thread_name_prefix=label)
            self.count = 0

        def submit(self, fn, /, *args, **kwargs):
            self.count += 1
            return super().submit(fn, *args, **kwargs)

    with Counting("mine", size=1) as executor:
        assert executor.submit(threading.current_thread).result(DEADLINE).name == "mine_0"
        assert list(executor.map(int, "12")) == [1, 2]
        assert executor.count == 3
        assert "Counting mine" in repr(executor)


def test_dropped_executor_runs_what_it_has_and_frees_its_threads(wait_until):
    executor = Executor(3, "dropped")
    go = threading.Event()
    blocked = [executor.submit(go.wait, DEADLINE) for _ in range(3)]
    futures = [executor.submit(int) for _ in range(10)]
    watched = weakref.ref(executor)
    del executor
    assert watched() is None
    assert not any(future.done() for future in blocked + futures)
    go.set()
    assert [future.result(DEADLINE) for future in futures] == [0] * 10

    def workers():
        return [it for it in threading.enumerate() if it.name.startswith("dropped")]

    assert wait_until(lambda: not workers())


def test_executor_dropped_by_its_own_task(wait_until):
    box = [Executor(1, "own")]
    future = box[0].submit(lambda: box.pop() and None)
    assert future.result(DEADLINE) is None
    assert wait_until(lambda: not any(t.name.startswith("own") for t in threading.enumerate()))


def test_current_task_is_the_tasks_handle():
    def task():
        me = current_task
        me.progress(1, 4, "a quarter")
        return me.id, me.future, me.attempt, me.cancelled, me.check()

    with Executor(1) as executor:
        future = executor.submit(task)
        assert future.result(DEADLINE) == (future.id, future, 1, False, None)
        assert future.progress == (1, 4, "a quarter")
        assert (future.progress.done, future.progress.total) == (1, 4)
        assert isinstance(future, Future)
        assert executor.submit(fail).exception(DEADLINE)
    for name in ("id", "future", "attempt", "cancelled"):
        with pytest.raises(RuntimeError, match="no task runs on this thread"):
            getattr(current_task, name)
    gc.collect()
