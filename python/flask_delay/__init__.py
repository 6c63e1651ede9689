"""Background tasks for Flask on Rust-managed threads."""

# The floors of the package, highest first. A module or folder imports from lower floors only; a
# part of a folder may have a floor of its own. Within a folder, imports form no cycle.
# `tests/core/test_layers.py` reads the floors here and enforces that.
#
# 13. `__main__`: `python -m flask_delay`.
# 12. `cli`, `commands`: commands for a shell.
# 11. `backends`, `compat`, `contrib`, `demo`, `testing`: users of the extension.
# 10. `__init__`: the public names.
#  9. `extension`, `compose`: `Delay` and `delay`; `chain` and `gather`.
#  8. `groups`, `tasks`: `group`; `task`.
#  7. `dashboard`, `streams`, `submit`: the live page; their streams; how a call is submitted.
#  6. `state`: the state of a `Delay` on an app, and the executor for a task.
#  5. `journal`: durable tasks.
#  4. `options`: the options of one task.
#  3. `backends.base`, `carried`, `observe`, `periodic`, `rights`, `uploads`: parts of a `Delay`.
#  2. `aio`, `config`, `context`, `failures`, `observe.view`, `retry`, `servers`, `transactions`:
#     app and process.
#  1. `backends.table`, `bells`, `logs`, `mapping`, `masking`, `progress`, `registry`, `validators`:
#     modules without imports from the others.
#  0. `_native`: the Rust half.
#
# A call passes `extension -> state -> options -> _native`.

from flask_delay import aio as _aio  # noqa: F401 (gives the native module its event loop)
from flask_delay._native import (
    DuplicateTask,
    Executor,
    ForkedFutureError,
    Future,
    JournalUnavailable,
    Progress,
    QueueFull,
    ResultNotKept,
    Stream,
    StreamLagged,
    TaskExpired,
    TaskTimeout,
    WaitCycleError,
    WorkerDied,
    __version__,
    current_task,
)
from flask_delay.backends.base import BrokerUnavailable, ProcessDied, RemoteError
from flask_delay.compose import Chain, chain, gather
from flask_delay.extension import Delay, delay
from flask_delay.groups import Group, group
from flask_delay.observe.signals import (
    dashboard_acted,
    task_cancelled,
    task_dead,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
)
from flask_delay.observe.stats import Histogram, PoolStats, Stats, TaskStats
from flask_delay.observe.view import TaskView
from flask_delay.periodic.job import Job
from flask_delay.progress import track
from flask_delay.retry import Retry
from flask_delay.submit import using
from flask_delay.tasks import Task, task

__all__ = [
    "BrokerUnavailable",
    "Chain",
    "Delay",
    "DuplicateTask",
    "Executor",
    "ForkedFutureError",
    "Future",
    "Group",
    "Histogram",
    "Job",
    "JournalUnavailable",
    "PoolStats",
    "ProcessDied",
    "Progress",
    "QueueFull",
    "RemoteError",
    "ResultNotKept",
    "Retry",
    "Stats",
    "Stream",
    "StreamLagged",
    "Task",
    "TaskExpired",
    "TaskStats",
    "TaskTimeout",
    "TaskView",
    "WaitCycleError",
    "WorkerDied",
    "__version__",
    "chain",
    "current_task",
    "dashboard_acted",
    "delay",
    "gather",
    "group",
    "task",
    "task_cancelled",
    "task_dead",
    "task_failed",
    "task_started",
    "task_submitted",
    "task_succeeded",
    "track",
    "using",
]
