"""Keys: how many of one run at once, how often they start, and that there is but one."""

import asyncio
import functools
import gc
import itertools
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from flask_delay import DuplicateTask, Executor, current_task

from .helpers import (
    DEADLINE,
    Gate,
    Peak,
    Thing,
    fail,
    make,
    occupied,
    submit,
    together,
    using,
)
from .scripts import EXIT, FORK, SUBMIT, unfinished

# No second one starts while a test lasts.
HOURLY = "1/h"


@pytest.fixture
def executor():
    executor = Executor(4)
    yield executor
    # Not those that a rate would let start some time.
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def held(executor):
    """`held(fn, *args)` is a future whose task waits for its key, until `held.gate` is opened."""
    gate = Gate()
    submit(executor, gate, key="held", limit=1)
    assert gate.entered.wait(DEADLINE)
    make_held = functools.partial(using(executor, key="held", limit=1))
    make_held.gate = gate
    yield make_held
    gate.open()


def echo(*args, **kwargs):
    return args, kwargs


# --- limit --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_never_more_than_the_limit_at_once_and_all_run(limit, executor):
    peak, met = Peak(), threading.Barrier(limit)

    def task():
        with peak:
            # As many as may be here do meet here.
            met.wait(DEADLINE)

    def submits():
        return [submit(executor, task, key="key", limit=limit) for _ in range(30)]

    futures = itertools.chain(*together(*[submits] * 8))
    for future in futures:
        future.result(DEADLINE)
    assert (peak.most, peak.total) == (limit, 240)


def test_each_key_has_its_own_limit(executor):
    """Four keys, each with one task at a time, and four workers: they meet."""
    met, peaks = threading.Barrier(4), [Peak() for _ in range(4)]

    def task(key):
        with peaks[key]:
            met.wait(DEADLINE)

    futures = [submit(executor, task, key, key=key, limit=1) for _ in range(25) for key in range(4)]
    for future in futures:
        future.result(DEADLINE)
    assert [(peak.most, peak.total) for peak in peaks] == [(1, 25)] * 4


def test_without_a_key_it_is_the_functions_own(executor):
    met, peak = threading.Barrier(2), Peak()

    def one(_):
        with peak:
            met.wait(DEADLINE)

    def two(_):
        met.wait(DEADLINE)

    # Whatever the arguments.
    futures = [submit(executor, fn, n, limit=1) for n in range(20) for fn in (one, two)]
    for future in futures:
        future.result(DEADLINE)
    assert (peak.most, peak.total) == (1, 20)


def test_methods_of_one_object_are_one_function(executor):
    class Owner:
        def __init__(self):
            self.peak = Peak()

        def method(self):
            with self.peak:
                # Others would come in meanwhile.
                time.sleep(0.001)

    owner = Owner()
    for future in [submit(executor, owner.method, limit=1) for _ in range(20)]:
        future.result(DEADLINE)
    assert (owner.peak.most, owner.peak.total) == (1, 20)


def test_a_key_is_shared_by_functions(executor):
    gate = Gate()
    submit(executor, gate, key=("user", 1), limit=1)
    assert gate.entered.wait(DEADLINE)
    other = submit(executor, int, key=("user", 1), limit=1)
    assert submit(executor, int, key=("user", 2), limit=1).result(DEADLINE) == 0
    assert executor.submit(int).result(DEADLINE) == 0
    assert other.state == "pending"
    gate.open()
    assert other.result(DEADLINE) == 0


def test_keys_of_two_executors_have_nothing_in_common(executor, held):
    assert not held(int).done()
    with Executor(1) as other:
        assert submit(other, int, key="held", limit=1).result(DEADLINE) == 0


