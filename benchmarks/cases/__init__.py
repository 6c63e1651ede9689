"""The measurement of each case; `benchmarks.table` has the peers and targets."""

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
    """The sample below which `share` of all samples lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(samples: Sequence[float], clock: float = 0.0) -> Values:
    """p50 and p99; `clock` is the time that reading the clock has added to each sample."""
    return {
        "p50": max(0.0, percentile(samples, 0.50) - clock),
        "p99": max(0.0, percentile(samples, 0.99) - clock),
    }


def resident() -> int:
    """Bytes of memory that this process occupies."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def warm_up(pool: Pool, rounds: int = 2000) -> None:
    """Create threads, fill caches and specialise bytecode on the measured path."""
    for _ in range(rounds):
        pool.wait(pool.submit(nop))


@contextlib.contextmanager
def blocked(pool: Pool, workers: int = WORKERS) -> Iterator[threading.Event]:
    """Keep all workers busy until the yielded event is set, or the block ends."""
    barrier, gate = threading.Barrier(workers + 1), threading.Event()
    for _ in range(workers):
        pool.submit(block, barrier, gate)
    barrier.wait(60)
    try:
        yield gate
    finally:
        gate.set()


def awaken(pool: Pool, workers: int = WORKERS) -> None:
    """Run a task on every worker, so that later all of them exist and are idle."""
    with blocked(pool, workers):
        pass


def time_submits(pool: Pool, count: int, after: Callable[[Any], object]) -> Values:
    """p50 and p99 of `count` submits of a no-op; `after` is called with each handle, untimed.

    The fastest submits take no longer than reading the clock. That time is measured beside each
    submit, under the same conditions, and subtracted.
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
