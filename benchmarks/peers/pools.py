"""Peers that run tasks in this process or in its children."""

import _thread
import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask

import flask_delay
from benchmarks.model import Pool
from benchmarks.peers.queues import running
from benchmarks.spawned import POOLS


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


class _InProcess:
    """Needs nothing beside this process."""

    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()

    def services(self, scratch: Path) -> AbstractContextManager[None]:
        del scratch
        return contextlib.nullcontext()


@dataclass(frozen=True)
class Ours(_InProcess):
    """`delay` in an app with these settings, `Executor` without one."""

    name: str = "ours"
    title: str = "Flask-Delay"
    settings: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ("flask-delay",)

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """As a user would; see `Peer`."""
        if app is None:
            with flask_delay.Executor(workers) as executor:
                yield _Futures(executor.submit, executor.shutdown)
            return
        app.config.update(self.settings, DELAY_MAX_WORKERS=workers)
        pool = flask_delay.Delay(app).executor
        yield _Futures(flask_delay.delay, pool.shutdown)
        pool.shutdown()


@dataclass(frozen=True)
class Standard(_InProcess):
    """The standard library's executors, without any context."""

    name: str
    title: str
    make: type[ThreadPoolExecutor | ProcessPoolExecutor]

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """The same with and without an app; see `Peer`."""
        del app
        with self.make(workers) as executor:
            yield _Futures(executor.submit, executor.shutdown)


@dataclass(frozen=True)
class Spawned(_InProcess):
    """Pools of processes that are started anew, not forked; `benchmarks.spawned` has the rest."""

    name: str
    title: str
    packages: tuple[str, ...] = ()

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """One process, whatever is asked for; see `Peer`."""
        del workers, app
        yield _Futures(POOLS[self.name](), lambda: None)


class FlaskExecutor(_InProcess):
    """Copies the app context and the request context into each task."""

    name = "flask-executor"
    title = "Flask-Executor"
    packages = ("Flask-Executor",)

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """It takes tasks only in a request, so without an app one is made for it."""
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


class _HypertilePool:
    """Handles that can be asked and called back, but not waited for."""

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


class Hypertile(_InProcess):
    """One pool for the whole process, made once."""

    name = "hypertile"
    title = "hypertile"
    packages = ("hypertile",)

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """Its pool cannot be closed; see `Peer`."""
        del app
        hypertile = importlib.import_module("hypertile")
        hypertile.configure(workers)
        yield _HypertilePool(hypertile.to_thread)


class _NoPool:
    """Takes tasks and forgets them."""

    def submit(self, fn: Callable[..., object], *args: object) -> None:
        del fn, args

    def wait(self, handle: Any) -> None:
        del handle

    def drain(self, fn: Callable[..., object], count: int, *args: object) -> None:
        del fn, count, args


class Nothing(_InProcess):
    """What a view costs that does not start a task."""

    name = "nothing"
    title = "no task"

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """Nothing to be made; see `Peer`."""
        del workers, app
        yield _NoPool()


class Burner(Nothing):
    """What it costs that does not start a task, while another process computes."""

    name = "burner"
    title = "no task, another process computes"

    def services(self, scratch: Path) -> AbstractContextManager[None]:
        """Compute; see `Peer`."""
        burn = [sys.executable, "-c", "while True: sum(range(1000))"]
        return running(burn, scratch / "burner.log")
