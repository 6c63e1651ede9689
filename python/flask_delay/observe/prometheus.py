"""Metrics of tasks, for Prometheus; see `flask_delay.contrib.prometheus`."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, Protocol, runtime_checkable

from flask import Response

from flask_delay._native import Executor, Future, _generation
from flask_delay.observe.signals import task_submitted

try:
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        REGISTRY,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        generate_latest,
    )
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError as error:
    message = (
        "flask_delay.contrib.prometheus needs prometheus_client:"
        " pip install flask-delay[prometheus]"
    )
    raise ImportError(message, name=error.name) from error

# As `Delay.stats` has it: names that are made up, one for each task, must not fill the server.
_NAMES = 200
_OTHERS = "(others)"
# In seconds, for waits of a millisecond and tasks of an hour; each costs a series per task.
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
# In seconds; servers ask every 15 or so.
_INTERVAL = 1.0

_Key = Literal["queued", "held", "running", "threads"]
_GAUGES: dict[_Key, tuple[str, str]] = {
    "queued": ("tasks_queued", "Tasks that wait for a worker."),
    "held": ("tasks_held", "Tasks that wait for their time, their key or their next attempt."),
    "running": ("tasks_running", "Tasks that run on a worker."),
    "threads": ("threads", "Workers, with a task or without."),
}


@runtime_checkable
class Source(Protocol):
    """A `Delay`, as far as it is known here."""

    name: str

    def add_default_done_callback(
        self, fn: Callable[[Future[object]], None], /
    ) -> Callable[[Future[object]], None]:
        """Call `fn` with each of its futures, once it is done."""

    def _executors(self) -> list[Executor]:
        """The pools of all its apps."""


def export(
    background: Source, *, registry: CollectorRegistry | None = None, namespace: str | None = None
) -> None:
    """Keep metrics of the tasks of `background`, on all of its apps.

    Of those submitted from now on: `delay_tasks_total` by `task` and `outcome` (done, failed,
    cancelled), `delay_task_retries_total`, `delay_task_wait_seconds` and
    `delay_task_run_seconds` by `task`, counted when a task has ended. And what there is now:
    `delay_tasks_queued`, `delay_tasks_held`, `delay_tasks_running`, `delay_threads`; in
    multiprocess mode as of the last second. `task` is the task's name; after 200 of them
    further ones are "(others)". The names begin with `namespace`, by default the name of the
    `Delay`. `registry` is the client library's own by default.

    Once for each `Delay`, not for each app that a factory makes; starts no thread before the
    first submit. Raises TypeError if `background` is no Delay, ValueError if the registry has
    metrics of these names already.
    """
    given: object = background
    if not isinstance(given, Source):
        message = f"prometheus.export() takes a Delay, not {background!r}"
        raise TypeError(message)
    prefix = background.name if namespace is None else namespace
    exported = _Metrics(background, REGISTRY if registry is None else registry, prefix)
    background.add_default_done_callback(exported.ended)
    if _is_multiprocess():
        task_submitted.connect(exported.submitted, weak=False)


def metrics() -> Response:
    """Answer Prometheus: a view, for a URL of your own.

    Of the client library's registry; in multiprocess mode of all processes, those that have
    ended included.
    """
    registry = REGISTRY
    if _is_multiprocess():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _is_multiprocess() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


class _Writers:
    """Who writes metrics: any number of threads at once, but nobody while the process forks.

    A child that began amid a write would find a lock of the client library taken for ever. Each
    thread holds a lock of its own meanwhile, for which no other thread waits but one that forks.
    """

    def __init__(self) -> None:
        self._mine = threading.local()
        self._all: weakref.WeakSet[_Writer] = weakref.WeakSet()
        # Held for a moment when a thread writes for the first time, and while the process forks.
        self._lock = threading.Lock()
        self._stopped: list[_Writer] = []
        os.register_at_fork(
            before=self._stop, after_in_parent=self._go_on, after_in_child=self._go_on
        )

    def mine(self) -> AbstractContextManager[bool]:
        """This thread's lock."""
        writer: _Writer | None = getattr(self._mine, "writer", None)
        if writer is None:
            writer = self._mine.writer = _Writer()
            with self._lock:
                self._all.add(writer)
        return writer.lock

    def _stop(self) -> None:
        self._lock.acquire()
        self._stopped = list(self._all)
        for writer in self._stopped:
            writer.lock.acquire()

    def _go_on(self) -> None:
        for writer in self._stopped:
            writer.lock.release()
        self._stopped = []
        self._lock.release()


