"""Celery's tasks, for client and workers."""

import os

from celery import Celery

from benchmarks import REDIS, work
from benchmarks.peers.queues import PATIENCE, QueuePool

app = Celery("benchmarks", broker=os.environ[REDIS], backend=os.environ[REDIS])
nop = app.task(work.nop)
nap = app.task(work.nap)


def pool() -> QueuePool:
    """The client's side."""
    return QueuePool(
        {work.nop: nop.delay, work.nap: nap.delay},
        lambda result: result.get(timeout=PATIENCE),
    )
