"""The cost of the standard library's own functions with the futures of a pool."""

import asyncio
import time
from concurrent.futures import as_completed, wait

from benchmarks.cases import WORKERS, blocked, now, percentiles, warm_up
from benchmarks.model import Peer, Values
from benchmarks.work import nop


def wait_all(peer: Peer, size: int) -> Values:
    """`wait` for futures that are done, and for some that are not, with a timeout."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        futures = [pool.submit(nop) for _ in range(size)]
        for future in futures:
            future.result()
        start = now()
        wait(futures)
        done = now() - start
        with blocked(pool):
            futures = [pool.submit(nop) for _ in range(size)]
            start = time.thread_time()
            wait(futures, timeout=0)
            pending = time.thread_time() - start
    return {"done": done / size, "pending": pending / size}


def iterate(peer: Peer, size: int) -> Values:
    """`as_completed` over futures that are done, and over some that are running."""
    with peer.open(WORKERS) as pool:
        warm_up(pool)
        futures = [pool.submit(nop) for _ in range(size)]
        for future in futures:
            future.result()
        start = now()
        for _ in as_completed(futures):
            pass
        done = now() - start
        start = now()
        for _ in as_completed([pool.submit(nop) for _ in range(size)]):
            pass
        running = now() - start
    return {"done": done / size, "running": running / size}


def wrap(peer: Peer, size: int) -> Values:
    """Submit, `asyncio.wrap_future`, await."""

    async def main() -> list[float]:
        samples = []
        for _ in range(size):
            start = now()
            await asyncio.wrap_future(pool.submit(nop))
            samples.append(now() - start)
        return samples

    with peer.open(WORKERS) as pool:
        warm_up(pool)
        return percentiles(asyncio.run(main()))
