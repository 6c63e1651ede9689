"""`countdown` and `eta`: tasks that do not start before their time."""

import asyncio
import gc
import random
import textwrap
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.conftest import TASKS

from flask_delay import Executor, QueueFull, Retry, TaskExpired, current_task

from .helpers import (
    DEADLINE,
    Gate,
    Thing,
    make,
    occupied,
    submit,
)
from .scripts import EXIT, FORK, SUBMIT, unfinished

SOON = 0.05
# Longer than any test lasts.
LATER = 3600


@pytest.fixture
def executor():
    executor = Executor(1)
    yield executor
    executor.shutdown(cancel_futures=True)


def now():
    return datetime.now(UTC)


def soon(kind):
    """Options of this kind for a time that comes soon."""
    return {"countdown": SOON} if kind == "countdown" else {"eta": now() + timedelta(seconds=SOON)}


def later(kind):
    if kind == "countdown":
        return {"countdown": LATER}
    return {"eta": now() + timedelta(seconds=LATER)}


KINDS = pytest.mark.parametrize("kind", ["countdown", "eta"])


@KINDS
def test_it_starts_when_it_is_time(executor, kind):
    before = time.time()
    future = submit(executor, time.time, **soon(kind))
    assert future.state == "pending"
    started = future.result(DEADLINE)
    # An eta is as exact as a datetime is.
    assert started >= before + SOON - 1e-5
    assert future.started_at.timestamp() >= before + SOON - 1e-5
    assert future.attempts == 1


@KINDS
def test_meanwhile_it_is_held_and_needs_no_thread(executor, kind):
    future = submit(executor, int, **later(kind))
    stats = executor.stats()
    assert (stats["held"], stats["queued"], stats["threads"]) == (1, 0, 0)
    assert not future.running()
    assert not future.done()
    # Others pass it.
    assert executor.submit(int).result(DEADLINE) == 0
    assert future.cancel()
    assert executor.stats()["held"] == 0


@KINDS
def test_what_is_cancelled_is_let_go_at_once(executor, kind):
    thing = Thing()
    gone = weakref.ref(thing)
    future = submit(executor, thing.method, **later(kind))
    del thing
    assert future.cancel()
    assert gone() is None
    gone = weakref.ref(future)
    del future
    gc.collect()
    # Nor does the timer keep it.
    assert gone() is None


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=45))])
def test_an_eta_is_the_same_moment_everywhere(executor, zone):
    eta = datetime.now(zone) + timedelta(seconds=SOON)
    assert submit(executor, time.time, eta=eta).result(DEADLINE) >= eta.timestamp() - 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 0},
        {"countdown": 0.0},
        {"eta": datetime(1969, 1, 1, tzinfo=UTC)},
        {"eta": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
def test_what_is_past_starts_at_once(executor, options):
    with occupied(executor):
        future = submit(executor, int, **options)
        assert executor.stats()["held"] == 0
        assert executor.stats()["queued"] == 1
    assert future.result(DEADLINE) == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"countdown": -1}, ValueError, "'countdown' is -1"),
        ({"countdown": float("nan")}, ValueError, "'countdown' is nan"),
        ({"countdown": 1e300}, ValueError, "'countdown' is 1e[+]300"),
        ({"countdown": "5"}, TypeError, "'countdown' is '5'"),
        ({"countdown": True}, TypeError, "'countdown' is True"),
        ({"countdown": timedelta(1)}, TypeError, "'countdown' is datetime"),
        ({"eta": datetime(2030, 1, 1)}, ValueError, "'eta' is .* with a time zone"),  # noqa: DTZ001
        ({"eta": 1e9}, TypeError, "'eta' is 1000000000.0"),
        ({"eta": "2030-01-01"}, TypeError, "'eta' is '2030-01-01'"),
        ({"countdown": 1, "eta": datetime(2030, 1, 1, tzinfo=UTC)}, ValueError, "exclude"),
        ({"countdown": 5, "expires": 5}, ValueError, "'expires' at 5 .* never start"),
    ],
)
def test_bad_values(executor, options, error, text):
    with pytest.raises(error, match=text):
        submit(executor, int, **options)
    assert executor.stats()["held"] == 0


def test_a_coroutine(executor):
    async def task():
        await asyncio.sleep(0)
        return time.monotonic()

    before = time.monotonic()
    assert submit(executor, task, countdown=SOON).result(DEADLINE) >= before + SOON
    future = submit(executor, task, countdown=LATER)
    assert future.cancel()


def test_many_come_in_order_from_one_timer(executor):
    """From the numbers that tell when: random ones, each 10 microseconds after another."""
    count, order = 2_000, []
    numbers = list(range(count))
    random.shuffle(numbers)
    with occupied(executor):
        # Later than it takes to submit them.
        start = now() + timedelta(seconds=1)
        futures = [
            submit(executor, order.append, n, eta=start + timedelta(microseconds=10 * n))
            for n in numbers
        ]
        assert executor.stats()["held"] == count
    if TASKS.exists():
        names = [(task / "comm").read_text().strip() for task in TASKS.iterdir()]
        assert names.count("delay-timer") == 1
    for future in futures:
        future.result(DEADLINE)
    assert order == sorted(order)
    assert len(order) == count


