"""Clocks, percentiles and memory."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.model import Values

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
