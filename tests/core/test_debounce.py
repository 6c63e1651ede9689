"""`debounce=` and `max_wait=`: of calls in quick succession the last one runs."""

import functools
import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from flask_delay import Executor, Future, QueueFull, chain, task
from flask_delay.options import Chosen

from .helpers import DEADLINE, Thing, double, make, occupied, submit, then, together, using

# Longer than any test takes: what waits for it is replaced, or does not run.
LONG = 10 * DEADLINE
SHORT = 0.05


@pytest.fixture
def executor():
    with Executor(2) as executor:
        yield executor
        executor.shutdown(cancel_futures=True)


def note(seen, value):
    seen.append(value)
    return value


def test_the_last_call_runs_and_the_others_are_cancelled(executor):
    seen = []
    waits = using(executor, debounce=LONG)
    replaced = [waits(note, seen, number) for number in range(5)]
    last = submit(executor, note, seen, "last", debounce=SHORT)
    assert last.result(DEADLINE) == "last"
    assert all(future.cancelled() for future in replaced)
    assert seen == ["last"]


def test_a_call_is_cancelled_by_the_next_one_and_not_before(executor):
    waits = using(executor, debounce=LONG)
    first = waits(double, 1)
    assert first.state == "pending"
    second = waits(double, 2)
    assert first.cancelled()
    assert second.state == "pending"
    with pytest.raises(CancelledError):
        first.result(DEADLINE)


def test_it_starts_only_when_it_is_due(executor):
    future = submit(executor, double, 1, debounce=0.1)
    assert future.result(DEADLINE) == 2
    assert (future.started_at - future.enqueued_at).total_seconds() >= 0.099


def test_each_call_begins_the_time_anew(executor):
    waits = using(executor, debounce=0.2)
    first = waits(double, 1)
    time.sleep(0.1)
    second = waits(double, 2)
    assert second.result(DEADLINE) == 4
    if first.cancelled():
        assert (second.started_at - first.enqueued_at).total_seconds() >= 0.29


@pytest.mark.parametrize("key", ["search", lambda value: value % 2])
def test_keys_and_functions_are_apart(executor, key):
    waits = using(executor, debounce=LONG, key=key)
    first, other = waits(double, 1), waits(abs, 1)
    alike = waits(double, 3)
    assert (first.cancelled(), other.state, alike.state) == (True, "pending", "pending")
    different = submit(
        executor, double, 2, debounce=LONG, key="another" if key == "search" else key
    )
    assert alike.state == "pending"
    assert different.state == "pending"


def test_without_a_key_the_arguments_do_not_matter(executor):
    waits = using(executor, debounce=LONG)
    unhashable = waits(double, [1])
    waits(double, [2])
    assert unhashable.cancelled()


def test_a_stream_of_calls_is_not_delayed_beyond_max_wait(executor):
    seen = []
    waits = using(executor, debounce=0.3, max_wait=0.3)
    end = time.monotonic() + DEADLINE
    first = waits(note, seen, "first")
    while not seen:
        assert time.monotonic() < end, "none of them runs"
        last = waits(note, seen, "later")
        time.sleep(0.005)
    assert first.done()
    assert seen[0] == "later" or not first.cancelled()
    last.cancel()


def test_max_wait_counts_from_the_first_call(executor):
    first = submit(executor, double, 1, debounce=0.1, max_wait=LONG)
    second = submit(executor, double, 2, debounce=0.2, max_wait=0.2)
    assert second.result(DEADLINE) == 4
    if first.cancelled():
        assert (second.started_at - first.enqueued_at).total_seconds() >= 0.19


def test_a_call_that_is_due_is_not_replaced(wait_until):
    seen = []
    with Executor(1) as executor, occupied(executor):
        first = submit(executor, note, seen, 1, debounce=0.01)
        assert wait_until(lambda: executor.stats()["queued"] == 1)
        second = submit(executor, note, seen, 2, debounce=0.01)
        assert first.state == "pending"
    assert (first.result(), second.result(DEADLINE)) == (1, 2)
    assert seen == [1, 2]


def test_after_the_run_a_new_time_begins(executor):
    for number in range(3):
        future = submit(executor, double, number, debounce=0.01, max_wait=0.01)
        assert future.result(DEADLINE) == 2 * number


def test_coroutines(executor):
    async def found(value):
        return value

    waits = using(executor, debounce=LONG)
    first = waits(found, 1)
    last = submit(executor, found, 2, debounce=SHORT)
    assert last.result(DEADLINE) == 2
    assert first.cancelled()


def test_what_follows_a_replaced_call_is_cancelled(executor):
    first = submit(executor, double, 1, debounce=LONG)
    step = then(first, double)
    submit(executor, double, 2, debounce=LONG)
    assert step.cancelled()


def test_callbacks_of_a_replaced_call_hear_of_it(executor):
    heard = []
    first = submit(executor, double, 1, debounce=LONG)
    first.add_done_callback(heard.append)
    submit(executor, double, 2, debounce=LONG)
    assert heard == [first]


def test_with_a_limit_and_retries(executor):
    attempts = []

    def unsteady():
        attempts.append(None)
        if len(attempts) < 2:
            raise ConnectionError
        return "done"

    options = {"limit": 1, "retry": 1, "key": "one", "timeout": DEADLINE}
    future = submit(executor, unsteady, debounce=0.01, **options)
    assert future.result(DEADLINE) == "done"


