"""An app whose tasks run in worker processes; the tests and those processes import it."""

import contextlib
import ctypes
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from flask import Flask, current_app

from flask_delay import Delay, current_task, delay, task, using

logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")


def create_app(**config):
    # Where jobs have their files.
    folder = os.environ["CRUNCH_FOLDER"]
    app = Flask("crunch", static_folder=None, instance_path=folder)
    app.config.update(DELAY_BACKEND="processes", DELAY_APP=f"{__name__}:create_app()")
    app.config.update({"DELAY_PROCESSES": 2} | config)
    Delay(app)
    Extension().init_app(app)
    return app


def whereabouts(value=None):
    """What a task sees of the world."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "app": current_app.name,
        "id": current_task.id,
        "thread": threading.current_thread() is threading.main_thread(),
        "value": value,
    }


@task
def double(value):
    return value * 2


held: list[bytes] = []


def hold(size):
    """Use so much memory from now on."""
    held.append(b"x" * size)
    return os.getpid()


def submit_there(path):
    """Have a thread of this process do something later."""
    using(backend="threads", countdown=0.2).delay(Path(path).touch)


class Doubler:
    def __init__(self, factor):
        self.factor = factor

    @task
    def times(self, value):
        return self.factor * value


async def coroutine(value):
    current_task.check()
    return value, current_task.id, os.getpid()


class Stubborn(Exception):
    """Can be pickled, but not made again."""

    def __init__(self, one, two):
        super().__init__(one)


def stubborn():
    raise Stubborn("one", "two")


def fail(kind):
    raise kind("made to fail")


def spin():
    while True:
        pass


def obey(begun):
    begun_at(begun)
    while True:
        current_task.check()
        time.sleep(0.001)


def begun_at(path):
    """Say in a file that this process is at it."""
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def stay(path, seconds=60.0):
    begun_at(path)
    time.sleep(seconds)
    return os.getpid()


def die_with_offspring():
    """Be killed, while what this process has forked goes on."""
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(5)
    os._exit(0)


def nested(path):
    """Submit another task, here, that ends later."""

    def later():
        time.sleep(0.3)
        path.write_text(str(os.getpid()))

    here = delay(os.getpid).result(), using(backend="processes").delay(os.getpid).result()
    delay(later)
    return os.getpid(), *here


def job(path):
    """Have a job, which is not for this process to run."""
    made = using(every=0.05, key="job").delay(path.touch)
    time.sleep(0.3)
    return made.last


def log():
    logging.getLogger("crunch").error("logged in there")
    print("printed in there", flush=True)
    subprocess.run([sys.executable, "-c", "print('run in there')"], check=True)


# --- Files and forks ------------------------------------------------------------------

LOOK = """
import os
for number in range(3, 256):
    try:
        os.fstat(number)
    except OSError:
        continue
    print(number)
"""


def open_files_of_a_program():
    """Which files a program has open that a task starts and that closes none."""
    started = subprocess.run(
        [sys.executable, "-S", "-c", LOOK], close_fds=False, stdout=subprocess.PIPE, check=True
    )
    return started.stdout.split()


def list_files(path):
    os.system(f"ls -l /proc/self/fd > '{path}'")


def open_files_of_a_fork(in_c):
    """How many files a process has open that a task forks, but for the first three."""
    pid = ctypes.PyDLL(None).fork() if in_c else os.fork()
    if pid == 0:
        os._exit(len(open_files()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def open_files():
    found = []
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.append(number)
    return found


def fork_that_comes_back(how):
    """What a process leaves that a task has forked and that comes back from the task's code."""
    pid = os.fork()
    if pid == 0:
        if how == "exit":
            sys.exit(3)
        if how == "raise":
            raise LookupError("in the fork")
        return "of the fork"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def fork_in_coroutine():
    return fork_that_comes_back("raise")


def fork_that_submits(path):
    """The process that it forks has a task left, and comes back."""
    pid = os.fork()
    if pid == 0:
        delay(begun_at, path)
        return None
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def connection():
    """The file descriptor that this worker process talks to its parent by."""
    return next(it for it in open_files() if stat.S_ISSOCK(os.fstat(it).st_mode))


def write_to_parent(data, seconds=0.0):
    os.write(connection(), data)
    time.sleep(seconds)


def write_later(data, path, go):
    """Have something written when the task's answer has come."""

    def write():
        while not go.exists():
            time.sleep(0.005)
        os.write(connection(), data)
        begun_at(path)

    threading.Thread(target=write).start()
    return os.getpid()


class Touches:
    """Its pickle, wherever it is read, makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def compute_in_c(path):
    begun_at(path)
    return sum(range(10**11))


def create_slow_app(path):
    """An app that is loaded when a file is there, and notes who loads it."""
    with Path(path).open("a") as file:
        print(os.getpid(), file=file)
    while not Path(f"{path}.go").exists():
        time.sleep(0.01)
    return create_app()


def create_dying_app():
    os._exit(3)


def interpreter():
    """How this Python was started."""
    return tuple(sys.flags), sorted(sys.warnoptions), sorted(sys._xoptions.items()), sys.argv


# --- What a process has of its own ----------------------------------------------------


class Extension:
    """Cannot be pickled, as most of them cannot."""

    def __init__(self):
        self.lock = threading.Lock()

    def init_app(self, app):
        app.extensions["crunch"] = self

    def whose(self):
        return os.getpid()


nameless = Extension()
