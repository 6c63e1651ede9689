"""FlexiQ's tasks, for client and workers."""

import os
from pathlib import Path

from flexiq import Queue

from benchmarks import SCRATCH, work
from benchmarks.peers.queues import PATIENCE, QueuePool

queue = Queue(db_path=str(Path(os.environ[SCRATCH]) / "flexiq.db"), workers=8)
nop = queue.task()(work.nop)
nap = queue.task()(work.nap)
mark = queue.task()(work.mark)


def pool() -> QueuePool:
    """The client's side."""
    return QueuePool(
        {work.nop: nop.delay, work.nap: nap.delay, work.mark: mark.delay},
        lambda job: job.result(timeout=PATIENCE),
    )
