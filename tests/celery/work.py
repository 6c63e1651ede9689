"""The tasks of the tests with Celery, known to the tests and to their workers."""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import redis
from flask import current_app, g, has_request_context

from flask_delay import Retry, current_task, task


@task(backend="celery")
def add(a, b=0):
    return a + b


@task
def plain(value):
    return value


@task(backend="threads")
def for_threads():
    return "here"


@task(backend="celery")
def echo(value):
    return value


@task(backend="celery")
def fail(text):
    raise LookupError(text)


@task(backend="celery")
def look():
    seen = hasattr(g, "seen")
    g.seen = True
    return {
        "app": current_app.name,
        "pid": os.getpid(),
        "request": has_request_context(),
        "seen": seen,
        "id": current_task.id,
        "attempt": current_task.attempt,
        "name": current_task.future.name,
    }


@task(backend="celery", retry=Retry(3, backoff=0.2, jitter=False, on=LookupError, unless=KeyError))
def flaky(fails):
    if current_task.attempt <= fails:
        raise IndexError(f"attempt {current_task.attempt}")
    return current_task.attempt


@task(backend="celery", timeout=0.2)
async def too_late():
    await asyncio.sleep(20)


class Thing:
    @task(backend="celery")
    def method(self):
        pass


def gate(url, name):
    """What a test and its task meet at."""
    return redis.Redis.from_url(url), f"gate-{name}"


@task(backend="celery")
def meet(url, name):
    """Say that it has begun, and wait to be let go."""
    client, key = gate(url, name)
    current_task.progress(1, 2, "waiting")
    client.rpush(f"{key}-in", os.getpid())
    client.blpop(f"{key}-out", timeout=20)
    return os.getpid()


@task(backend="celery")
def meet_at(path):
    """As `meet`, without a Redis: at two named pipes."""
    Path(f"{path}-in").write_text("here")
    return Path(f"{path}-out").read_text()


@task(backend="celery")
def write(path, text):
    with Path(path).open("a") as file:
        file.write(text)


@task(backend="celery")
def die_once(path):
    """Be killed the first time."""
    if Path(path).exists():
        return "survived"
    Path(path).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@task(backend="celery")
def die_always(path):
    """Be killed each time, and count them."""
    with Path(path).open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@task(backend="celery")
def is_imported(name):
    return name in sys.modules


@task(backend="celery", retry=Retry(3, backoff=0.01))
def not_json(kind):
    """Return what JSON would change, and count how often."""
    global calls  # noqa: PLW0603
    calls += 1
    made = {
        "object": lambda: object(),
        "key": lambda: {"rows": [{1: "a", "1": "b"}]},
        "enum": lambda: signal.Signals.SIGTERM,
    }
    return calls if kind is None else made[kind]()


@task(backend="celery")
async def not_json_later():
    return {1, 2}


calls = 0


class OutOfStock(Exception):
    """An exception with an `__init__` of its own."""

    def __init__(self, shop, *, left):
        super().__init__(f"{shop} has only {left}")
        self.shop = shop
        self.left = left
        self.lock = threading.Lock()


class Shelf:
    class Empty(Exception):
        pass


@task(backend="celery")
def fail_with(kind):
    if kind == "json":
        json.loads('{"a": ')
    elif kind == "own":
        raise OutOfStock("shop", left=2)
    elif kind == "nested":
        raise Shelf.Empty(3, "left")
    elif kind == "file":
        Path("/nowhere/to/be/found").read_text()
    elif kind == "decode":
        b"\xff".decode()
    elif kind == "group":
        raise ExceptionGroup("two", [ValueError(1), KeyError(2)])
    elif kind == "lock":
        raise LookupError(threading.Lock())
    elif kind == "elsewhere":
        from tests.celery import only_there

        raise only_there.Odd("how odd")


@task(backend="celery")
def sleep(seconds):
    time.sleep(seconds)
