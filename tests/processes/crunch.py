"""An app whose tasks run in worker processes; the tests and those processes import it."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

from flask import Flask, current_app, g, has_request_context

from flask_delay import Delay, current_task, delay, task, using

logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")


def create_app(**config):
    # Where jobs have their files.
    folder = os.environ["CRUNCH_FOLDER"]
    app = Flask("crunch", static_folder=None, instance_path=folder)
    app.config.update(DELAY_BACKEND="processes", DELAY_APP=f"{__name__}:create_app()")
    app.config.update({"DELAY_PROCESSES": 2} | config)
    background = Delay(app)
    app.register_blueprint(
        background.status_blueprint(results=True, errors=True), url_prefix="/tasks"
    )
    app.torn = torn

    @app.teardown_appcontext
    def note(error):
        torn.append((g.pop("mark", None), type(error).__name__))

    return app


torn: list[tuple[object, str]] = []


def whereabouts(value=None):
    """What a task sees of the world."""
    has_mark = "mark" in g
    g.mark = value
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "app": current_app.name,
        "request": has_request_context(),
        "id": current_task.id,
        "attempt": current_task.attempt,
        "thread": threading.current_thread() is threading.main_thread(),
        "fresh": not has_mark,
        "value": value,
    }


def last_torn(error=False):
    """What the context of the task before was left with, in this process."""
    if error:
        raise LookupError("made to fail")
    return torn[-1]


@task
def double(value):
    return value * 2


class Doubler:
    def __init__(self, factor):
        self.factor = factor

    @task
    def times(self, value):
        return self.factor * value


@task(retry=2)
def shaky():
    if current_task.attempt <= 2:
        raise ConnectionError(current_task.attempt)
    return current_task.attempt


@task
def picky():
    if current_task.attempt == 1:
        try:
            raise ValueError("not yet")
        except ValueError:
            current_task.retry(after=0)
    return current_task.attempt


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


def generator():
    return (value for value in [1])


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


def report(path):
    """Tell of progress, until the parent has seen it."""
    current_task.progress(1, 3, "one")
    while not path.exists():
        time.sleep(0.001)
    current_task.progress(3, 3, "three")


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
