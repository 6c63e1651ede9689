"""Submits, tasks and callbacks, for all pools in this process."""

import itertools
import threading
import time
from typing import Any

from benchmarks.cases import WORKERS, awaken, blocked, now, percentiles, time_submits, warm_up
from benchmarks.model import Peer, Values
from benchmarks.work import nap, nop


def submit_busy(peer: Peer, size: int) -> Values:
    """All workers have a task: the new one is queued and wakes no worker."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        with blocked(pool):
            handles: list[Any] = []
            return time_submits(pool, size, handles.append)


def submit_idle(peer: Peer, size: int) -> Values:
    """All workers sleep: the submit wakes one."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        # An event of this process cannot hold processes; they exist from the start.
        if peer.name != "processes":
            awaken(pool)

        def rest(handle: Any) -> None:
            pool.wait(handle)
            # Long enough for the worker to go back to sleep.
            time.sleep(0.0005)

        return time_submits(pool, size, rest)


def tasks(peer: Peer, size: int) -> Values:
    """From the first submit to the end of the last task."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        start = now()
        pool.drain(nop, size)
        return {"rate": size / (now() - start)}


def round_trip(peer: Peer, size: int) -> Values:
    """Submit a no-op and wait for its result."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        if peer.name != "processes":
            awaken(pool)
        submit, wait = pool.submit, pool.wait
        samples = []
        for _ in range(size):
            start = now()
            wait(submit(nop))
            samples.append(now() - start)
    return percentiles(samples)


def callbacks(peer: Peer, size: int) -> Values:
    """Submit, add a done callback, run both; per task."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        finished = threading.Event()
        # Counts in one atomic step, from any thread.
        count = itertools.count(1)

        def done(*_: Any) -> None:
            if next(count) == size:
                finished.set()

        submit = pool.submit
        start = now()
        for _ in range(size):
            submit(nop).add_done_callback(done)
        finished.wait()
        return {"each": (now() - start) / size}


def sleepers_cold(peer: Peer, size: int) -> Values:
    """As many sleeping tasks as workers, from a pool that has no thread yet."""
    return _sleepers(peer, size, warm=False)


def sleepers_warm(peer: Peer, size: int) -> Values:
    """As many sleeping tasks as workers, on a pool of idle threads."""
    return _sleepers(peer, size, warm=True)


def _sleepers(peer: Peer, size: int, *, warm: bool) -> Values:
    with peer.open(size) as pool:
        if warm:
            awaken(pool, size)
            time.sleep(0.5)
        start = now()
        for handle in [pool.submit(nap, 0.1) for _ in range(size)]:
            pool.wait(handle)
        return {"all": now() - start}
