"""Huey's tasks, for client and workers."""

import os
from pathlib import Path

from huey import SqliteHuey

from benchmarks import SCRATCH, work
from benchmarks.peers.queues import PATIENCE, QueuePool

huey = SqliteHuey(filename=str(Path(os.environ[SCRATCH]) / "huey.db"))


def _nop() -> bool:
    """Return a value: Huey keeps no result that is None."""
    work.nop()
    return True


nop = huey.task()(_nop)
nap = huey.task()(work.nap)
mark = huey.task()(work.mark)


def pool() -> QueuePool:
    """The client's side."""
    return QueuePool(
        {work.nop: nop, work.nap: nap, work.mark: mark},
        lambda result: result.get(blocking=True, timeout=PATIENCE),
    )
