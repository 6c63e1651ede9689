"""The state of a task, from its future or from a record that another process has stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from flask_delay._native import Future, Progress


class Before(NamedTuple):
    """A task that another one waits for."""

    id: str
    name: str
    others: int
    """How many more it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task at one moment. Immutable, so threads may share it.

    `state` is as in `Future.state`. Of a task of the journal it is "ready", "scheduled", "running",
    "blocked", "parked", "finished", "failed", "cancelled" or "dead". A task that is over and was
    not cancelled has an `error`, or else a `result`. `name` is that of the function, `attempts` is
    the number of attempts that have begun.
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
    deaths: int | None = None
    """How many processes have died of it; None for a task that is not durable."""
    reason: str | None = None
    """Why it is parked, or which limit or rate holds it up."""
    due: datetime | None = None
    """When a scheduled task may start: by its countdown or eta, or for its next attempt. For one
    that waits for its rate, when the first of those that wait may."""
    is_paused: bool = False
    """Whether it waits until its function is resumed."""
    held_by: Literal["limit", "rate"] | None = None
    """Which of its options holds it up."""
    after: Before | None = None
    """The first of the tasks that it waits for."""
    unkept: str | None = None
    """The type of a result that the journal could not store, and that another process has."""
    arguments: str | None = None
    """The arguments as text, where a page was told to show them and this process has the task."""

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.summary in {"finished", "cancelled"}

    @property
    def waits(self) -> str | None:
        """Why a task of the journal waits; None for one that runs or has ended.

        Of a plain task: "limit" or "rate", if that holds on the machine.

        "ready" for a free worker, "scheduled" until it is `due`, "paused" until its function is
        resumed, "alone" for a process that runs nothing else since processes have died of it,
        "parked" for code that can run it, "limit" for the end of tasks of its key, "rate" until
        it is `due`, "after fetch 3fa9c1d2" for another task, by the beginning of its id.
        """
        if self.state not in _WAITING:
            return self.held_by
        if self.is_paused:
            return "paused"
        if self.state == "blocked" and self.held_by is not None:
            return self.held_by
        if self.after is not None:
            others = f" and {self.after.others} more" if self.after.others > 0 else ""
            return f"after {self.after.name} {self.after.id[:8]}{others}"
        return "alone" if self.state == "ready" and self.deaths else self.state

    @property
    def summary(self) -> str:
        """The state in the words of `Future.state`."""
        return _SUMMARIES.get(self.state, self.state)


_WAITING = ("ready", "scheduled", "blocked", "parked")
STATES = (*_WAITING, "running", "finished", "failed", "cancelled", "dead")
"""The states of tasks in the journal."""

_SUMMARIES = {**dict.fromkeys(_WAITING, "pending"), "failed": "finished", "dead": "finished"}


def view_of(future: Future[Any], *, is_quiet: bool = False) -> TaskView | None:
    """The view of a future; None if the process has forked and cannot know the task's state.

    With `is_quiet`, the task is not found by its id from now on, and its result is left out.
    """
    if future._is_foreign():
        return None
    # Read first: a task that ends meanwhile is then shown as it was before.
    state, progress = future.state, future.progress
    error = future.exception() if state == "finished" else None
    return TaskView(
        id=future._quiet_id() if is_quiet else future.id,
        name=future.name,
        state=state,
        progress=progress,
        attempts=future.attempts,
        enqueued_at=future.enqueued_at,
        started_at=future.started_at,
        finished_at=future.finished_at,
        error=error,
        result=future.result() if state == "finished" and error is None and not is_quiet else None,
    )