def test_tasks_of_one_key_may_have_different_limits(executor):
    gates = [Gate() for _ in range(3)]
    for gate, limit in zip(gates, (1, 2, 3), strict=True):
        # One that may have `limit` at once starts while fewer run.
        submit(executor, gate, key="key", limit=limit)
        assert gate.entered.wait(DEADLINE)
    held = submit(executor, int, key="key", limit=3)
    assert executor.stats()["held"] == 1
    gates[0].open()
    assert held.result(DEADLINE) == 0
    for gate in gates:
        gate.open()


def test_a_held_task_is_pending_and_counted(executor, held):
    futures = [held(int) for _ in range(5)]
    stats = executor.stats()
    assert (stats["held"], stats["queued"], stats["running"]) == (5, 0, 1)
    assert [future.state for future in futures] == ["pending"] * 5
    assert not any(future.running() for future in futures)
    held.gate.open()
    assert [future.result(DEADLINE) for future in futures] == [0] * 5
    assert executor.drain(DEADLINE)
    assert executor.stats()["held"] == 0


def test_held_tasks_keep_no_worker_from_others():
    with Executor(2) as executor:
        gate = Gate()
        submit(executor, gate, key="key", limit=1)
        assert gate.entered.wait(DEADLINE)
        futures = [submit(executor, int, key="key", limit=1) for _ in range(10)]
        assert executor.submit(int).result(DEADLINE) == 0
        gate.open()
        assert [future.result(DEADLINE) for future in futures] == [0] * 10


def test_held_tasks_go_on_by_priority_then_in_order(executor, held):
    order, priorities = [], [0, 1, None, -1, 1, 0]
    for place, priority in enumerate(priorities):
        options = {} if priority is None else {"priority": priority}
        submit(executor, order.append, place, key="held", limit=1, **options)
    held.gate.open()
    assert executor.drain(DEADLINE)
    assert order == [1, 4, 0, 2, 5, 3]


def leave():
    raise SystemExit


@pytest.mark.parametrize("end", [fail, leave, "timeout", "cancel", "stop", "expires", "drop"])
def test_however_one_ends_the_next_one_may_start(end):
    options = {"queue_size": 1, "when_full": "drop_oldest"} if end == "drop" else {}
    with Executor(1, **options) as executor:
        with occupied(executor):
            first = submit(
                executor,
                end if callable(end) else time.sleep,
                *(() if callable(end) else (0.2,)),
                key="key",
                limit=1,
                **({end: 0.02} if end in ("timeout", "expires") else {}),
            )
            if end in ("cancel", "stop"):
                assert getattr(first, end)()
            if end == "expires":
                assert first.exception(DEADLINE)
        if end == "drop":
            gate = Gate()
            executor.submit(gate)
            assert gate.entered.wait(DEADLINE)
            first = submit(executor, int, key="key", limit=1)
            # Takes its place.
            last = submit(executor, int, key="key", limit=1)
            assert first.cancelled()
            gate.open()
        else:
            last = submit(executor, int, key="key", limit=1)
        assert last.result(DEADLINE) == 0


def test_a_held_task_may_be_cancelled(executor, held):
    argument = Thing()
    watched = weakref.ref(argument)
    called = []
    first, second = held(id, argument), held(int)
    first.add_done_callback(called.append)
    del argument
    assert first.cancel()
    assert called == [first]
    assert watched() is None
    assert executor.stats()["held"] == 1
    with pytest.raises(CancelledError):
        first.result()
    held.gate.open()
    assert second.result(DEADLINE) == 0


def test_cancelled_while_it_is_let_go():
    """Each future is cancelled or has run, and the key is free in the end."""
    with Executor(2) as executor:
        ran, cancelled = [], []

        def submits():
            for number in range(300):
                future = submit(executor, ran.append, number, key="key", limit=1)
                if number % 2 and future.cancel():
                    cancelled.append(future)

        together(*[submits] * 4)
        assert executor.drain(DEADLINE)
        assert len(ran) + len(cancelled) == 1200
        assert submit(executor, int, key="key", limit=1).result(DEADLINE) == 0
        assert executor.stats()["held"] == 0


