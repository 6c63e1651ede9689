"""Retries: when a task runs again, what it is meanwhile, and what is kept of it."""

import asyncio
import contextvars
import gc
import logging
import math
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from flask_delay import Executor, QueueFull, Retry, TaskTimeout, current_task
from flask_delay._native import _Policy

from .helpers import (
    DEADLINE,
    Gate,
    Thing,
    fail,
    make,
    occupied,
    spin,
    submit,
    unlogged,
)
from .scripts import EXIT, SUBMIT, unfinished

# Long enough that no second attempt is made while a test lasts.
LATER = Retry(backoff=3600, max_delay=3600, jitter=False)


def soon(times, **options):
    """A policy whose waits are short."""
    return Retry(times, backoff=0.001, **options)


@pytest.fixture
def executor():
    executor = Executor(1)
    yield executor
    # Not those that would be tried again some time.
    executor.shutdown(cancel_futures=True)


class Flaky:
    """Fails so many times with errors of its own, then returns the number of the attempt."""

    def __init__(self, failures, error=ValueError):
        self.failures, self.error = failures, error
        self.errors, self.attempts = [], []

    def __call__(self, *_):
        self.attempts.append(current_task.attempt)
        if len(self.errors) < self.failures:
            self.errors.append(self.error(f"failure {len(self.errors) + 1}"))
            raise self.errors[-1]
        return current_task.attempt


class Waits:
    """A task that has failed, and waits for its next attempt."""

    def __init__(self, executor, *args, wait_until, **options):
        self.flaky, self.called = Flaky(1), []
        self.future = submit(executor, self.flaky, *args, retry=LATER, **options)
        self.future.add_done_callback(self.called.append)
        assert wait_until(lambda: self.future.attempts == 1 and self.future.state == "pending")


@pytest.fixture
def waits(executor, wait_until):
    waits = Waits(executor, wait_until=wait_until)
    yield waits
    waits.future.cancel()


def chain(error):
    """The error, and what it came after."""
    found = []
    while error is not None:
        assert len(found) < 100, "a circle"
        found.append(error)
        error = error.__context__
    return found


