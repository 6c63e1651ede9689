"""Priorities: who goes first."""

import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_delay import Executor

from .helpers import DEADLINE, Gate, make, occupied, submit, together


def order_of(priorities):
    """In which order tasks run that are submitted with these (None: as any other task)."""
    order = []
    with Executor(1) as executor:
        with occupied(executor):
            for place, priority in enumerate(priorities):
                if priority is None:
                    executor.submit(order.append, place)
                else:
                    submit(executor, order.append, place, priority=priority)
        assert executor.drain(DEADLINE)
    return order


def expected(priorities):
    # Sorting is stable: first in, first out among equals.
    return sorted(range(len(priorities)), key=lambda place: -(priorities[place] or 0))


@pytest.mark.parametrize(
    "priorities",
    [
        [0, 1, 2, 3],
        [3, 2, 1, 0],
        [5] * 20,
        [None, 1, None, -1, None],
        [0, None, 0, None, 0],
        [-1, None, 0, 1],
        [1000, -1000, 999, -999, None, 1000],
        [-3, -2, -3],
    ],
)
def test_higher_first_and_first_in_first_out_within_one(priorities):
    assert order_of(priorities) == expected(priorities)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.integers(-3, 3) | st.integers(-1000, 1000), max_size=30))
def test_any_priorities(priorities):
    assert order_of(priorities) == expected(priorities)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.integers(-3, 3), max_size=30))
def test_without_threads(priorities):
    executor, order = make("manual"), []
    for place, priority in enumerate(priorities):
        options = {} if priority is None else {"priority": priority}
        submit(executor, order.append, place, **options)
    assert executor.run_pending() == len(priorities)
    assert order == expected(priorities)


def test_a_running_task_is_not_interrupted():
    with Executor(1) as executor:
        gate = Gate()
        running = submit(executor, gate, priority=-5)
        assert gate.entered.wait(DEADLINE)
        first = submit(executor, running.done, priority=5)
        gate.open()
        assert first.result(DEADLINE) is True


def test_one_that_was_cancelled_is_passed_over():
    with Executor(1) as executor:
        order = []
        with occupied(executor):
            futures = [submit(executor, order.append, n, priority=n) for n in range(-3, 4)]
            assert all(future.cancel() for future in futures[::2])
        assert executor.drain(DEADLINE)
        assert order == [2, 0, -2]
        assert executor.stats()["queued"] == 0


def test_a_task_that_a_task_leaves_goes_before_lower_ones():
    with Executor(1) as executor:
        order = []

        def leave():
            order.append("first")
            submit(executor, order.append, "high", priority=1)

        with occupied(executor):
            executor.submit(leave)
            executor.submit(order.append, "plain")
        assert executor.drain(DEADLINE)
        assert order == ["first", "high", "plain"]


def test_a_waiting_task_lets_what_it_waits_for_run_whatever_its_priority():
    with Executor(1) as executor:

        def outer():
            low = submit(executor, int, "5", priority=-1000)
            for _ in range(10):
                submit(executor, int, priority=1000)
            return low.result(DEADLINE)

        assert executor.submit(outer).result(DEADLINE) == 5


def test_many_threads_lose_nothing():
    with Executor(2) as executor:
        lock, ran = threading.Lock(), Counter()

        def task(number):
            with lock:
                ran[number] += 1

        def submits(base):
            def run():
                for number in range(base, base + 500):
                    if number % 4:
                        submit(executor, task, number, priority=number % 7 - 3)
                    else:
                        executor.submit(task, number)

            return run

        together(*[submits(500 * place) for place in range(8)])
        assert executor.drain(DEADLINE)
        assert ran == Counter(range(4000))


def test_coroutines_take_a_priority_and_start_at_once():
    async def work():
        return 1

    with Executor(1) as executor, occupied(executor):
        submit(executor, int, priority=5)
        assert submit(executor, work, priority=-5).result(DEADLINE) == 1
