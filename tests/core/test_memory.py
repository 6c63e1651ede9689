"""Nothing is kept longer than needed, and nothing is lost."""

import contextvars
import functools
import gc
import threading
import weakref

import pytest

from flask_delay import Executor, Future, current_task

from .helpers import DEADLINE, Thing, make, occupied, unlogged

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


@pytest.fixture
def no_gc():
    """Reference counts alone must do."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def silent():
    with unlogged():
        yield


# --- A finished task ----------------------------------------------------------------


def submit_watched(executor, *, packed):
    """A task made of things that only it refers to, and weak references to them."""
    function, one, two, three, four, context = (Thing() for _ in range(6))

    def submit():
        variable.set(context)
        if packed:
            return executor.submit(function.method, one, two, three, key=four)
        return executor.submit(function.method, one, two)

    function.method = lambda *args, **kwargs: None
    function.method.mark = function
    future = contextvars.Context().run(submit)
    things = [one, two, context] + ([three, four] if packed else [])
    watched = [weakref.ref(thing) for thing in things]
    return future, [*watched, weakref.ref(function.method)]


@pytest.mark.parametrize("packed", [False, True])
def test_function_arguments_and_context_are_let_go_before_the_worker_parks(executor, packed, no_gc):
    with occupied(executor):
        future, watched = submit_watched(executor, packed=packed)
        assert all(ref() for ref in watched)
    assert executor.drain(DEADLINE)
    # The future lives on, and the worker's thread as well.
    assert executor.stats()["idle"] == 1
    assert [ref() for ref in watched[:-1]] == [None] * (len(watched) - 1)
    # The function is part of a circle of the test's own.
    gc.collect()
    assert watched[-1]() is None
    assert future.result(0) is None


@pytest.mark.parametrize("packed", [False, True])
def test_function_and_arguments_are_let_go_before_the_task_is_known_to_be_done(
    executor, packed, no_gc
):
    for _ in range(20):
        future, watched = submit_watched(executor, packed=packed)
        future.result(DEADLINE)
        held = [ref() for ref in watched[:2] + watched[3:-1]]
        assert held == [None] * len(held)
        gc.collect()


@pytest.mark.parametrize("number", [0, 1, 2, 3, 10])
def test_arguments_are_let_go_by_the_next_task(executor, number, no_gc):
    things = [Thing() for _ in range(number)]
    watched = [weakref.ref(thing) for thing in things]
    with occupied(executor):
        executor.submit(lambda *_: None, *things)
        things.clear()
        seen = executor.submit(lambda: [ref() for ref in watched])
    assert seen.result(DEADLINE) == [None] * number


def test_result_goes_with_the_future(executor, no_gc):
    future = executor.submit(Thing)
    watched = weakref.ref(future.result(DEADLINE)), weakref.ref(future)
    assert executor.drain(DEADLINE)
    assert all(ref() for ref in watched)
    del future
    assert [ref() for ref in watched] == [None, None]


def test_exception_goes_with_the_future(executor, silent):
    class Odd(Exception):
        pass

    def task():
        local = Thing()
        watched.append(weakref.ref(local))
        raise Odd

    watched = []
    future = executor.submit(task)
    watched.append(weakref.ref(future.exception(DEADLINE)))
    executor.drain(DEADLINE)
    # A traceback keeps what it shows.
    assert all(ref() for ref in watched)
    del future
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_callbacks_go_when_they_have_run(executor, no_gc):
    callback = functools.partial(lambda *_: None, Thing())
    watched = weakref.ref(callback)
    with occupied(executor):
        future = executor.submit(int)
        future.add_done_callback(callback)
        del callback
        assert watched() is not None
    executor.drain(DEADLINE)
    assert future.done()
    assert watched() is None


def test_a_future_dropped_at_once_still_runs_its_task_and_callback(executor):
    ran = []
    with occupied(executor):
        executor.submit(ran.append, "task").add_done_callback(lambda _: ran.append("callback"))
        executor.submit(ran.append, "other")
        gc.collect()
    executor.drain(DEADLINE)
    assert ran == ["task", "callback", "other"]


# --- Circles ------------------------------------------------------------------------


def gone(*refs):
    gc.collect()
    return [ref() for ref in refs] == [None] * len(refs)


def test_circle_of_future_and_callback(executor):
    with occupied(executor):
        future = executor.submit(int)
        future.add_done_callback(future.__eq__)
        future.add_done_callback(functools.partial(max, future, key=id))
        future.cancel()
    other = Future()
    other.add_done_callback(lambda _, other=other: other)
    watched = weakref.ref(future), weakref.ref(other)
    del future, other
    assert gone(*watched)


def test_circle_of_future_and_its_attribute_result_or_argument(executor):
    def task():
        return [current_task.future]

    future = executor.submit(task)
    assert future.result(DEADLINE) == [future]
    future.myself = future
    box = []
    other = executor.submit(lambda given: given, box)
    box.append(other)
    executor.drain(DEADLINE)
    watched = weakref.ref(future), weakref.ref(other)
    del future, other, box
    assert gone(*watched)


def test_circle_of_future_and_exception(executor, silent):
    def task():
        me = current_task.future
        raise ValueError(me)

    future = executor.submit(task)
    future.exception(DEADLINE)
    executor.drain(DEADLINE)
    watched = weakref.ref(future)
    del future
    assert gone(watched)


def test_a_queued_task_in_a_circle_of_garbage_still_runs(executor):
    ran = []
    with occupied(executor):
        future = executor.submit(ran.append, 1)
        future.myself = future
        future.add_done_callback(lambda done, future=future: ran.append(done is future))
        watched = weakref.ref(future)
        del future
        gc.collect()
        assert watched() is not None
    executor.drain(DEADLINE)
    assert ran == [1, True]
    assert gone(watched)


class Service:
    """Owns its executor, whose options refer to it."""

    def __init__(self, option):
        self.option = option
        options = {"initializer": self.method} if option == "initializer" else {}
        if option == "initargs":
            options = {"initializer": id, "initargs": (self,)}
        self.executor = Executor(1, "service", **options)
        self.executor.myself = self
        if option == "default callback":
            self.executor.add_default_done_callback(self.method)
        if option == "task":
            self.future = self.executor.submit(self.method)
            self.future.result(DEADLINE)

    def method(self, *_):
        return self


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("option", ["plain", "initializer", "initargs", "default callback", "task"])
def test_executor_in_a_circle(option, used, wait_until):
    service = Service(option)
    if used:
        assert service.executor.submit(int).result(DEADLINE) == 0
        assert service.executor.drain(DEADLINE)
    watched = weakref.ref(service), weakref.ref(service.executor)
    del service
    collected = gone(*watched)
    if not collected:
        # So that the failure stays here.
        watched[1]().shutdown()
    assert collected
    assert wait_until(lambda: not any(t.name == "service_0" for t in threading.enumerate()))


@pytest.mark.parametrize("ended", ["by shutdown", "by being dropped"])
def test_known_futures_go_with_their_executor(ended):
    executor = make(max_workers=1, result_limit=10)
    future = executor.submit(Thing)
    assert executor._get(future.id) is future
    watched = weakref.ref(future), weakref.ref(future.result(DEADLINE))
    if ended == "by shutdown":
        executor.shutdown()
    else:
        executor.drain(DEADLINE)
    del future
    assert all(ref() for ref in watched)
    del executor
    assert gone(*watched)
