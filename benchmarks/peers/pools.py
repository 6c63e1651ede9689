"""Peers that run tasks in this process or in its children."""

import _thread
import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

import flask_delay
from benchmarks.model import Pool
from benchmarks.peers.queues import running
from benchmarks.spawned import POOLS


def _no_services(_scratch: Path) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class InProcess:
    """A library whose pools are in this process; see `Peer`."""

    name: str
    title: str
    open: Callable[..., AbstractContextManager[Pool]]
    packages: tuple[str, ...] = ()
    services: Callable[[Path], AbstractContextManager[Any]] = _no_services
    programs: tuple[str, ...] = ()


class _Futures:
    """A pool whose handles are futures and whose `shutdown` waits."""

    def __init__(self, submit: Callable[..., Any], shutdown: Callable[[], object]) -> None:
        self.submit = submit
        self.shutdown = shutdown

    def wait(self, handle: Any) -> None:
        handle.result()

    def drain(self, fn: Callable[..., object], count: int, *args: object) -> None:
        submit = self.submit
        for _ in range(count):
            submit(fn, *args)
        self.shutdown()


@contextlib.contextmanager
def _ours(workers: int, app: Flask | None = None, **settings: object) -> Iterator[Pool]:
    """`delay` in an app with these settings, `Executor` without one: as in user code."""
    if app is None:
        with flask_delay.Executor(workers) as executor:
            yield _Futures(executor.submit, executor.shutdown)
        return
    app.config.update(settings, DELAY_MAX_WORKERS=workers)
    pool = flask_delay.Delay(app).executor
    yield _Futures(flask_delay.delay, pool.shutdown)
    pool.shutdown()


@contextlib.contextmanager
def _standard(
    make: type[ThreadPoolExecutor | ProcessPoolExecutor], workers: int, _app: Flask | None = None
) -> Iterator[Pool]:
    """The standard library's executors, without any context."""
    with make(workers) as executor:
        yield _Futures(executor.submit, executor.shutdown)


@contextlib.contextmanager
def _spawned(pool: str, _workers: int, _app: Flask | None = None) -> Iterator[Pool]:
    """One spawned process, not forked; `benchmarks.spawned` has the rest."""
    yield _Futures(POOLS[pool](), lambda: None)


@contextlib.contextmanager
def _flask_executor(workers: int, app: Flask | None = None) -> Iterator[Pool]:
    """Copies both contexts into each task; takes tasks only in a request, so this makes one."""
    with contextlib.ExitStack() as stack:
        if app is None:
            app = Flask("benchmarks", static_folder=None)
            stack.enter_context(app.test_request_context())
        app.config["EXECUTOR_MAX_WORKERS"] = workers
        executor = importlib.import_module("flask_executor").Executor(app)
        # Its own `shutdown` is the base class's, which does nothing.
        shutdown = executor._self.shutdown
        yield _Futures(executor.submit, shutdown)
        shutdown()


class _Hypertile:
    """Handles that have a state and callbacks, but no wait."""

    def __init__(self, submit: Callable[..., Any]) -> None:
        self.submit = submit

    def wait(self, handle: Any) -> None:
        done = _thread.allocate_lock()
        done.acquire()
        handle.add_done_callback(done.release)
        done.acquire()

    def drain(self, fn: Callable[..., object], count: int, *args: object) -> None:
        submit = self.submit
        for handle in [submit(fn, *args) for _ in range(count)]:
            while not handle.done():
                time.sleep(0.0001)


@contextlib.contextmanager
def _hypertile(workers: int, _app: Flask | None = None) -> Iterator[Pool]:
    """One pool for the whole process, made once, that cannot be closed."""
    hypertile = importlib.import_module("hypertile")
    hypertile.configure(workers)
    yield _Hypertile(hypertile.to_thread)


class _Nothing:
    """Takes tasks and forgets them: the cost of a view that does not start a task."""

    def submit(self, _fn: Callable[..., object], *_args: object) -> None:
        """Do nothing."""

    def wait(self, _handle: Any) -> None:
        """Do nothing."""

    def drain(self, _fn: Callable[..., object], _count: int, *_args: object) -> None:
        """Do nothing."""


def _nothing(_workers: int, _app: Flask | None = None) -> AbstractContextManager[Pool]:
    return contextlib.nullcontext(_Nothing())


def _burn(scratch: Path) -> AbstractContextManager[Any]:
    """Run a computing process beside the measurement."""
    command = [sys.executable, "-c", "while True: sum(range(1000))"]
    return running(command, scratch / "burner.log")


_PLAIN_SWITCH = partial(_ours, DELAY_SWITCH_INTERVAL=None)
_PROCESSES = partial(
    _ours,
    DELAY_BACKEND="processes",
    DELAY_PROCESSES=1,
    DELAY_APP="benchmarks.web:create('ours-processes')",
)
_OURS = ("flask-delay",)
POOLED = (
    InProcess("ours", "Flask-Delay", _ours, _OURS),
    InProcess("ours-plain-switch", "Flask-Delay, interval None", _PLAIN_SWITCH, _OURS),
    InProcess("ours-processes", "Flask-Delay, processes", _PROCESSES, (*_OURS, "cloudpickle")),
    # Measured by the interpreter of another environment.
    InProcess("before", "Flask-Delay, before", _ours),
    InProcess("tpe", "ThreadPoolExecutor", partial(_standard, ThreadPoolExecutor)),
    InProcess("processes", "ProcessPoolExecutor", partial(_standard, ProcessPoolExecutor)),
    InProcess("spawn", "ProcessPoolExecutor, spawn", partial(_spawned, "spawn")),
    InProcess("loky", "loky", partial(_spawned, "loky"), ("loky",)),
    InProcess("pebble", "Pebble", partial(_spawned, "pebble"), ("Pebble",)),
    InProcess("flask-executor", "Flask-Executor", _flask_executor, ("Flask-Executor",)),
    InProcess("hypertile", "hypertile", _hypertile, ("hypertile",)),
    InProcess("nothing", "no task", _nothing),
    InProcess("burner", "no task, another process computes", _nothing, services=_burn),
)
