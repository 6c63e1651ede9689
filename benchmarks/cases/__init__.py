"""How each case is measured; `benchmarks.table` says for whom and with which targets."""

import contextlib
import threading
from collections.abc import Iterator

from benchmarks.model import Pool
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
