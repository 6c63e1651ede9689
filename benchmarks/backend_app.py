"""The app of the case `backends`, imported by all of its processes."""

import os
import time
from pathlib import Path

from flask import Flask

from benchmarks import BACKEND, REDIS
from flask_delay import Delay, task

app = Flask(__name__, static_folder=None)
app.config.update(DELAY_APP="benchmarks.backend_app:app", DELAY_PROCESSES=2)
app.config["DELAY_BACKEND"] = os.environ[BACKEND]
if os.environ[BACKEND] == "celery":
    app.config["DELAY_CELERY_BROKER_URL"] = os.environ[REDIS]
Delay(app)

if os.environ[BACKEND] == "celery":
    from flask_delay.backends.celery import celery_app

    celery = celery_app(app)


@task
def nop(value: object = None) -> object:
    """Do nothing: the cost of a task without its work."""
    return value


@task
def compute(steps: int) -> float:
    """Compute; return the seconds that it took."""
    begin = time.perf_counter()
    for number in range(steps):
        _ = number * number
    return time.perf_counter() - begin


@task
def memory() -> tuple[int, float]:
    """The worker's process id, and its share of the memory in bytes (Linux)."""
    with Path("/proc/self/smaps_rollup").open() as lines:
        pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return os.getpid(), pss * 1024
