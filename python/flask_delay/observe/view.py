"""The state of a task, from its future or from a record that another process has stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask_delay._native import Future, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task at one moment. Immutable, so threads may share it.

    `state` is as in `Future.state`. A task that is "finished" has an `error`, or else a `result`.
    """

    id: str
    name: str
    state: str
    progress: Progress | None = None
    attempts: int = 0
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: BaseException | None = None
    result: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.state in {"finished", "cancelled"}


def view_of(future: Future[Any]) -> TaskView | None:
    """The view of a future; None if the process has forked and cannot know the task's state."""
    if future._is_foreign():
        return None
    # Read first: a task that ends meanwhile is then shown as it was before.
    state, progress = future.state, future.progress
    error = future.exception() if state == "finished" else None
    return TaskView(
        id=future.id,
        name=future.name,
        state=state,
        progress=progress,
        attempts=future.attempts,
        enqueued_at=future.enqueued_at,
        started_at=future.started_at,
        finished_at=future.finished_at,
        error=error,
        result=future.result() if state == "finished" and error is None else None,
    )
