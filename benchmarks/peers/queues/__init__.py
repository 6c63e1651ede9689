"""Peers that keep tasks in a database and run them in processes of their own.

Each is set up as at the start of its manual, with eight threads if it has threads.
"""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask

from benchmarks import REDIS, SCRATCH
from benchmarks.model import Pool

PATIENCE = 60.0
"""Seconds that one result may take."""


class QueuePool:
    """Tasks by their functions, and the wait for a result."""

    def __init__(
        self, starts: Mapping[object, Callable[..., Any]], wait: Callable[[Any], object]
    ) -> None:
        self._starts = starts
        self.wait = wait

    def submit(self, fn: Callable[..., object], *args: object) -> Any:
        return self._starts[fn](*args)

    def drain(self, fn: Callable[..., object], count: int, *args: object) -> None:
        for handle in [self.submit(fn, *args) for _ in range(count)]:
            self.wait(handle)


@dataclass(frozen=True)
class QueuePeer:
    """A queue: its tasks are in `module`, which client and workers import."""

    name: str
    title: str
    packages: tuple[str, ...]
    module: str
    # The command of its workers, after `python -m`; `{module}` and `{redis}` are filled in. None:
    # the client runs its tasks itself.
    worker: str | None
    programs: tuple[str, ...] = ()

    @contextlib.contextmanager
    def services(self, scratch: Path) -> Iterator[None]:
        """Run Redis, if needed, and the workers; see `Peer`."""
        with contextlib.ExitStack() as stack:
            os.environ[SCRATCH] = str(scratch)
            if "redis-server" in self.programs:
                os.environ[REDIS] = stack.enter_context(redis_server(scratch))
            if self.worker is not None:
                stack.enter_context(self.start_worker(scratch))
            yield

    def start_worker(self, scratch: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run one worker process until the block ends."""
        worker = (self.worker or "").format(module=self.module, redis=os.environ.get(REDIS))
        return running([sys.executable, "-m", *worker.split()], scratch / "worker.log")

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None) -> Iterator[Pool]:
        """Connect; the workers run already. See `Peer`."""
        del workers, app
        yield importlib.import_module(self.module).pool()


def _on_redis(name: str, title: str, package: str, worker: str) -> QueuePeer:
    module = f"benchmarks.peers.queues.{name}_tasks"
    return QueuePeer(name, title, (package, "redis"), module, worker, ("redis-server",))


_CELERY = "celery --app {module} worker --pool=threads --concurrency=8 --loglevel=ERROR"
QUEUES = (
    QueuePeer(
        "huey",
        "Huey, SQLite",
        ("huey",),
        "benchmarks.peers.queues.huey_tasks",
        "huey.bin.huey_consumer {module}.huey --workers=8 --quiet",
    ),
    QueuePeer(
        "flexiq",
        "FlexiQ, SQLite",
        ("flexiq",),
        "benchmarks.peers.queues.flexiq_tasks",
        "flexiq.cli worker --app {module}:queue --drain-timeout=1",
    ),
    QueuePeer("dbos", "DBOS, SQLite", ("dbos",), "benchmarks.peers.queues.dbos_tasks", None),
    _on_redis("celery", "Celery, Redis", "celery", f"{_CELERY} --without-mingle"),
    _on_redis("rq", "RQ, Redis", "rq", "rq.cli worker --quiet --url {redis}"),
    _on_redis(
        "dramatiq", "Dramatiq, Redis", "dramatiq", "dramatiq --processes=1 --threads=8 {module}"
    ),
    QueuePeer(
        "ours-celery",
        "Flask-Delay, Celery",
        ("flask-delay", "celery", "redis"),
        "benchmarks.backend_app",
        "celery --app {module}:celery worker --concurrency=2",
        ("redis-server",),
    ),
)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with its output in a file until the block ends."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    except Exception as error:
        error.add_note(log.read_text()[-2000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        # It may be killed: its work has been measured.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def redis_server(scratch: Path) -> Iterator[str]:
    """Run a Redis server for this measurement, in memory alone; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with running([*command, "--dir", str(scratch)], scratch / "redis.log"):
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
