"""The state of a task, from its future or from a record that another process has stored."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from flask_delay._native import Future, Progress


class Before(NamedTuple):
    """A task that another one waits for."""

    id: str
    name: str
    others: int
    """How many more it waits for."""


class Link(NamedTuple):
    """A task before or after another one."""

    id: str
    name: str


class Lane(NamedTuple):
    """The limit and the rate of a task, which tasks of one key share."""

    name: str
    """The key: 'key "mailbox"', or the function without one."""
    running: int
    """How many tasks of the key run."""
    limit: int | None
    """How many may run."""
    rate: str | None
    """How many may start: "10/s"."""

    @property
    def obstacle(self) -> tuple[Literal["limit", "rate"], str]:
        """Which of the two holds up a task of the key, and how it stands."""
        if self.limit is not None and (self.running >= self.limit or self.rate is None):
            return "limit", f"{self.name}: {self.running} of {self.limit} run"
        return "rate", f"{self.name}: {self.rate}"


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
    """The beginning of the arguments as text, where a page was told to show them."""
    pid: int | None = None
    """The process that runs it, or in which a plain task waits."""
    thread: str | None = None
    """The worker thread on which it runs, if that is in this process."""
    deadline: datetime | None = None
    """When its timeout ends the attempt that runs."""
    most_attempts: int | None = None
    """How many attempts it may have; None if that has no end, or is not known here."""
    priority: int = 0
    lane: Lane | None = None
    """Its limit and its rate, until it has ended."""
    follows: tuple[Link, ...] = ()
    """The first of the tasks that it has waited for or waits for, on a page of this task."""
    followed_by: tuple[Link, ...] = ()
    """The first of the tasks that have waited for it or wait for it, on a page of this task."""

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.summary in {"finished", "cancelled"}

    @property
    def waits(self) -> str | None:
        """Why a task waits; None for one that runs or has ended.

        Of a plain task: "limit" or "rate", if that holds on the machine.

        "ready" for a free worker, "scheduled" until it is `due`, "paused" until its function is
        resumed, "alone" for a process that runs nothing else since processes have died of it,
        "parked" for code that can run it, "limit" for the end of tasks of its key, "rate" until
        it is `due`, "after fetch 3fa9c1d2" for another task, by the beginning of its id.
        """
        if self.state not in {*_WAITING, "pending"}:
            return None
        if self.is_paused:
            return "paused"
        if self.held_by is not None:
            return self.held_by
        if self.after is not None:
            others = f" and {self.after.others} more" if self.after.others > 0 else ""
            return f"after {self.after.name} {self.after.id[:8]}{others}"
        if self.state == "pending":
            return "ready" if self.due is None else "scheduled"
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
    standing = _standing(future, state)
    error = future.exception() if state == "finished" else None
    follows, followed_by = future._links()  # noqa: SLF001 (of our own class)
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
        follows=tuple(Link(*it) for it in follows),
        followed_by=tuple(Link(*it) for it in followed_by),
        **standing,
    )


def _standing(future: Future[Any], state: str) -> dict[str, Any]:
    """What a plain task of this process waits for, and under which conditions it runs."""
    if state not in {"pending", "running"}:
        return {}
    told = future._standing()  # noqa: SLF001 (of our own class)
    found: dict[str, Any] = {"pid": os.getpid(), "priority": told.get("priority", 0)}
    times = getattr(told.get("retry"), "times", 0)
    found["most_attempts"] = None if times is None else times + 1
    lane = _lane(future.name, told)
    found["lane"] = lane
    if state == "running":
        began, timeout = future.started_at, told.get("timeout")
        # It is that of the first attempt.
        if began is not None and timeout is not None and future.attempts <= 1:
            found["deadline"] = began + timedelta(seconds=min(timeout, _FOREVER))
        return found
    until = told.get("until")
    if until is not None:
        # Of two clocks, so the last digits are another ones each time.
        found["due"] = datetime.fromtimestamp(min(round(until, 2), _LAST), UTC)
    if told["waits"] == "after":
        first, *others = told["after"]
        found["after"] = Before(first._quiet_id(), first.name, len(others))
    elif told["waits"] == "lane" and lane is not None:
        found["held_by"], found["reason"] = lane.obstacle
    return found


def _lane(name: str, told: dict[str, Any]) -> Lane | None:
    limit, rate = told.get("limit"), told.get("rate")
    if limit is None and rate is None:
        return None
    key = told.get("key")
    text = None if rate is None else rate_text(*rate)
    return Lane(name if key is None else f"key {_text(key)}", told.get("running", 0), limit, text)


def _text(key: object) -> str:
    """A key as JSON shows it. Its own code is not called."""
    if isinstance(key, str):
        return f'"{key[:_LONGEST]}"'
    return str(key) if type(key) in {int, bool} else f"of type {type(key).__name__}"


def rate_text(count: int, seconds: float) -> str:
    """A rate as people write it: "10/s"."""
    return f"{count}/{_SPANS.get(seconds, f'{seconds:g} s')}"


_SPANS: dict[float, str] = {1: "s", 60: "m", 3600: "h", 86400: "d"}
# Seconds; more than a timeout needs.
_FOREVER = 1e9
# The year 9999.
_LAST = 253_370_764_800
# Characters of a key.
_LONGEST = 200
