"""The tasks of the tests with Celery, known to the tests and to their workers."""

import asyncio
import os
import signal
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


@task(backend="celery")
async def later(value):
    return value


@task(backend="celery")
def fail(text):
    raise LookupError(text)


@task(backend="celery")
def leave():
    raise SystemExit(3)


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


@task(backend="celery")
def ask_again():
    if current_task.attempt == 1:
        current_task.retry(after=0.01)
    return current_task.attempt


@task(backend="celery", timeout=0.2)
def too_long():
    while True:
        time.sleep(0.01)


@task(backend="celery", timeout=0.2)
async def too_late():
    await asyncio.sleep(20)


class Thing:
    @task(backend="celery")
    def method(self):
        pass


@task(backend="celery")
def count(total):
    for done in range(1, total + 1):
        current_task.progress(done, total, f"row {done}")
    return total


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
def not_json():
    return object()
