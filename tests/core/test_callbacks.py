"""Done callbacks: in order, once, with the same future, whatever happens."""

import contextvars
import functools
import threading

import pytest

from flask_delay import Executor, Future, current_task

from .helpers import DEADLINE, fail, occupied, together


@pytest.fixture
def executor():
    with Executor(1, "callbacks") as executor:
        yield executor


@pytest.mark.parametrize("task", [int, fail])
def test_run_in_order_once_with_the_same_future_on_the_worker(executor, task):
    calls = []

    def callback(number, done):
        calls.append((number, done, done.done(), threading.current_thread().name))

    with occupied(executor):
        future = executor.submit(task)
        for number in range(10):
            future.add_done_callback(functools.partial(callback, number))
        assert calls == []
    assert executor.drain(DEADLINE)
    assert calls == [(number, future, True, "callbacks_0") for number in range(10)]


@pytest.mark.parametrize("asked", range(4))
def test_order_does_not_depend_on_what_else_the_future_has(executor, asked):
    calls = []
    with occupied(executor):
        future = executor.submit(int)
        for number in range(3):
            if number == asked:
                assert future.id
            future.add_done_callback(lambda _, number=number: calls.append(number))
    executor.drain(DEADLINE)
    assert calls == [0, 1, 2]


def test_the_same_callback_may_be_added_twice(executor):
    calls = []
    with occupied(executor):
        future = executor.submit(int)
        future.add_done_callback(calls.append)
        future.add_done_callback(calls.append)
    executor.drain(DEADLINE)
    assert calls == [future, future]


def test_added_from_inside_the_task(executor):
    calls = []
    future = executor.submit(lambda: current_task.future.add_done_callback(calls.append))
    executor.drain(DEADLINE)
    assert calls == [future]


@pytest.mark.parametrize("task", [int, fail])
def test_added_after_the_end_runs_at_once_in_the_adders_thread(executor, task):
    future, calls = executor.submit(task), []
    executor.drain(DEADLINE)
    future.add_done_callback(lambda done: calls.append((done, threading.get_ident())))
    assert calls == [(future, threading.get_ident())]


def test_added_from_a_callback_runs_before_the_next_one(executor):
    calls = []

    def adder(done):
        calls.append("adder")
        done.add_done_callback(lambda _: calls.append("added"))

    with occupied(executor):
        future = executor.submit(int)
        future.add_done_callback(adder)
        future.add_done_callback(lambda _: calls.append("next"))
    executor.drain(DEADLINE)
    # It is done by then, so this is a callback added after the end.
    assert calls == ["adder", "added", "next"]


def test_result_is_there_before_callbacks_run(executor):
    released = threading.Event()
    future = executor.submit(int)
    blocked = executor.submit(int)
    with occupied(executor):
        blocked = executor.submit(int)
        blocked.add_done_callback(lambda _: released.wait(DEADLINE))
    assert blocked.result(DEADLINE) == future.result(DEADLINE) == 0
    released.set()


def test_a_callback_may_submit_and_wait(executor):
    results = []
    with occupied(executor):
        future = executor.submit(int)
        future.add_done_callback(
            lambda _: results.append(executor.submit(int, "7").result(DEADLINE))
        )
    executor.drain(DEADLINE)
    assert results == [7]


def test_no_task_is_current_in_a_callback(executor):
    errors = []

    def callback(_):
        with pytest.raises(RuntimeError, match="no task runs") as caught:
            current_task.id  # noqa: B018
        errors.append(caught.value)

    with occupied(executor):
        executor.submit(int).add_done_callback(callback)
    executor.drain(DEADLINE)
    assert len(errors) == 1


# --- Failures -----------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, Odd])
def test_one_that_raises_is_logged_and_the_others_run(executor, caplog, error):
    def broken(_):
        raise error("50% broken")

    calls = []
    with occupied(executor):
        future = executor.submit(int)
        for callback in (calls.append, broken, calls.append):
            future.add_done_callback(callback)
    executor.drain(DEADLINE)
    assert calls == [future, future]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("flask_delay", "ERROR")
    message = record.getMessage()
    assert "broken" in message
    assert future.id in message
    assert "int" in message
    kind, value, traceback = record.exc_info
    assert (kind, str(value)) == (error, "50% broken")
    assert traceback.tb_frame.f_code is broken.__code__
    # The worker goes on.
    assert executor.submit(int).result(DEADLINE) == 0
    assert executor.stats()["threads"] == 1


