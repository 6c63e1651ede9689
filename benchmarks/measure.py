"""Clocks, percentiles and memory."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.model import Values

now = time.perf_counter


def clock_cost() -> float:
    """What reading the clock twice adds to a sample, in seconds."""
    samples = []
    for _ in range(2000):
        start = now()
        samples.append(now() - start)
    return statistics.median(samples)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` of all lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(samples: Sequence[float]) -> Values:
    """p50 and p99 of times that were taken by two readings of the clock."""
    cost = clock_cost()
    return {
        "p50": max(0.0, percentile(samples, 0.50) - cost),
        "p99": max(0.0, percentile(samples, 0.99) - cost),
    }


def resident() -> int:
    """Bytes of memory that this process occupies."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
