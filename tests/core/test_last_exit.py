"""The process ends by C's `exit`, and Python's own end is left out."""

import re
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")

LOST = "tasks that were accepted did not finish before exit"

# `leave` lets other threads run meanwhile, as a server that waits for requests does; `drop`
# does not, like one that is told to end in the middle of Python code.
PRELUDE = """
import ctypes, os, threading, time
from contextlib import nullcontext
from flask_delay import Executor
from flask_delay._native import _scoped_executor

leave, drop = ctypes.CDLL(None).exit, ctypes.PyDLL(None).exit
started = threading.Event()

def work(n):
    started.set()
    time.sleep(0.02)
    os.write(1, f"{n}\\n".encode())
"""


@pytest.fixture
def run(run_script):
    return lambda script: run_script(PRELUDE + textwrap.dedent(script))


def test_tasks_end_first(run):
    done = run("""
        executor = Executor(2)
        for n in range(6):
            executor.submit(work, n)
        leave(7)
    """)
    assert (done.rc, done.err) == (7, "")
    assert sorted(done.out.split()) == ["0", "1", "2", "3", "4", "5"]


def test_time_is_over(run):
    done = run("""
        executor = _scoped_executor(
            max_workers=1, thread_name_prefix="limited", scope=nullcontext, hidden=(),
            reject_types=(), reject=repr, log_failures=True, shutdown_timeout=0.2,
            result_limit=8,
        )
        executor.submit(threading.Event().wait)
        executor.submit(work, 1)
        leave(7)
    """)
    assert (done.rc, done.out) == (7, "")
    (line,) = done.err.splitlines()
    assert re.search(r"2 tasks did not finish before exit and were cancelled: .*work", line)


def test_in_the_middle_of_python_code(run):
    done = run("""
        executor = Executor(1)
        executor.submit(threading.Event().wait)
        drop(7)
    """)
    assert (done.rc, done.out) == (7, "")
    assert LOST in done.err


@pytest.mark.parametrize("how", ["leave", "drop"])
def test_in_a_task(run, how):
    done = run(f"""
        executor = Executor(1)
        executor.submit({how}, 7)
        time.sleep(20)
    """)
    assert (done.rc, done.out) == (7, "")
    assert LOST in done.err


@pytest.mark.parametrize("how", ["leave", "drop"])
def test_nothing_left_to_do(run, how):
    done = run(f"""
        with Executor(1) as executor:
            executor.submit(work, 1)
        other = Executor(1)
        other.submit(int).result()
        assert other.drain(20)
        {how}(7)
    """)
    assert (done.rc, done.out, done.err) == (7, "1\n", "")


def test_in_a_forked_child(run):
    """The parent's tasks are the parent's business, and its locks nobody's."""
    done = run("""
        gate = threading.Event()
        executor = Executor(1)
        executor.submit(gate.wait)
        child = os.fork()
        if child == 0:
            leave(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        gate.set()
    """)
    assert (done.rc, done.out, done.err) == (0, "", "")