def test_limit_of_coroutines(executor):
    peak = Peak()

    async def task():
        with peak:
            await asyncio.sleep(0.001)

    def submits():
        return [submit(executor, task, key="key", limit=3) for _ in range(10)]

    for future in itertools.chain(*together(*[submits] * 4)):
        future.result(DEADLINE)
    assert (peak.most, peak.total) == (3, 40)


def test_limit_of_coroutines_and_others_is_one(executor, held):
    async def work():
        return held.gate.over

    future = held(work)
    assert executor.submit(int).result(DEADLINE) == 0
    assert future.state == "pending"
    held.gate.open()
    assert future.result(DEADLINE) is True


@pytest.mark.parametrize("options", [{"limit": 1}, {"rate": HOURLY}, {"limit": 1, "rate": HOURLY}])
@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_modes_without_threads_wait_for_nothing(mode, options):
    executor, ran = make(mode), []
    for number in range(5):
        submit(executor, ran.append, number, key="key", **options)
    assert executor.run_pending() == 5 if mode == "manual" else len(ran) == 5
    assert ran == [0, 1, 2, 3, 4]
    executor.shutdown()


# --- rate ---------------------------------------------------------------------------


def test_rate_is_that_of_any_span():
    starts = []
    executor = Executor(2)
    begin = time.monotonic()
    for _ in range(45):
        submit(executor, lambda: starts.append(time.monotonic()), rate="20/s", key="key")
    other = submit(executor, time.monotonic, rate="20/s", key="other")
    assert executor.stats()["held"] >= 25
    # Nor do they keep a worker from others.
    assert executor.submit(int).result(DEADLINE) == 0
    assert other.result(DEADLINE) - begin < 1
    # What was accepted runs, however long it takes.
    executor.shutdown()
    assert len(starts) == 45
    starts.sort()
    # What passes between the start and the look at the clock is the machine's.
    spans = [later - earlier for earlier, later in zip(starts, starts[20:], strict=False)]
    assert min(spans) > 0.8
    assert 2 <= starts[-1] - begin < 4


@pytest.mark.parametrize("end", ["cancel", "stop", "shutdown"])
def test_held_by_a_rate_until_it_is_cancelled(end):
    executor = Executor(1)
    assert submit(executor, int, rate=HOURLY).result(DEADLINE) == 0
    futures = [submit(executor, int, rate=HOURLY) for _ in range(3)]
    assert executor.stats()["held"] == 3
    assert executor.drain(0.01) is False
    if end == "shutdown":
        executor.shutdown(cancel_futures=True)
    else:
        assert all(getattr(future, end)() for future in futures)
    assert all(future.cancelled() for future in futures)
    assert executor.drain(DEADLINE)
    executor.shutdown()
    assert executor.stats()["held"] == 0


def test_one_that_was_cancelled_does_not_count_as_a_start(executor):
    with occupied(executor, 4):
        assert submit(executor, int, key="key", limit=1).cancel()
    gate = Gate()
    submit(executor, gate, key="key", limit=1, rate="2/h")
    cancelled = submit(executor, int, key="key", limit=1, rate="2/h")
    assert cancelled.cancel()
    last = submit(executor, int, key="key", limit=1, rate="2/h")
    gate.open()
    assert last.result(DEADLINE) == 0
    held = submit(executor, int, key="key", limit=1, rate="2/h")
    assert not executor.drain(0.01)
    assert held.cancel()


def test_limit_and_rate_together(executor):
    peak = Peak()

    def task():
        with peak:
            time.sleep(0.001)

    futures = [submit(executor, task, key="key", limit=2, rate="30/s") for _ in range(40)]
    done = time.monotonic()
    for future in futures:
        future.result(DEADLINE)
    assert time.monotonic() - done > 0.7
    assert (peak.most <= 2, peak.total) == (True, 40)


# --- unique -------------------------------------------------------------------------


