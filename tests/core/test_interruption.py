"""Where `timeout=` and `stop` raise in running code, and where they must not."""

import importlib
import io
import logging
import queue
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from flask_delay import Executor, TaskTimeout

from .helpers import (
    DEADLINE,
    make,
    spin,
    submit,
)
from .scripts import SUBMIT

SOON = 0.03
# More than a call has to end before its future ends without it.
LATER = 0.3


@pytest.fixture
def executor():
    with Executor(1, "interruption") as executor:
        yield executor


@pytest.fixture
def logger():
    logger = logging.getLogger("tests.interruption")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger
    logger.handlers.clear()


class Held(logging.Formatter):
    """Code of a user's that runs while its handler has its lock."""

    def __init__(self, until):
        super().__init__()
        self.entered, self.until, self.errors = threading.Event(), until, []

    def format(self, record):
        self.entered.set()
        try:
            spin(self.until)
        except BaseException as error:
            self.errors.append(error)
            raise
        return super().format(record)


def is_free(lock):
    """Whether the lock can be had; in this thread, which does not have it."""
    if not lock.acquire(timeout=DEADLINE):
        return False
    lock.release()
    return True


# What froze servers: the exception came between `Handler.acquire` and its `try`.
LOGS_AND_TIMEOUTS = (
    SUBMIT
    + """
import logging, os, sys, threading, time
from flask_delay import Executor, TaskTimeout

class Stream:
    def write(self, text):
        os.write(null, text.encode())
    def flush(self):
        pass

null = os.open(os.devnull, os.O_WRONLY)
handler = logging.StreamHandler(Stream())
logger = logging.Logger("app")
logger.addHandler(handler)
logging.getLogger("flask_delay").setLevel(logging.CRITICAL)
sys.setswitchinterval(1e-5)

def work():
    while True:
        logger.info("line")
        logger.info("line")
        time.sleep(0.0002)

executor = Executor(4)
end = time.monotonic() + float(sys.argv[1])
tasks = 0
while time.monotonic() < end:
    futures = [submit(executor, work, timeout=0.002) for _ in range(4)]
    for future in futures:
        assert isinstance(future.exception(20), TaskTimeout)
    tasks += 4
    while executor.stats()["stuck"]:
        time.sleep(0.001)
    if not handler.lock.acquire(timeout=10):
        os.write(1, f"taken after {tasks}\\n".encode())
        os._exit(1)
    handler.lock.release()
os.write(1, b"free\\n")
os._exit(0)
"""
)


def test_a_task_that_logs_leaves_no_lock_of_logging_taken(run_script):
    done = run_script(LOGS_AND_TIMEOUTS, "3", timeout=60)
    assert (done.rc, done.out, done.err) == (0, "free\n", "")


@pytest.mark.parametrize("how", ["timeout", "stop"])
def test_it_waits_until_a_lock_of_logging_is_let_go(executor, logger, wait_until, how):
    release, left, raised = threading.Event(), threading.Event(), []
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(Held(release))
    logger.addHandler(handler)

    def work():
        try:
            logger.info("line")
            spin()
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            left.set()

    options = {"timeout": SOON} if how == "timeout" else {}
    future = submit(executor, work, **options)
    assert handler.formatter.entered.wait(DEADLINE)
    if how == "stop":
        assert future.stop(0)
    # Its future ends all the same.
    error = TaskTimeout if how == "timeout" else CancelledError
    with pytest.raises(error):
        future.result(DEADLINE)
    time.sleep(LATER)
    assert (handler.formatter.errors, raised) == ([], [])
    release.set()
    # Now it may come, and does.
    assert left.wait(DEADLINE)
    assert [type(it) for it in raised] == [error]
    assert is_free(handler.lock)
    wait_until(lambda: executor.stats()["stuck"] == 0)


def test_it_comes_in_a_task_that_looks_at_an_event_again_and_again(executor):
    event, raised = threading.Event(), threading.Event()

    def work():
        try:
            while not event.wait(0.02):
                pass
        except TaskTimeout:
            raised.set()
            raise

    for _ in range(5):
        future = submit(executor, work, timeout=SOON)
        assert isinstance(future.exception(DEADLINE), TaskTimeout)
        assert raised.wait(DEADLINE)
        raised.clear()
    # The event's lock is in order.
    event.set()
    assert event.wait(0)
    assert is_free(event._cond)


def test_it_comes_in_a_task_that_waits_for_a_thread(executor):
    over, raised = threading.Event(), threading.Event()
    thread = threading.Thread(target=over.wait, args=(DEADLINE,))
    thread.start()

    def work():
        try:
            while thread.is_alive():
                thread.join(0.02)
        except TaskTimeout:
            raised.set()
            raise

    future = submit(executor, work, timeout=SOON)
    assert isinstance(future.exception(DEADLINE), TaskTimeout)
    assert raised.wait(DEADLINE)
    over.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_it_does_not_come_inside_a_queue(executor, wait_until):
    given, over, errors = queue.Queue(), threading.Event(), []

    def work():
        while not over.is_set():
            try:
                given.get(timeout=0.05)
            except queue.Empty:
                pass
            except TaskTimeout as error:
                errors.append(error)
                raise

    future = submit(executor, work, timeout=SOON)
    assert isinstance(future.exception(DEADLINE), TaskTimeout)
    time.sleep(LATER)
    assert errors == []
    assert is_free(given.mutex)
    over.set()
    wait_until(lambda: executor.stats()["stuck"] == 0)
    given.put(1)
    assert given.get(timeout=DEADLINE) == 1


def test_it_does_not_come_inside_an_import(executor, tmp_path, monkeypatch):
    module = tmp_path / "takes_its_time_to_load.py"
    module.write_text(
        "import time\n"
        "def rest():\n"
        "    end = time.monotonic() + 0.4\n"
        "    while time.monotonic() < end:\n"
        "        time.sleep(0.001)\n"
        "rest()\n"
        "done = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, module.stem, None)
    del sys.modules[module.stem]
    loaded, left = [], threading.Event()

    def work():
        try:
            loaded.append(importlib.import_module(module.stem))
            spin()
        finally:
            left.set()

    future = submit(executor, work, timeout=SOON)
    assert isinstance(future.exception(DEADLINE), TaskTimeout)
    assert left.wait(DEADLINE)
    assert loaded[0].done


def test_what_lies_below_the_task_is_no_obstacle(logger):
    """A task that runs at once, submitted by a handler that has its lock."""
    executor, errors = make("immediate"), []

    class Submits(logging.Handler):
        def emit(self, record):
            errors.append(submit(executor, spin, timeout=SOON).exception(0))

    logger.addHandler(Submits())
    logger.info("line")
    assert [type(error) for error in errors] == [TaskTimeout]
    # Raised in there: else it would have no traceback.
    assert errors[0].__traceback__ is not None
