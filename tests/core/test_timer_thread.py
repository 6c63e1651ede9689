"""The timer's thread keeps the time of all tasks: no code of users runs on it."""

import threading
from pathlib import Path

import pytest

from flask_delay import Executor, TaskExpired, TaskTimeout, current_task

from .helpers import DEADLINE, Gate, make, spin, submit

SOON = 0.02


TIMER = "delay-timer"


def native_name():
    """As the system has it: to Python these threads are nameless."""
    comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
    return comm.read_text().strip() if comm.exists() else threading.current_thread().name


class Slow:
    """Something whose end, hash and comparison wait until they may go on, and say where."""

    def __init__(self):
        self.release, self.at = threading.Event(), []
        self.begun = threading.Event()
        self.slow = threading.Event()

    def wait(self):
        if self.slow.is_set():
            self.at.append(native_name())
            self.begun.set()
            self.release.wait(DEADLINE)


class Dies:
    def __init__(self, slow):
        self.slow = slow

    def __del__(self):
        self.slow.wait()

    def __call__(self, *_):
        pass


class Key:
    """A key that Python code hashes."""

    def __init__(self, slow):
        self.slow = slow

    def __hash__(self):
        self.slow.wait()
        return 7

    def __eq__(self, other):
        return self is other


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.release.set()


@pytest.fixture
def executor():
    with Executor(1, "busy") as executor:
        yield executor


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open()


def assert_elsewhere(slow):
    assert TIMER not in slow.at


def argument(executor, slow):
    future = submit(executor, print, Dies(slow), expires=SOON)
    slow.slow.set()
    return future


def function(executor, slow):
    future = submit(executor, Dies(slow), expires=SOON)
    slow.slow.set()
    return future


def unique_key(executor, slow):
    future = submit(executor, print, key=Key(slow), unique=True, expires=SOON)
    slow.slow.set()
    return future


def limited_key(executor, slow):
    future = submit(executor, print, key=Key(slow), limit=1, expires=SOON)
    slow.slow.set()
    return future


def argument_of_one_that_follows(executor, slow):
    future = submit(executor, print, expires=SOON)
    future.then(Dies(slow))
    slow.slow.set()
    return future


@pytest.mark.parametrize(
    "kind", [argument, function, unique_key, limited_key, argument_of_one_that_follows]
)
def test_what_an_expired_task_leaves_holds_up_no_other(executor, gate, slow, kind):
    executor.submit(gate)
    assert gate.entered.wait(DEADLINE)
    with Executor(2, "other") as other:
        future = kind(executor, slow)
        assert isinstance(future.exception(DEADLINE), TaskExpired)
        assert submit(other, int, countdown=SOON).result(DEADLINE) == 0
        assert isinstance(submit(other, spin, timeout=SOON).exception(DEADLINE), TaskTimeout)
        # By now somebody is about it, though the executor's only worker is busy.
        assert slow.begun.wait(DEADLINE)
        assert submit(other, int, countdown=SOON).result(DEADLINE) == 0
        assert isinstance(submit(other, spin, timeout=SOON).exception(DEADLINE), TaskTimeout)
        slow.release.set()
    assert_elsewhere(slow)


def test_the_last_reference_to_a_task_that_timed_out_is_not_dropped_there(executor, slow):
    """The alarm that would give the task up keeps its future a moment longer than anybody."""

    def work():
        try:
            spin()
        except TaskTimeout:
            return Dies(slow)

    future = submit(executor, work, timeout=SOON)
    future.result(DEADLINE)
    slow.slow.set()
    del future
    assert slow.begun.wait(DEADLINE)
    with Executor(1, "other") as other:
        assert submit(other, int, countdown=SOON).result(DEADLINE) == 0
    slow.release.set()
    assert_elsewhere(slow)


def test_a_future_that_is_forgotten_for_another_is_not_dropped_there(slow):
    executor = make("threads", max_workers=1, result_limit=1)
    gate = Gate()
    try:
        first = executor.submit(Dies, slow)
        assert first.id
        first.result(DEADLINE)
        del first
        executor.submit(gate)
        assert gate.entered.wait(DEADLINE)
        slow.slow.set()
        second = submit(executor, print, expires=SOON)
        assert second.id
        assert isinstance(second.exception(DEADLINE), TaskExpired)
        with Executor(1, "other") as other:
            assert submit(other, int, countdown=SOON).result(DEADLINE) == 0
        gate.open()
        assert slow.begun.wait(DEADLINE)
        slow.release.set()
        assert_elsewhere(slow)
    finally:
        gate.open()
        slow.release.set()
        executor.shutdown()


def test_callbacks_of_an_executor_without_threads_are_not_run_there(gate, slow):
    executor = make("immediate")
    slow.slow.set()

    def work():
        current_task.future.add_done_callback(lambda _: slow.wait())
        gate()

    caller = threading.Thread(target=submit, args=(executor, work), kwargs={"timeout": SOON})
    caller.start()
    assert slow.begun.wait(DEADLINE)
    with Executor(1, "other") as other:
        assert submit(other, int, countdown=SOON).result(DEADLINE) == 0
    slow.release.set()
    gate.open()
    caller.join(DEADLINE)
    assert_elsewhere(slow)
    executor.shutdown()