class _Writer:
    """One thread; goes with it."""

    def __init__(self) -> None:
        # A finalizer may cancel a task, amid the writing of another one.
        self.lock = threading.RLock()


class _Metrics:
    """The metrics of one `Delay`."""

    def __init__(self, background: Source, registry: CollectorRegistry, namespace: str) -> None:
        self._background = background
        self._of: dict[str, _OfName] = {}
        # The process, by `_generation`, whose gauges are kept.
        self._sampled: int | None = None
        self._writers = _Writers()
        # Taken by those who write, so nobody has it while the process forks.
        self._names = threading.RLock()
        counter, histogram, gauge = (
            partial(Counter, namespace=namespace, registry=registry),
            partial(Histogram, namespace=namespace, registry=registry, buckets=_BUCKETS),
            partial(Gauge, namespace=namespace, registry=registry, multiprocess_mode="livesum"),
        )
        of_task = ("task",)
        try:
            self.ends = counter("tasks", "Tasks that have ended.", ("task", "outcome"))
            self.retries = counter("task_retries", "Attempts that followed a first one.", of_task)
            self.wait = histogram("task_wait_seconds", "From the submit to the start.", of_task)
            self.run = histogram("task_run_seconds", "The last attempt.", of_task)
            if _is_multiprocess():
                self._gauges = {key: gauge(name, text) for key, (name, text) in _GAUGES.items()}
            else:
                registry.register(_Now(self.now, namespace))
        except ValueError as error:
            message = (
                f"no metrics for {background!r} with namespace {namespace!r}: {error}; call"
                f" export() once for each Delay, not in an app factory, or give it another"
                f" namespace="
            )
            raise ValueError(message) from error

    def ended(self, future: Future[object]) -> None:
        """Count a task. A default done callback: on a worker, in whatever process that is."""
        with self._writers.mine():
            of = self._find(future.name)
            if future.cancelled():
                of.cancelled()
            elif future.exception() is None:
                of.done()
            else:
                of.failed()
            if future.attempts > 1:
                of.retried(future.attempts - 1)
            spent = future._spent()
            if spent is not None:
                of.waited(spent[0])
                of.ran(spent[1])

    def _find(self, name: str) -> "_OfName":
        of = self._of.get(name)
        if of is None:
            with self._names:
                if name not in self._of and len(self._of) >= _NAMES:
                    name = _OTHERS
                of = self._of.get(name)
                if of is None:
                    of = self._of[name] = _OfName(self, name)
        return of

    def submitted(self, _app: object, **_: object) -> None:
        """See to it that this process's gauges are kept. A receiver of `task_submitted`.

        The file that stands for the process is all that others see of it, also when nothing
        happens here any more; so it takes a thread.
        """
        if self._sampled == _generation():
            return
        with self._writers.mine(), self._names:
            mine = self._sampled != _generation()
            self._sampled = _generation()
        if mine:
            name = "delay-prometheus"
            threading.Thread(target=self._sample, name=name, daemon=True).start()

    def _sample(self) -> None:
        while True:
            with self._writers.mine():
                now = self.now()
                for key, gauge in self._gauges.items():
                    gauge.set(now[key])
            time.sleep(_INTERVAL)

    def now(self) -> dict[_Key, int]:
        """What there is now, of all executors together: each is asked once."""
        all_of = [executor._now() for executor in self._background._executors()]
        return {key: sum(stats[key] for stats in all_of) for key in _GAUGES}


class _Now:
    """A collector: the gauges, as they are when it is asked."""

    def __init__(self, now: Callable[[], dict[_Key, int]], namespace: str) -> None:
        self._now = now
        self._namespace = namespace

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Their names alone, for which nothing is counted."""
        return self._families({})

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Their values, all of one moment."""
        return self._families(self._now())

    def _families(self, values: dict[_Key, int]) -> list[GaugeMetricFamily]:
        return [
            GaugeMetricFamily(f"{self._namespace}_{name}", text, values.get(key))
            for key, (name, text) in _GAUGES.items()
        ]


class _OfName:
    """The metrics of the tasks of one name: all of them, so that each begins at 0."""

    def __init__(self, metrics: _Metrics, name: str) -> None:
        self.done, self.failed, self.cancelled = (
            metrics.ends.labels(name, outcome).inc for outcome in ("done", "failed", "cancelled")
        )
        self.retried: Callable[[float], None] = metrics.retries.labels(name).inc
        self.waited: Callable[[float], None] = metrics.wait.labels(name).observe
        self.ran: Callable[[float], None] = metrics.run.labels(name).observe
