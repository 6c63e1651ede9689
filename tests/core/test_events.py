"""The log of events: what happens to tasks, in order, while somebody reads it."""

import os
import time

import pytest
from tests.core.helpers import DEADLINE, occupied, submit

from flask_delay import Executor, Retry, current_task
from flask_delay._native import _EventLog


def fail():
    raise ValueError("no")


def events_of(log, start, *futures):
    """Kinds by the name of the task, of the events after number `start`."""
    ids = [future.id for future in futures]
    read, lost = log.read(start)
    assert lost == 0
    return [[kind for _, kind, id, _, _ in read if id == own] for own in ids]


@pytest.fixture
def log():
    return _EventLog()


@pytest.fixture
def start(log):
    """The number of the last event so far."""
    number = 0
    while read := log.read(number)[0]:
        number = read[-1][0]
    return number


def test_a_task_is_submitted_started_and_succeeds(log, start):
    before = time.time_ns()
    with Executor(1) as executor:
        future = executor.submit(int)
        future.result(DEADLINE)
    read, lost = log.read(start)
    assert lost == 0
    assert [number for number, *_ in read] == list(range(start + 1, start + 4))
    assert [kind for _, kind, *_ in read] == ["submitted", "started", "succeeded"]
    assert {(id, name) for _, _, id, name, _ in read} == {(future.id, "int")}
    times = [time for *_, time in read]
    assert before <= times[0] <= times[1] <= times[2] <= time.time_ns()


def test_every_way_to_end(log, start):
    async def coroutine():
        return 1

    with Executor(1) as executor:
        with occupied(executor):
            cancelled = executor.submit(int)
            cancelled.cancel()
            late = submit(executor, int, expires=0.01)
            with pytest.raises(Exception, match="not started within"):
                late.result(DEADLINE)
        failed = executor.submit(fail)
        awaited = executor.submit(coroutine)
        retried = submit(executor, fail, retry=Retry(1, waits=[0]))
        stopped = submit(executor, time.sleep, 0.3, timeout=0.01)
        for future in failed, awaited, retried, stopped:
            future.exception(DEADLINE)
    told = events_of(log, start, cancelled, late, failed, awaited, retried, stopped)
    assert told == [
        ["submitted", "cancelled"],
        ["submitted", "expired"],
        ["submitted", "started", "failed"],
        ["submitted", "started", "succeeded"],
        ["submitted", "started", "retrying", "started", "failed"],
        ["submitted", "started", "failed"],
    ]


def test_progress(log, start):
    with Executor(1) as executor:
        future = executor.submit(lambda: current_task.progress(1, 2))
        future.result(DEADLINE)
    assert events_of(log, start, future) == [["submitted", "started", "progress", "succeeded"]]


def test_what_follows_others_ends_where_they_fail(log, start):
    with Executor(1) as executor:
        first = executor.submit(fail)
        second = first.then(print)
        assert isinstance(second.exception(DEADLINE), ValueError)
    assert events_of(log, start, second) == [["submitted", "failed"]]


def test_reading_goes_on_where_it_was(log, start):
    with Executor(1) as executor:
        for _ in range(3):
            executor.submit(int).result(DEADLINE)
    first, _ = log.read(start, most=4)
    rest, _ = log.read(first[-1][0])
    assert [number for number, *_ in first + rest] == list(range(start + 1, start + 10))
    assert log.read(rest[-1][0]) == ([], 0)


def test_what_is_lost_is_told(log, start):
    with Executor(1) as executor:
        for _ in range(3000):
            executor.submit(int)
    read, lost = log.read(start, most=1_000_000)
    assert lost == 9000 - 8192
    assert [number for number, *_ in read] == list(range(start + lost + 1, start + 9001))


def test_nothing_is_kept_while_nobody_reads():
    with Executor(1) as executor:
        executor.submit(int).result(DEADLINE)
        log = _EventLog()
        last = max([number for number, *_ in log.read(most=10_000)[0]], default=0)
        del log
        executor.submit(int).result(DEADLINE)
        log = _EventLog()
        future = executor.submit(int)
        future.result(DEADLINE)
    assert {id for _, _, id, *_ in log.read(last)[0]} == {future.id}


def test_a_forked_process_has_its_own(log, start):
    with Executor(1) as executor:
        executor.submit(int).result(DEADLINE)
        child = os.fork()
        if not child:
            try:
                read = log.read()[0]
                executor.submit(int).result(DEADLINE)
                mine = log.read()[0]
                os._exit(0 if not read and [number for number, *_ in mine] == [1, 2, 3] else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert len(log.read(start)[0]) == 3