def errors_in(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- Attempts -----------------------------------------------------------------------


def test_until_it_succeeds(executor, caplog):
    flaky, called = Flaky(3), []
    future = submit(executor, flaky, retry=soon(5))
    future.add_done_callback(called.append)
    assert future.result(DEADLINE) == 4
    assert executor.drain(DEADLINE)
    assert flaky.attempts == [1, 2, 3, 4]
    assert (future.attempts, future.state, called) == (4, "finished", [future])
    assert future.exception(0) is None
    # It has not failed, but nothing that was raised goes unseen.
    assert errors_in(caplog) == []
    assert sum(future.id in record.getMessage() for record in caplog.records) == 3


@pytest.mark.parametrize("retry", [soon(2), soon(0), 0])
def test_no_more_than_so_many_times(executor, caplog, retry):
    flaky = Flaky(100)
    future = submit(executor, flaky, retry=retry)
    error = future.exception(DEADLINE)
    times = retry if isinstance(retry, int) else retry.times
    assert flaky.attempts == list(range(1, times + 2))
    assert future.attempts == times + 1
    # The last one, and before it all others in order.
    assert error is flaky.errors[-1]
    assert chain(error) == flaky.errors[::-1]
    assert [record.exc_info[1] for record in errors_in(caplog)] == [error]


def test_errors_with_a_context_of_their_own(executor):
    raised = []

    def task():
        try:
            fail()
        except ValueError as cause:
            raised.append(cause)
            raised.append(KeyError(current_task.attempt))
            raise raised[-1] from cause

    error = submit(executor, task, retry=soon(2)).exception(DEADLINE)
    assert chain(error) == raised[::-1]
    assert error.__cause__ is raised[-2]


def test_the_same_error_each_time(executor):
    error = ValueError("the one and only")

    def task():
        raise error

    future = submit(executor, task, retry=soon(5))
    assert future.exception(DEADLINE) is error
    assert future.attempts == 6
    assert chain(error) == [error]


def test_two_errors_in_turn(executor):
    errors = [ValueError("one"), ValueError("two")]

    def task():
        raise errors[current_task.attempt % 2]

    future = submit(executor, task, retry=soon(4))
    assert future.exception(DEADLINE) is errors[1]
    # Whatever the chain, whoever prints it comes to an end.
    assert set(chain(errors[1])) == set(errors)


def test_what_the_policy_is_asked(executor):
    asked = []

    class Policy:
        def _after(self, exception, attempt):
            asked.append((exception, attempt))
            return 0.001 if attempt < 3 else None

    flaky = Flaky(100)
    future = executor._submit_with(_Policy(retry=Policy()), None, flaky)
    assert future.exception(DEADLINE) is flaky.errors[-1]
    assert asked == list(zip(flaky.errors, [1, 2, 3], strict=True))


def test_a_policy_that_fails_ends_the_task(executor, caplog):
    class Policy:
        def _after(self, exception, attempt):
            raise LookupError("the policy")

    future = executor._submit_with(_Policy(retry=Policy()), None, fail)
    # One of the two, and the other one can be seen too.
    assert isinstance(future.exception(DEADLINE), (LookupError, ValueError))
    assert "the policy" in caplog.text
    assert "made to fail" in caplog.text
    assert future.attempts == 1
    assert executor.submit(int).result(DEADLINE) == 0


def test_it_waits_as_long_as_the_policy_says(executor):
    starts = []

    def task():
        starts.append(time.monotonic())
        fail()

    submit(executor, task, retry=Retry(2, backoff=0.05, jitter=False)).exception(DEADLINE)
    first, second, third = starts
    assert second - first >= 0.05
    assert third - second >= 0.1


def test_times_are_those_of_the_last_attempt(executor):
    future = submit(executor, Flaky(2), retry=soon(2))
    future.result(DEADLINE)
    assert future.enqueued_at < future.started_at <= future.finished_at


def test_a_task_may_wait_for_one_that_is_tried_again(executor):
    def outer():
        return submit(executor, Flaky(3), retry=soon(3)).result(DEADLINE)

    assert executor.submit(outer).result(DEADLINE) == 4


def test_many_at_once(executor):
    flakies = [Flaky(number % 4) for number in range(500)]
    futures = [submit(executor, flaky, retry=soon(3)) for flaky in flakies]
    assert [future.result(DEADLINE) for future in futures] == [n % 4 + 1 for n in range(500)]
    assert executor.stats()["held"] == 0


# --- While it waits -----------------------------------------------------------------


def test_it_is_pending_and_keeps_no_worker(executor, waits, wait_until):
    future = waits.future
    assert executor.submit(int).result(DEADLINE) == 0
    assert (future.running(), future.done(), future.cancelled()) == (False, False, False)
    keys = ("held", "queued", "running")
    assert wait_until(lambda: [executor.stats()[key] for key in keys] == [1, 0, 0])
    with pytest.raises(TimeoutError):
        future.result(0.01)
    assert executor.drain(0.01) is False
    assert waits.called == []


@pytest.mark.parametrize("way", ["cancel", "stop"])
def test_it_may_be_cancelled(executor, waits, way):
    assert getattr(waits.future, way)() is True
    assert waits.future.cancelled()
    assert waits.called == [waits.future]
    with pytest.raises(CancelledError):
        waits.future.result(0)
    assert executor.drain(DEADLINE)
    assert executor.stats()["held"] == 0
    assert waits.flaky.attempts == [1]


def test_one_that_is_cancelled_while_it_is_held_is_not_taken_off_the_queue(wait_until):
    with Executor(1) as executor:
        held = submit(executor, fail, retry=Retry(waits=[60]))
        assert wait_until(lambda: executor.stats()["held"] == 1)
        with occupied(executor):
            queued = [executor.submit(int) for _ in range(2)]
            assert held.cancel()
            assert executor.stats()["queued"] == len(queued)


def test_what_it_needs_is_kept_until_it_is_cancelled(executor, wait_until):
    argument = Thing()
    watched = weakref.ref(argument)
    with unlogged():
        waits = Waits(executor, argument, wait_until=wait_until)
    del argument
    gc.collect()
    assert watched() is not None
    assert waits.future.cancel()
    waits.flaky.errors.clear()
    gc.collect()
    assert watched() is None


def test_cancelled_as_it_starts_again():
    """Each ends once: as it was cancelled, or with its result."""
    with Executor(2) as executor:
        called, cancelled = [], []
        for _ in range(500):
            future = submit(executor, Flaky(1), retry=Retry(1, backoff=0.0005))
            future.add_done_callback(called.append)
            while future.attempts == 0:
                time.sleep(0)
            if future.cancel():
                cancelled.append(future)
        assert executor.drain(DEADLINE)
        assert len(called) == len(set(called)) == 500
        assert all(it.cancelled() or it.result(0) == 2 for it in called)
        assert {it for it in called if it.cancelled()} == set(cancelled)


def test_it_stays_the_only_one_of_its_key(executor, wait_until):
    waits = Waits(executor, key="key", unique=True, wait_until=wait_until)
    assert submit(executor, int, key="key", unique=True) is waits.future
    assert waits.future.cancel()
    assert submit(executor, int, key="key", unique=True).result(DEADLINE) == 0


def test_others_of_its_key_may_run(executor, wait_until):
    waits = Waits(executor, key="key", limit=1, wait_until=wait_until)
    assert submit(executor, int, key="key", limit=1).result(DEADLINE) == 0
    assert waits.future.cancel()


def test_the_limit_of_its_key_holds_when_it_comes_back():
    with Executor(2) as executor:
        gate, flaky, order = Gate(), Flaky(1), []
        first = submit(executor, flaky, key="key", limit=1, retry=soon(1))
        second = submit(executor, gate, key="key", limit=1)
        first.add_done_callback(lambda _: order.append(gate.over))
        assert gate.entered.wait(DEADLINE)
        # It has come back when its wait is over, and there is a worker for it.
        assert executor.submit(int).result(DEADLINE) == 0
        assert not first.done()
        gate.open()
        assert (first.result(DEADLINE), second.result(DEADLINE)) == (2, None)
        assert executor.drain(DEADLINE)
        assert order == [True]


def test_it_needs_no_place_in_the_queue(wait_until):
    with Executor(1, queue_size=1, when_full="raise") as executor:
        begun, gate = Gate(), Gate()

        def work():
            if current_task.attempt == 1:
                begun()
                raise ValueError
            return current_task.attempt

        def fill():
            behind.append(executor.submit(int))
            return gate()

        behind = []
        future = submit(executor, work, retry=soon(1))
        assert begun.entered.wait(DEADLINE)
        executor.submit(fill)
        begun.open()
        # The queue is full from now on, and the second attempt comes into it.
        assert gate.entered.wait(DEADLINE)
        assert wait_until(lambda: executor.stats()["queued"] == 2)
        with pytest.raises(QueueFull):
            executor.submit(int)
        gate.open()
        assert (future.result(DEADLINE), behind[0].result(DEADLINE)) == (2, 0)


def test_shutdown_waits_for_it():
    executor = Executor(1)
    future = submit(executor, Flaky(2), retry=Retry(2, backoff=0.05))
    executor.shutdown()
    assert future.result(0) == 3
    executor = Executor(1)
    future = submit(executor, Flaky(2), retry=Retry(2, backoff=0.05))
    executor.shutdown(wait=False)
    assert future.result(DEADLINE) == 3
    executor.shutdown()


def test_shutdown_may_cancel_it(executor, waits):
    executor.shutdown(cancel_futures=True)
    assert waits.future.cancelled()
    assert waits.called == [waits.future]
    assert executor.stats()["held"] == 0


def test_after_cancelling_all_nothing_is_tried_again():
    executor = Executor(1)
    gate, attempts = Gate(), []

    def task():
        attempts.append(1)
        gate()
        fail()

    future = submit(executor, task, retry=soon(100))
    assert gate.entered.wait(DEADLINE)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    executor.shutdown()
    # It had started, so it runs to its end; a next attempt has not started.
    assert attempts == [1]
    assert future.cancelled() or isinstance(future.exception(0), ValueError)


def test_drain_waits_for_it(executor):
    future = submit(executor, Flaky(2), retry=Retry(2, backoff=0.05))
    assert executor.drain(DEADLINE)
    assert future.result(0) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")
class TestAtExit:
    PRELUDE = (
        EXIT
        + SUBMIT
        + textwrap.dedent("""
            import logging
            from flask_delay import Retry

            logging.getLogger("flask_delay").setLevel(logging.ERROR)
        """)
    )

    def test_it_runs(self, run_script):
        done = run_script(
            self.PRELUDE
            + textwrap.dedent("""
                executor = Executor(1)

                def flaky():
                    assert leaving.wait(20)
                    write(current_task.attempt)
                    if current_task.attempt < 4:
                        raise LookupError

                submit(executor, flaky, retry=Retry(3, backoff=0.02))
            """)
        )
        assert (done.rc, done.out, done.err) == (0, "1\n2\n3\n4\n", "")

    def test_its_time_is_over(self, run_script):
        done = run_script(
            self.PRELUDE
            + textwrap.dedent("""
                executor = limited(0.2)

                def flaky():
                    write("once")
                    raise LookupError

                logging.getLogger("flask_delay").setLevel(logging.ERROR)
                future = submit(executor, flaky, retry=Retry(3, backoff=3600, max_delay=3600))
                while future.attempts == 0 or future.running():
                    time.sleep(0.001)
                logging.getLogger("flask_delay").setLevel(logging.WARNING)
            """),
            timeout=15.0,
        )
        assert (done.rc, done.out) == (0, "once\n")
        assert unfinished(done.err) == ["flaky"]

    def test_what_would_come_too_late_is_not_waited_for(self, run_script):
        start = time.monotonic()
        done = run_script(
            self.PRELUDE
            + textwrap.dedent("""
                executor = limited(60.0)

                def late():
                    raise LookupError

                def soon():
                    write(current_task.attempt)
                    if current_task.attempt == 1:
                        raise LookupError

                logging.getLogger("flask_delay").setLevel(logging.ERROR)
                for fn, backoff in ((late, 70), (soon, 0.2)):
                    retry = Retry(1, backoff=backoff, max_delay=backoff, jitter=False)
                    submit(executor, fn, retry=retry)
                while executor.stats()["queued"] or executor.stats()["running"]:
                    time.sleep(0.001)
                logging.getLogger("flask_delay").setLevel(logging.WARNING)
            """)
        )
        assert (done.rc, done.out) == (0, "1\n2\n")
        assert unfinished(done.err) == ["late"]
        assert time.monotonic() - start < 20


# --- current_task.retry -------------------------------------------------------------


def test_a_task_asks_for_it(executor, caplog):
    log = []

    def task():
        try:
            log.append(current_task.attempt)
            if current_task.attempt < 3:
                current_task.retry(after=0.001)
                log.append("not reached")
            return current_task.attempt
        finally:
            log.append("left")

    future = executor.submit(task)
    assert future.result(DEADLINE) == 3
    assert future.attempts == 3
    assert log == [1, "left", 2, "left", 3, "left"]
    # Asked for, so no failure.
    assert errors_in(caplog) == []


@pytest.mark.parametrize("after", [None, 0, 0.001])
def test_without_a_policy_it_is_asked_for_as_often_as_one_likes(executor, after):
    def task():
        if current_task.attempt < 50:
            current_task.retry(after)
        return current_task.attempt

    assert executor.submit(task).result(DEADLINE) == 50


def test_it_waits_as_long_as_it_was_asked_to(executor, wait_until):
    starts = []

    def task(after):
        starts.append(time.monotonic())
        if current_task.attempt == 1:
            current_task.retry(after)

    # Not as long as the policy says.
    submit(executor, task, 0.05, retry=LATER).result(DEADLINE)
    assert starts[1] - starts[0] >= 0.05
    future = submit(executor, task, 3600)
    assert wait_until(lambda: future.attempts == 1 and future.state == "pending")
    assert executor.submit(int).result(DEADLINE) == 0
    assert future.cancel()
    # As long as the policy says.
    future = submit(executor, task, None, retry=LATER)
    assert wait_until(lambda: future.attempts == 1 and future.state == "pending")
    assert future.cancel()


def test_with_a_policy_it_counts(executor):
    def task():
        current_task.retry(after=0.001)

    future = submit(executor, task, retry=soon(2))
    assert isinstance(future.exception(DEADLINE), RuntimeError)
    assert future.attempts == 3


def test_used_up_it_fails_with_what_was_being_handled(executor):
    raised = []

    def task():
        try:
            fail()
        except ValueError as error:
            raised.append(error)
            current_task.retry(after=0.001)

    future = submit(executor, task, retry=soon(2))
    assert future.exception(DEADLINE) is raised[-1]
    assert future.attempts == 3
    assert [error for error in chain(raised[-1]) if error in raised] == raised[::-1]


def test_it_is_for_errors_too_that_the_policy_does_not_name(executor):
    def task():
        try:
            fail()
        except ValueError:
            current_task.retry()

    future = submit(executor, task, retry=soon(2, on=LookupError))
    assert isinstance(future.exception(DEADLINE), ValueError)
    assert future.attempts == 3


def test_what_the_task_catches_does_not_stop_it(executor):
    """As tasks do that catch everything for their log."""

    def task():
        try:
            if current_task.attempt == 1:
                current_task.retry(after=0)
        except Exception:
            return "swallowed"
        return current_task.attempt

    assert executor.submit(task).result(DEADLINE) == 2


def test_outside_a_task(executor):
    with pytest.raises(RuntimeError, match="no task runs on this thread"):
        current_task.retry()
    results = []

    def callback(_):
        with pytest.raises(RuntimeError):
            current_task.retry()
        results.append(True)

    executor.submit(int).add_done_callback(callback)
    assert executor.drain(DEADLINE)
    assert results == [True]


@pytest.mark.parametrize(
    ("after", "error"),
    [(-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError)],
)
def test_it_refuses_what_is_no_time(executor, after, error):
    def task():
        with pytest.raises(error, match="after"):
            current_task.retry(after)
        return current_task.attempt

    assert executor.submit(task).result(DEADLINE) == 1


def test_it_asks_in_vain_at_the_end_too():
    """Without another attempt there is nothing that could be cancelled."""
    executor = Executor(1)
    entered, end = threading.Event(), threading.Event()

    def task():
        entered.set()
        assert end.wait(DEADLINE)
        current_task.retry()

    with unlogged():
        future = submit(executor, task, retry=0)
        assert entered.wait(DEADLINE)
        executor.shutdown(wait=False, cancel_futures=True)
        end.set()
        assert "used up" in str(future.exception(DEADLINE))
    executor.shutdown()


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_each_attempt_has_the_context_as_it_was_at_submit(executor, kind):
    color, seen = contextvars.ContextVar("color"), []

    def plain():
        seen.append(color.get())
        color.set("of the last attempt")
        if current_task.attempt < 3:
            raise ValueError

    async def coroutine():
        plain()

    color.set("of the submitter")
    task = plain if kind == "plain" else coroutine
    assert submit(executor, task, retry=soon(2)).result(DEADLINE) is None
    assert seen == ["of the submitter"] * 3


# --- With other policies, and other kinds of tasks ----------------------------------


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_modes_without_threads_do_not_wait(mode):
    executor, flaky = make(mode), Flaky(2)

    def asks():
        if current_task.attempt < 3:
            current_task.retry(after=3600)
        return current_task.attempt

    futures = [
        submit(executor, flaky, retry=LATER),
        executor.submit(asks),
        submit(executor, Flaky(100), retry=Retry(1, backoff=3600)),
    ]
    if mode == "manual":
        executor.run_pending()
    assert [future.attempts for future in futures] == [3, 3, 2]
    assert [future.result(0) for future in futures[:2]] == [3, 3]
    assert isinstance(futures[2].exception(0), ValueError)
    executor.shutdown()


def test_manual_mode_one_at_a_time():
    executor, flaky = make("manual"), Flaky(1)
    future = submit(executor, flaky, retry=LATER)
    assert executor.run_pending(1) == 1
    assert (future.attempts, future.state) == (1, "pending")
    assert executor.run_pending() == 1
    assert (future.attempts, future.result(0)) == (2, 2)


def test_coroutines(executor, caplog):
    attempts = []

    async def flaky():
        await asyncio.sleep(0)
        attempts.append((current_task.attempt, threading.current_thread().name[:10]))
        if len(attempts) < 3:
            fail()
        return "done"

    future = submit(executor, flaky, retry=soon(2))
    assert future.result(DEADLINE) == "done"
    assert attempts == [(number, "delay-loop") for number in (1, 2, 3)]
    assert errors_in(caplog) == []

    async def asks():
        await asyncio.sleep(0)
        if current_task.attempt < 3:
            current_task.retry(after=0.001)
        return current_task.attempt

    assert executor.submit(asks).result(DEADLINE) == 3

    async def hopeless():
        await asyncio.sleep(0)
        raise KeyError(current_task.attempt)

    error = submit(executor, hopeless, retry=soon(2)).exception(DEADLINE)
    assert [it.args for it in chain(error)] == [(3,), (2,), (1,)]


def test_a_coroutine_that_waits_may_be_cancelled(executor, wait_until):
    async def flaky():
        fail()

    future = submit(executor, flaky, retry=LATER)
    assert wait_until(lambda: future.attempts == 1 and future.state == "pending")
    assert executor.stats()["held"] == 1
    assert future.cancel()
    assert executor.drain(DEADLINE)


def test_a_timeout_for_each_attempt(executor):
    times = []

    def task():
        times.append(time.monotonic())
        if current_task.attempt < 3:
            spin()
        return current_task.attempt

    future = submit(executor, task, timeout=0.05, retry=soon(2, on=TaskTimeout))
    assert future.result(DEADLINE) == 3
    # Three of them take longer than one may.
    assert times[-1] - times[0] >= 0.1
    future = submit(executor, spin, timeout=0.01, retry=soon(2, unless=TaskTimeout))
    assert isinstance(future.exception(DEADLINE), TaskTimeout)
    assert future.attempts == 1


def test_the_time_between_attempts_is_nobodys_timeout(executor):
    future = submit(executor, Flaky(1), timeout=0.05, retry=Retry(1, backoff=0.15, jitter=False))
    assert future.result(DEADLINE) == 2


def test_expires_is_for_the_first_start(executor):
    future = submit(executor, Flaky(1), expires=0.1, retry=Retry(1, backoff=0.2, jitter=False))
    assert future.result(DEADLINE) == 2


def test_stop_of_a_running_attempt_is_the_end(executor):
    entered = threading.Event()

    def task():
        entered.set()
        spin()

    future = submit(executor, task, retry=soon(5, on=BaseException))
    assert entered.wait(DEADLINE)
    assert future.stop(after=0)
    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    assert executor.drain(DEADLINE)
    assert future.attempts == 1


def test_priority_is_kept(wait_until):
    with Executor(1) as executor:
        gate, order = Gate(), []

        def asks():
            if current_task.attempt == 1:
                executor.submit(gate)
                for _ in range(3):
                    executor.submit(order.append, "plain")
                current_task.retry(after=0)
            order.append("high")

        future = submit(executor, asks, priority=5)
        # It has come back behind the gate, or before it.
        assert wait_until(lambda: future.done() or executor.stats()["queued"] == 4)
        gate.open()
        assert executor.drain(DEADLINE)
        assert future.attempts == 2
        assert order == ["high"] + ["plain"] * 3


# --- Memory -------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_arguments_are_let_go_at_the_end(executor, failures):
    flaky, argument = Flaky(failures), Thing()
    watched = weakref.ref(argument)
    with unlogged(), occupied(executor):
        future = submit(executor, flaky, argument, retry=soon(2))
        del argument
    with unlogged():
        future.exception(DEADLINE)
        assert executor.drain(DEADLINE)
    for error in flaky.errors:
        # Its frames have it.
        error.__traceback__ = None
    gc.collect()
    assert watched() is None


def test_thousands_leave_nothing(executor):
    tasks = weakref.WeakSet()
    with unlogged():
        for number in range(1000):
            flaky = Flaky(number % 3)
            tasks.add(flaky)
            submit(executor, flaky, retry=soon(1))
            del flaky
        assert executor.drain(DEADLINE)
    gc.collect()
    assert len(tasks) == 0
