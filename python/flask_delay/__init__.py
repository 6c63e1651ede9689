"""Background tasks for Flask on Rust-managed threads."""

from flask_delay import aio as _aio  # noqa: F401 (gives the native module its event loop)
from flask_delay._native import (
    DuplicateTask,
    Executor,
    ForkedFutureError,
    Future,
    Progress,
    QueueFull,
    TaskExpired,
    TaskTimeout,
    WaitCycleError,
    __version__,
    current_task,
)
from flask_delay.backends.base import BrokerUnavailable, ProcessDied, RemoteError
from flask_delay.compose import Chain, chain, gather
from flask_delay.extension import Delay, delay
from flask_delay.observe.signals import (
    task_cancelled,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
)
from flask_delay.observe.stats import Histogram, PoolStats, Stats, TaskStats
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
    "Histogram",
    "Job",
    "PoolStats",
    "ProcessDied",
    "Progress",
    "QueueFull",
    "RemoteError",
    "Retry",
    "Stats",
    "Task",
    "TaskExpired",
    "TaskStats",
    "TaskTimeout",
    "WaitCycleError",
    "__version__",
    "chain",
    "current_task",
    "delay",
    "gather",
    "task",
    "task_cancelled",
    "task_failed",
    "task_started",
    "task_submitted",
    "task_succeeded",
    "track",
    "using",
]