def test_a_second_one_is_the_first(executor):
    gate = Gate()
    with occupied(executor, 4):
        first = submit(executor, gate, key="key", unique=True)
        assert submit(executor, int, key="key", unique=True) is first
    assert gate.entered.wait(DEADLINE)
    assert submit(executor, gate, key="key", unique=True) is first
    assert submit(executor, int, key="other", unique=True).result(DEADLINE) == 0
    # Without the option nobody asks.
    assert executor.submit(int).result(DEADLINE) == 0
    gate.open()
    first.result(DEADLINE)


def test_a_second_one_may_be_refused(executor):
    gate = Gate()
    first = submit(executor, gate, key="the key", unique="raise")
    with pytest.raises(DuplicateTask) as refused:
        submit(executor, int, key="the key", unique="raise")
    # It may get to whoever sent the request: no key, no arguments, no id to ask for.
    assert str(refused.value) == (
        'task "int" was not accepted: the task "Gate", which has the same key, is not done yet'
    )
    # It is the one who submits that has a say.
    assert submit(executor, int, key="the key", unique=True) is first
    assert issubclass(DuplicateTask, RuntimeError)
    gate.open()
    assert first.result(DEADLINE) is None
    assert submit(executor, int, key="the key", unique="raise").result(DEADLINE) == 0


def test_arguments_of_a_second_one_are_not_kept(executor):
    with occupied(executor, 4):
        first = submit(executor, id, 1, key="key", unique=True)
        argument = Thing()
        watched = weakref.ref(argument)
        assert submit(executor, id, argument, key="key", unique=True) is first
        with pytest.raises(DuplicateTask):
            submit(executor, id, argument, key="key", unique="raise")
        del argument
        gc.collect()
        assert watched() is None


@pytest.mark.parametrize("function", [int, fail, leave])
def test_again_as_soon_as_it_is_known_to_be_done(function, executor):
    for _ in range(100):
        first = submit(executor, function, key="key", unique=True)
        first.exception(DEADLINE)
        # Whoever has seen its end may submit a new one.
        second = submit(executor, function, key="key", unique=True)
        assert second is not first
        second.exception(DEADLINE)


@pytest.mark.parametrize("way", ["cancel", "stop"])
def test_again_after_it_was_cancelled(way, executor):
    with occupied(executor, 4):
        first = submit(executor, int, key="key", unique=True)
        assert getattr(first, way)()
        second = submit(executor, int, key="key", unique=True)
        assert second is not first
    assert second.result(DEADLINE) == 0


def test_again_after_it_expired_or_timed_out(executor):
    with occupied(executor, 4):
        first = submit(executor, int, key="key", unique=True, expires=0.001)
        assert first.exception(DEADLINE)
        second = submit(executor, time.sleep, 0.5, key="key", unique=True, timeout=0.01)
        assert second is not first
    assert second.exception(DEADLINE)
    third = submit(executor, int, key="key", unique=True)
    assert third is not second
    assert third.result(DEADLINE) == 0


def test_again_after_a_submit_that_failed():
    executor = Executor(1)
    with occupied(executor):
        queued = [executor.submit(int) for _ in range(3)]
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            submit(executor, int, key="key", unique=True)
        # It never was in the queue, so it is not one of those that are dead there.
        assert executor.stats()["queued"] == len(queued)
    executor.shutdown()
    with Executor(1, queue_size=1, when_full="raise") as executor:
        with occupied(executor):
            queued = executor.submit(int)
            with pytest.raises(RuntimeError, match="full"):
                submit(executor, int, key="key", unique="raise")
            assert queued.cancel()
            # Nothing was left of the one that was refused.
            future = submit(executor, int, key="key", unique="raise")
        assert future.result(DEADLINE) == 0


def test_a_second_one_needs_no_place():
    with Executor(1, queue_size=1, when_full="raise") as executor, occupied(executor):
        first = submit(executor, int, key="key", unique=True)
        assert submit(executor, int, key="key", unique=True) is first


