"""`then`, `gather` and `chain`: tasks that follow others."""

import concurrent.futures
import contextvars
import gc
import threading
from concurrent.futures import CancelledError

import pytest

from flask_delay import (
    DuplicateTask,
    Executor,
    Future,
    Retry,
    TaskExpired,
    TaskTimeout,
    chain,
    current_task,
    gather,
)

from .helpers import DEADLINE, Gate, double, double_async, fail, occupied, spin, submit, then

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


async def generate(value):
    yield value


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


# --- then ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", [double, double_async])
def test_then_calls_with_the_result(executor, step):
    future = executor.submit(int, "3").then(step)
    assert type(future) is Future
    assert future.result(DEADLINE) == 6
    assert future.name == step.__name__
    assert future.started_at >= future.enqueued_at
    assert future.attempts == 1


@pytest.mark.parametrize("source", [double, double_async])
def test_steps_follow_each_other(executor, source):
    future = executor.submit(source, 1)
    for step in (double, double_async, double_async, double):
        future = future.then(step)
    assert future.result(DEADLINE) == 32


def test_a_step_is_a_task_that_is_held(executor):
    gate = Gate()
    first = executor.submit(gate, 3)
    future = first.then(double)
    assert gate.entered.wait(DEADLINE)
    assert future.state == "pending"
    assert executor.stats()["held"] == 1
    assert executor._get(future.id) is future
    assert not executor.drain(0)
    gate.open()
    assert future.result(DEADLINE) == 6
    assert executor.drain(DEADLINE)
    assert executor.stats()["held"] == 0


def test_several_follow_one(executor):
    with occupied(executor):
        first = executor.submit(int, "3")
        futures = [first.then(lambda value, n=n: value + n) for n in range(50)]
    assert [future.result(DEADLINE) for future in futures] == list(range(3, 53))


def test_then_of_a_future_that_is_done(executor):
    first = executor.submit(int, "3")
    first.result(DEADLINE)
    assert first.then(double).result(DEADLINE) == 6


def test_a_step_runs_in_the_context_of_who_asked_for_it(executor):
    variable.set("submit")
    with occupied(executor):
        first = executor.submit(variable.get)
        variable.set("then")
        future = first.then(lambda value: (value, variable.get()))
        variable.set("later")
    assert future.result(DEADLINE) == ("submit", "then")


def test_default_callbacks_are_a_steps_too(executor):
    called = []
    executor.add_default_done_callback(called.append)
    with occupied(executor) as (holder,):
        first = executor.submit(int)
        futures = [first.then(double), gather(first)]
    assert executor.drain(DEADLINE)
    assert sorted(map(id, called)) == sorted(map(id, [holder, first, *futures]))


@pytest.mark.parametrize("step", [double, double_async])
def test_a_failure_passes_through(executor, caplog, step):
    calls = []
    first = executor.submit(fail)
    future = first.then(step)
    last = future.then(calls.append)
    assert last.exception(DEADLINE) is first.exception(DEADLINE)
    assert future.exception(DEADLINE) is first.exception()
    assert executor.drain(DEADLINE)
    assert [record.getMessage().split()[1] for record in caplog.records] == ["fail"]
    assert calls == []
    assert last.started_at is None
    assert last.finished_at is not None
    # The same once it is there.
    assert first.then(step).exception(DEADLINE) is first.exception()


def test_a_steps_own_failure_is_logged(executor, caplog):
    future = executor.submit(int).then(fail).then(double)
    assert isinstance(future.exception(DEADLINE), ValueError)
    assert [record.getMessage().split()[1] for record in caplog.records] == ["fail"]


def test_a_step_waits_for_the_last_attempt(executor):
    attempts = []

    def task():
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError
        return len(attempts)

    future = submit(executor, task, retry=Retry(5, backoff=0.001)).then(double)
    assert future.result(DEADLINE) == 6


def test_a_cancellation_passes_through(executor):
    with occupied(executor):
        first = executor.submit(int)
        futures = [first.then(double), first.then(double).then(double), gather(first)]
        assert first.cancel()
        assert all(future.cancelled() for future in futures)
    assert first.then(double).cancelled()
    assert executor.drain(DEADLINE)


def test_a_step_can_be_cancelled(executor):
    with occupied(executor):
        first = executor.submit(int, "3")
        future = first.then(double)
        last, other = future.then(double), first.then(double)
        called = []
        future.add_done_callback(called.append)
        assert future.cancel()
        assert called == [future]
        assert last.cancelled()
        assert executor.stats()["held"] == 1
    assert first.result(DEADLINE) == 3
    assert other.result(DEADLINE) == 6


