"""DBOS' workflows, which the client runs itself."""

import logging
import os
from pathlib import Path

from dbos import DBOS

from benchmarks import SCRATCH, work
from benchmarks.peers.queues import QueuePool


def pool() -> QueuePool:
    """The client's side, with eight threads."""
    file = Path(os.environ[SCRATCH]) / "dbos.db"
    DBOS(
        config={
            "name": "benchmarks",
            "system_database_url": f"sqlite:///{file}",
            "max_executor_threads": 8,
            "log_level": logging.getLevelName(logging.ERROR),
        }
    )
    flows = {fn: DBOS.workflow()(fn) for fn in (work.nop, work.nap, work.mark)}
    DBOS.launch()
    return QueuePool(
        {
            fn: lambda *args, flow=flow: DBOS.start_workflow(flow, *args)
            for fn, flow in flows.items()
        },
        lambda handle: handle.get_result(),
    )
