"""RQ's tasks, for the client; its worker imports functions by name."""

import functools
import os

from redis import Redis
from rq import Queue

from benchmarks import REDIS, work
from benchmarks.peers.queues import PATIENCE, QueuePool


def pool() -> QueuePool:
    """The client's side."""
    queue = Queue(connection=Redis.from_url(os.environ[REDIS]))
    functions = (work.nop, work.nap)
    return QueuePool(
        {fn: functools.partial(queue.enqueue, fn) for fn in functions},
        lambda job: job.latest_result(timeout=int(PATIENCE)),
    )
