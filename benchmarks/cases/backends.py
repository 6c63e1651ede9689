"""The same tasks on threads, in worker processes and in Celery workers."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import BACKEND
from benchmarks.cases import now
from benchmarks.model import Peer, Values

_CALLS = 300
_BATCH = 2000
_READY = "from benchmarks.backend_app import app, nop\nwith app.app_context(): nop.delay().result()"


def _seconds(call: Callable[[], object]) -> float:
    start = now()
    call()
    return now() - start


def backend(peer: Peer, size: int) -> Values:
    """First and further tasks; two that compute `size` steps; the memory of a worker."""
    name = peer.name.removeprefix("ours-")
    os.environ[BACKEND] = name if name in {"processes", "celery"} else "threads"
    with tempfile.TemporaryDirectory() as scratch, peer.services(Path(scratch)):
        if os.environ[BACKEND] == "celery":
            # So that the measurement does not include the start of the worker.
            subprocess.run([sys.executable, "-c", _READY], check=True)
        # Imported late: it connects to the running services.
        from benchmarks.backend_app import app, compute, memory, nop  # noqa: PLC0415

        with app.app_context():
            first = _seconds(lambda: nop.delay().result())
            # All workers have started.
            list(compute.map([size] * 4))
            trips = [_seconds(lambda: nop.delay().result()) for _ in range(_CALLS)]
            text = "x" * 100_000
            large = [_seconds(lambda: nop.delay(text).result()) for _ in range(_CALLS // 5)]
            submits = []
            for _ in range(_CALLS):
                start = now()
                future = nop.delay()
                submits.append(now() - start)
                future.result()
            batch = _seconds(
                lambda: [future.result() for future in [nop.delay() for _ in range(_BATCH)]]
            )
            one = _seconds(lambda: compute.delay(size).result())
            two = _seconds(lambda: list(compute.map([size] * 2)))
            pid, used = memory.delay().result()
    return {
        "first": first,
        "submit": statistics.median(submits),
        "trip": statistics.median(trips),
        "rate": _BATCH / batch,
        "large": statistics.median(large),
        "pair": two / one,
        "memory": 0 if pid == os.getpid() else used,
    }
