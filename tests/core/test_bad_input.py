"""Wrong use: a clear error at once, and nothing else changes."""

import asyncio
import functools
import gc
import math
import warnings
from concurrent.futures import CancelledError

import pytest

from flask_delay import Executor
from flask_delay._native import _Policy

from .helpers import DEADLINE, occupied, submit


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


# --- What cannot be a task ----------------------------------------------------------


@pytest.mark.parametrize("value", [None, 1, "name", [], object()])
def test_not_callable(executor, value):
    with pytest.raises(TypeError, match="callable"):
        executor.submit(value)


def test_submit_needs_a_function_by_position(executor):
    with pytest.raises(TypeError, match="first argument"):
        executor.submit()
    with pytest.raises(TypeError, match="first argument"):
        executor.submit(fn=int)


async def async_generator(*_, **__):
    yield


class Async:
    async def __call__(self):
        yield

    async def method(self):
        yield

    @classmethod
    async def class_method(cls):
        yield

    @staticmethod
    async def static_method():
        yield


@pytest.mark.parametrize(
    "function",
    [
        async_generator,
        functools.partial(async_generator, 1),
        functools.partial(functools.partial(async_generator, 1), key=2),
        functools.partial(Async().method),
        Async(),
        functools.partial(Async()),
        Async().method,
        Async.class_method,
        Async.static_method,
        Async.__dict__["static_method"],
    ],
)
def test_async_generator_functions_yield_items(executor, function):
    for _ in range(2):
        assert list(executor.submit(function).stream()) == [None]


def test_function_that_returns_a_coroutine_fails_and_the_coroutine_is_closed(executor):
    made = []

    async def coroutine_function():
        raise AssertionError("must not run")

    def task():
        made.append(coroutine_function())
        return made[0]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error = executor.submit(task).exception(DEADLINE)
        assert isinstance(error, TypeError)
        assert "coroutine" in str(error)
        assert made.pop().cr_frame is None
        gc.collect()
    assert caught == []


def test_asyncio_run_is_the_remedy(executor):
    async def main(value):
        return value

    assert executor.submit(lambda: asyncio.run(main(3))).result(DEADLINE) == 3


# --- What cannot be an argument: nothing ---------------------------------------------