def test_a_call_that_is_not_accepted_leaves_the_one_before(wait_until):
    seen = []
    with Executor(1, queue_size=1, when_full="raise") as executor:
        with occupied(executor):
            first = submit(executor, note, seen, 1, debounce=SHORT)
            with pytest.raises(QueueFull):
                submit(executor, note, seen, 2, debounce=SHORT)
        assert first.result(DEADLINE) == 1
        assert submit(executor, note, seen, 3, debounce=SHORT).result(DEADLINE) == 3
    assert seen == [1, 3]


def test_a_call_whose_key_cannot_be_had_leaves_the_one_before(executor):
    calls = []

    def key(value):
        calls.append(value)
        # `debounce` asks first, then `limit`.
        return [] if len(calls) == 4 else "key"

    waits = using(executor, debounce=SHORT, key=key, limit=1)
    first = waits(double, 1)
    with pytest.raises(TypeError, match="not hashable"):
        waits(double, 2)
    assert first.result(DEADLINE) == 2


def test_a_call_that_was_cancelled_is_not_replaced(executor):
    first = submit(executor, double, 1, debounce=LONG)
    assert first.cancel()
    second = submit(executor, double, 2, debounce=SHORT)
    assert second.result(DEADLINE) == 4


def test_calls_of_many_threads_at_once(executor):
    seen = []
    futures = []
    lock = threading.Lock()

    def call(place):
        for number in range(30):
            future = submit(executor, note, seen, (place, number), debounce=SHORT)
            with lock:
                futures.append(future)

    together(*(functools.partial(call, place) for place in range(4)))
    assert executor.drain(DEADLINE)
    assert all(future.done() for future in futures)
    ran = [future.result() for future in futures if not future.cancelled()]
    assert sorted(ran) == sorted(seen)
    assert 1 <= len(seen) < len(futures)
    # The last call of some thread.
    assert seen[-1][1] == 29


def test_what_is_replaced_is_freed(executor):
    thing = Thing()
    watched = weakref.ref(thing)
    submit(executor, double, thing, debounce=LONG)
    del thing
    last = submit(executor, double, 1, debounce=SHORT)
    last.result(DEADLINE)
    gc.collect()
    assert watched() is None


def test_replaced_futures_are_freed_though_nothing_else_is_called(executor):
    waits = using(executor, debounce=LONG)
    waits(double, 0)
    gc.collect()
    before = number_of_futures()
    for number in range(100):
        waits(double, number)
    # Fewer if those of another test are freed meanwhile.
    assert number_of_futures() <= before


def number_of_futures():
    return sum(type(found) is Future for found in gc.get_objects())


def test_the_mode_immediate_runs_each_call():
    executor = make("immediate")
    waits = using(executor, debounce=LONG)
    assert [waits(double, number).result() for number in range(2)] == [0, 2]
    executor.shutdown()


def test_the_mode_manual_runs_the_last_call():
    executor = make("manual")
    waits = using(executor, debounce=LONG)
    first, second = waits(double, 1), waits(double, 2)
    assert executor.run_pending() == 1
    assert first.cancelled()
    assert second.result() == 4
    executor.shutdown()


# --- Bad input -------------------------------------------------------------------------


def test_max_wait_needs_debounce():
    with pytest.raises(ValueError, match="'max_wait' is 5, but 'debounce' is not set"):
        Chosen({"max_wait": 5})


def test_max_wait_below_debounce():
    with pytest.raises(ValueError, match="'max_wait' is 4, but 'debounce' is 5: it must be"):
        Chosen({"debounce": 5, "max_wait": 4})


def test_a_call_that_expires_before_it_is_due():
    with pytest.raises(ValueError, match="'debounce' is 5, but with 'expires' at 5"):
        Chosen({"debounce": 5, "expires": 5})


@pytest.mark.parametrize(
    ("option", "value"), [("countdown", 1), ("unique", True), ("unique", "raise")]
)
def test_what_it_excludes(option, value):
    with pytest.raises(ValueError, match=f"'{option}' is {value!r}, but 'debounce' decides"):
        Chosen({"debounce": 5, option: value})


@pytest.mark.parametrize("when", [{"every": 60}, {"cron": "* * * * *"}])
def test_jobs_are_refused(when):
    with pytest.raises(ValueError, match="'debounce' is 5, but '(every|cron)' makes a job"):
        Chosen({"debounce": 5, **when})


def test_durable_tasks_are_refused():
    with pytest.raises(ValueError, match="'debounce' is 5, but it is not for durable tasks"):
        Chosen({"debounce": 5, "durable": True})


def test_map_is_refused():
    @task(debounce=5)
    def search(text):
        return text

    with pytest.raises(ValueError, match="'debounce' is 5, which is for one call of delay"):
        search.map(["a", "b"])


def test_steps_are_refused(executor):
    future = submit(executor, double, 1)
    with pytest.raises(ValueError, match='"double" cannot be the next step.*"debounce"'):
        then(future, double, debounce=5)
    with pytest.raises(ValueError, match="cannot be the next step"):
        chain(double, task(debounce=5)(double))
