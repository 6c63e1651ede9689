"""What a future tells about its task."""

import concurrent.futures
import copy
import math
import pickle
import threading
import time
import traceback
import weakref
from concurrent.futures import CancelledError, InvalidStateError
from datetime import UTC, datetime, timedelta

import pytest

from flask_delay import Executor, Future

from .helpers import DEADLINE, Gate, Thing, fail, occupied, started


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


# --- Result, exception, time limits -------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "text", (), float("nan"), ValueError("a result")])
def test_result_is_the_very_object_that_was_returned(executor, value):
    future = executor.submit(lambda: value)
    assert future.result(DEADLINE) is value
    assert future.result() is value
    assert future.exception() is None


def test_result_raises_the_tasks_own_exception_with_its_traceback(executor):
    error = ValueError("made to fail")

    def task():
        raise error

    future = executor.submit(task)
    with pytest.raises(ValueError) as caught:
        future.result(DEADLINE)
    assert caught.value is error
    assert future.exception() is error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "task"


def test_exception_keeps_its_cause_and_context(executor):
    def task():
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError from error

    error = executor.submit(task).exception(DEADLINE)
    assert isinstance(error.__cause__, KeyError)


@pytest.mark.parametrize("ask", [Future.result, Future.exception])
@pytest.mark.parametrize("timeout", [0, 0.0, -1, -math.inf, False, 0.001])
def test_time_is_over_at_once(executor, ask, timeout):
    with occupied(executor):
        future = executor.submit(int)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            ask(future, timeout)
        assert time.monotonic() - start < DEADLINE / 2
    assert ask(future, DEADLINE) in (0, None)


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, 10**9, DEADLINE])
def test_long_time_limits_wait(executor, timeout):
    release = threading.Event()
    future = executor.submit(release.wait, DEADLINE)
    timer = threading.Timer(0.02, release.set)
    timer.start()
    assert future.result(timeout) is True
    timer.join()


@pytest.mark.parametrize("ask", [Future.result, Future.exception])
@pytest.mark.parametrize(
    ("timeout", "error"), [(math.nan, ValueError), ("1", TypeError), ([], TypeError)]
)
def test_wrong_time_limit_is_refused(executor, ask, timeout, error):
    with occupied(executor) as (holder,), pytest.raises(error, match="timeout"):
        ask(holder, timeout)


# --- Cancelling ---------------------------------------------------------------------


def test_cancel_of_a_queued_task(executor):
    with occupied(executor):
        calls = []
        future = executor.submit(calls.append, 1)
        assert future.cancel()
        assert future.cancel()
        assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
        assert future.state == "cancelled"
        for ask in (future.result, future.exception):
            with pytest.raises(CancelledError):
                ask(0)
    executor.shutdown()
    assert calls == []
    assert (future.started_at, future.attempts) == (None, 0)


def test_cancel_lets_function_arguments_and_context_go_at_once(executor):
    with occupied(executor):
        function, one, two, three, key = (Thing() for _ in range(5))
        small = executor.submit(function.method, one, two)
        large = executor.submit(function.method, one, two, three, key=key)
        watched = [weakref.ref(thing) for thing in (function, one, two, three, key)]
        del function, one, two, three, key
        assert all(ref() for ref in watched)
        small.cancel()
        large.cancel()
        assert [ref() for ref in watched] == [None] * 5
        assert small.name == large.name == "Thing.method"


def test_cancel_runs_callbacks_in_the_cancelling_thread(executor):
    with occupied(executor):
        future, threads = executor.submit(int), []
        future.add_done_callback(lambda done: threads.append((done, threading.get_ident())))
        future.cancel()
        assert threads == [(future, threading.get_ident())]


def test_cancel_frees_the_queue_place_at_once(executor):
    with occupied(executor):
        futures = [executor.submit(int) for _ in range(3)]
        assert executor.stats()["queued"] == 3
        for future in futures[:2]:
            future.cancel()
        assert executor.stats()["queued"] == 1


# --- State and times ----------------------------------------------------------------


def test_states_and_times_follow_the_task(executor):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with occupied(executor) as (running,):
        pending = executor.submit(fail)
        assert (pending.state, running.state) == ("pending", "running")
        assert (pending.attempts, running.attempts) == (0, 1)
        assert pending.started_at is pending.finished_at is running.finished_at is None
    pending.exception(DEADLINE)
    after = datetime.now(UTC) + timedelta(milliseconds=1)
    assert (pending.state, running.state) == ("finished", "finished")
    for future in (running, pending):
        times = [before, future.enqueued_at, future.started_at, future.finished_at, after]
        assert times == sorted(times)
        assert all(time.tzinfo is UTC for time in times)
    assert running.finished_at <= pending.started_at


def test_time_of_the_end_is_there_for_whoever_learns_of_the_end(executor):
    class Listener:
        def add_result(self, future):
            seen.append((future.done(), future.finished_at))

    seen = []
    with occupied(executor) as (future,), future._condition:
        # As concurrent.futures.wait does.
        future._waiters.append(Listener())
    assert seen == [(True, future.finished_at)]
    assert future.finished_at is not None