class Hostile:
    """Says no to everything but being passed along."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other):
        raise RuntimeError

    def __bool__(self):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError

    __str__ = __repr__


def test_unhashable_and_hostile_arguments_and_results(executor):
    hostile = Hostile()
    future = executor.submit(lambda *args, **kwargs: args[0], hostile, [], {}, key=hostile)
    assert future.result(DEADLINE) is hostile
    assert "returned Hostile" in repr(future)


def test_huge_arguments_are_handed_over_not_copied(executor):
    huge = bytearray(256 * 2**20)
    assert executor.submit(lambda given: given, huge).result(DEADLINE) is huge


def test_callable_with_a_hostile_repr(executor, caplog):
    class Callable(Hostile):
        def __call__(self, *_):
            raise ValueError("made to fail")

    error = executor.submit(Callable()).exception(DEADLINE)
    assert isinstance(error, ValueError)
    executor.submit(int).add_done_callback(Callable())
    executor.drain(DEADLINE)
    assert [record.exc_info[0] for record in caplog.records] == [ValueError] * 2


# --- Options of the executor --------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_workers": 0}, ValueError, "max_workers"),
        ({"max_workers": -3}, ValueError, "max_workers.*-3"),
        ({"max_workers": 2**70}, ValueError, None),
        ({"max_workers": "2"}, TypeError, None),
        ({"max_workers": 1.5}, TypeError, None),
        ({"thread_name_prefix": 3}, TypeError, None),
        ({"thread_name_prefix": "a\0b"}, ValueError, "thread_name_prefix"),
        ({"initializer": 3}, TypeError, "initializer.*callable"),
        ({"initializer": int, "initargs": [1]}, TypeError, None),
        ({"idle_timeout": 0}, ValueError, "idle_timeout"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout.*-1"),
        ({"idle_timeout": math.nan}, ValueError, "idle_timeout"),
        ({"idle_timeout": "1"}, TypeError, None),
        ({"queue_size": -1}, ValueError, "queue_size.*-1"),
        ({"queue_size": 2**70}, ValueError, None),
        ({"queue_size": "8"}, TypeError, None),
        ({"queue_size": 1.5}, TypeError, None),
        ({"when_full": "explode"}, ValueError, "when_full.*caller_runs.*explode"),
        ({"when_full": ""}, ValueError, "when_full"),
        ({"when_full": "Block"}, ValueError, "when_full.*Block"),
        ({"when_full": None}, TypeError, None),
        ({"when_full": 1}, TypeError, None),
        ({"block_timeout": -1}, ValueError, "block_timeout.*-1"),
        ({"block_timeout": math.nan}, ValueError, "block_timeout"),
        ({"block_timeout": "1"}, TypeError, None),
        ({"block_timeout": []}, TypeError, None),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_bad_option_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        Executor(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"queue_size": 0, "when_full": "raise"},
        {"queue_size": 1, "when_full": "block", "block_timeout": None},
        {"queue_size": 1, "when_full": "block", "block_timeout": 1},
        {"queue_size": 10_000_000, "when_full": "drop_oldest"},
        {"when_full": "caller_runs", "idle_timeout": 1},
    ],
)
def test_good_options(options):
    with Executor(1, **options) as executor:
        assert executor.submit(int).result(DEADLINE) == 0


def test_options_are_given_by_name():
    with pytest.raises(TypeError):
        Executor(1, "", None, (), 5)


# --- Options of a task --------------------------------------------------------------

# What `using` refuses is tested where it is; these show that nothing is left of what was refused.


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": "1"}, TypeError),
        ({"priority": 1001}, ValueError),
        ({"limit": 0}, ValueError),
        ({"limit": True}, TypeError),
        ({"rate": "10/5s"}, ValueError),
        ({"rate": "0/s"}, ValueError),
        ({"rate": 10}, TypeError),
        ({"unique": "return"}, ValueError),
        ({"unique": 1}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"expires": -1}, ValueError),
        ({"expires": None}, TypeError),
        ({"retry": -1}, ValueError),
        ({"retry": True}, TypeError),
        ({"retry": "3"}, TypeError),
        ({"key": [], "limit": 1}, TypeError),
    ],
)
def test_bad_option_of_a_task_is_refused_by_its_name(executor, options, error):
    with pytest.raises(error, match=rf"{next(iter(options))}|times"):
        submit(executor, int, **options)
    assert not any(executor.stats().values())


@pytest.mark.parametrize("options", [{"key": 1}, {"key": 1, "unique": False}])
def test_a_key_that_nothing_goes_by(executor, options):
    with pytest.raises(ValueError, match="key"):
        submit(executor, int, **options)
    assert not any(executor.stats().values())


@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"limit": 1}, {"unique": True}])
@pytest.mark.parametrize("value", [None, 1, object()])
def test_not_callable_with_options(executor, value, options):
    with pytest.raises(TypeError, match="callable"):
        submit(executor, value, **options)
    assert not any(executor.stats().values())


def test_submit_with_needs_a_function(executor):
    for args in ((), (_Policy(),), (_Policy(), None), (None, None)):
        with pytest.raises(TypeError):
            executor._submit_with(*args)
    with pytest.raises(TypeError):
        executor._submit_with({"timeout": 5}, None, int)
    assert executor._submit_with(None, None, int).result(DEADLINE) == 0


def test_an_executor_is_initialised_once(executor):
    with pytest.raises(RuntimeError, match="already"):
        executor.__init__(2)
    assert executor.submit(int).result(DEADLINE) == 0


def test_subclass_that_forgets_to_initialise_is_told_so():
    class Forgetful(Executor):
        def __init__(self):
            pass

    executor = Forgetful()
    for use in (
        lambda: executor.submit(int),
        lambda: list(executor.map(int, "1")),
        executor.shutdown,
        executor.drain,
        executor.stats,
        lambda: executor.add_default_done_callback(int),
    ):
        with pytest.raises(RuntimeError, match=r"super\(\)\.__init__"):
            use()
    assert "not initialised" in repr(executor)


@pytest.mark.parametrize(
    ("timeout", "error"), [(math.nan, ValueError), ("1", TypeError), ([], TypeError)]
)
def test_drain_refuses_a_bad_time_limit(executor, timeout, error):
    with pytest.raises(error, match="timeout"):
        executor.drain(timeout)


# --- Outcomes -----------------------------------------------------------------------


def test_result_of_a_cancelled_task(executor):
    with occupied(executor):
        future = executor.submit(int)
        future.cancel()
        with pytest.raises(CancelledError):
            future.result()
        with pytest.raises(CancelledError):
            future.exception()


@pytest.mark.parametrize("id", ["", "nonsense", "00000000-0000-4000-8000-000000000000"])
def test_unknown_id_is_none(executor, id):
    assert executor._get(id) is None
