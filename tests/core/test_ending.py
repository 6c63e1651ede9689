"""Threads that are in the middle of an object's end when the interpreter ends: none of them
takes the process with it."""

import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")

# `Slow` takes its time to end, in Python code, on the thread that drops it. The program leaves
# while it does, and the executor's time at exit is short.
PRELUDE = """
import contextvars, logging, sys, threading, time
from contextlib import nullcontext
from flask_delay._native import _scoped_executor

logging.getLogger("flask_delay").setLevel(logging.CRITICAL)
begun, gate = threading.Event(), threading.Event()

class Slow:
    # Bound here: the names of the module go before the thread does.
    def __del__(self, begun=begun, sleep=time.sleep, now=time.monotonic):
        begun.set()
        end = now() + 20
        while now() < end:
            sleep(0.001)

    def __call__(self, *_):
        pass

class SlowError(Exception):
    __del__ = Slow.__del__

def make(scope=nullcontext):
    return _scoped_executor(
        max_workers=1, thread_name_prefix="ending", scope=scope, hidden=(), reject_types=(),
        reject=repr, log_failures=False, shutdown_timeout=0.1, result_limit=8,
    )
"""

LEAVE = """
gate.set()
assert begun.wait(20)
print("leaving", flush=True)
"""

KINDS = {
    "result": """
        executor = make()
        def work():
            gate.wait()
            return Slow()
        executor.submit(work)
    """,
    "exception": """
        executor = make()
        def work():
            gate.wait()
            raise SlowError
        executor.submit(work)
    """,
    "argument": """
        executor = make()
        executor.submit(lambda slow: gate.wait(), Slow())
    """,
    "callback": """
        executor = make()
        future = executor.submit(gate.wait)
        future.add_done_callback(Slow())
        del future
    """,
    "context variable of the submitter's": """
        executor = make()
        variable = contextvars.ContextVar("variable")
        def submit():
            variable.set(Slow())
            executor.submit(gate.wait)
        contextvars.copy_context().run(submit)
    """,
    "context variable of the task's": """
        executor = make()
        variable = contextvars.ContextVar("variable")
        def work():
            gate.wait()
            variable.set(Slow())
        executor.submit(work)
    """,
    "thread-local": """
        executor = make()
        local = threading.local()
        def work():
            local.slow = Slow()
            gate.wait()
        executor.submit(work)
        executor.shutdown(wait=False)
    """,
    "surroundings": """
        class Scope:
            def __enter__(self):
                self.slow = Slow()
            def __exit__(self, *_):
                pass
        executor = make(Scope)
        executor.submit(gate.wait)
    """,
    "g": """
        from flask import Flask, g
        from flask_delay import Delay
        app = Flask("app")
        app.config["DELAY_SHUTDOWN_TIMEOUT"] = 0.1
        delay = Delay(app)
        def work():
            g.slow = Slow()
            gate.wait()
        with app.app_context():
            delay.delay(work)
    """,
    "result of a coroutine": """
        executor = make()
        async def work():
            return Slow()
        executor.submit(work)
    """,
    "argument of one that has expired": """
        from flask_delay.periodic.job import Jobs
        from flask_delay.options import Chosen, submitter
        executor = make()
        executor.submit(gate.wait, 20)
        submitter(Chosen({"expires": 0.01}), Jobs(executor), None)(print, Slow())
        assert begun.wait(20)
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_takes_long_does_not_abort_the_process(run_script, kind):
    done = run_script(PRELUDE + textwrap.dedent(KINDS[kind]) + LEAVE)
    assert (done.rc, done.out) == (0, "leaving\n"), done.err
    assert "FATAL" not in done.err
