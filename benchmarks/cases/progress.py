"""The cost of progress reports."""

from collections.abc import Callable

from benchmarks.cases import WORKERS, now
from benchmarks.model import Peer, Values
from flask_delay import current_task, track


def progress(peer: Peer, size: int) -> Values:
    """Per call in a function and in a coroutine, and per item of `track`.

    The figure includes the loop, as in user code.
    """

    def says() -> float:
        start = now()
        for done in range(size):
            current_task.progress(done, size, "exporting")
        return now() - start

    async def says_in_coroutine() -> float:
        return says()

    def tracks() -> float:
        start = now()
        for _ in track(range(size), note="exporting"):
            pass
        return now() - start

    with peer.open(WORKERS) as pool:

        def per_step(task: Callable[[], object]) -> float:
            pool.submit(task).result()
            seconds: float = pool.submit(task).result()
            return seconds / size

        return {
            "call": per_step(says),
            "coroutine": per_step(says_in_coroutine),
            "item": per_step(tracks),
        }
