"""Workers are threads like any other to Python, the system, debuggers and profilers."""

import faulthandler
import sys
import threading
import weakref
from concurrent.futures import BrokenExecutor

import pytest

from flask_delay import Executor

from .helpers import DEADLINE, Thing, native_threads, occupied

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")


def names():
    return [thread.name for thread in threading.enumerate()]


# --- Names --------------------------------------------------------------------------


def test_python_knows_the_workers_name():
    with Executor(2, "reports") as executor, occupied(executor) as (one,):
        thread = executor.submit(threading.current_thread).result(DEADLINE)
        assert thread.name == "reports_1"
        assert "reports_0" in names()
        assert not one.done()


@linux
@pytest.mark.parametrize(
    ("prefix", "shown"), [("short", "short_0"), ("a-very-long-prefix", "a-very-long-pre")]
)
def test_the_system_knows_the_workers_name(prefix, shown):
    with Executor(1, prefix) as executor:
        native = executor.submit(threading.get_native_id).result(DEADLINE)
        assert native_threads()[native] == shown


def test_unnamed_pools_are_numbered():
    with Executor(1) as one, Executor(1) as two:
        first, second = (
            executor.submit(threading.current_thread).result(DEADLINE).name
            for executor in (one, two)
        )
    assert first.startswith("delay-")
    assert first.endswith("_0")
    assert first != second


def test_names_that_are_not_ascii():
    with Executor(1, "größe-数") as executor:
        thread = executor.submit(threading.current_thread).result(DEADLINE)
    assert thread.name == "größe-数_0"


# --- One thread state for life ------------------------------------------------------


def test_thread_local_survives_between_tasks_and_ends_with_the_worker(wait_until):
    local = threading.local()

    def count():
        local.count = getattr(local, "count", 0) + 1
        local.thing = getattr(local, "thing", None) or Thing()
        return local.count, threading.get_ident(), threading.current_thread()

    with Executor(1) as executor:
        results = [executor.submit(count).result(DEADLINE) for _ in range(20)]
        thing = weakref.ref(executor.submit(lambda: local.thing).result(DEADLINE))
        assert thing() is not None
    assert [result[0] for result in results] == list(range(1, 21))
    assert len({result[1:] for result in results}) == 1
    assert wait_until(lambda: thing() is None)


def test_enumerate_forgets_workers_that_ended(wait_until):
    with Executor(3, "enumerated", idle_timeout=0.02) as executor:
        with occupied(executor, 3):
            assert sorted(filter(lambda name: "enumerated" in name, names())) == [
                "enumerated_0",
                "enumerated_1",
                "enumerated_2",
            ]
        assert wait_until(lambda: sum("enumerated" in name for name in names()) == 1)
    assert not any("enumerated" in name for name in names())


# --- Initializer --------------------------------------------------------------------


def test_initializer_runs_first_on_every_worker():
    local = threading.local()

    def initialize(*args):
        local.value = args

    with Executor(3, initializer=initialize, initargs=(1, "two")) as executor:
        with occupied(executor, 2):
            third = executor.submit(getattr, local, "value", None)
            assert third.result(DEADLINE) == (1, "two")
        seen = [executor.submit(lambda: local.value).result(DEADLINE) for _ in range(5)]
        assert seen == [(1, "two")] * 5


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_failing_initializer_breaks_the_pool(error, caplog):
    go = threading.Event()

    def initialize():
        assert go.wait(DEADLINE)
        raise error("cannot start")

    with Executor(2, "broken", initializer=initialize) as executor:
        called = []
        pending = [executor.submit(called.append, 1) for _ in range(3)]
        pending[0].add_done_callback(called.append)
        go.set()
        for future in pending:
            assert isinstance(future.exception(DEADLINE), BrokenExecutor)
        with pytest.raises(BrokenExecutor, match="initializer"):
            executor.submit(int)
    assert called == [pending[0]]
    records = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert records
    assert "broken" in records[0].getMessage()
    assert records[0].exc_info[0] is error