@pytest.mark.parametrize(("how", "cancelled"), [("cancel", False), ("stop", True)])
def test_a_step_that_runs(executor, how, cancelled):
    entered, end = threading.Event(), threading.Event()

    def step(_):
        entered.set()
        spin(end)

    future = executor.submit(int).then(step)
    assert entered.wait(DEADLINE)
    assert getattr(future, how)() is cancelled
    if not cancelled:
        end.set()
    concurrent.futures.wait([future], DEADLINE)
    assert future.cancelled() is cancelled


@pytest.mark.parametrize("wrong", [None, "text", 3])
def test_what_cannot_be_called_is_refused(executor, wrong):
    future = executor.submit(int)
    with pytest.raises(TypeError, match="the next step must be callable, got"):
        future.then(wrong)
    with pytest.raises(TypeError, match="the next step must be callable, got"):
        chain(int, wrong)


def test_an_async_generator_function_is_a_step(executor):
    assert list(executor.submit(int).then(generate).stream()) == [0]
    assert chain(int, generate)


def test_a_future_made_by_hand_is_refused(executor):
    with pytest.raises(ValueError, match="made by hand"):
        Future().then(double)
    with pytest.raises(ValueError, match="made by hand"):
        gather(executor.submit(int), Future())


@pytest.mark.parametrize("done", [False, True])
def test_after_shutdown(done):
    executor = Executor(1)
    gate = Gate()
    future = executor.submit(gate)
    if done:
        gate.open()
        future.result(DEADLINE)
    executor.shutdown(wait=False)
    for follow in (lambda: future.then(double), lambda: gather(future)):
        with pytest.raises(RuntimeError, match="after shutdown"):
            follow()
    gate.open()
    executor.shutdown()


def test_after_the_executor_has_gone():
    executor = Executor(1)
    future = executor.submit(int)
    future.result(DEADLINE)
    del executor
    gc.collect()
    with pytest.raises(RuntimeError, match="after shutdown"):
        future.then(double)


# --- gather -------------------------------------------------------------------------


def test_gather_gives_the_results_in_order(executor):
    with occupied(executor), Executor(1) as other:
        futures = [executor.submit(int, "1"), other.submit(double_async, 1), other.submit(int, "3")]
        future = gather(*futures, futures[0])
        assert future.name == "gather"
        assert future.state == "pending"
        assert other.drain(DEADLINE)
        assert not future.done()
    assert future.result(DEADLINE) == [1, 2, 3, 1]
    assert gather(*futures).result(DEADLINE) == [1, 2, 3]


def test_gather_needs_no_worker(executor):
    with occupied(executor), Executor(1) as other:
        done = executor.submit(int)
        assert done.cancel()
        both = gather(other.submit(int), done, return_exceptions=True)
        assert [type(it) for it in both.result(DEADLINE)] == [int, CancelledError]


@pytest.mark.parametrize("end", [fail, Future.cancel])
def test_the_first_failure_ends_it_at_once(executor, end):
    gate = Gate()
    with Executor(1) as other, occupied(other):
        running, first = executor.submit(gate, 3), other.submit(fail)
        assert gate.entered.wait(DEADLINE)
        future = gather(running, first)
        called = []
        future.add_done_callback(called.append)
        if end is not fail:
            first.cancel()
    assert isinstance(exception(future), CancelledError if end is not fail else ValueError)
    assert future.cancelled() is first.cancelled()
    assert running.running()
    gate.open()
    assert running.result(DEADLINE) == 3
    assert executor.drain(DEADLINE)
    assert called == [future]


def exception(future):
    try:
        return future.exception(DEADLINE)
    except CancelledError as error:
        return error


def test_gather_with_exceptions_waits_for_all(executor):
    with occupied(executor):
        futures = [executor.submit(fail), executor.submit(int, "3"), executor.submit(int)]
        futures[2].cancel()
        future = gather(*futures, return_exceptions=True)
        assert not future.done()
    error, result, cancelled = future.result(DEADLINE)
    assert error is futures[0].exception()
    assert result == 3
    assert type(cancelled) is CancelledError


def test_gather_can_be_cancelled(executor):
    with occupied(executor):
        futures = [executor.submit(int), executor.submit(int)]
        future = gather(*futures)
        assert future.cancel()
    assert [it.result(DEADLINE) for it in futures] == [0, 0]


