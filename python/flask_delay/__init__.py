"""Background tasks for Flask on Rust-managed threads."""

from flask_delay import aio as _aio  # noqa: F401 (gives the native module its event loop)
from flask_delay._native import (
    Executor,
    ForkedFutureError,
    Future,
    Progress,
    WaitCycleError,
    __version__,
    current_task,
)
from flask_delay.extension import Delay, delay
from flask_delay.signals import (
    task_cancelled,
    task_failed,
    task_started,
    task_submitted,
    task_succeeded,
)
from flask_delay.tasks import Task, task, using

__all__ = [
    "Delay",
    "Executor",
    "ForkedFutureError",
    "Future",
    "Progress",
    "Task",
    "WaitCycleError",
    "__version__",
    "current_task",
    "delay",
    "task",
    "task_cancelled",
    "task_failed",
    "task_started",
    "task_submitted",
    "task_succeeded",
    "using",
]
