"""What a page lists of the tasks of this process: what runs, what waits, what has ended."""

import asyncio
import gc
import os
import threading
import time
import weakref

import pytest
from tests.core.helpers import DEADLINE, Gate, Thing, fail, make, occupied, submit, then

from flask_delay import Retry, current_task
from flask_delay._native import _events_counted, _RemoteTask


@pytest.fixture
def executor():
    with make(max_workers=1) as executor:
        executor._record()
        yield executor


def ids(futures):
    return [future.id for future in futures]


def test_what_waits_comes_in_the_order_of_the_submits(executor):
    with occupied(executor):
        plain = [executor.submit(int) for _ in range(5)]
        ranked = submit(executor, int, priority=3)
        held = submit(executor, int, countdown=60)
        after = then(ranked, str)
        more = executor.submit(int)
        found = executor._waiting(100)
        assert ids(found) == ids([*plain, ranked, held, after, more])
        assert ids(executor._waiting(3)) == ids(plain[:3])
        plain[1].cancel()
        assert plain[1].id not in ids(executor._waiting(100))
    held.cancel()
    more.result(DEADLINE)
    assert executor.drain(DEADLINE)
    assert executor._waiting(100) == []


def test_more_than_are_asked_for_are_all_there_in_the_end(executor):
    with occupied(executor):
        futures = [executor.submit(int) for _ in range(30)]
        seen = []
        while left := executor._waiting(10):
            seen += left
            for future in left:
                future.cancel()
        assert ids(seen) == ids(futures)


def test_what_runs_has_its_thread(executor, wait_until):
    gate, threads = Gate(), []

    def work():
        threads.append(threading.get_ident())
        gate()

    future = executor.submit(work)
    assert gate.entered.wait(DEADLINE)
    assert executor._running() == [(future, threads[0])]
    assert executor._waiting(10) == []
    gate.open()
    future.result(DEADLINE)
    assert wait_until(lambda: executor._running() == [])


def test_a_coroutine_runs_on_the_thread_of_the_loop(executor):
    began, go = threading.Event(), threading.Event()
    threads = []

    async def work():
        threads.append(threading.get_ident())
        began.set()
        await asyncio.to_thread(go.wait, DEADLINE)

    future = executor.submit(work)
    assert began.wait(DEADLINE)
    assert executor._running() == [(future, threads[0])]
    go.set()
    future.result(DEADLINE)
    assert executor.drain(DEADLINE)
    assert [it["id"] for it in executor._ended()] == [future.id]


def test_a_task_between_two_attempts_waits(executor, wait_until):
    future = submit(executor, fail, retry=Retry(1, waits=[60]))
    assert wait_until(lambda: ids(executor._waiting(10)) == [future.id])
    assert executor._running() == []
    future.cancel()
    assert executor._waiting(10) == []


def test_what_has_ended_is_told_without_its_result(executor):
    result = Thing()
    ref = weakref.ref(result)

    def work(thing):
        current_task.progress(1, 2, "half")
        return thing

    before = time.time()
    future = executor.submit(work, result)
    assert future.result(DEADLINE) is result
    assert executor.drain(DEADLINE)
    [told] = executor._ended()
    assert told["id"] == future._quiet_id()
    assert (told["name"], told["state"], told["attempts"]) == (future.name, "finished", 1)
    assert told["progress"] == (1, 2, "half")
    times = [told[key].timestamp() for key in ("enqueued_at", "started_at", "finished_at")]
    assert before - 1 <= times[0] <= times[1] <= times[2] <= time.time() + 1
    del future, result
    gc.collect()
    assert ref() is None


def test_failures_are_not_among_those_that_have_ended(executor):
    with occupied(executor):
        cancelled = executor.submit(int)
        cancelled.cancel()
    executor.submit(fail).exception(DEADLINE)
    assert executor.drain(DEADLINE)
    told = {it["id"]: it["state"] for it in executor._ended()}
    assert told.pop(cancelled.id) == "cancelled"
    assert set(told.values()) <= {"finished"}
    assert len(told) == 1