def test_a_cancel_that_loses_against_the_start_leaves_no_end(executor):
    first, second, cancelled = Gate(), Gate(), []
    executor.submit(first)
    assert first.entered.wait(DEADLINE)
    future = executor.submit(second)
    # As concurrent.futures.wait does while it looks at the state.
    condition = future._condition
    condition.acquire()
    with started(lambda: cancelled.append(future.cancel())):
        first.open()
        assert second.entered.wait(DEADLINE)
        condition.release()
    assert cancelled == [False]
    assert future.finished_at is None
    second.open()
    future.result(DEADLINE)
    assert future.started_at <= future.finished_at


# --- As an object -------------------------------------------------------------------


def test_repr_tells_state_and_outcome(executor):
    with occupied(executor) as (running,):
        failed, returned, cancelled = (executor.submit(f) for f in (fail, int, int))
        cancelled.cancel()
        assert 'state=running name="' in repr(running)
        assert 'state=pending name="fail"' in repr(failed)
        assert 'state=cancelled name="int"' in repr(cancelled)
    executor.drain(DEADLINE)
    assert 'state=finished raised ValueError name="fail"' in repr(failed)
    assert 'state=finished returned int name="int"' in repr(returned)
    assert repr(Future()).endswith("state=pending>")


def test_it_is_a_true_future(executor):
    future = executor.submit(int)
    assert type(future) is Future
    assert isinstance(future, concurrent.futures.Future)
    assert issubclass(Future, concurrent.futures.Future)
    assert Future[int].__origin__ is Future
    assert len({future, executor.submit(int)}) == 2


def test_it_takes_attributes_and_weak_references(executor):
    with occupied(executor):
        future = executor.submit(int)
        future.mark = mark = Thing()
        refs = weakref.ref(future), weakref.ref(mark)
    assert future.result(DEADLINE) == 0
    assert future.mark is mark
    executor.drain(DEADLINE)
    del future, mark
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize("name", ["id", "name", "state", "started_at", "progress"])
def test_what_it_tells_cannot_be_changed(executor, name):
    future = executor.submit(int)
    with pytest.raises(AttributeError):
        setattr(future, name, None)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_copied(duplicate):
    with pytest.raises(TypeError, match="pickle"):
        duplicate(Future())


# --- Made by hand -------------------------------------------------------------------


def test_handmade_future_keeps_the_standard_protocol():
    future, calls = Future(), []
    future.add_done_callback(calls.append)
    assert (future.state, future.name, future.enqueued_at) == ("pending", "", None)
    assert future.set_running_or_notify_cancel() is True
    assert future.running()
    assert future.set_result(5) is None
    assert (future.result(0), calls, future.state) == (5, [future], "finished")


@pytest.mark.parametrize("error", [ValueError("by hand"), KeyboardInterrupt(), ValueError])
def test_handmade_future_takes_an_exception(error):
    future = Future()
    future.set_exception(error)
    assert future.exception() is error
    with pytest.raises(BaseException) as caught:
        future.result()
    assert caught.value is error or caught.type is error


def test_handmade_future_is_cancelled_then_noticed():
    future = Future()
    assert future.cancel()
    assert future._state == "CANCELLED"
    assert future.set_running_or_notify_cancel() is False
    assert future._state == "CANCELLED_AND_NOTIFIED"
    for change in (future.set_result, future.set_exception):
        with pytest.raises(InvalidStateError):
            change(ValueError())


def test_outcome_is_set_once():
    future = Future()
    future.set_result(1)
    for change in (future.set_result, future.set_exception):
        with pytest.raises(InvalidStateError):
            change(ValueError())
    with pytest.raises(RuntimeError):
        future.set_running_or_notify_cancel()
    assert future.result() == 1


def test_subclasses_have_their_own_signature():
    class Named(Future[int]):
        def __init__(self, label, *, size):
            super().__init__()
            self.label, self.size = label, size

    future = Named("mine", size=3)
    future.set_result(1)
    assert (future.label, future.size, future.result()) == ("mine", 3, 1)
    assert isinstance(future, concurrent.futures.Future)


def test_two_outcomes_by_hand_of_which_one_stands():
    """The state and the outcome are of the same thread, also while the first is held up."""
    for _ in range(20):
        future, entered, refused = Future(), threading.Event(), []

        def set_result(future=future, entered=entered, refused=refused):
            entered.set()
            try:
                future.set_result("first")
            except InvalidStateError as error:
                refused.append(error)

        thread = threading.Thread(target=set_result)
        # The end of a future waits for this.
        with future._condition:
            thread.start()
            assert entered.wait(DEADLINE)
            # Either may come first now; mostly it is the other thread.
            time.sleep(0.001)
            try:
                future.set_exception(LookupError("second"))
            except InvalidStateError as error:
                refused.append(error)
        thread.join(DEADLINE)
        assert len(refused) == 1
        if future.exception(DEADLINE) is None:
            assert future.result() == "first"
        else:
            assert future.exception().args == ("second",)