def test_a_task_finds_itself_and_its_callback_does_not(executor):
    found = []

    def task():
        found.append(submit(executor, int, key="key", unique=True))
        return gate()

    gate = Gate()
    first = submit(executor, task, key="key", unique=True)
    # As one does that has to run again and again.
    first.add_done_callback(lambda _: found.append(submit(executor, int, key="key", unique=True)))
    gate.open()
    assert executor.drain(DEADLINE)
    assert found[0] is first
    assert found[1] is not first
    assert found[1].result(0) == 0


def test_of_sixteen_threads_one_submits(executor):
    for number in range(30):
        gate, ran = Gate(), []

        def task(gate=gate, ran=ran):
            ran.append(1)
            gate()

        submits = functools.partial(submit, executor, task, key=number, unique=True)
        futures = together(*[submits] * 16)
        assert len(set(map(id, futures))) == 1
        gate.open()
        futures[0].result(DEADLINE)
        assert ran == [1]


def test_of_sixteen_threads_one_is_not_refused(executor):
    for number in range(20):
        gate = Gate()

        def submits(gate=gate, number=number):
            try:
                return submit(executor, gate, key=number, unique="raise")
            except DuplicateTask:
                return None

        futures = [future for future in together(*[submits] * 16) if future]
        assert len(futures) == 1
        gate.open()


def test_submits_that_race_with_the_end(executor):
    """As many run as there were different futures, never two at once."""
    peak = Peak()

    def task():
        with peak:
            pass

    def submits():
        return [submit(executor, task, key="key", unique=True) for _ in range(300)]

    futures = set(itertools.chain(*together(*[submits] * 8)))
    for future in futures:
        future.result(DEADLINE)
    assert (peak.most, peak.total) == (1, len(futures))


def test_without_a_key_it_is_function_and_arguments(executor):
    one = using(executor, unique=True)
    with occupied(executor, 4):
        first = one(echo, 1, "a", x=2, y=3)
        assert one(echo, 1, "a", x=2, y=3) is first
        assert one(echo, 1, "a", y=3, x=2) is first
        others = [
            one(echo, 1, "a", x=2),
            one(echo, 1, "b", x=2, y=3),
            one(echo, 1, "a", 2, 3),
            one(echo),
            one(lambda *args, **kwargs: None, 1, "a", x=2, y=3),
            one(echo, ("x", 2), ("y", 3)),
            one(echo, 1, "a", ("x", 2), ("y", 3)),
        ]
        assert len({first, *others}) == 8
    assert first.result(DEADLINE) == ((1, "a"), {"x": 2, "y": 3})
    assert executor.drain(DEADLINE)


@pytest.mark.parametrize("arguments", [([],), (1, {})])
def test_unhashable_arguments_need_a_key(executor, arguments):
    with pytest.raises(TypeError, match="not hashable.*key"):
        submit(executor, echo, *arguments, unique=True)
    with pytest.raises(TypeError, match="not hashable.*key"):
        using(executor, unique=True)(echo, x=[])
    assert submit(executor, echo, *arguments, key=1, unique=True).result(DEADLINE)
    assert executor.stats()["queued"] == 0


def test_unique_coroutines(executor):
    opened, loops = threading.Event(), []

    async def work():
        loops.append((asyncio.get_running_loop(), asyncio.Event()))
        opened.set()
        await loops[0][1].wait()

    first = submit(executor, work, key="key", unique=True)
    assert submit(executor, work, key="key", unique=True) is first
    assert opened.wait(DEADLINE)
    assert submit(executor, work, key="key", unique=True) is first
    loops[0][0].call_soon_threadsafe(loops[0][1].set)
    assert first.result(DEADLINE) is None

    async def short():
        return 1

    assert submit(executor, short, key="key", unique=True).result(DEADLINE) == 1


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_unique_without_threads(mode):
    executor = make(mode)
    first = submit(executor, int, key="key", unique=True)
    second = submit(executor, int, key="key", unique=True)
    assert (second is first) == (mode == "manual")
    executor.shutdown()
    assert second.result(0) == 0


