"""Pools of worker processes, each measured in a fresh interpreter."""

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Submit = Callable[..., "Future[Any]"]


_apps: list[Any] = []
"""A `Delay` keeps no app alive."""


def ours() -> Submit:
    """Submits to a worker process of a `Delay`."""
    from flask import Flask  # noqa: PLC0415 (to import it is a part of the start)

    from flask_delay import Delay  # noqa: PLC0415

    app = Flask(__name__, static_folder=None)
    app.config.update(DELAY_BACKEND="processes", DELAY_PROCESSES=1)
    app.config.update(DELAY_APP="benchmarks.spawned:make_app()")
    _apps.append(app)
    submit: Submit = Delay(app).delay
    return submit


def make_app() -> Any:
    """The app of that worker process."""
    ours()
    return _apps[-1]


def loky() -> Submit:
    """Submits to loky's executor."""
    from loky.process_executor import ProcessPoolExecutor  # noqa: PLC0415

    submit: Submit = ProcessPoolExecutor(1).submit
    return submit


def pebble() -> Submit:
    """Submits to Pebble's pool."""
    import multiprocessing  # noqa: PLC0415

    from pebble import ProcessPool  # noqa: PLC0415

    pool = ProcessPool(1, context=multiprocessing.get_context("spawn"))
    return lambda fn, *args: pool.schedule(fn, args=args)


def standard() -> Submit:
    """Submits to the standard library's."""
    import multiprocessing  # noqa: PLC0415
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")).submit


POOLS: dict[str, Callable[[], Submit]] = {
    "ours-processes": ours,
    "loky": loky,
    "pebble": pebble,
    "spawn": standard,
}
"""By the names of the peers."""


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def calls(make: Callable[[], Submit]) -> dict[str, float]:
    """The times of starts and calls, and the outcome when the process is killed."""
    begin = time.perf_counter()
    submit = make()
    pid = submit(os.getpid).result()
    start = time.perf_counter() - begin
    small = [_seconds(lambda: submit(abs, -1).result()) for _ in range(300)]
    data = bytes(1_000_000)
    large = [_seconds(lambda: submit(bytes, data).result()) for _ in range(30)]
    doomed = submit(time.sleep, 60)
    time.sleep(0.2)
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    doomed.exception()
    killed = time.perf_counter() - begin
    try:
        heals = submit(abs, -1).result() == 1
    except Exception:
        heals = False
    return {
        "start": start,
        "small": statistics.median(small),
        "large": statistics.median(large),
        "killed": killed,
        "heals": heals,
    }


def late(make: Callable[[], Submit]) -> None:
    """Submit at the interpreter's exit, as a queued task would."""
    import threading  # noqa: PLC0415

    def task() -> None:
        try:
            ran = submit(abs, -1).result() == 1
        except RuntimeError:
            ran = False
        print(json.dumps({"late": ran}), flush=True)

    # Registered as the native module does: before modules that are imported later.
    import concurrent.futures.thread  # noqa: F401, PLC0415

    threading._register_atexit(task)  # type: ignore[attr-defined]
    submit = make()
    submit(abs, -1).result()


def orphan(make: Callable[[], Submit]) -> None:
    """Print the id of a process that has a task, and be killed."""
    submit = make()
    print(json.dumps({"pid": submit(os.getpid).result()}), flush=True)
    submit(time.sleep, 60)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def forked(make: Callable[[], Submit]) -> dict[str, float]:
    """Fork while a task runs; return whether the child's exit makes the task fail."""
    submit = make()
    task = submit(time.sleep, 1)
    time.sleep(0.7)
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    return {"harm": task.exception() is not None}


def run(function: str, pool: str) -> None:
    """Print the function's findings as JSON; for a separate interpreter."""
    functions = {each.__name__: each for each in (calls, late, orphan, forked)}
    if found := functions[function](POOLS[pool]):
        print(json.dumps(found), flush=True)
