"""The result of `stats()`: dicts of numbers that can be made JSON, and their types."""

from typing import NotRequired, TypedDict, cast


class PoolStats(TypedDict):
    """The current numbers of tasks and workers; see `Executor.stats`."""

    queued: int
    held: int
    running: int
    waiting: int
    stuck: int
    idle: int
    threads: int


class Histogram(TypedDict):
    """Durations in seconds, to two significant digits; all 0 without a `count`."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class _Counts(TypedDict):
    done: int
    failed: int
    cancelled: int
    retried: int
    dead: int
    """Dead letters that this process has made."""


class TaskStats(_Counts):
    """The outcomes of the tasks of one name, in this process."""

    wait: Histogram
    run: Histogram


class JournalStats(TypedDict):
    """The durable tasks of an app by their state, and the file that has them."""

    ready: int
    scheduled: int
    running: int
    blocked: int
    parked: int
    dead: int
    processes: int
    """Those that run tasks."""
    bytes: int
    oldest: float
    """Seconds for which the oldest task waits for a worker; 0 if none does."""


class Stats(PoolStats, _Counts):
    """The pool of a `Delay`, and the outcomes of its tasks in this process."""

    tasks: dict[str, TaskStats]
    journal: NotRequired[JournalStats]
    """Only with a journal, which all processes share."""


def added(stats: Stats, others: Stats, place: str) -> Stats:
    """The sums of both; `others` are of the tasks in that place.

    Tasks with a name that both have stay separate: their figures cannot be added.
    """
    tasks = dict(stats["tasks"])
    for name, of_name in others["tasks"].items():
        tasks[f"{name} ({place})" if name in tasks else name] = of_name
    sums = {
        key: value + cast("dict[str, int]", others)[key]
        for key, value in stats.items()
        if isinstance(value, int)
    }
    return cast("Stats", {**sums, "tasks": tasks})