def test_unique_in_itself_in_immediate_mode():
    executor = make("immediate")

    def task():
        return submit(executor, int, key="key", unique=True), current_task.future

    found, own = submit(executor, task, key="key", unique=True).result(0)
    assert found is own


def test_everything_of_one_key(executor):
    """Unique ones are limited as others are, and the other way round."""
    gate = Gate()
    running = submit(executor, gate, key="key", limit=1)
    assert gate.entered.wait(DEADLINE)
    first = submit(executor, int, key="key", limit=1, unique=True)
    assert first is not running
    assert submit(executor, int, key="key", limit=1, unique=True) is first
    assert (first.state, executor.stats()["held"]) == ("pending", 1)
    gate.open()
    assert first.result(DEADLINE) == 0


# --- What a key may be --------------------------------------------------------------


def test_a_callable_gets_the_arguments(executor):
    calls = []

    def key(*args, **kwargs):
        calls.append((threading.get_ident(), args, kwargs))
        return args[0]

    one = using(executor, key=key, unique=True)
    with occupied(executor, 4):
        first, second = one(echo, "a", 1, x=2), one(echo, "b")
        assert one(echo, "a", 3) is first
        assert second is not first
    # At submit, in the submitter's thread; with none of the options.
    me = threading.get_ident()
    assert calls == [(me, ("a", 1), {"x": 2}), (me, ("b",), {}), (me, ("a", 3), {})]
    assert first.result(DEADLINE) == (("a", 1), {"x": 2})


@pytest.mark.parametrize("option", [{"limit": 1}, {"rate": "10/s"}, {"unique": True}])
def test_a_callable_that_fails(executor, option):
    with pytest.raises(ValueError, match="made to fail"):
        submit(executor, echo, 1, key=fail, **option)
    with pytest.raises(TypeError, match="key"):
        submit(executor, echo, 1, key=lambda _: [], **option)
    assert executor.stats()["threads"] == 0


@pytest.mark.parametrize("option", [{"limit": 1}, {"rate": "10/s"}, {"unique": True}])
@pytest.mark.parametrize("key", [[], {}, (1, [])])
def test_a_key_that_is_not_hashable(executor, key, option):
    with pytest.raises(TypeError, match="key"):
        submit(executor, echo, 1, key=key, **option)
    assert executor.stats()["threads"] == 0


@pytest.mark.parametrize("key", [0, "", (), False, frozenset(), b"", 1.5, Thing()])
def test_anything_hashable_is_a_key(executor, key):
    with occupied(executor, 4):
        first = submit(executor, int, key=key, unique=True)
        assert submit(executor, int, key=key, unique=True) is first
    assert first.result(DEADLINE) == 0


class Reentrant:
    """Its comparison submits, too."""

    def __init__(self, executor):
        self.executor, self.compared = executor, 0

    def __hash__(self):
        return 7

    def __eq__(self, other):
        self.compared += 1
        submit(self.executor, int, key=8, limit=1)
        return self is other


def test_a_key_whose_comparison_submits(executor):
    keys = [Reentrant(executor) for _ in range(4)]
    for options in ({"limit": 1}, {"unique": True}, {"rate": "100/s"}):
        futures = [submit(executor, int, key=key, **options) for key in keys * 3]
        assert [future.result(DEADLINE) for future in futures] == [0] * 12


class Broken:
    """Hashable, but not to be compared."""

    def __init__(self):
        self.broken = True

    def __hash__(self):
        return 7

    def __eq__(self, other):
        if self.broken or other.broken:
            raise LookupError("not to be compared")
        return True