@pytest.mark.parametrize("wrong", [None, [], [Future()], concurrent.futures.Future()])
def test_gather_is_for_futures_of_ours(executor, wrong):
    with pytest.raises(TypeError, match=r"gather\(\) takes futures .*, got .*gather\(\*futures\)"):
        gather(executor.submit(int), wrong)


# The pool of the process has no end.
@pytest.mark.keeps_threads
def test_gather_of_none_is_done():
    future = gather()
    assert future.done()
    assert future.result() == []
    assert gather(return_exceptions=True).then(len).result(DEADLINE) == 0


def test_what_follows_gather(executor):
    rows = [gather(*(executor.submit(int) for _ in range(3))).then(len) for _ in range(3)]
    assert gather(*rows).then(sum).result(DEADLINE) == 9


# --- chain --------------------------------------------------------------------------


@pytest.mark.keeps_threads
def test_chain():
    steps = chain(pow, double, double_async, str)
    assert repr(steps).startswith("chain(<built-in function pow>, ")
    assert [steps.delay(n, 2).result(DEADLINE) for n in (1, 2, 3)] == ["4", "16", "36"]
    assert chain(int).delay("3").result(DEADLINE) == 3
    assert isinstance(chain(fail, double).delay().exception(DEADLINE), ValueError)


def test_chain_needs_a_function():
    with pytest.raises(TypeError):
        chain()


# --- Options ------------------------------------------------------------------------


def test_a_step_is_run_again(executor):
    def step(value):
        if current_task.attempt < 3:
            raise ValueError
        return value * current_task.attempt

    future = then(executor.submit(int, "3"), step, retry=Retry(5, backoff=0.001))
    assert future.result(DEADLINE) == 9
    assert future.attempts == 3


def test_a_step_has_a_time_limit(executor):
    future = then(executor.submit(int), lambda _: spin(), timeout=0.01)
    assert isinstance(future.exception(DEADLINE), TaskTimeout)


def test_a_step_starts_so_long_after_what_it_follows(executor):
    with occupied(executor):
        first = executor.submit(int, "3")
        future = then(first, double, countdown=0.1)
        threading.Event().wait(0.1)
    assert future.result(DEADLINE) == 6
    assert (future.started_at - first.finished_at).total_seconds() >= 0.1
    assert executor.stats()["held"] == 0


def test_a_step_expires_from_when_it_was_asked_for(executor):
    with occupied(executor):
        future = then(executor.submit(int), double, expires=0.01)
        last = future.then(double)
        assert isinstance(last.exception(DEADLINE), TaskExpired)
        assert last.exception() is future.exception()
        assert executor.stats()["held"] == 0


def test_steps_go_by_priority(executor):
    ran = []
    with occupied(executor):
        first = executor.submit(int)
        for priority in (-1, 1, 0):
            then(first, lambda _, it=priority: ran.append(it), priority=priority)
    assert executor.drain(DEADLINE)
    assert ran == [1, 0, -1]


def test_steps_go_by_the_limit_of_their_key():
    with Executor(4) as executor:
        gate = Gate()
        futures = [then(executor.submit(int), gate, key="key", limit=1) for _ in range(3)]
        assert gate.entered.wait(DEADLINE)
        assert sum(future.running() for future in futures) == 1
        gate.open()
        assert gather(*futures).result(DEADLINE) == [0, 0, 0]


def test_a_step_may_be_the_only_one_of_its_key(executor):
    with occupied(executor):
        first = executor.submit(int, "3")
        future = then(first, double, key="key", unique=True)
        assert then(first, double, key="key", unique=True) is future
        with pytest.raises(DuplicateTask):
            then(first, double, key="key", unique="raise")
        assert future.cancel()
        again = then(first, double, key="key", unique=True)
        assert again is not future
    assert again.result(DEADLINE) == 6


@pytest.mark.parametrize("options", [{"unique": True}, {"key": str, "limit": 1}])
def test_what_goes_by_the_argument_is_refused(executor, options):
    with pytest.raises(ValueError, match=r"\"double\" cannot be the next step: its option"):
        then(executor.submit(int), double, **options)


def test_a_step_takes_no_place():
    with Executor(1, queue_size=1, when_full="raise") as executor, occupied(executor):
        future = executor.submit(int)
        for _ in range(3):
            future = future.then(double)
    assert future.result(DEADLINE) == 0
