"""How each case is measured; `benchmarks.table` says for whom and with which targets."""

import contextlib
import statistics
import threading
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measure import now, percentiles
from benchmarks.model import Pool, Values
from benchmarks.work import block, nop

WORKERS = 8
"""How many workers every pool has, unless the case is about their number."""


def warm_up(pool: Pool, rounds: int = 2000) -> None:
    """Make threads, caches and specialised bytecode of the path that is measured."""
    for _ in range(rounds):
        pool.wait(pool.submit(nop))


@contextlib.contextmanager
def blocked(pool: Pool, workers: int = WORKERS) -> Iterator[threading.Event]:
    """Keep all workers busy until the event that is given is set, or the block left."""
    barrier, gate = threading.Barrier(workers + 1), threading.Event()
    for _ in range(workers):
        pool.submit(block, barrier, gate)
    barrier.wait(60)
    try:
        yield gate
    finally:
        gate.set()


def awaken(pool: Pool, workers: int = WORKERS) -> None:
    """Have all workers run once, so that later they are there and idle."""
    with blocked(pool, workers):
        pass


def time_submits(pool: Pool, count: int, after: Callable[[Any], object]) -> Values:
    """p50 and p99 of so many submits of a no-op; `after` is given each handle, untimed.

    The fastest take no longer than to read the clock. What that takes is measured beside
    each of them, so that both have the same circumstances, and taken off.
    """
    submit = pool.submit
    samples, clock = [], []
    for _ in range(count):
        start = now()
        ready = now()
        handle = submit(nop)
        samples.append(now() - ready)
        clock.append(ready - start)
        after(handle)
    return percentiles(samples, statistics.median(clock))
