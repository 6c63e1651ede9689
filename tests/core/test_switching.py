"""A short switch interval while a task computes, and the user's own at all other times."""

import sys
import threading
import time

import pytest
from tests.core.helpers import DEADLINE

from flask_delay import Executor

SHORT = pytest.approx(0.0001)

pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is nothing to switch"
)


@pytest.fixture(autouse=True)
def own():
    """The user's own interval: not Python's, so that it is known again."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    yield 0.004
    sys.setswitchinterval(before)


def is_short():
    return sys.getswitchinterval() == SHORT


def is_own():
    return sys.getswitchinterval() == pytest.approx(0.004)


def compute(until):
    count = 0
    while not until.is_set():
        count += 1
    return count


def test_short_while_a_task_computes_then_the_users_own(wait_until):
    stop = threading.Event()
    with Executor(2) as executor:
        assert is_own()
        future = executor.submit(compute, stop)
        assert wait_until(is_short)
        stop.set()
        assert future.result(DEADLINE) > 0
        assert wait_until(is_own)


def test_again_after_a_rest(wait_until):
    with Executor(1) as executor:
        for _ in range(3):
            stop = threading.Event()
            future = executor.submit(compute, stop)
            assert wait_until(is_short)
            stop.set()
            future.result(DEADLINE)
            assert wait_until(is_own)


def test_after_a_long_rest_of_the_governor(wait_until):
    def asleep():
        # The thread sleeps without a time limit when its last tick lies back far enough.
        return time.monotonic() > rested

    with Executor(1) as executor:
        executor.submit(int).result(DEADLINE)
        rested = time.monotonic() + 1.0
        assert wait_until(asleep)
        stop = threading.Event()
        future = executor.submit(compute, stop)
        assert wait_until(is_short)
        stop.set()
        future.result(DEADLINE)
        assert wait_until(is_own)


def test_after_an_error_in_the_task(wait_until):
    seen = threading.Event()

    def fail():
        compute(seen)
        raise ValueError

    with Executor(1) as executor:
        future = executor.submit(fail)
        assert wait_until(is_short)
        seen.set()
        assert isinstance(future.exception(DEADLINE), ValueError)
        assert wait_until(is_own)


def test_a_task_that_waits_changes_nothing():
    seen = set()
    stop = threading.Event()
    with Executor(2) as executor:
        future = executor.submit(stop.wait, DEADLINE)
        for _ in range(40):
            time.sleep(0.005)
            seen.add(round(sys.getswitchinterval(), 6))
        stop.set()
        future.result(DEADLINE)
    assert seen == {0.004}


def test_what_the_user_sets_meanwhile_stays(wait_until):
    stop = threading.Event()
    with Executor(1) as executor:
        future = executor.submit(compute, stop)
        assert wait_until(is_short)
        sys.setswitchinterval(0.002)
        stop.set()
        future.result(DEADLINE)
        executor.shutdown()
        quiet = time.monotonic() + 0.2
        assert wait_until(lambda: time.monotonic() > quiet)
    assert sys.getswitchinterval() == pytest.approx(0.002)


def test_shorter_own_interval_is_left_alone(wait_until):
    sys.setswitchinterval(0.00005)
    stop = threading.Event()
    with Executor(1) as executor:
        future = executor.submit(compute, stop)
        quiet = time.monotonic() + 0.2
        assert wait_until(lambda: time.monotonic() > quiet)
        assert sys.getswitchinterval() == pytest.approx(0.00005)
        stop.set()
        future.result(DEADLINE)


def test_child_forked_meanwhile_has_the_users_own(run_script):
    result = run_script(
        """
import os, sys, threading, time
from flask_delay import Executor
sys.setswitchinterval(0.004)
stop = threading.Event()
def compute():
    while not stop.is_set(): pass
executor = Executor(1)
future = executor.submit(compute)
end = time.monotonic() + 20
while sys.getswitchinterval() > 0.001 and time.monotonic() < end:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    os._exit(0 if abs(sys.getswitchinterval() - 0.004) < 1e-6 else 1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
stop.set()
future.result(20)
sys.exit(code)
"""
    )
    assert (result.rc, result.err) == (0, "")
