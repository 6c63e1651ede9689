"""Functions whose call runs none of their code, and what is done about them."""

import asyncio
import functools
import gc
import logging
import threading
import types
import warnings
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from unittest.mock import AsyncMock, Mock

import pytest

from flask_delay import Executor, Future, chain, task
from flask_delay.mapping import map_with
from flask_delay.retry import Retry

from .helpers import DEADLINE, submit, using


def generate(*_, **__):
    yield 1


async def generate_async(*_, **__):
    yield 1


@types.coroutine
def old_coroutine(*_):
    yield


class Generator:
    def __call__(self, *_):
        yield

    def method(self, *_):
        yield

    @classmethod
    def class_method(cls, *_):
        yield

    @staticmethod
    def static_method(*_):
        yield


GENERATORS = [
    generate,
    lambda *_: (yield),
    old_coroutine,
    functools.partial(generate, 1),
    functools.partial(functools.partial(generate, 1), key=2),
    Generator(),
    functools.partial(Generator()),
    Generator().method,
    functools.partial(Generator().method),
    Generator.class_method,
    Generator.static_method,
    Generator.__dict__["static_method"],
    generate_async,
]

# --- As a task -----------------------------------------------------------------------


@pytest.mark.parametrize("function", GENERATORS)
def test_a_generator_function_runs_wherever_a_function_is_taken(executor, function):
    done = executor.submit(int)
    for future in (
        executor.submit(function),
        submit(executor, function, timeout=5),
        done.then(function),
        done.then(function, on="end"),
        submit(executor, task(timeout=5)(function).__wrapped__),
    ):
        assert len(list(future.stream())) == 1
        assert future.result(DEADLINE) is None
    assert list(executor.map(function, [1, 2])) == [None, None]
    assert chain(function)
    assert chain(int, function)


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_generator_is_accepted_below_task_on_a_class(kind):
    assert task(kind(generate))


def test_a_generator_function_is_known_where_a_plain_one_was_before(executor):
    # As when a module is loaded anew: the old code goes, the new one may lie in its place.
    def plain():
        pass

    def generator():
        yield

    generator_flag = generator.__code__.co_flags & CO_GENERATOR
    for flag in (generator_flag, CO_ASYNC_GENERATOR):
        for _ in range(50):
            function = type(plain)(plain.__code__.replace(), {})
            executor.submit(function).result(DEADLINE)
            assert executor.drain(DEADLINE)
            del function
            base = generator.__code__
            flags = base.co_flags & ~CO_GENERATOR | flag
            function = type(plain)(base.replace(co_flags=flags), {})
            assert executor.submit(function).stream()
            assert executor.drain(DEADLINE)
            del function


def test_a_generator_that_a_function_returns_is_a_result(executor):
    # Also the remedy for who wants the generator.
    for function in (lambda: generate(), lambda: (x for x in [1])):
        assert list(executor.submit(function).result(DEADLINE)) == [1]
    made = generate()
    assert executor.submit(lambda: made).result(DEADLINE) is made


def plainly(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "function",
    [
        plainly(generate),
        plainly(plainly(generate)),
        plainly(generate_async),
        functools.partial(plainly(generate), 1),
        functools.lru_cache(generate),
        plainly(functools.partial(generate, 1)),
    ],
)
def test_a_generator_function_below_a_decorator_fails(executor, function):
    error = executor.submit(function).exception(DEADLINE)
    assert isinstance(error, TypeError)
    assert "generate" in str(error)
    assert "would never run" in str(error)


def test_a_coroutine_as_a_result_is_no_reason_to_run_again(executor):
    calls = []

    async def send():
        raise AssertionError("must not run")

    def work():
        calls.append(1)
        return send()

    future = submit(executor, work, retry=Retry(3, backoff=0, on=TypeError))
    assert isinstance(future.exception(DEADLINE), TypeError)
    assert (len(calls), future.attempts) == (1, 1)


def test_mocks_are_functions(executor):
    assert executor.submit(Mock(return_value=1)).result(DEADLINE) == 1
    assert executor.submit(AsyncMock(return_value=2)).result(DEADLINE) == 2


def test_an_object_that_has_the_code_of_a_function_is_one(executor):
    class Compiled:
        """As Cython's functions."""

        def __init__(self, function):
            self.__code__ = function.__code__
            self.function = function

        def __call__(self):
            return self.function()

    assert list(executor.submit(Compiled(generate)).stream()) == [1]
    lies = Compiled(lambda: 4)
    lies.__code__ = generate.__code__
    assert executor.submit(lies).result(DEADLINE) == 4
    assert executor.submit(Compiled(lambda: 3)).result(DEADLINE) == 3


@pytest.mark.parametrize("function", [generate, generate_async, AsyncMock()])
def test_an_initializer_that_would_not_run(function):
    with pytest.raises(TypeError, match="the initializer must be a plain function"):
        Executor(1, initializer=function)


# --- As a done callback ----------------------------------------------------------------


async def coroutine_function(*_):
    raise AssertionError("must not run")


CALLBACKS = [
    coroutine_function,
    functools.partial(coroutine_function, 1),
    AsyncMock(),
    generate,
    generate_async,
]


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("done", [False, True])
def test_an_async_done_callback_is_refused(executor, callback, done):
    future = Future()
    if done:
        future.set_result(1)
    for add in (future.add_done_callback, executor.add_default_done_callback):
        with pytest.raises(TypeError, match=r"a done callback must be a plain.*call delay\(\)"):
            add(callback)
    assert executor.submit(int).result(DEADLINE) == 0


def test_the_remedy_for_an_async_done_callback(executor):
    told = []
    ended = threading.Event()

    async def tell(future):
        await asyncio.sleep(0)
        told.append(future.result())
        ended.set()

    executor.submit(int).add_done_callback(lambda future: executor.submit(tell, future))
    assert ended.wait(DEADLINE)
    assert told == [0]


def test_a_coroutine_that_a_done_callback_returns_is_logged(executor, caplog):
    ended = threading.Event()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        future = executor.submit(int)
        future.add_done_callback(lambda _: coroutine_function())
        future.add_done_callback(lambda _: ended.set())
        assert ended.wait(DEADLINE)
        gc.collect()
    assert caught == []
    [record] = [it for it in caplog.records if it.levelno == logging.ERROR]
    assert "exception calling callback" in record.getMessage()
    assert "coroutine_function" in str(record.exc_info[1])
    assert "nobody awaits" in str(record.exc_info[1])


# --- StopIteration -------------------------------------------------------------------------


def test_map_of_a_function_that_raises_stop_iteration_is_no_short_list(executor):
    def pick(number):
        if number == 2:
            raise StopIteration("out")
        return number

    results = executor.map(pick, range(4))
    seen = []
    with pytest.raises(RuntimeError, match=r"a call of map\(\) raised StopIteration") as info:
        seen.extend(results)
    assert isinstance(info.value.__cause__, StopIteration)
    assert info.value.__cause__.value == "out"
    # As after any other exception.
    assert list(results) == []


def test_map_whose_key_raises_stop_iteration_is_no_short_list(executor):
    def key(number):
        if number == 2:
            raise StopIteration
        return "key"

    results = map_with(using(executor, key=key, limit=1), abs, range(4), buffersize=1)
    seen = []
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        seen.extend(results)


@pytest.mark.parametrize("key", [coroutine_function, generate, AsyncMock()])
def test_a_key_that_would_be_another_one_each_time(executor, key):
    with pytest.raises(TypeError, match="'key' is .*hashable, or a plain function"):
        submit(executor, int, limit=1, key=key)
