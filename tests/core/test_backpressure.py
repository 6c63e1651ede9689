"""A queue with a limit: who waits for a place, is refused, runs the task itself, is dropped."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import sys
import textwrap
import threading
import time
import weakref
from collections import Counter

import pytest

from flask_delay import Executor, QueueFull, current_task

from .helpers import (
    DEADLINE,
    Gate,
    Thing,
    fail,
    make,
    occupied,
    started,
    submit,
    together,
)
from .scripts import EXIT, FORK, SIGNALS

MODES = ["block", "raise", "caller_runs", "drop_oldest"]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


def refused(executor):
    """Whether the queue is full."""
    try:
        executor.submit(int)
    except QueueFull:
        return True
    return False


# --- Places -------------------------------------------------------------------------


def test_a_place_is_for_a_task_that_has_not_started():
    with Executor(1, queue_size=2, when_full="raise") as executor:
        with occupied(executor):
            accepted = [executor.submit(int) for _ in range(2)]
            for _ in range(3):
                with pytest.raises(QueueFull, match="full"):
                    executor.submit(int)
            assert executor.stats()["queued"] == 2
        assert [future.result(DEADLINE) for future in accepted] == [0, 0]
        assert executor.drain(DEADLINE)
        with occupied(executor):
            assert [refused(executor) for _ in range(3)] == [False, False, True]


def test_no_limit_unless_asked_for():
    for options in ({}, {"queue_size": 0, "when_full": "raise"}):
        with Executor(1, **options) as executor:
            with occupied(executor):
                futures = [executor.submit(int) for _ in range(10_000)]
            assert sum(future.result(DEADLINE) for future in futures) == 0


class Load:
    """Submitters of an executor, and the counts of what became of their tasks."""

    def __init__(self, executor):
        self.executor, self.lock, self.counts = executor, threading.Lock(), Counter()
        self.ran, self.queued = [], []

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def task(self):
        self.queued.append(self.executor.stats()["queued"])
        self.ran.append(1)

    def submit(self):
        for _ in range(20):
            try:
                future = self.executor.submit(self.task)
            except QueueFull:
                self.count("refused")
            else:
                self.count("accepted")
                future.add_done_callback(lambda it: self.count(it.state))


@pytest.mark.parametrize("when_full", MODES)
def test_a_hundred_submitters_and_a_queue_of_ten(when_full, wait_until, caplog):
    caplog.set_level(logging.CRITICAL, "flask_delay")
    executor = Executor(2, queue_size=10, when_full=when_full)
    load, gates = Load(executor), [Gate(), Gate()]
    for gate in gates:
        executor.submit(gate)
        assert gate.entered.wait(DEADLINE)

    def press():
        # Workers begin when the queue is full, and all submitters but one find it so.
        assert wait_until(lambda: executor.stats()["queued"] == 10)
        if when_full != "block":
            load.submit()
        for gate in gates:
            gate.open()
        if when_full == "block":
            load.submit()

    together(*[load.submit] * 99, press)
    executor.shutdown()
    counts = load.counts
    assert counts["accepted"] + counts["refused"] == 2000
    assert counts["accepted"] == counts["finished"] + counts["cancelled"]
    assert len(load.ran) == counts["finished"]
    assert max(load.queued) <= 10
    assert (counts["refused"] > 0) == (when_full == "raise")
    assert (counts["cancelled"] > 0) == (when_full == "drop_oldest")


@pytest.mark.parametrize("when_full", MODES)
def test_coroutines_need_no_place(when_full):
    async def work():
        await asyncio.sleep(0)
        return threading.current_thread().name

    with Executor(1, queue_size=1, when_full=when_full) as executor, occupied(executor):
        queued = executor.submit(int)
        futures = [executor.submit(work) for _ in range(5)]
        assert all(future.result(DEADLINE).startswith("delay-loop") for future in futures)
        assert not queued.done()


def test_a_held_task_has_a_place_too():
    with Executor(2, queue_size=1, when_full="raise") as executor:
        gate = Gate()
        submit(executor, gate, key="key", limit=1)
        assert gate.entered.wait(DEADLINE)
        held = submit(executor, int, key="key", limit=1)
        with pytest.raises(QueueFull):
            submit(executor, int, key="key", limit=1)
        with pytest.raises(QueueFull):
            executor.submit(int)
        assert held.cancel()
        assert executor.submit(int).result(DEADLINE) == 0
        gate.open()


def test_a_task_that_ended_before_its_start_gives_its_place_back():
    with Executor(1, queue_size=1, when_full="raise") as executor, occupied(executor):
        for _ in range(5):
            assert executor.submit(int).cancel()
            assert executor.submit(int).stop()
            assert submit(executor, int, expires=0.001).exception(DEADLINE)
        assert not refused(executor)
        assert refused(executor)


def test_refused_tasks_are_let_go():
    with Executor(1, queue_size=1, when_full="raise") as executor, occupied(executor):
        executor.submit(int)
        argument = Thing()
        watched = weakref.ref(argument)
        with pytest.raises(QueueFull):
            executor.submit(id, argument)
        del argument
        gc.collect()
        assert watched() is None


def test_a_submit_that_cannot_be_takes_no_place():
    with Executor(1, queue_size=1, when_full="raise") as executor, occupied(executor):
        for _ in range(3):
            with pytest.raises(TypeError):
                executor.submit(None)
            with pytest.raises(TypeError):
                submit(executor, int, key=[], limit=1)
        assert not refused(executor)


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_modes_without_threads(mode):
    executor = make(mode, queue_size=2, when_full="raise", block_timeout=None)
    if mode == "immediate":
        # Its tasks never wait.
        assert [executor.submit(int).result(0) for _ in range(5)] == [0] * 5
        return
    futures = [executor.submit(int), executor.submit(int)]
    assert refused(executor)
    assert executor.run_pending(1) == 1
    assert not refused(executor)
    assert refused(executor)
    executor.shutdown()
    assert all(future.done() for future in futures)


# --- Block --------------------------------------------------------------------------


def test_block_lets_other_threads_go_on():
    ran = []
    with Executor(1, queue_size=1) as executor:
        gate = Gate()
        executor.submit(gate)
        executor.submit(ran.append, 0)
        submits = [lambda number=number: executor.submit(ran.append, number) for number in (1, 2)]
        with started(*submits) as threads:
            # This thread has the interpreter while they wait.
            assert all(thread.is_alive() for thread in threads)
            assert (ran, executor.stats()["queued"]) == ([], 1)
            gate.open()
    assert sorted(ran) == [0, 1, 2]


@pytest.mark.parametrize("way", ["cancel", "stop", "expires"])
def test_a_cancelled_task_makes_room_at_once(way):
    with Executor(1, queue_size=1) as executor:
        with occupied(executor):
            first = submit(executor, int, expires=0.3) if way == "expires" else executor.submit(int)
            accepted = []
            with started(lambda: accepted.append(executor.submit(int, "1"))) as (thread,):
                if way != "expires":
                    assert thread.is_alive()
                    assert getattr(first, way)()
                thread.join(DEADLINE)
                assert not thread.is_alive()
        assert accepted[0].result(DEADLINE) == 1


def test_block_has_a_time_limit():
    with Executor(1, queue_size=1, block_timeout=0.05) as executor:
        with occupied(executor):
            queued = executor.submit(int)
            start = time.monotonic()
            with pytest.raises(QueueFull, match=r"0\.05"):
                executor.submit(int)
            assert 0.05 <= time.monotonic() - start < DEADLINE / 2
        assert queued.result(DEADLINE) == 0
        assert executor.submit(int).result(DEADLINE) == 0


def test_a_place_in_time_is_taken():
    with Executor(1, queue_size=1, block_timeout=DEADLINE) as executor:
        gate, accepted = Gate(), []
        executor.submit(gate)
        executor.submit(int)
        with started(lambda: accepted.append(executor.submit(int, "1"))):
            gate.open()
        assert accepted[0].result(DEADLINE) == 1


@pytest.mark.parametrize("when_full", MODES)
def test_tasks_submit_into_their_own_full_pool(when_full):
    """Each task leaves two more; there is one worker, and one place."""
    ran, dropped = [], []
    executor = Executor(1, queue_size=1, when_full=when_full)

    def task(depth):
        ran.append(depth)
        for _ in range(2 if depth else 0):
            try:
                future = executor.submit(task, depth - 1)
            except QueueFull:
                dropped.append(depth)
            else:
                future.add_done_callback(lambda it: it.cancelled() and dropped.append(depth))

    executor.submit(task, 5)
    assert executor.drain(DEADLINE)
    executor.shutdown()
    if when_full in {"block", "caller_runs"}:
        assert Counter(ran) == {5: 1, 4: 2, 3: 4, 2: 8, 1: 16, 0: 32}
    else:
        assert dropped
    assert executor.stats()["threads"] == 0


def test_callbacks_submit_into_their_own_full_pool():
    ran = []
    with Executor(1, queue_size=1) as executor:
        gate = Gate()

        def more(_):
            for number in range(5):
                executor.submit(ran.append, number)

        executor.submit(gate).add_done_callback(more)
        gate.open()
        assert executor.drain(DEADLINE)
    assert sorted(ran) == [0, 1, 2, 3, 4]


def test_pools_submit_into_each_other():
    ran = []
    with Executor(1, queue_size=1) as one, Executor(1, queue_size=1) as two:

        def task(depth, mine, other):
            ran.append(depth)
            for _ in range(2 if depth else 0):
                other.submit(task, depth - 1, other, mine)

        one.submit(task, 5, one, two)
        two.submit(task, 5, two, one)
        # Each may have submitted to the other meanwhile.
        for executor in (one, two) * 6:
            assert executor.drain(DEADLINE)
    assert Counter(ran) == {5: 2, 4: 4, 3: 8, 2: 16, 1: 32, 0: 64}


def test_map_waits_for_places():
    with Executor(1, queue_size=2) as executor:
        assert list(executor.map(str, range(50))) == [str(number) for number in range(50)]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_ends_the_wait_for_a_place(run_script):
    done = run_script(
        SIGNALS
        + textwrap.dedent("""
            full = Executor(1, queue_size=1)
            full.submit(gate.wait, 20)
            full.submit(write, "accepted")

            def waits():
                full.submit(write, "submitted all the same")

            thread = send(signal.SIGINT, inside="waits")
            try:
                waits()
            except KeyboardInterrupt:
                late = time.monotonic() - sent[0]
                write("interrupted" if late < 1 else f"interrupted after {late} s")
            thread.join()
            gate.set()
            assert full.drain(20)
            # No place was lost with it.
            assert [full.submit(pow, 2, n).result(20) for n in range(3)] == [1, 2, 4]
        """)
    )
    assert (done.rc, done.out, done.err) == (0, "interrupted\naccepted\n", "")


# --- Shutdown, exit, fork -----------------------------------------------------------


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_while_submitters_wait(cancel):
    executor, errors, ran = Executor(1, queue_size=1), [], []

    def submit():
        try:
            executor.submit(ran.append, "refused")
        except RuntimeError as error:
            errors.append(error)

    with occupied(executor):
        queued = executor.submit(ran.append, "accepted")
        with started(*[submit] * 8):
            executor.shutdown(wait=False, cancel_futures=cancel)
        # They have ended although the worker is still busy.
        assert [type(error) for error in errors] == [RuntimeError] * 8
        assert all("after shutdown" in str(error) for error in errors)
    executor.shutdown()
    assert queued.cancelled() is cancel
    assert ran == ([] if cancel else ["accepted"])


def test_shutdown_races_with_submitters_nothing_accepted_is_lost():
    for _ in range(50):
        executor, accepted = Executor(1, queue_size=2), []

        def submit(executor=executor, accepted=accepted):
            with contextlib.suppress(RuntimeError):
                while True:
                    accepted.append(executor.submit(int))

        together(submit, submit, submit, executor.shutdown)
        assert [future.result(DEADLINE) for future in accepted] == [0] * len(accepted)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")
def test_submitters_that_wait_at_exit(run_script):
    done = run_script(
        EXIT
        + textwrap.dedent("""
            executor = Executor(1, queue_size=1)

            def many():
                for number in range(50):
                    executor.submit(os.write, 1, b".")

            executor.submit(leaving.wait, 20)
            # A task, too, waits for places then.
            executor.submit(many)
            threading.Thread(target=many).start()
        """)
    )
    assert (done.rc, done.out, done.err) == (0, "." * 100, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_child_has_all_places(run_script):
    done = run_script(
        FORK
        + textwrap.dedent("""
            from flask_delay import QueueFull

            executor, gate = Executor(1, queue_size=2, block_timeout=20), threading.Event()
            executor.submit(gate.wait, 20)
            futures = [executor.submit(pow, 2, n) for n in range(2)]
            threads = [
                threading.Thread(target=executor.submit, args=(pow, 2, 3)) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            settle()

            def child():
                gate = threading.Event()
                # One more than there are places: one at a time has to start.
                futures = [executor.submit(gate.wait, 20)]
                futures += [executor.submit(pow, 2, n) for n in range(2)]
                gate.set()
                futures += [executor.submit(pow, 2, n) for n in range(2, 10)]
                assert [future.result(20) for future in futures[1:]] == [2**n for n in range(10)]
                executor.shutdown()

            assert [reap(forked(child)) for _ in range(3)] == [0] * 3
            gate.set()
            for thread in threads:
                thread.join()
            assert [future.result(20) for future in futures] == [1, 2]
            executor.shutdown()
        """)
    )
    assert (done.rc, done.out, done.err) == (0, "", "")


# --- The caller runs it -------------------------------------------------------------


@pytest.fixture
def full():
    """An executor whose one worker is busy and whose one place is taken; callers run."""
    with Executor(1, queue_size=1, when_full="caller_runs") as executor, occupied(executor):
        executor.submit(int)
        yield executor


def test_caller_runs_before_submit_returns(full):
    called = []
    full.add_default_done_callback(called.append)
    future = full.submit(threading.current_thread)
    assert future.done()
    assert future.result(0) is threading.current_thread()
    assert called == [future]
    assert (future.attempts, future.state) == (1, "finished")


def test_caller_is_told_of_an_error_by_the_future(full, caplog):
    assert isinstance(full.submit(fail).exception(0), ValueError)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

    def leave():
        raise SystemExit(3)

    assert isinstance(full.submit(leave).exception(0), SystemExit)


def test_caller_runs_in_a_copy_of_its_context(full):
    def task():
        seen = variable.get()
        variable.set("of the task")
        return seen, current_task.future

    def call():
        variable.set("of the caller")
        future = full.submit(task)
        assert future.result(0) == ("of the caller", future)
        return variable.get()

    assert contextvars.copy_context().run(call) == "of the caller"
    with pytest.raises(RuntimeError, match="no task runs on this thread"):
        assert current_task.future


def test_caller_that_is_a_task_is_the_current_one_again(full):
    with Executor(1) as other:

        def outer():
            inner = full.submit(lambda: (threading.get_ident(), current_task.future))
            assert inner.result(0) == (threading.get_ident(), inner)
            return current_task.future

        future = other.submit(outer)
        assert future.result(DEADLINE) is future


def test_caller_enters_the_scope_of_the_task():
    log = []

    @contextlib.contextmanager
    def scope():
        log.append("entered")
        yield
        log.append("left")

    executor = make(
        max_workers=1, scope=scope, queue_size=1, when_full="caller_runs", block_timeout=None
    )
    with occupied(executor):
        executor.submit(int)
        log.clear()
        assert executor.submit(log.append, "ran").done()
        assert log == ["entered", "ran", "left"]
    executor.shutdown()


def test_the_limit_of_a_key_holds_for_callers_too():
    with Executor(2, queue_size=1, when_full="caller_runs") as executor:
        gate, accepted, seen = Gate(), [], []
        submit(executor, gate, key="key", limit=1)
        assert gate.entered.wait(DEADLINE)

        def task():
            seen.append(gate.over)

        def one_more():
            accepted.append(submit(executor, task, key="key", limit=1))

        one_more()
        # The queue is full, and the caller may not run it now.
        with started(one_more):
            assert seen == []
            gate.open()
        assert [future.result(DEADLINE) for future in accepted] == [None, None]
        assert seen == [True, True]


# --- The oldest is dropped ----------------------------------------------------------


def test_the_oldest_is_cancelled_and_logged(caplog):
    with Executor(1, queue_size=2, when_full="drop_oldest") as executor:
        ran, called = [], []
        with occupied(executor):
            argument = Thing()
            watched = weakref.ref(argument)
            futures = [executor.submit(lambda it: ran.append("first"), argument)]
            del argument
            futures[0].add_done_callback(called.append)
            futures += [executor.submit(ran.append, number) for number in range(3)]
            assert [future.cancelled() for future in futures] == [True, True, False, False]
            assert called == [futures[0]]
            gc.collect()
            assert watched() is None
        assert executor.drain(DEADLINE)
    assert ran == [1, 2]
    dropped = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(dropped) == len(caplog.records) == 2
    for record, future in zip(dropped, futures, strict=False):
        assert record.name == "flask_delay"
        assert future.id in record.getMessage()
        assert future.name in record.getMessage()
        assert record.exc_info is None


def test_the_lowest_priority_is_dropped_first():
    with Executor(1, queue_size=4, when_full="drop_oldest") as executor, occupied(executor):
        plain, high = executor.submit(int), submit(executor, int, priority=5)
        low, second = submit(executor, int, priority=-1), executor.submit(int)
        order = []
        for future in (plain, high, low, second):
            future.add_done_callback(order.append)
        for _ in range(4):
            submit(executor, int, priority=7)
        assert order == [low, plain, second, high]


def test_a_waiter_for_the_dropped_one_is_told():
    with Executor(1, queue_size=1, when_full="drop_oldest") as executor, occupied(executor):
        future, cancelled = executor.submit(int), []

        def wait():
            try:
                future.result(DEADLINE)
            except concurrent.futures.CancelledError as error:
                cancelled.append(error)

        with started(wait):
            executor.submit(int)
        assert len(cancelled) == 1


def test_dropping_in_a_manual_executor_starts_no_thread():
    executor = make("manual", queue_size=1, when_full="drop_oldest")
    threads = []

    def fails_once():
        threads.append(threading.current_thread())
        if len(threads) == 1:
            raise ValueError("made to fail")

    retried = submit(executor, fails_once, retry=1)
    assert executor.run_pending(1) == 1
    # The retried task is the first that is found; it was accepted before, and is put back.
    dropped, newest = executor.submit(int), executor.submit(int)
    assert dropped.cancelled()
    assert executor.stats()["threads"] == 0
    assert executor.run_pending() == 2
    assert retried.done()
    assert newest.done()
    assert threads == [threading.current_thread()] * 2


def test_only_what_waits_is_said_to_be_dropped(caplog):
    executor = make("manual", queue_size=1, when_full="drop_oldest")
    before = executor.submit(int)
    assert before.cancel()
    dropped, newest = executor.submit(int), executor.submit(int)
    assert dropped.cancelled()
    assert [record.getMessage().split("(")[1] for record in caplog.records] == [
        f"{dropped.id}) was dropped from a full queue, for a newer one"
    ]
    assert executor.run_pending() == 1
    assert newest.result(0) == 0
    assert executor.stats()["queued"] == 0