def test_it_is_no_older_than_its_time(executor):
    """What has waited for its time has not waited for a worker, and gains no priority."""
    order = []
    with occupied(executor):
        early = submit(executor, order.append, "had to wait", countdown=SOON)
        while executor.stats()["held"]:
            time.sleep(0.001)
        executor.submit(order.append, "plain")
        submit(executor, order.append, "high", priority=1)
    early.result(DEADLINE)
    assert executor.drain(DEADLINE)
    assert order == ["high", "had to wait", "plain"]


def test_it_waits_for_its_key_after_that():
    gate = Gate()
    with Executor(2) as executor:
        running = submit(executor, gate, key="key", limit=1)
        assert gate.entered.wait(DEADLINE)
        future = submit(executor, int, key="key", limit=1, countdown=SOON)
        time.sleep(2 * SOON)
        assert future.state == "pending"
        assert executor.stats()["held"] == 1
        gate.open()
        assert future.result(DEADLINE) == 0
        assert running.result(DEADLINE) is None


def test_meanwhile_others_of_its_key_go_first(executor):
    future = submit(executor, int, key="key", limit=1, countdown=LATER)
    assert submit(executor, int, key="key", limit=1).result(DEADLINE) == 0
    assert future.cancel()


def test_it_is_the_one_of_its_key(executor):
    first = submit(executor, int, unique=True, countdown=LATER)
    assert submit(executor, int, unique=True) is first
    assert first.cancel()
    assert submit(executor, int, unique=True) is not first


def test_its_retries_go_by_their_own_time(executor):
    attempts = []

    def task():
        attempts.append(time.monotonic())
        if current_task.attempt == 1:
            raise ValueError

    before = time.monotonic()
    retry = Retry(1, backoff=0.001)
    submit(executor, task, countdown=10 * SOON, retry=retry).result(DEADLINE)
    first, second = attempts
    assert first >= before + 10 * SOON
    assert second < first + 10 * SOON


def test_it_expires(executor):
    with occupied(executor):
        future = submit(executor, int, countdown=SOON, expires=2 * SOON)
        assert isinstance(future.exception(DEADLINE), TaskExpired)
    assert submit(executor, int, countdown=SOON, expires=DEADLINE).result(DEADLINE) == 0


def test_it_has_a_place_in_a_bounded_queue():
    with Executor(1, queue_size=1, when_full="raise") as executor:
        future = submit(executor, int, countdown=LATER)
        with pytest.raises(QueueFull):
            executor.submit(int)
        assert future.cancel()
        assert executor.submit(int).result(DEADLINE) == 0


def test_the_caller_does_not_run_it_before_its_time():
    with Executor(1, queue_size=1, when_full="caller_runs") as executor, occupied(executor):
        first = executor.submit(int)
        future = submit(executor, threading.get_ident, countdown=LATER)
        assert future.state == "pending"
        assert future.cancel()
        assert not first.done()


def test_drain_and_shutdown_wait_for_it():
    executor = Executor(1)
    future = submit(executor, int, countdown=SOON)
    assert not executor.drain(SOON / 10)
    assert executor.drain(DEADLINE)
    assert future.done()
    future = submit(executor, int, countdown=SOON)
    executor.shutdown()
    assert future.result(0) == 0


def test_without_threads_there_is_no_time():
    executor = make(mode="immediate")
    assert submit(executor, int, countdown=LATER).done()
    executor = make(mode="manual")
    future = submit(executor, int, countdown=LATER)
    assert executor.run_pending() == 1
    assert future.result() == 0


@pytest.mark.parametrize("kind", ["countdown", "eta"])
class TestAtExit:
    PRELUDE = (
        EXIT
        + SUBMIT
        + textwrap.dedent("""
            from datetime import UTC, datetime, timedelta

            def after(kind, seconds):
                if kind == "countdown":
                    return {"countdown": seconds}
                return {"eta": datetime.now(UTC) + timedelta(seconds=seconds)}
        """)
    )

    def test_it_runs(self, run_script, kind):
        done = run_script(
            self.PRELUDE
            + f"executor = limited(20.0)\nsubmit(executor, write, 1, **after({kind!r}, 0.3))\n"
        )
        assert (done.rc, done.out, done.err) == (0, "1\n", "")

    def test_when_it_would_expire_says_nothing_about_its_start(self, run_script, kind):
        done = run_script(
            self.PRELUDE
            + "executor = limited(60.0)\n"
            + f"submit(executor, write, 1, expires=70, **after({kind!r}, 0.3))\n"
        )
        assert (done.rc, done.out, done.err) == (0, "1\n", "")

    def test_what_would_come_too_late_is_not_waited_for(self, run_script, kind):
        start = time.monotonic()
        done = run_script(
            self.PRELUDE
            + f"executor = limited(60.0)\nsubmit(executor, write, 1, **after({kind!r}, 70))\n"
            + f"submit(executor, write, 2, **after({kind!r}, 0.2))\n"
        )
        assert (done.rc, done.out) == (0, "2\n")
        assert unfinished(done.err) == ["write"]
        assert time.monotonic() - start < 20


def test_a_forked_child_has_its_own(run_script):
    done = run_script(
        FORK
        + SUBMIT
        + textwrap.dedent("""
            executor = Executor(1)
            future = submit(executor, int, countdown=0.5)

            def child():
                try:
                    future.result(20)
                except ForkedFutureError:
                    write("foreign")
                write(submit(executor, int, countdown=0.1).result(20))
                executor.shutdown()

            assert reap(forked(child)) == 0
            write(future.result(20))
            executor.shutdown()
        """)
    )
    assert (done.rc, done.err) == (0, "")
    assert done.out.split() == ["foreign", "0", "0"]
