"""The private parts of CPython that `src/bindings/ffi/cpython.rs` leans on, one by one.

Nothing of ours is run here: a test that fails says that this Python has no such part any more, and
its docstring what depends on it.
"""

import _thread
import concurrent.futures as standard
import contextvars
import decimal
import sys
import threading
import warnings
from concurrent.futures import _base

import pytest


def test_functions_at_the_end_of_the_main_thread(run_script):
    """Accepted tasks end at exit, while other threads still run: `process/exit.rs`."""
    result = run_script(
        "import atexit, threading\n"
        "end = threading.Event()\n"
        "thread = threading.Thread(target=lambda: print('ran', end.wait(20)))\n"
        "thread.start()\n"
        "atexit.register(print, 'later')\n"
        "threading._register_atexit(end.set)\n"
    )
    assert (result.rc, result.out) == (0, "ran True\nlater\n"), result.err


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="3.13 has no such lock")
def test_the_lock_of_a_thread():
    """A task may fork, as `multiprocessing` does: `run/worker.rs`."""
    made = []

    def run():
        # As in a worker: this thread was not started by `threading`.
        thread = threading.current_thread()
        before = thread._tstate_lock
        thread._set_tstate_lock()
        made.append((before, thread._tstate_lock.locked()))

    _run_outside(run)
    assert made == [(None, True)]


def test_the_list_of_threads():
    """A worker that has left is in `threading.enumerate` no more: `run/worker.rs`."""
    seen = []

    def run():
        thread = threading.current_thread()
        seen.append(threading._active[thread.ident] is thread)
        threading._active.pop(thread.ident, None)
        seen.append(thread in threading.enumerate())

    _run_outside(run)
    assert seen == [True, False]


def _run_outside(run):
    """In a thread that `threading` has not started."""
    done = _thread.allocate_lock()
    done.acquire()

    def main():
        try:
            run()
        finally:
            done.release()

    _thread.start_new_thread(main, ())
    assert done.acquire(timeout=20)


def test_frames():
    """`timeout` and `stop` interrupt no code that holds a lock: `core/frames.rs`."""
    mine = sys._current_frames()[threading.get_ident()]
    assert mine is sys._getframe()
    assert mine.f_back.f_code
    assert mine.f_globals["__name__"] == __name__
    assert mine.f_lasti > 0


@pytest.mark.parametrize(
    "name",
    [
        "Condition.wait",
        pytest.param(
            "Thread._wait_for_tstate_lock",
            marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="not there any more"),
        ),
        "Thread.join",
        "Event.wait",
    ],
)
def test_where_threads_sleep(name):
    """A thread that sleeps there may be interrupted: `core/frames.rs`."""
    owner, method = name.split(".")
    assert getattr(getattr(threading, owner), method).__code__.co_qualname == name


@pytest.mark.parametrize("name", ["Future.result", "Future.exception", "wait", "as_completed"])
def test_what_sleeps_by_way_of_them(name):
    """As above."""
    found = _base
    for part in name.split("."):
        found = getattr(found, part)
    assert found.__code__.co_qualname == name


def test_the_table_of_exceptions():
    """Where the body of a `try` is, in which a thread sleeps: `body_of_first_try`."""

    def function(call):
        try:
            call()
        except ValueError as error:
            raise LookupError from error

    table = iter(function.__code__.co_exceptiontable)

    def number():
        byte = next(table)
        value = byte & 63
        while byte & 64:
            byte = next(table)
            value = value << 6 | byte & 63
        return value

    start, length, _handler, _depth = 2 * number(), 2 * number(), 2 * number(), number()
    inside = []
    function(lambda: inside.append(sys._getframe(1).f_lasti))
    assert start <= inside[0] < start + length


@pytest.mark.parametrize(
    ("wait", "waiter", "stops"),
    [
        (lambda futures: standard.wait(futures), "_AllCompletedWaiter", False),
        (
            lambda futures: standard.wait(futures, return_when=standard.FIRST_EXCEPTION),
            "_AllCompletedWaiter",
            True,
        ),
        (
            lambda futures: standard.wait(futures, return_when=standard.FIRST_COMPLETED),
            "_FirstCompletedWaiter",
            None,
        ),
        (lambda futures: list(standard.as_completed(futures)), "_AsCompletedWaiter", None),
    ],
)
def test_what_waits_for_futures(wait, waiter, stops):
    """A circle of tasks that wait so is found, and refused: `wait/stdlib.rs`."""
    seen = []

    class Waiters(list):
        def append(self, waiter):
            assert isinstance(waiter, _base._Waiter)
            waiter.event = Event(waiter)
            super().append(waiter)

    class Event:
        def __init__(self, waiter):
            self.waiter = waiter

        def wait(self, _timeout=None):
            local = sys._getframe(1).f_locals
            assert local["waiter"] is self.waiter
            assert self.waiter.event is self
            seen.append((type(self.waiter).__name__, set(local["fs"])))
            seen.append(getattr(self.waiter, "stop_on_exception", None))
            with future._condition:
                future._waiters.remove(self.waiter)
                future._waiters.append = lambda _: None
            raise TimeoutError

        def set(self):
            pass

    future = standard.Future()
    future._waiters = Waiters()
    # `as_completed` takes the waiter out once more, which is not there any more.
    with pytest.raises((TimeoutError, ValueError)):
        wait([future])
    assert seen == [(waiter, {future}), stops]


def test_the_variable_of_decimal():
    """A task has an arithmetic context of its own: `cpython::changed_in_place`."""

    def count():
        decimal.getcontext()
        return list(contextvars.copy_context())

    (variable,) = contextvars.Context().run(count)
    assert isinstance(variable, contextvars.ContextVar)
    assert variable.name == "decimal_context"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="since 3.14")
def test_the_variable_of_warnings():
    """A task has filters of its own: `cpython::changed_in_place`."""
    assert isinstance(warnings._warnings_context, contextvars.ContextVar)
