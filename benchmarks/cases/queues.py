"""Queues that keep tasks outside of the process, beside Flask-Delay."""

import tempfile
from pathlib import Path

from benchmarks.cases import WORKERS, now, percentile, warm_up
from benchmarks.model import Peer, Values
from benchmarks.work import nop


def queue(peer: Peer, size: int) -> Values:
    """Submits, results one at a time, and all of a batch."""
    trips = max(10, size // 10)
    with (
        tempfile.TemporaryDirectory() as scratch,
        peer.services(Path(scratch)),
        peer.open(WORKERS) as pool,
    ):
        warm_up(pool, 10)
        round_trips = []
        for _ in range(trips):
            start = now()
            pool.wait(pool.submit(nop))
            round_trips.append(now() - start)
        submits = []
        for _ in range(trips):
            start = now()
            handle = pool.submit(nop)
            submits.append(now() - start)
            pool.wait(handle)
        start = now()
        pool.drain(nop, size)
        rate = size / (now() - start)
    return {
        "submit": percentile(submits, 0.5),
        "trip": percentile(round_trips, 0.5),
        "rate": rate,
    }
