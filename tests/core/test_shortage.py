"""When the system starts no more threads, or keeps those that never come back."""

import textwrap
import threading

import pytest

from flask_delay import Executor, TaskTimeout

from .helpers import (
    DEADLINE,
    Gate,
    submit,
)
from .scripts import SUBMIT

# Sets how many threads this process may have more: none, or as many as it likes. The limit does
# not count for root, who becomes nobody.
PRELUDE = (
    textwrap.dedent("""
    import logging, os, resource, sys, threading, time
    import flask_delay.aio
    from flask_delay import Executor, QueueFull

    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)

    def threads(allowed):
        resource.setrlimit(resource.RLIMIT_NPROC, (most if allowed else 1, most))

    def none_can_be_started():
        try:
            threading.Thread(target=int).start()
        except RuntimeError:
            return True
        return False

    def until(reached):
        end = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < end, "it never comes"
            time.sleep(0.005)

    class Count(logging.Handler):
        def __init__(self):
            super().__init__(logging.WARNING)
            self.lines = []
        def emit(self, record):
            self.lines.append(record.getMessage())

    count = Count()
    logging.getLogger("flask_delay").addHandler(count)
    threads(False)
    if not none_can_be_started():
        print("skip")
        sys.exit()
    threads(True)
    """)
    + SUBMIT
)


@pytest.fixture
def short(run_script):
    """Run a script that says how many threads there may be."""

    def run(code):
        result = run_script(PRELUDE + textwrap.dedent(code), timeout=40)
        assert result.rc == 0, result.err
        if result.out == "skip\n":
            pytest.skip("threads cannot be limited here")
        return result.out.split()

    return run


def test_a_rate_goes_on_when_the_timer_could_not_be_started_once(short):
    said = short("""
    executor = Executor(1)
    executor.submit(int).result(10)
    def rated():
        return submit(executor, int, key="k", rate="1/s")
    threads(False)
    try:
        rated()
        rated()
    except RuntimeError as error:
        print("thread" in str(error))
    threads(True)
    first, second = rated(), rated()
    print(first.result(10), second.result(10))
    executor.shutdown()
    """)
    assert said == ["True", "0", "0"]


def test_a_task_with_retries_is_refused_while_it_could_not_be_tried_again(short):
    said = short("""
    from flask_delay import Retry
    executor = Executor(1)
    executor.submit(int).result(10)
    ran = []
    def fails_once():
        ran.append(1)
        if len(ran) == 1:
            raise ValueError
    threads(False)
    try:
        submit(executor, fails_once, retry=Retry(1, backoff=0.01))
    except RuntimeError as error:
        print("thread" in str(error), len(ran))
    threads(True)
    submit(executor, fails_once, retry=Retry(1, backoff=0.01)).result(10)
    print(len(ran))
    executor.shutdown()
    """)
    assert said == ["True", "0", "2"]


@pytest.mark.parametrize("how", ["inner.result()", "wait([inner])"])
def test_a_task_that_waits_for_its_pool_goes_on_once_there_are_threads_again(short, how):
    said = short(f"""
    from concurrent.futures import wait
    executor = Executor(1)
    queued = threading.Event()
    def outer():
        inner = executor.submit(int)
        queued.set()
        {how}
        return inner.result()
    executor.submit(int).result(10)
    threads(False)
    future = executor.submit(outer)
    queued.wait(10)
    # The wait has begun, and no thread could be started for what it is for.
    until(lambda: executor.stats()["waiting"] == 1 and count.lines)
    print(executor.stats()["queued"])
    threads(True)
    print(future.result(10))
    executor.shutdown()
    """)
    assert said == ["1", "0"]


def test_what_is_queued_behind_a_stuck_task_runs_once_there_are_threads_again(short):
    said = short("""
    executor = Executor(1)
    stuck, over = threading.Event(), threading.Event()
    def stays():
        stuck.set()
        over.wait(30)
    # The timer has its thread.
    submit(executor, int, timeout=10).result(10)
    threads(False)
    future = submit(executor, stays, timeout=0.05)
    stuck.wait(10)
    behind = executor.submit(int)
    until(future.done)
    until(lambda: count.lines)
    threads(True)
    print(behind.result(10))
    over.set()
    executor.shutdown()
    """)
    assert said == ["0"]


def test_one_shortage_is_one_warning(short):
    said = short("""
    executor = Executor(4)
    go = threading.Event()
    executor.submit(int).result(10)
    for shortage in range(1, 3):
        threads(False)
        go.clear()
        futures = [executor.submit(go.wait, 20) for _ in range(2)]
        until(lambda: len(count.lines) == shortage)
        futures += [executor.submit(go.wait, 20) for _ in range(200)]
        threads(True)
        # Here one can be started.
        futures.append(executor.submit(go.wait, 20))
        until(lambda: executor.stats()["threads"] > 1)
        go.set()
        for future in futures:
            future.result(10)
        executor.shutdown()
        executor = Executor(4)
        executor.submit(int).result(10)
    print(len(count.lines), "could not be started" in count.lines[0])
    executor.shutdown()
    """)
    assert said == ["2", "True"]


def test_workers_that_are_stuck_are_replaced_up_to_a_limit(caplog, wait_until):
    gates = [Gate() for _ in range(18)]
    with Executor(2, "bounded") as executor:
        # The limit is four times the workers, at least 16.
        stuck = [submit(executor, gate, timeout=0.05) for gate in gates]
        assert wait_until(lambda: all(it.done() for it in stuck))
        assert executor.stats()["stuck"] == 18
        assert executor.stats()["threads"] == 18
        (line,) = [it.getMessage() for it in caplog.records if "bounded" in it.getMessage()]
        assert "16 workers are stuck" in line
        # One that comes back makes room for another, whichever it is.
        after = executor.submit(threading.get_ident)
        assert not after.done()
        gates[0].open()
        assert after.result(DEADLINE)
        for gate in gates:
            gate.open()
        for future in stuck:
            assert isinstance(future.exception(DEADLINE), TaskTimeout)
        assert executor.drain(DEADLINE)
        assert wait_until(lambda: executor.stats()["stuck"] == 0)
        # As many as ever are at work at once.
        both = [Gate(), Gate()]
        futures = [executor.submit(gate) for gate in both]
        assert all(gate.entered.wait(DEADLINE) for gate in both)
        assert executor.stats()["running"] == 2
        for gate in both:
            gate.open()
        for future in futures:
            future.result(DEADLINE)
