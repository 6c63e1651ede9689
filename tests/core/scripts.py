"""What scripts begin with that tests run in processes of their own; what those write."""

import re

_COMMON = """
import os
from contextlib import nullcontext
from flask_delay import Executor, current_task, delay
from flask_delay._native import _scoped_executor

def write(text):
    os.write(1, f"{text}\\n".encode())

def limited(timeout, workers=8):
    return _scoped_executor(
        max_workers=workers, thread_name_prefix="limited", scope=nullcontext, hidden=(),
        reject_types=(), reject=repr, log_failures=True, shutdown_timeout=timeout,
        result_limit=8,
    )
"""

# At exit: `leaving` is set when it begins, before tasks are waited for; `drained` when they
# have been waited for. `threading` calls what is registered last first.
EXIT = (
    """
import threading
leaving, drained = threading.Event(), threading.Event()
threading._register_atexit(drained.set)
"""
    + _COMMON
    + """
import atexit, sys, time

threading._register_atexit(leaving.set)

def after(event, text):
    assert event.wait(20)
    write(text)
"""
)

FORK = (
    _COMMON
    + """
import concurrent.futures, sys, threading, time, traceback
from flask_delay._native import ForkedFutureError

def reap(pid, deadline=10.0):
    # The exit code of a child, which must end in time.
    end = time.monotonic() + deadline
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return "a child hangs"
        time.sleep(0.002)

def forked(task, *args):
    # Runs `task` in a child that leaves without more ado.
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            task(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid

def settle():
    # Returns when all other threads sleep: forked in C, a child finds Python's own locks as
    # they were. Only the operating system knows.
    tasks, seen = "/proc/self/task", 0
    if not os.path.exists(tasks):
        time.sleep(0.2)
        return
    while seen < 5:
        states = set()
        for task in set(os.listdir(tasks)) - {str(threading.get_native_id())}:
            with open(f"{tasks}/{task}/stat") as stat:
                states.add(stat.read().rpartition(")")[2].split()[0])
        seen = seen + 1 if states <= {"S"} else 0
        time.sleep(0.002)

def nested(executor, n):
    # Every pool must be able to do that, with a single worker too.
    return executor.submit(lambda: executor.submit(pow, n, 2).result(20)).result(20)

def try_all(future):
    # What the uses of a future raise.
    uses = {
        "result": future.result,
        "timed": lambda: future.result(20),
        "exception": future.exception,
        "cancel": future.cancel,
        "callback": lambda: future.add_done_callback(print),
        "wait": lambda: concurrent.futures.wait([future], 20),
        "as_completed": lambda: list(concurrent.futures.as_completed([future], 20)),
    }
    for name, use in uses.items():
        try:
            write(f"{name}: {use()}")
        except Exception as error:
            write(f"{name}: {type(error).__name__}")
"""
)

SIGNALS = (
    _COMMON
    + """
import concurrent.futures, signal, sys, threading, time

main = threading.main_thread().ident
sent = []

def asleep():
    # Only the operating system knows whether the main thread has begun to wait.
    path = f"/proc/self/task/{os.getpid()}/stat"
    if not os.path.exists(path):
        time.sleep(0.2)
        return True
    with open(path) as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"

def send(number, *, inside, times=1):
    # Sends the signal once the main thread sleeps in the function `inside`.
    def watch():
        for _ in range(times):
            end = time.monotonic() + 20
            seen = 0
            # Several times in a row, lest it only waited for the interpreter lock.
            while seen < 5 and time.monotonic() < end:
                frame, names = sys._current_frames().get(main), set()
                while frame is not None:
                    names.add(frame.f_code.co_name)
                    frame = frame.f_back
                seen = seen + 1 if inside in names and asleep() else 0
                time.sleep(0.005)
            sent.append(time.monotonic())
            os.kill(os.getpid(), number)
            if times > 1:
                assert handled.acquire(timeout=20)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread

handled = threading.Semaphore(0)
gate = threading.Event()
executor, other = Executor(1), Executor(1)
future = executor.submit(gate.wait, 20)
last = other.submit(gate.wait, 20)
"""
)

# As `submit` of `helpers`.
SUBMIT = """
from flask_delay.periodic.job import Jobs
from flask_delay.options import Chosen, submitter

def submit(executor, fn, *args, **options):
    return submitter(Chosen(options), Jobs(executor), None)(fn, *args)
"""

WARNING = re.compile(
    r"(\d+) (?:task did not finish before exit and was|tasks did not finish before exit and were)"
    r" cancelled: (.+)\n"
)
# As in process/exit.rs.
NAMED = 20
NAME = re.compile(r"([\w.<>]+) \([0-9a-f-]{36}\)")


def unfinished(err):
    """The tasks that the warning names; there is nothing else on stderr."""
    match = WARNING.fullmatch(err)
    assert match, err
    names = NAME.findall(match[2])
    assert len(names) == min(int(match[1]), NAMED), err
    return sorted(names)
