"""Any order of submit, cancel, end, failure, timeout, retry, stop and shutdown, beside a model.

A task stays inside its function until the machine says how it ends. After every step the machine
waits until the executor has come to rest; then who runs, who waits and who has ended is what the
model says, except for which of several tasks was taken first.
"""

import collections
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from flask_delay import Executor, QueueFull, Retry, TaskExpired, TaskTimeout, current_task

from .helpers import DEADLINE, spin, submit, unlogged

# The options that go with a key; None: no key.
KEYS = {
    None: {},
    "one": {"limit": 1},
    "two": {"limit": 2},
    "only": {"unique": True},
    "only one": {"unique": True, "limit": 1},
}
priorities = st.sampled_from([None, -1, 0, 1])
SHORT, LONG = Retry(1, backoff=0.0005), Retry(2, backoff=3600, max_delay=3600)


class Failure(Exception):
    pass


class Task:
    """A task, and what the model knows of it."""

    def __init__(self, machine, *, key=None, priority=None, retry=None):
        self.machine, self.key, self.priority, self.retry = machine, key, priority, retry
        self.commands = collections.deque()
        self.starts, self.callbacks, self.stopped = 0, 0, False
        # "pending", "waiting" for its long retry, "running" or "done"
        self.state, self.again = "pending", False
        # Which outcomes there may be.
        self.expected = set()
        self.future = None

    def __call__(self):
        self.starts += 1
        with self.machine.lock:
            self.machine.inside.add(self)
        try:
            while not (self.commands or self.machine.over):
                time.sleep(0.0003)
            command = self.commands.popleft() if self.commands else "return"
        finally:
            with self.machine.lock:
                self.machine.inside.discard(self)
        if command == "raise":
            raise Failure
        if command == "retry":
            current_task.retry(after=0.0005)
        return self

    @property
    def options(self):
        options = dict(KEYS[self.key])
        for name in ("key", "priority", "retry"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        return options

    def shown(self):
        kind, future = type(self).__name__, self.future
        return f"{kind} {self.key} {self.state}, starts {self.starts}: {future!r}, {self.callbacks}"

    def outcome(self):
        try:
            result = self.future.result(DEADLINE)
        except (CancelledError, Exception) as error:
            return type(error)
        return "result" if result is self else result


class Quick(Task):
    """A task that ends without being told: at once, or by its timeout."""

    def __init__(self, machine, body):
        super().__init__(machine)
        self.body = body

    def __call__(self):
        self.starts += 1
        return self.body() or self


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.lock, self.inside, self.over = threading.Lock(), set(), False
        self.tasks, self.shut, self.cancelled_all = [], False, False
        self.stray = []
        self.hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = threading.excepthook = self.stray.append
        self.unlogged = unlogged()
        self.unlogged.__enter__()

    @initialize(
        workers=st.integers(1, 3), places=st.sampled_from([0, 5]), priorities=st.lists(priorities)
    )
    def make(self, workers, places, priorities):
        self.workers, self.places = workers, places
        self.executor = Executor(workers, queue_size=places, when_full="raise")
        self.submit_several(priorities)

    # --- The model --------------------------------------------------------------------

    def those(self, *states):
        return [task for task in self.tasks if task.state in states]

    def startable(self):
        """How many pending tasks may start, as far as their keys go."""
        running = collections.Counter(task.key for task in self.those("running"))
        pending = collections.Counter(
            task.key for task in self.those("pending") if not isinstance(task, Quick)
        )
        return sum(
            min(count, KEYS[key].get("limit", count + running[key]) - running[key])
            for key, count in pending.items()
        )

    def full(self):
        taken = [task for task in self.those("pending") if not task.starts]
        return self.places and len(taken) >= self.places

    def accept(self, task, **options):
        """Submit it, which is what the model says: accepted, refused, or one that there is."""
        unique = KEYS[task.key].get("unique")
        present = [it for it in self.tasks if unique and it.key == task.key and it.state != "done"]
        try:
            future = submit(self.executor, task, **task.options, **options)
        except QueueFull:
            assert self.full()
            assert not present
            return False
        except RuntimeError:
            if not self.shut:
                raise
            return False
        if present:
            assert future is present[0].future
            return False
        assert not self.shut
        assert not self.full()
        assert all(future is not it.future for it in self.tasks)
        task.future = future
        self.tasks.append(task)
        future.add_done_callback(lambda _: self.called(task))
        return True

    def called(self, task):
        with self.lock:
            task.callbacks += 1

    def end(self, task, *outcomes):
        task.state, task.expected = "done", set(outcomes)
        assert task.outcome() in task.expected

    def settle(self):
        """Wait until the executor has done all that it can do; then look."""
        end = time.monotonic() + DEADLINE / 4
        while not self.at_rest():
            assert time.monotonic() < end, f"not at rest: {self.executor.stats()}, {self.shown()}"
            time.sleep(0.0003)
        started = self.inside - set(self.those("running"))
        self.in_order(started)
        for task in started:
            task.state = "running"
        running = collections.Counter(task.key for task in self.inside)
        assert all(count <= KEYS[key].get("limit", count) for key, count in running.items())

    def at_rest(self):
        for task in self.those("pending"):
            if isinstance(task, Quick) and task.future.done():
                self.end(task, *task.expected)
        with self.lock:
            inside = set(self.inside)
        before = set(self.those("running"))
        if not before <= inside:
            return False
        free = self.workers - len(before)
        if len(inside - before) != min(free, self.startable()):
            return False
        quick = [task for task in self.those("pending") if isinstance(task, Quick)]
        if quick and len(inside) < self.workers:
            return False
        stats = self.executor.stats()
        waiting = len(self.those("pending", "waiting")) - len(inside - before)
        return (
            stats["running"] == len(inside)
            and stats["queued"] + stats["held"] == waiting
            and stats["stuck"] == 0
        )

    def in_order(self, started):
        """Of those without a key, and for the first time, the first ones have started."""
        plain = [
            task
            for task in self.those("pending")
            if task.key is None and not task.again and not isinstance(task, Quick)
        ]
        plain.sort(key=lambda task: -(task.priority or 0))
        count = sum(task in started for task in plain)
        assert set(plain[:count]) == set(plain) & started

    def shown(self):
        return [task.shown() for task in self.tasks]

    # --- What is done to it -----------------------------------------------------------
    #
    # No rule has a precondition: which of several tasks was taken first is not the model's to
    # know, and what Hypothesis draws must not depend on it.

    @rule(
        key=st.sampled_from(list(KEYS)),
        priority=priorities,
        retry=st.sampled_from([None, None, SHORT, LONG]),
    )
    def submit(self, key, priority, retry):
        self.accept(Task(self, key=key, priority=priority, retry=retry))
        self.settle()

    @rule(priorities=st.lists(priorities, max_size=6))
    def submit_several(self, priorities):
        for priority in priorities:
            self.accept(Task(self, priority=priority))
            self.settle()

    @rule(retry=st.sampled_from([None, SHORT]))
    def submit_one_that_times_out(self, retry):
        task = Quick(self, spin)
        task.retry, task.expected = retry, {TaskTimeout}
        self.accept(task, timeout=0.005)
        self.settle()

    @rule()
    def submit_one_that_expires(self):
        task = Quick(self, lambda: None)
        busy = len(self.those("running")) == self.workers
        if self.accept(task, expires=0.005):
            self.end(task, TaskExpired, *(() if busy else ("result",)))
            assert task.starts == (task.outcome() == "result")
        self.settle()

    def picked(self, pick, *states):
        """One of these tasks, if there are any."""
        tasks = self.those(*states)
        return tasks[pick % len(tasks)] if tasks else None

    @rule(pick=st.integers(0, 9))
    def finish(self, pick):
        task = self.picked(pick, "running")
        if task is None:
            return
        task.commands.append("return")
        self.end(task, "result")
        self.settle()

    @rule(pick=st.integers(0, 9), how=st.sampled_from(["raise", "retry"]))
    def fail(self, pick, how):
        task = self.picked(pick, "running")
        if task is None:
            return
        attempt = task.future.attempts
        assert attempt == task.starts
        may = task.retry is not None and attempt <= task.retry.times
        may = may or (how == "retry" and task.retry is None)
        task.commands.append(how)
        if not may:
            self.end(task, Failure if how == "raise" else RuntimeError)
        elif self.cancelled_all:
            # It may start no more.
            self.end(task, CancelledError, Failure if how == "raise" else RuntimeError)
        else:
            task.again = True
            task.state = "waiting" if how == "raise" and task.retry is LONG else "pending"
        while task.state != "done" and task in self.inside and task.starts == attempt:
            time.sleep(0.0003)
        self.settle()

    @rule(pick=st.integers(0, 99))
    def cancel(self, pick):
        task = self.picked(pick, "pending", "waiting", "running", "done")
        if task is None:
            return
        if task.state in ("pending", "waiting"):
            assert task.future.cancel() is True
            self.end(task, CancelledError)
        else:
            assert task.future.cancel() is task.future.cancelled()
        self.settle()

    @rule(pick=st.integers(0, 99))
    def stop(self, pick):
        task = self.picked(pick, "pending", "waiting", "running", "done")
        if task is None:
            return
        task.stopped = True
        assert task.future.stop(after=0) is (task.state != "done")
        if task.state in ("pending", "waiting"):
            assert task.future.cancelled()
        if task.state != "done":
            self.end(task, CancelledError)
        self.settle()

    @rule(cancel=st.booleans())
    def shut_down(self, cancel):
        if len(self.tasks) <= 12 or self.shut:
            return
        self.shut = True
        self.cancelled_all = cancel
        self.executor.shutdown(wait=False, cancel_futures=cancel)
        for task in self.those("pending", "waiting") if cancel else ():
            assert task.future.cancelled()
            self.end(task, CancelledError)
        self.settle()

    # --- The end ----------------------------------------------------------------------

    def teardown(self):
        try:
            if hasattr(self, "executor"):
                self.finish_all()
        finally:
            self.over = True
            self.unlogged.__exit__(None, None, None)
            sys.unraisablehook, threading.excepthook = self.hooks
        assert self.stray == []

    def finish_all(self):
        for task in self.those("waiting"):
            assert task.future.cancel()
            self.end(task, CancelledError)
        self.over = True
        for task in self.those("pending", "running"):
            self.end(task, *(task.expected or {"result"}))
        assert self.executor.drain(DEADLINE)
        self.executor.shutdown()
        assert [task.shown() for task in self.tasks if task.callbacks != 1] == []
        assert all(task.outcome() in task.expected for task in self.tasks)
        # One that is stopped as it starts may not come to its first line.
        assert all(
            task.future.attempts - task.starts in range(task.stopped + 1) for task in self.tasks
        )
        assert not any(self.executor.stats().values())


@pytest.mark.timeout(60)
def test_every_accepted_task_ends_once_whatever_is_done_in_which_order():
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            # What fails is short enough; each attempt to make it shorter could hang.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
