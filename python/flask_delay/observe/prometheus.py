"""Metrics of tasks, for Prometheus; see `flask_delay.contrib.prometheus`."""

import atexit
import os
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal, Protocol, get_args, runtime_checkable
from weakref import WeakKeyDictionary

from flask import Response

from flask_delay._native import Executor, _generation
from flask_delay.observe.signals import task_submitted
from flask_delay.observe.stats import JournalStats

try:
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        REGISTRY,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        Metric,
        generate_latest,
    )
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError as error:
    message = (
        "flask_delay.contrib.prometheus needs prometheus_client:"
        " pip install flask-delay[prometheus]"
    )
    raise ImportError(message, name=error.name) from error

# In seconds, for waits of a millisecond and tasks of an hour; each costs a series per task.
_BUCKETS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0]
# In seconds; servers scrape every 15 or so.
_INTERVAL = 1.0

_Key = Literal["queued", "held", "running", "threads"]
_GAUGES: dict[_Key, tuple[str, str]] = {
    "queued": ("tasks_queued", "Tasks that wait for a worker."),
    "held": ("tasks_held", "Tasks that wait for their time, their key or their next attempt."),
    "running": ("tasks_running", "Tasks that run on a worker."),
    "threads": ("threads", "Workers, with a task or without."),
}
# Of durable tasks, by the keys of `JournalStats`.
_State = Literal["ready", "scheduled", "running", "blocked", "parked", "dead"]
_OF_STATES: tuple[_State, ...] = get_args(_State)
_OF_JOURNAL: dict[Literal["oldest", "bytes", "processes"], tuple[str, str]] = {
    "oldest": ("journal_oldest_seconds", "For how long the oldest task waits for a worker."),
    "bytes": ("journal_bytes", "The journal's file and its log."),
    "processes": ("journal_processes", "Processes that run durable tasks."),
}


@runtime_checkable
class Source(Protocol):
    """The part of a `Delay` that this module needs."""

    name: str

    def _executors(self) -> list[Executor]:
        """The pools of all its apps."""

    def _journal_counts(self) -> JournalStats | None:
        """The sums for the journals of all its apps; None without one."""


def export(
    background: Source, *, registry: CollectorRegistry | None = None, namespace: str | None = None
) -> None:
    """Keep metrics of the tasks of `background`, on all of its apps.

    Counted at the end of a task, as in `Delay.stats`: `delay_tasks_total` by `task` and `outcome`
    (done, failed, cancelled), `delay_task_retries_total`, `delay_dead_letters_total`,
    `delay_task_wait_seconds` and `delay_task_run_seconds` by `task`. Current values:
    `delay_tasks_queued`, `delay_tasks_held`, `delay_tasks_running`, `delay_threads`. With a
    journal, for all processes that share it: `delay_journal_tasks` by `state` (ready, scheduled,
    running, blocked, parked, dead), `delay_journal_oldest_seconds`, `delay_journal_bytes`,
    `delay_journal_processes`. In
    multiprocess mode, values of other processes are up to a second old. `task` is the task's name;
    after 200 names further ones are "(others)". The names begin with `namespace`, by default the
    name of the `Delay`. `registry` is the client library's own by default.

    Call it once for each `Delay`, not for each app that a factory makes; it starts no thread before
    the first submit. Raises TypeError if `background` is no Delay, ValueError if the registry has
    metrics of these names already.
    """
    given: object = background
    if not isinstance(given, Source):
        message = f"prometheus.export() takes a Delay, not {background!r}"
        raise TypeError(message)
    prefix = background.name if namespace is None else namespace
    exported = _Metrics(background, REGISTRY if registry is None else registry, prefix)
    if _is_multiprocess():
        _written.append(exported)
        task_submitted.connect(exported.submitted, weak=False)
        atexit.register(exported.write)


def metrics() -> Response:
    """Answer Prometheus: a view, for a URL of your own.

    Shows the client library's registry; in multiprocess mode all processes, ended ones included.
    """
    registry = REGISTRY
    if _is_multiprocess():
        # This process's own values must be current, not a second old.
        for exported in _written:
            exported.write()
            exported.write_journal()
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _is_multiprocess() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


