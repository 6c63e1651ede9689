"""The app of tests with several processes; each of them has a copy of this module."""

import asyncio  # noqa: F401 (this and others: what tests say)
import concurrent.futures  # noqa: F401
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

from flask import Flask

import flask_delay  # noqa: F401
from flask_delay import Delay, Retry, chain, current_task, delay, gather, task, using  # noqa: F401

logging.basicConfig(level="DEBUG", format="%(levelname)s %(name)s: %(message)s")
folder = Path(os.environ["SHOP_FOLDER"]).parent
app = Flask("shop", static_folder=None, instance_path=str(folder / "instance"))
app.config.update(eval(os.environ["SHOP_CONFIG"]))
executor = Delay(app)
app.register_blueprint(executor.status_blueprint(url_prefix="/tasks", results=True, errors=True))


def note(what, **more):
    line = json.dumps({"what": what, "pid": os.getpid(), "id": current_task.id, **more})
    with (folder / "notes").open("a") as file:
        file.write(line + "\n")


def look(id):
    """What the status page says."""
    answer = app.test_client().get(f"/tasks/{id}")
    return {"status": answer.status_code, **answer.get_json()}


def fork(child):
    """What a forked child returns, as it is written in Python."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, repr(child()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = file.read()
    os.waitpid(pid, 0)
    return eval(told)


class OutOfStock(Exception):
    def __init__(self, sku):
        super().__init__(f"no {sku}")
        self.sku = sku


@task(durable=True)
def add(left, right=1):
    note("add")
    return left + right


@task(durable=True)
def where():
    return os.getpid()


@task(durable=True)
def fail(sku="apple"):
    raise OutOfStock(sku)


@task(durable=True)
def signal_here():
    """Sends SIGTERM to this worker, so that no sleep of the main thread ends by it."""
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


@task(durable=True)
def wait_for(name):
    """Runs until there is a file of this name."""
    note("begins", attempt=current_task.attempt)
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)
    note("ends")
    return os.getpid()


def go(name):
    (folder / name).touch()


@task(durable=True)
def count(steps, name="never"):
    current_task.progress(1, steps, "one")
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)
    current_task.progress(steps, steps)


@task(durable=True)
def die():
    note("dies", attempt=current_task.attempt)
    os.kill(os.getpid(), 9)


@task
def plain_wait(name):
    note("plain")
    while not (folder / name).exists():
        current_task.check()
        time.sleep(0.01)
    return ("plain", os.getpid())


@task
def plain_die():
    os.kill(os.getpid(), 9)


@task(durable=True)
def give_object():
    return object()


@task(durable=True)
def where_after(value):
    return os.getpid()


@task(durable=True)
def keep(value):
    return value


@task(durable=True)
def describe(values):
    return repr(values[1])


@task(durable=True)
def note_end():
    note("cleaned")


@task(durable=True, backend="processes")
def after_pid(pid):
    return pid, os.getpid()