def test_one_that_raises_after_the_end_is_logged_not_raised(executor, caplog):
    future = executor.submit(int)
    future.result(DEADLINE)
    future.add_done_callback(fail)
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


def test_one_that_raises_on_cancel_is_logged_not_raised(executor, caplog):
    calls = []
    with occupied(executor):
        future = executor.submit(int)
        future.add_done_callback(fail)
        future.add_done_callback(calls.append)
        assert future.cancel()
    assert calls == [future]
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


@pytest.mark.parametrize("callback", [None, 1, "name"])
def test_not_callable_is_refused_before_and_after_the_end(executor, callback):
    with occupied(executor) as (future,), pytest.raises(TypeError, match="callable"):
        future.add_done_callback(callback)
    with pytest.raises(TypeError, match="callable"):
        future.add_done_callback(callback)
    with pytest.raises(TypeError, match="callable"):
        executor.add_default_done_callback(callback)


# --- Races --------------------------------------------------------------------------


def test_added_while_the_task_ends_each_runs_exactly_once():
    threads, each, rounds = 4, 25, 40
    with Executor(2) as executor:
        for _ in range(rounds):
            calls, go = [], threading.Event()
            future = executor.submit(go.wait, DEADLINE)

            def add(first, future=future, calls=calls):
                for number in range(first, first + each):
                    future.add_done_callback(lambda _, number=number: calls.append(number))

            adders = [functools.partial(add, first * each) for first in range(threads)]
            together(*adders, go.set)
            assert executor.drain(DEADLINE)
            assert sorted(calls) == list(range(threads * each))


def test_added_while_the_task_is_cancelled_each_runs_exactly_once():
    for _ in range(40):
        calls, future = [], Future()

        def add(future=future, calls=calls):
            for _ in range(25):
                future.add_done_callback(calls.append)

        together(add, add, future.cancel)
        assert calls == [future] * 50


def test_cancel_and_start_race_ends_one_way_only():
    with Executor(2) as executor:
        outcomes = set()
        for _ in range(200):
            ran, called = [], []
            futures = [executor.submit(ran.append, number) for number in range(4)]
            for future in futures:
                future.add_done_callback(called.append)
            cancelled = [future for future in futures if future.cancel()]
            assert executor.drain(DEADLINE)
            assert len(ran) + len(cancelled) == 4
            assert sorted(map(id, called)) == sorted(map(id, futures))
            outcomes |= {future.state for future in futures}
        assert outcomes <= {"cancelled", "finished"}


# --- Default callbacks --------------------------------------------------------------


def test_default_callbacks_come_first_and_count_from_now_on(executor):
    calls = []
    with occupied(executor):
        before = executor.submit(int)
        executor.add_default_done_callback(lambda done: calls.append(("default", done)))
        after = executor.submit(int)
        for future in (before, after):
            future.add_done_callback(lambda done: calls.append(("own", done)))
    executor.drain(DEADLINE)
    assert calls == [("own", before), ("default", after), ("own", after)]


# --- Context variables --------------------------------------------------------------

variable = contextvars.ContextVar("variable", default="unset")


def test_task_and_callback_see_the_submitters_variables(executor):
    seen = []

    def task():
        seen.append(variable.get())
        variable.set("changed by the task")

    with occupied(executor):
        variable.set("submitter's")
        future = executor.submit(task)
        future.add_done_callback(lambda _: seen.append(variable.get()))
        variable.set("later")
        other = executor.submit(variable.get)
    assert other.result(DEADLINE) == "later"
    assert future.result(DEADLINE) is None
    # The callback runs in the task's own context.
    assert seen == ["submitter's", "changed by the task"]
    assert variable.get() == "later"
    variable.set("unset")


def test_changes_in_a_task_reach_neither_the_next_task_nor_the_submitter(executor):
    empty = contextvars.Context()

    def task():
        before = variable.get()
        variable.set("leaked")
        return before

    for submit in (lambda: executor.submit(task), lambda: empty.run(executor.submit, task)):
        assert [submit().result(DEADLINE) for _ in range(3)] == ["unset"] * 3
    assert variable.get() == "unset"
    assert variable not in empty


def test_a_tasks_own_tasks_see_its_variables(executor):
    def task():
        variable.set("the task's")
        return executor.submit(variable.get).result(DEADLINE)

    assert executor.submit(task).result(DEADLINE) == "the task's"