class _Metrics:
    """The metrics of one `Delay`: a collector that updates them when they are read.

    In multiprocess mode other processes read them from a file, so a thread updates that every
    second.
    """

    def __init__(self, background: Source, registry: CollectorRegistry, namespace: str) -> None:
        self._background = background
        # The values written last, for the process `_generation`.
        self._seen: WeakKeyDictionary[Executor, dict[str, list[float]]] = WeakKeyDictionary()
        self._generation: int | None = None
        # The process whose thread has been started.
        self._sampled: int | None = None
        # Held around writes, so that a fork during a write does not leave a lock of the client
        # library taken in the child.
        self._lock = threading.RLock()
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._lock.release,
        )
        # Not in the registry themselves: the collector is registered.
        counter, histogram, gauge = (
            partial(Counter, namespace=namespace, registry=None),
            partial(Histogram, namespace=namespace, registry=None, buckets=_BUCKETS),
            partial(Gauge, namespace=namespace, registry=None, multiprocess_mode="livesum"),
        )
        of_task = ("task",)
        self._ends = counter("tasks", "Tasks that have ended.", ("task", "outcome"))
        self._retries = counter("task_retries", "Attempts that followed a first one.", of_task)
        text = "Durable tasks that have become dead letters."
        self._dead = counter("dead_letters", text, of_task)
        self._wait = histogram("task_wait_seconds", "From the submit to the start.", of_task)
        self._run = histogram("task_run_seconds", "The last attempt.", of_task)
        self._gauges = {key: gauge(name, text) for key, (name, text) in _GAUGES.items()}
        # Made once there is a journal: others shall not see zeros.
        self._journal: dict[str, Gauge] = {}
        self._journal_gauge = partial(
            Gauge, namespace=namespace, registry=None, multiprocess_mode="livemostrecent"
        )
        counts = (self._ends, self._retries, self._dead, self._wait, self._run)
        self._all = (*counts, *self._gauges.values())
        try:
            registry.register(self)
        except ValueError as error:
            message = (
                f"no metrics for {background!r} with namespace {namespace!r}: {error}; call"
                f" export() once for each Delay, not in an app factory, or give it another"
                f" namespace="
            )
            raise ValueError(message) from error

    def describe(self) -> Iterator[Metric]:
        """Their names only, for which nothing is counted."""
        for metric in self._all:
            yield from metric.describe()

    def collect(self) -> Iterator[Metric]:
        """Their values, all of one moment."""
        self.write()
        self.write_journal()
        for metric in (*self._all, *self._journal.values()):
            yield from metric.collect()

    def write(self) -> None:
        """Update all metrics: add the counts since the last update."""
        with self._lock:
            if self._generation != _generation():
                # A forked process counts from 0.
                self._generation = _generation()
                self._seen.clear()
            executors = self._background._executors()
            for executor in executors:
                seen = self._seen.setdefault(executor, {})
                for name, row in executor._figures(_BUCKETS).items():
                    before = seen.get(name, [0.0] * len(row))
                    if row != before:
                        self._add(name, (new - old for new, old in zip(row, before, strict=True)))
                        seen[name] = row
            # Each executor is asked once.
            now = [executor._now() for executor in executors]
            for key, gauge in self._gauges.items():
                gauge.set(sum(stats[key] for stats in now))

    def write_journal(self) -> None:
        """Update the metrics of the journal, which any process can tell for all of them."""
        try:
            counts = self._background._journal_counts()  # noqa: SLF001
        except (RuntimeError, ValueError):
            # The journal cannot be read, and has logged that.
            return
        if counts is None:
            return
        with self._lock:
            if not self._journal:
                text = "Durable tasks of all processes."
                self._journal = {
                    "tasks": self._journal_gauge("journal_tasks", text, ("state",)),
                    **{key: self._journal_gauge(*told) for key, told in _OF_JOURNAL.items()},
                }
            for state in _OF_STATES:
                self._journal["tasks"].labels(state).set(counts[state])
            for key in _OF_JOURNAL:
                self._journal[key].set(counts[key])

    def _add(self, name: str, row: Iterable[float]) -> None:
        numbers = iter(row)
        for outcome in ("done", "failed", "cancelled"):
            self._ends.labels(name, outcome).inc(next(numbers))
        self._retries.labels(name).inc(next(numbers))
        self._dead.labels(name).inc(next(numbers))
        for histogram in (self._wait.labels(name), self._run.labels(name)):
            # The public API observes one value at a time. Tried on version 0.26 of the library.
            histogram._sum.inc(next(numbers))  # noqa: SLF001
            for bucket in histogram._buckets:  # noqa: SLF001
                bucket.inc(next(numbers))

    def submitted(self, _app: object, **_: object) -> None:
        """Start the thread that writes this process's file. A receiver of `task_submitted`.

        Other processes see only the file, also when this process is idle; so a thread is needed.
        """
        if self._sampled == _generation():
            return
        with self._lock:
            mine = self._sampled != _generation()
            self._sampled = _generation()
        if mine:
            name = "delay-prometheus"
            threading.Thread(target=self._sample, name=name, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self.write()
            time.sleep(_INTERVAL)


_written: list[_Metrics] = []
