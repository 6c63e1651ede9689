"""Durable tasks: the app of the peer `ours-durable`, for client and workers.

`python -m benchmarks.durable_app` is a worker: a process that only runs what others have submitted.
With arguments, it prints the memory of a process.
"""

import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

from benchmarks import SCRATCH, SYNC, work
from benchmarks.cases import WORKERS, resident
from flask_delay import Delay, task, using

TASKS = {fn: task(durable=True)(fn) for fn in (work.nop, work.nap, work.mark, work.keep)}


def configure(app: Flask, **settings: object) -> Delay:
    """Give the app a journal in the shared directory."""
    app.config.update(
        DELAY_JOURNAL=str(Path(os.environ[SCRATCH]) / "delay" / "journal.db"),
        DELAY_JOURNAL_SYNC=os.environ.get(SYNC, "second"),
        DELAY_MAX_WORKERS=WORKERS,
        **settings,
    )
    return Delay(app)


def make(**settings: object) -> tuple[Flask, Delay]:
    """An app of its own."""
    app = Flask("benchmarks", static_folder=None)
    return app, configure(app, **settings)


class Durable:
    """The peer's pool."""

    def __init__(self, delay: Delay) -> None:
        self.delay = delay

    def only_submit(self) -> None:
        """Leave all tasks to other processes."""
        self.delay._state().store.stop()

    def submit(self, fn: Any, *args: object) -> Any:
        return TASKS[fn].delay(*args)

    def limited(self, scope: Any) -> Any:
        """What submits plain tasks with a limit that they do not meet."""
        return using(limit=1_000_000, scope=scope).delay

    def map(self, fn: Any, items: list[Any]) -> Iterator[Any]:
        results: Iterator[Any] = TASKS[fn].map(items)
        return results

    def wait(self, handle: Any) -> None:
        handle.result(60)

    def drain(self, fn: Any, count: int, *args: object) -> None:
        start = TASKS[fn].delay
        for handle in [start(*args) for _ in range(count)]:
            handle.result(60)


def _print_memory(kind: str, size: int) -> None:
    """Print what this process occupies after so many tasks, durable or plain ones."""
    if kind == "durable":
        app, _ = make()
        start: Any = TASKS[work.nop].delay
    else:
        app = Flask("benchmarks", static_folder=None)
        app.config["DELAY_MAX_WORKERS"] = WORKERS
        start = partial(Delay(app).delay, work.nop)
    with app.app_context():
        for _ in range(size):
            start().result()
    print(resident())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _print_memory(sys.argv[1], int(sys.argv[2]))
    else:
        _app, _delay = make()
        threading.Event().wait()
