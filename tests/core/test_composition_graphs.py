"""Random graphs of `then` and `gather`, beside a model of what each future must come to.

The model's outcomes are patterns: which of several failures ends a `gather` is not known.
"""

import asyncio
import threading
from concurrent.futures import CancelledError

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_delay import Executor, gather

from .helpers import DEADLINE, occupied, unlogged

CANCELLED = "cancelled"


class Failure(Exception):
    pass


class Node:
    """A future, and what the model says of it."""

    # Of the class, since a task may run before there is more.
    calls = 0
    killed = False
    # Made before anything has run.
    early = True

    def __init__(self, future, *before):
        self.future, self.before = future, before
        self.callbacks = threading.Semaphore(0)
        future.add_done_callback(lambda _: self.callbacks.release())

    def cancelled(self):
        """Before anything has run."""
        return self.killed or (self.early and any(it.cancelled() for it in self.before))

    def over(self):
        """Before anything has run."""
        return self.cancelled()

    def cancel(self):
        """Before anything has run."""
        assert self.future.done() is self.over()
        assert self.future.cancel() is (not self.over() or self.cancelled())
        if not self.over():
            self.killed = True

    def failures(self):
        """How it may fail; none if it succeeds."""
        if self.cancelled():
            return {CANCELLED}
        return self.failures_before() or self.own_failures()

    def failures_before(self):
        return set().union(*(it.failures() for it in self.before))

    def own_failures(self):
        return set()

    def fits(self, outcome):
        failures = self.failures()
        if failures:
            return any(outcome is it for it in failures)
        return self.fits_result(outcome)


class Source(Node):
    def __init__(self, executor, fails):
        self.failure = Failure() if fails else None
        super().__init__(executor.submit(self.run))

    def run(self):
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return self

    def own_failures(self):
        return set() if self.failure is None else {self.failure}

    def fits_result(self, outcome):
        return outcome is self


class Step(Node):
    def __init__(self, before, kind):
        self.failure = Failure() if kind == "fails" else None
        super().__init__(before.future.then(self.wait if kind == "async" else self.run), before)

    def run(self, value):
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return self, value

    async def wait(self, value):
        await asyncio.sleep(0)
        return self.run(value)

    def own_failures(self):
        return set() if self.failure is None else {self.failure}

    def fits_result(self, outcome):
        step, value = outcome
        return step is self and self.before[0].fits(value)


class Gathered(Node):
    def __init__(self, before):
        super().__init__(gather(*(it.future for it in before)), *before)

    def over(self):
        return self.cancelled() or (self.early and all(it.over() for it in self.before))

    def fits_result(self, outcome):
        return len(outcome) == len(self.before) and all(
            it.fits(result) for it, result in zip(self.before, outcome, strict=True)
        )


class All(Gathered):
    def __init__(self, before):
        future = gather(*(it.future for it in before), return_exceptions=True)
        Node.__init__(self, future, *before)

    def cancelled(self):
        return self.killed

    def failures_before(self):
        return set()

    def fits_result(self, outcome):
        plain = [CANCELLED if type(it) is CancelledError else it for it in outcome]
        return super().fits_result(plain)


sources = st.tuples(st.just("source"), st.booleans())
steps = st.tuples(st.sampled_from(["runs", "fails", "async", "runs"]), st.integers(0, 99))
gathers = st.tuples(
    st.sampled_from(["gather", "all"]), st.lists(st.integers(0, 99), min_size=1, max_size=4)
)
cancels = st.tuples(st.just("cancel"), st.integers(0, 99))


def make(what, nodes, executors):
    kind, where = what
    if kind == "source" or not nodes:
        return Source(executors[len(nodes) % 2], kind == "source" and where)
    if kind in ("gather", "all"):
        before = [nodes[it % len(nodes)] for it in where]
        return (Gathered if kind == "gather" else All)(before)
    before = nodes[where % len(nodes)]
    if kind == "async" and before.over():
        # A coroutine waits for no worker, so it would run, or have run, before anything does.
        kind = "runs"
    return Step(before, kind)


def outcome_of(future):
    try:
        return future.result(DEADLINE)
    except CancelledError:
        return CANCELLED
    except Failure as error:
        return error


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(sources, steps, steps, gathers, cancels), max_size=25),
    st.lists(st.one_of(sources, steps, gathers), max_size=10),
)
def test_any_graph_comes_to_what_it_must(held, late):
    """`held` is made while all workers are busy, `late` while the graph runs."""
    nodes = []
    with unlogged(), Executor(1) as one, Executor(2) as two:
        executors = one, two
        with occupied(one), occupied(two, 2):
            for what in held:
                if what[0] != "cancel":
                    nodes.append(make(what, nodes, executors))
                elif nodes:
                    nodes[what[1] % len(nodes)].cancel()
        for what in late:
            nodes.append(make(what, nodes, executors))
            nodes[-1].early = False
        for node in nodes:
            assert node.fits(outcome_of(node.future)), node
            assert node.callbacks.acquire(timeout=DEADLINE)
        for executor in executors:
            assert executor.drain(DEADLINE)
            assert executor.stats()["held"] == executor.stats()["queued"] == 0
    for node in nodes:
        assert not node.callbacks.acquire(blocking=False)
        if isinstance(node, Source | Step):
            assert node.calls == (not node.cancelled() and not node.failures_before())