def test_a_key_whose_comparison_fails(executor):
    first, second = Broken(), Broken()
    gate = Gate()
    submit(executor, gate, key=first, limit=1, unique=True)
    with pytest.raises(LookupError, match="not to be compared"):
        submit(executor, int, key=second, limit=1, unique=True)
    first.broken = second.broken = False
    gate.open()
    # The executor and the key are as they were.
    executor.drain(DEADLINE)
    assert submit(executor, int, key=second, limit=1).result(DEADLINE) == 0


# --- Memory -------------------------------------------------------------------------


class Key(Thing):
    pass


@pytest.mark.parametrize(
    "options",
    [{"limit": 1}, {"unique": True}, {"unique": True, "limit": 2}, {"rate": "1000/s"}],
    ids=str,
)
def test_ten_thousand_keys_leave_nothing(executor, options, wait_until):
    keys = weakref.WeakSet()
    for _ in range(10_000):
        key = Key()
        keys.add(key)
        submit(executor, int, key=key, **options)
        del key
    assert executor.drain(DEADLINE)

    def gone():
        # The last start of a rate has to be remembered for its span; the next task of any
        # key may find that it is over.
        submit(executor, int, key="poke", **options).result(DEADLINE)
        gc.collect()
        return not keys

    assert wait_until(gone)
    stats = executor.stats()
    assert (stats["held"], stats["queued"]) == (0, 0)


# --- Exit and fork ------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")
class TestAtExit:
    PRELUDE = EXIT + SUBMIT

    def test_held_tasks_run(self, run_script):
        done = run_script(
            self.PRELUDE
            + textwrap.dedent("""
                executor = Executor(2)
                submit(executor, after, leaving, 0, key="key", limit=1)
                for number in range(1, 5):
                    submit(executor, write, number, key="key", limit=1)
                for number in range(12):
                    submit(executor, os.write, 1, b".", rate="10/s")
            """)
        )
        assert (done.rc, done.err) == (0, "")
        assert done.out.replace(".", "") == "0\n1\n2\n3\n4\n"
        assert done.out.count(".") == 12

    def test_held_when_time_is_over(self, run_script):
        done = run_script(
            self.PRELUDE
            + textwrap.dedent("""
                executor = limited(0.2)

                def by_rate():
                    write("started after all")

                def by_limit():
                    time.sleep(60)

                submit(executor, int, key="rate", rate="1/h").result(20)
                submit(executor, by_rate, key="rate", rate="1/h")
                for _ in range(2):
                    submit(executor, by_limit, limit=1)
            """),
            timeout=15.0,
        )
        assert (done.rc, done.out) == (0, "")
        assert unfinished(done.err) == ["by_limit", "by_limit", "by_rate"]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_fork_while_keys_are_held(run_script):
    done = run_script(
        FORK
        + SUBMIT
        + textwrap.dedent("""
            executor, gate = Executor(2), threading.Event()
            running = submit(executor, gate.wait, 20, key="key", limit=1, unique=True)
            held = [submit(executor, pow, 2, n, key="key", limit=1) for n in range(3)]
            assert submit(executor, pow, 2, 5, key="rate", rate="1/h").result(20) == 32
            slow = submit(executor, pow, 2, 6, key="rate", rate="1/h")
            while not running.running():
                time.sleep(0.001)

            def child():
                # Here nobody has the keys.
                again = submit(executor, pow, 2, 3, key="key", limit=1, unique=True)
                assert again.result(20) == 8
                assert submit(executor, pow, 2, 5, key="rate", rate="1/h").result(20) == 32
                for future in (running, slow, *held):
                    try:
                        future.result(20)
                    except ForkedFutureError:
                        write("foreign")
                assert executor.stats()["held"] == 0
                executor.shutdown()

            assert [reap(forked(child)) for _ in range(2)] == [0] * 2
            assert executor.stats()["held"] == 4
            gate.set()
            assert [future.result(20) for future in held] == [1, 2, 4]
            assert slow.cancel()
            executor.shutdown()
        """)
    )
    assert (done.rc, done.err) == (0, "")
    assert done.out.split() == ["foreign"] * 10
