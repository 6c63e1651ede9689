"""Dramatiq's tasks, for client and workers."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks import REDIS, work
from benchmarks.peers.queues import PATIENCE, QueuePool

_broker = RedisBroker(url=os.environ[REDIS])
_broker.add_middleware(Results(backend=RedisBackend(url=os.environ[REDIS])))
dramatiq.set_broker(_broker)
nop = dramatiq.actor(work.nop, store_results=True)
nap = dramatiq.actor(work.nap, store_results=True)


def pool() -> QueuePool:
    """The client's side."""
    return QueuePool(
        {work.nop: nop.send, work.nap: nap.send},
        lambda message: message.get_result(block=True, timeout=int(PATIENCE * 1000)),
    )
