"""What a task costs on threads, in worker processes and in Celery workers.

`python -m benchmarks.backends`, in an environment with the extras `processes` and `celery` and
a redis-server; one that lacks what a backend needs leaves that out. Prints a table in Markdown.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.peers.queues import redis_server, running

_ROUNDS = 3
_CALLS = 300
_BATCH = 2000
_STEPS = 5_000_000
_FOLDER = Path(__file__).parent.parent
_WORKER = ["celery", "--app", "benchmarks.backend_app:celery", "worker", "--concurrency=2"]


def _time(seconds: float) -> str:
    for unit, length, digits in (("s", 1.0, 2), ("ms", 1e-3, 1)):
        if seconds >= length / 10:
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds * 1e6:.1f} µs"


_NEEDS = {
    "threads": (),
    "processes": ("cloudpickle",),
    "celery": ("celery", "redis"),
}
_ROWS: dict[str, tuple[str, Callable[[float], str]]] = {
    "first": ("the first task of a process, from `delay` to its result", _time),
    "submit": ("`delay`, for who calls it", _time),
    "trip": ("from `delay` to the result", _time),
    "rate": ("tasks per second, submitted at once", lambda it: f"{it:,.0f}"),
    "large": ("from `delay` to the result, 100 kB there and back", _time),
    "pair": ("two tasks that compute, to one", lambda it: f"{it:.1f}x"),
    "memory": ("memory of a further worker", lambda it: f"{it:.0f} MB" if it else "none"),
}


def measure() -> None:
    """Print the figures of the backend that the environment says."""
    from benchmarks.backend_app import app, compute, memory, nop  # noqa: PLC0415

    with app.app_context():
        first = _seconds(lambda: nop.delay().result())
        # All workers have begun.
        list(compute.map([_STEPS] * 4))
        trips = [_seconds(lambda: nop.delay().result()) for _ in range(_CALLS)]
        text = "x" * 100_000
        large = [_seconds(lambda: nop.delay(text).result()) for _ in range(_CALLS // 5)]
        submits = []
        for _ in range(_CALLS):
            begin = time.perf_counter()
            future = nop.delay()
            submits.append(time.perf_counter() - begin)
            future.result()
        rate = _BATCH / _seconds(
            lambda: [it.result() for it in [nop.delay() for _ in range(_BATCH)]]
        )
        one = _seconds(lambda: compute.delay(_STEPS).result())
        two = _seconds(lambda: list(compute.map([_STEPS] * 2)))
        pid, size = memory.delay().result()
    figures = {
        "first": first,
        "submit": statistics.median(submits),
        "trip": statistics.median(trips),
        "rate": rate,
        "large": statistics.median(large),
        "pair": two / one,
        "memory": 0 if pid == os.getpid() else size,
    }
    print(json.dumps(figures), flush=True)


def wait() -> None:
    """Return when a worker runs tasks."""
    from benchmarks.backend_app import app, nop  # noqa: PLC0415

    with app.app_context():
        nop.delay().result()


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@contextlib.contextmanager
def _environment(backend: str) -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        environment = os.environ | {"FLASK_DELAY_BACKEND": backend}
        if backend == "celery":
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(redis_server(scratch))
            environment["FLASK_DELAY_CELERY_BROKER_URL"] = url
            command = ["env", *(f"{name}={environment[name]}" for name in _SETTINGS)]
            command += [sys.executable, "-m", *_WORKER]
            stack.enter_context(running(command, scratch / "worker.log"))
            # So that what is measured does not wait for the worker to start.
            _call("wait", environment)
        yield environment


_SETTINGS = ("FLASK_DELAY_BACKEND", "FLASK_DELAY_CELERY_BROKER_URL")


def _call(function: str, environment: dict[str, str]) -> str:
    code = f"from benchmarks.backends import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
        text=True,
    )
    return done.stdout


def _round(backend: str) -> dict[str, float]:
    with _environment(backend) as environment:
        found: dict[str, float] = json.loads(_call("measure", environment))
    return found


def _can(backend: str) -> bool:
    if backend == "celery" and shutil.which("redis-server") is None:
        return False
    return all(importlib.util.find_spec(name) for name in _NEEDS[backend])


def main() -> None:
    """Print the medians of some rounds."""
    backends = [backend for backend in _NEEDS if _can(backend)]
    found: dict[str, list[dict[str, float]]] = {backend: [] for backend in backends}
    for _ in range(_ROUNDS):
        for backend in backends:
            found[backend].append(_round(backend))
    print(f"| Python {sys.version.split()[0]}, {os.cpu_count()} CPUs |", " | ".join(backends), "|")
    print("| --- |" + " --- |" * len(backends))
    for key, (title, shown) in _ROWS.items():
        medians = (statistics.median(it[key] for it in found[backend]) for backend in backends)
        print(f"| {title} |", " | ".join(map(shown, medians)), "|")


if __name__ == "__main__":
    main()