# --- When threads start -------------------------------------------------------------


@linux
def test_import_and_making_executors_start_no_thread(run_script):
    result = run_script(
        "import os, threading\n"
        "def threads(): return len(os.listdir('/proc/self/task')), threading.active_count()\n"
        "import flask_delay\n"
        "print(threads())\n"
        "executor = flask_delay.Executor(4)\n"
        "flask_delay.Future().set_result(1)\n"
        "executor.stats(), executor.drain(), repr(executor)\n"
        "print(threads())\n"
        "executor.submit(int).result(10)\n"
        "print(threads())\n"
        "executor.shutdown()\n"
    )
    assert result.rc == 0, result.err
    # The worker, and the governor, which Python does not see.
    assert result.out.splitlines() == ["(1, 1)", "(1, 1)", "(3, 2)"]


# --- Hooks --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_hooks_set_before_a_worker_starts_are_called_in_it(kind):
    seen = []

    def hook(frame, event, _):
        if event == "call" and frame.f_code is task.__code__:
            seen.append(threading.current_thread().name)

    def task():
        return None

    before = getattr(threading, f"get{kind}")()
    getattr(threading, f"set{kind}")(hook)
    try:
        with Executor(1, "hooked") as executor:
            for _ in range(3):
                executor.submit(task).result(DEADLINE)
    finally:
        getattr(threading, f"set{kind}")(before)
    assert seen == ["hooked_0"] * 3


def test_stacks_of_workers_are_shown(tmp_path):
    def unmistakable():
        idents.append(threading.get_ident())
        entered.set()
        assert go.wait(DEADLINE)

    idents, entered, go = [], threading.Event(), threading.Event()
    path = tmp_path / "stacks"
    with Executor(1) as executor:
        future = executor.submit(unmistakable)
        try:
            assert entered.wait(DEADLINE)
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            frame = sys._current_frames()[idents[0]]
        finally:
            go.set()
        future.result(DEADLINE)
    assert "in unmistakable" in path.read_text()
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    assert unmistakable.__code__ in codes


# --- The stack ----------------------------------------------------------------------


@linux
def test_the_stack_has_eight_mebibytes():
    import ctypes

    def size():
        libc = ctypes.CDLL(None, use_errno=True)
        libc.pthread_self.restype = ctypes.c_void_p
        attributes = ctypes.create_string_buffer(256)
        assert libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes) == 0
        found = ctypes.c_size_t()
        assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(found)) == 0
        libc.pthread_attr_destroy(attributes)
        return found.value

    with Executor(1) as executor:
        assert executor.submit(size).result(DEADLINE) >= 8 * 2**20
    before = threading.stack_size(16 * 2**20)
    try:
        # More, if more was asked for.
        with Executor(1) as executor:
            assert executor.submit(size).result(DEADLINE) >= 16 * 2**20
    finally:
        threading.stack_size(before)


def test_deep_recursion_through_c_code(run_script):
    # Overflows the 2 MiB that Rust's threads have by default. Python's own calls would
    # need no stack, so each level goes through C.
    result = run_script(
        "import sys\n"
        "from flask_delay import Executor\n"
        "sys.setrecursionlimit(1_000_000)\n"
        "class Deep:\n"
        "    def __init__(self, depth): self.depth = depth\n"
        "    def __call__(self): return self.depth and 1 + Deep(self.depth - 1)()\n"
        "with Executor(1) as executor:\n"
        "    try:\n"
        "        print(executor.submit(Deep(6000)).result(20))\n"
        "    except RecursionError:\n"
        "        # Later versions of Python look at the stack themselves.\n"
        "        print(6000)\n"
    )
    assert (result.rc, result.out) == (0, "6000\n"), result.err


def test_endless_recursion_fails_the_task_only():
    def endless():
        return endless()

    with Executor(1) as executor:
        assert isinstance(executor.submit(endless).exception(DEADLINE), RecursionError)
        assert executor.submit(int).result(DEADLINE) == 0
