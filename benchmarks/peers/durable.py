"""Flask-Delay's own durable tasks, in the form of a queue."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flask import Flask

from benchmarks import SCRATCH
from benchmarks.model import Pool
from benchmarks.peers.queues import QueuePeer


@dataclass(frozen=True)
class _Durable(QueuePeer):
    """Runs its tasks itself; a worker process shares them, if a case starts one."""

    @contextlib.contextmanager
    def services(self, scratch: Path) -> Iterator[None]:
        """Set the directory of the journal; see `Peer`."""
        os.environ[SCRATCH] = str(scratch)
        yield

    @contextlib.contextmanager
    def open(self, workers: int, app: Flask | None = None, **settings: object) -> Iterator[Pool]:
        """See `Peer`; the number of workers is always that of the cases."""
        del workers
        # Its functions are durable tasks once this is imported.
        from benchmarks import durable_app  # noqa: PLC0415

        if app is not None:
            yield durable_app.Durable(durable_app.configure(app, **settings))
            return
        app, delay = durable_app.make(**settings)
        with app.app_context():
            yield durable_app.Durable(delay)


DURABLE = _Durable(
    "ours-durable",
    "Flask-Delay, durable",
    ("flask-delay",),
    "benchmarks.durable_app",
    "benchmarks.durable_app",
)
