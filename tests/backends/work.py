"""The tasks of the contract: functions of a module, with arguments and results that are JSON."""

import asyncio
import os
import time
from pathlib import Path

from flask import current_app, g, has_request_context, request

from flask_delay import Retry, current_task, task

SOON = Retry(3, backoff=0.01, jitter=False, on=LookupError, unless=KeyError)
LONG = 20.0


class SoldOut(Exception):
    pass


@task
def add(a, b=0):
    return a + b


@task
def echo(value):
    return value


@task
def uploaded(files):
    (file,) = files
    return file.filename, file.name, file.content_type, file.read()


@task
def lend():
    """Return what no message can carry."""
    return (number for number in range(3))


@task
def tell(most):
    """Yield what no message can carry."""
    yield from range(most)


@task
async def shout(text):
    return text.upper(), current_task.id


@task
def look():
    """What the task sees of the world."""
    has_mark = "mark" in g
    g.mark = True
    return {
        "pid": os.getpid(),
        "app": current_app.name,
        "request": has_request_context(),
        "fresh": not has_mark,
        "id": current_task.id,
        "attempt": current_task.attempt,
        "name": current_task.future.name,
    }


@task
async def look_later():
    found = look.__wrapped__()
    await asyncio.sleep(0.001)
    return found | {"app": current_app.name, "id": current_task.id}


@task
def header():
    """Fail, and read the request that is there once more."""
    found = request.headers["X-Mine"], current_app.name
    if current_task.attempt == 1:
        raise LookupError(found)
    return found


@task(retry=SOON)
def note(path, failures):
    """Have the teardown of each attempt write into a file; fail so often."""
    assert "path" not in g
    g.path = path
    return flaky.__wrapped__(failures)


@task(retry=SOON)
def flaky(failures, kind="IndexError"):
    errors = {"IndexError": IndexError, "KeyError": KeyError, "OSError": OSError}
    if current_task.attempt <= failures:
        raise errors[kind](f"attempt {current_task.attempt}")
    return current_task.attempt


@task(retry=SOON)
async def flaky_later(failures):
    return flaky.__wrapped__(failures)


@task
def ask_again(times):
    if current_task.attempt <= times:
        current_task.retry(after=0.01)
    return current_task.attempt


@task
def fail(text):
    raise SoldOut(text, 7)


@task
def leave():
    raise SystemExit(3)


@task(timeout=0.2)
def too_long():
    spin(f"/nowhere/{current_task.id}")


@task(timeout=0.2)
async def too_late():
    await asyncio.sleep(LONG)


@task
def write(path, text):
    with Path(path).open("a") as file:
        file.write(text)


@task
def count(total):
    for done in range(1, total + 1):
        current_task.progress(done, total, f"row {done}")
    return total


@task
def meet(path):
    """Say that it has begun, and stay until it is let go."""
    write.__wrapped__(f"{path}.in", str(os.getpid()))
    spin(f"{path}.out")
    return os.getpid()


@task
def report(path):
    """Say how far it is, and stay until it is let go."""
    current_task.progress(1, 2, "waiting")
    spin(f"{path}.out")
    current_task.progress(2, 2, "done")
    return "result"


@task
async def meet_later(path):
    write.__wrapped__(f"{path}.in", str(os.getpid()))
    await asyncio.sleep(LONG)


def spin(path):
    """Stay in Python code until there is this file."""
    end = time.monotonic() + LONG
    while not Path(path).exists():
        assert time.monotonic() < end, "nobody came"
        time.sleep(0.005)