def test_the_first_hundred_of_a_second_are_remembered(executor):
    for _ in range(1_000):
        executor.submit(int)
    assert executor.drain(DEADLINE)
    assert len(executor._ended()) == 100


@pytest.mark.parametrize("ending", ["run", "cancel"])
def test_no_task_is_kept_that_has_left_the_queue(executor, ending):
    refs = []
    with occupied(executor):
        for _ in range(3):
            future = executor.submit(int)
            refs.append(weakref.ref(future))
            if ending == "cancel":
                future.cancel()
        del future
        assert executor._waiting(10) == [] or ending == "run"
    assert executor.drain(DEADLINE)
    # The worker may hold the last one for a moment.
    executor.submit(int).result(DEADLINE)
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_a_task_is_found_by_an_id_that_was_seen(executor):
    gate = Gate()
    running = executor.submit(gate)
    assert gate.entered.wait(DEADLINE)
    waiting, unseen = executor.submit(int), executor.submit(int)
    for future in (running, waiting):
        assert executor._find(future._quiet_id(), 10) is future
    assert executor._find("another", 10) is None
    gate.open()
    unseen.result(DEADLINE)
    assert executor.drain(DEADLINE)
    assert executor._find(running._quiet_id(), 10) is None


def test_arguments_are_kept_as_text_until_the_end(executor):
    with occupied(executor):
        future = executor.submit(int)
        assert future._kept_arguments() is None
        future._keep_arguments("4711")
        assert future._kept_arguments() == "4711"
    assert executor.drain(DEADLINE)
    assert [it["arguments"] for it in executor._ended() if it["id"] == future.id] == ["4711"]


def test_a_task_on_another_machine_has_no_thread_here(executor):
    handle = _RemoteTask(executor, int, id="there", recall=print)
    handle.announce()
    assert executor._waiting(10) == [handle.future]
    handle.start()
    assert executor._waiting(10) == []
    assert executor._running() == [(handle.future, None)]
    handle.finish(1)
    assert executor._running() == []
    assert [it["id"] for it in executor._ended()] == ["there"]
    withdrawn = _RemoteTask(executor, int, id="not there", recall=print)
    withdrawn.announce()
    withdrawn.withdraw()
    assert executor._waiting(10) == []


def test_an_executor_knows_its_own_futures(executor):
    with make() as other:
        future = executor.submit(int)
        assert executor._has(future)
        assert not other._has(future)


def test_without_a_page_nothing_is_recorded():
    with make() as executor:
        executor.submit(int).result(DEADLINE)
        assert executor.drain(DEADLINE)
        assert executor._ended() == []


def test_each_event_is_counted(executor):
    before = _events_counted()
    executor.submit(lambda: current_task.progress(1, 2)).result(DEADLINE)
    assert executor.drain(DEADLINE)
    # Submitted, started, its progress, its end.
    assert _events_counted() == before + 4


@pytest.mark.parametrize("mode", ["immediate", "manual"])
def test_in_the_modes_for_tests(mode):
    with make(mode) as executor:
        executor._record()
        future = executor.submit(int)
        assert ids(executor._waiting(10)) == ([future.id] if mode == "manual" else [])
        if mode == "manual":
            executor.run_pending()
        assert executor._waiting(10) == []
        assert [it["id"] for it in executor._ended()] == [future.id]


def test_a_forked_process_has_its_own(executor):
    executor.submit(int).result(DEADLINE)
    with occupied(executor):
        executor.submit(int)
        child = os.fork()
        if not child:
            try:
                is_empty = not (executor._waiting(10) or executor._ended() or executor._running())
                executor.submit(int).result(DEADLINE)
                executor.drain(DEADLINE)
                os._exit(0 if is_empty and len(executor._ended()) == 1 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert len(executor._waiting(10)) == 1
