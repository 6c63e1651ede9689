"""How each case is measured; `benchmarks.table` says for whom and with which targets."""

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.model import Pool, Values
from benchmarks.work import block, nop

WORKERS = 8
"""How many workers every pool has, unless the case is about their number."""

now = time.perf_counter


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` of all lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(samples: Sequence[float], clock: float = 0.0) -> Values:
    """p50 and p99; `clock` is what the readings of the clock have added to each sample."""
    return {
        "p50": max(0.0, percentile(samples, 0.50) - clock),
        "p99": max(0.0, percentile(samples, 0.99) - clock),
    }


def resident() -> int:
    """Bytes of memory that this process occupies."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


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
