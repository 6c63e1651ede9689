"""The end of tasks that follow others: callbacks, shutdown, exit, fork, and what is left."""

import contextvars
import gc
import sys
import textwrap
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from flask_delay import Executor, gather

from .helpers import (
    DEADLINE,
    Gate,
    Thing,
    double,
    double_async,
    fail,
    occupied,
    started,
    together,
)

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


# --- Callbacks ----------------------------------------------------------------------


@pytest.mark.parametrize("source", [fail, double_async])
def test_callbacks_of_what_has_not_run_are_a_workers(executor, source):
    """In the context of who asked for the step, whoever has ended it."""
    seen, done = [], threading.Event()

    def note(future):
        seen.append((future, threading.current_thread().name, variable.get()))
        done.set()

    with occupied(executor):
        first = executor.submit(source, "wrong" if source is fail else None)
        variable.set("then")
        future = first.then(double)
        variable.set("later")
        future.add_done_callback(note)
    assert future.exception(DEADLINE) is not None
    assert done.wait(DEADLINE)
    assert seen == [(future, f"{executor!r}".split()[1] + "_0", "then")]


# --- The end ------------------------------------------------------------------------


def test_shutdown_waits_for_steps():
    executor = Executor(1)
    gate = Gate()
    future = executor.submit(gate, 3).then(double_async).then(double)
    assert gate.entered.wait(DEADLINE)
    with started(executor.shutdown):
        assert not future.done()
        gate.open()
    assert future.result(0) == 12


def test_shutdown_cancels_steps():
    executor = Executor(1)
    gate = Gate()
    running = executor.submit(gate, 3)
    assert gate.entered.wait(DEADLINE)
    queued = executor.submit(int)
    futures = [running.then(double), queued.then(double).then(double), gather(queued, running)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    gate.open()
    executor.shutdown()
    assert running.result(0) == 3


def test_a_step_outlives_its_executor():
    executor = Executor(1)
    gate = Gate()
    future = executor.submit(gate, 3).then(double)
    del executor
    gc.collect()
    gate.open()
    assert future.result(DEADLINE) == 6


PRELUDE = """
import os, threading
leaving = threading.Event()
from flask_delay import Executor, ForkedFutureError, delay, gather
threading._register_atexit(leaving.set)

def write(*values):
    os.write(1, f"{values}\\n".encode())

def after(value):
    assert leaving.wait(20)
    return value
"""


def test_steps_at_exit(run_script):
    script = """
    future = delay(after, 3).then(lambda value: value * 2)
    gather(future, Executor(1).submit(int)).then(write)
    """
    done = run_script(PRELUDE + textwrap.dedent(script))
    assert (done.rc, done.out, done.err) == (0, "([6, 0],)\n", "")


def test_steps_that_are_given_up_at_exit_are_named(run_script):
    script = """
    from contextlib import nullcontext
    from flask_delay._native import _scoped_executor
    executor = _scoped_executor(
        max_workers=1, thread_name_prefix="limited", scope=nullcontext, hidden=(),
        reject_types=(), reject=repr, log_failures=True, shutdown_timeout=0.2, result_limit=8,
    )
    def blocks(): threading.Event().wait()
    def queued(): pass
    def step(_): pass
    def last(_): pass
    executor.submit(blocks)
    executor.submit(queued).then(step).then(last)
    """
    done = run_script(PRELUDE + textwrap.dedent(script))
    for name in ("4 tasks did not finish", " blocks (", " queued (", " step (", " last ("):
        assert name in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_is_told(run_script):
    script = """
    end = threading.Event()
    with Executor(1) as executor:
        done = executor.submit(int, "3")
        done.result(20)
        first = executor.submit(end.wait, 20)
        step, both = first.then(write), gather(first, done)
        pid = os.fork()
        if pid == 0:
            for use in (
                step.result, both.result, step.cancel, lambda: step.then(write),
                lambda: gather(done, first), lambda: first.then(write),
            ):
                try:
                    write(use())
                except ForkedFutureError:
                    write("forked")
            # What is known may go on here.
            gather(done, done.then(float)).then(write).result(20)
            os._exit(0)
        os.waitpid(pid, 0)
        end.set()
    """
    done = run_script(PRELUDE + textwrap.dedent(script))
    assert (done.rc, done.err) == (0, "")
    assert done.out == "('forked',)\n" * 6 + "([3, 3.0],)\n" + "(True,)\n"


# --- Memory -------------------------------------------------------------------------


def test_a_step_keeps_nothing_of_what_it_follows(executor):
    def step(thing):
        seen.append(weakref.ref(thing))
        return 1

    seen = []
    future = executor.submit(Thing).then(step)
    assert future.result(DEADLINE) == 1
    assert executor.drain(DEADLINE)
    executor.submit(int).result(DEADLINE)
    assert seen[0]() is None


@pytest.mark.parametrize("how", ["then", "gather"])
def test_who_is_done_is_not_kept_by_what_it_followed(executor, how):
    """Nor by a circle that only the collector would find."""
    gc.disable()
    try:
        with occupied(executor) as (holder,):
            first = executor.submit(int)
            for _ in range(3):
                step = first.then(double) if how == "then" else gather(holder, first)
                gone = weakref.ref(step)
                step.cancel()
                del step
                assert gone() is None
            kept = weakref.ref(gather(holder, first))
            assert kept() is not None
            first.cancel()
            assert kept() is None
    finally:
        gc.enable()


def test_a_row_of_any_length_fails_and_goes_on(executor):
    length = 20_000
    gate = Gate()
    good = executor.submit(gate, 0)
    bad = executor.submit(lambda: gate() or fail())
    ends = []
    for first in (good, bad):
        last = first
        for _ in range(length):
            last = last.then(lambda value: value + 1)
        ends.append(last)
    cancelled = executor.submit(int)
    last = cancelled
    for _ in range(length):
        last = last.then(double)
    cancelled.cancel()
    assert last.cancelled()
    gate.open()
    assert ends[0].result(DEADLINE) == length
    assert isinstance(ends[1].exception(DEADLINE), ValueError)


def test_a_future_may_be_followed_while_it_ends():
    """By several threads, some of which think better of it."""
    with Executor(2) as executor, Executor(1) as other:
        for _ in range(200):
            ends, start = threading.Event(), threading.Barrier(6)

            def task(ends=ends):
                assert ends.wait(DEADLINE)
                return 1

            future = executor.submit(task)

            def end(future=future, ends=ends, start=start):
                start.wait(DEADLINE)
                ends.set()

            def follow(future=future, start=start):
                start.wait(DEADLINE)
                return gather(future.then(double), other.submit(int)).then(sum)

            def follow_and_cancel(future=future, start=start):
                start.wait(DEADLINE)
                steps = [future.then(double), gather(future, future), future.then(double)]
                last = gather(*steps, return_exceptions=True)
                kept = [step for step in steps if not step.cancel()]
                return last, kept

            found = together(end, *[follow] * 3, *[follow_and_cancel] * 2)
            assert [it.result(DEADLINE) for it in found[1:4]] == [2, 2, 2]
            for last, kept in found[4:]:
                results = last.result(DEADLINE)
                ended = [it for it in results if not isinstance(it, CancelledError)]
                assert ended == [it.result(DEADLINE) for it in kept]
        for it in (executor, other):
            assert it.drain(DEADLINE)
            assert it.stats()["held"] == 0
