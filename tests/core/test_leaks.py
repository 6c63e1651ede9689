"""What is done many times leaves nothing behind, and a queue may be long."""

import contextvars
import gc
import json
import sys
import tracemalloc
from concurrent.futures import wait

import pytest

from flask_delay import Executor, Future, current_task, gather

from .helpers import DEADLINE, fail, unlogged

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


@pytest.fixture
def silent():
    with unlogged():
        yield


def returned(executor):
    executor.submit(int)


def with_many_arguments(executor):
    executor.submit(lambda *_, **__: object(), 1, object(), [], key=object())


def asked(executor):
    future = executor.submit(object)
    future.result(DEADLINE)
    assert future.id, future.name
    assert future.enqueued_at, future.finished_at
    repr(future)


def called_back(executor):
    future = executor.submit(lambda: current_task.progress(1, 2, "note"))
    future.add_done_callback(lambda done: done.progress)
    future.mark = object()


def cancelled(executor):
    future = executor.submit(int, object())
    future.add_done_callback(lambda _: None)
    future.cancel()


def streamed(executor):
    def work():
        yield object()

    assert list(executor.submit(work).stream())


def waited_for(executor):
    wait([executor.submit(int)], DEADLINE)


def raised(executor):
    executor.submit(fail).exception(DEADLINE)


def refused(executor):
    for wrong in (None, "text"):
        with pytest.raises(TypeError):
            executor.submit(wrong, object())


def in_a_context(executor):
    def submit():
        variable.set(object())
        executor.submit(variable.get)

    contextvars.copy_context().run(submit)


def followed(executor):
    future = executor.submit(object)
    gather(future.then(id), future, return_exceptions=True).then(len)


def followed_by_what_is_cancelled(executor):
    future = executor.submit(object)
    future.then(id).cancel()
    gather(future, future.then(id)).cancel()


def cancelled_before_others(executor):
    future = executor.submit(int, object())
    step = future.then(id)
    step.add_done_callback(lambda _: None)
    gather(step, future)
    future.cancel()


def made_by_hand(_):
    future = Future()
    future.add_done_callback(lambda _: None)
    future.set_result(object())


SCENARIOS = [
    returned,
    with_many_arguments,
    asked,
    called_back,
    streamed,
    cancelled,
    waited_for,
    raised,
    refused,
    in_a_context,
    followed,
    followed_by_what_is_cancelled,
    cancelled_before_others,
    made_by_hand,
]


# Failing and refusing are slow, because they are logged and shown.
SLOW = (raised, refused, streamed, waited_for)
OFTEN = [(scenario, 1_000 if scenario in SLOW else 2_000) for scenario in SCENARIOS]
VERY_OFTEN = [
    pytest.param(scenario, 10_000, marks=pytest.mark.slow)
    for scenario in SCENARIOS
    if scenario not in SLOW
]


@pytest.mark.parametrize(("scenario", "rounds"), [*OFTEN, *VERY_OFTEN])
def test_thousands_of_times_leave_nothing(executor, scenario, rounds, silent):

    def run(count):
        for _ in range(count):
            scenario(executor)
        assert executor.drain(DEADLINE)
        gc.collect()

    def measured():
        return len(gc.get_objects()), sys.getallocatedblocks(), tracemalloc.get_traced_memory()[0]

    # One thing kept per round would be as many as there are rounds. The smallest object has
    # 16 bytes; what is kept once, whatever the rounds, is some kB.
    limits = rounds / 20, rounds / 20, rounds * 2 + 4096
    grown = []
    run(200)
    tracemalloc.start()
    try:
        run(rounds // 2)
        # What caches and free lists keep once is in one of these, and now and then in two; a
        # leak is in all.
        for _ in range(4):
            before = measured()
            run(rounds)
            grown.append([now - then for now, then in zip(measured(), before, strict=True)])
            if all(growth < limit for growth, limit in zip(grown[-1], limits, strict=True)):
                return
    finally:
        tracemalloc.stop()
    pytest.fail(f"objects, blocks, bytes kept by {rounds} rounds, each time: {grown}")


def test_native_memory_does_not_grow(run_script):
    result = run_script(
        "import gc, logging, os\n"
        "from flask_delay import Executor\n"
        "logging.disable()\n"
        "def resident():\n"
        "    gc.collect()\n"
        "    pages = open('/proc/self/statm').read().split()[1]\n"
        "    return int(pages) * os.sysconf('SC_PAGE_SIZE')\n"
        "def task(*args): raise ValueError\n"
        "def run(rounds):\n"
        "    for number in range(rounds):\n"
        "        futures = [executor.submit(int), executor.submit(pow, 2, 3, 5)]\n"
        "        futures[0].id, futures[1].cancel()\n"
        "        futures[0].add_done_callback(id)\n"
        "        if number % 10 == 0: executor.submit(task).exception(10)\n"
        "        if number % 100 == 0: Executor(1).submit(int).result(10)\n"
        "    executor.drain(20)\n"
        "with Executor(2) as executor:\n"
        "    run(10_000)\n"
        "    before = resident()\n"
        "    run(20_000)\n"
        "    print(resident() - before)\n",
    )
    assert result.rc == 0, result.err
    # 40,000 futures of 200 bytes would be 8 MB.
    assert int(result.out) < 2_000_000


# --- A long queue -------------------------------------------------------------------


def test_a_million_queued_tasks_all_run_and_are_small(run_script, record_property):
    result = run_script(
        "import gc, json, os, threading\n"
        "from flask_delay import Executor\n"
        "def resident():\n"
        "    gc.collect()\n"
        "    pages = open('/proc/self/statm').read().split()[1]\n"
        "    return int(pages) * os.sysconf('SC_PAGE_SIZE')\n"
        "count, go = 1_000_000, threading.Event()\n"
        "ran = []\n"
        "task = ran.append\n"
        "with Executor(1) as executor:\n"
        "    executor.submit(int).result(10)\n"
        "    blocker = executor.submit(go.wait)\n"
        "    while not blocker.running(): pass\n"
        "    before = resident()\n"
        "    for _ in range(count): executor.submit(task, None)\n"
        "    size = (resident() - before) / count\n"
        "    queued = executor.stats()['queued']\n"
        "    go.set()\n"
        "    assert executor.drain(50)\n"
        "print(json.dumps({'size': size, 'queued': queued, 'ran': len(ran)}))\n",
        timeout=55,
    )
    assert result.rc == 0, result.err
    found = json.loads(result.out)
    record_property("bytes per pending task", found["size"])
    print(f"{found['size']:.0f} bytes per pending task")
    assert (found["queued"], found["ran"]) == (1_000_000, 1_000_000)
    assert found["size"] < 250
