"""Arguments with which a function cannot be called are said at the submit, as the call says it."""

import concurrent.futures
import functools
import inspect
import threading
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_delay import Executor
from flask_delay._native import _check_call, _check_step


def two(a, size=1):
    return a, size


async def async_two(a, size=1):
    return a, size


class Thing:
    def method(self, a, *, flag):
        return self, a, flag

    @classmethod
    def of_class(cls, a):
        return cls, a

    @staticmethod
    def static(a):
        return a

    def __call__(self, a):
        return a


def shapes():
    """Functions of all kinds of parameters, none of which does anything."""
    yield from (
        two,
        async_two,
        lambda: None,
        lambda a: a,
        lambda a, b=1, c=2: (a, b, c),
        lambda a, /, b: (a, b),
        lambda a, /, b=1, *, c: (a, b, c),
        lambda *, a, b=1: (a, b),
        lambda *args: args,
        lambda **kwargs: kwargs,
        lambda a, /, **kwargs: (a, kwargs),
        lambda a, *args, b: (a, args, b),
        lambda a, b=1, *args, c=2, **kwargs: (a, b, args, c, kwargs),
        Thing().method,
        Thing.method,
        Thing.of_class,
        Thing.static,
        Thing(),
        functools.partial(two, 1),
        functools.partial(two, size=2),
        functools.partial(two, 1, 2),
        functools.partial(two, 1, b=2),
        functools.partial(Thing().method, 1),
        functools.partial(functools.partial(two, 1), 2, 3),
        functools.wraps(two)(lambda *args, **kwargs: (args, kwargs)),
        mock.Mock(),
    )


SHAPES = list(shapes())


def raised(call, *args, **kwargs):
    try:
        made = call(*args, **kwargs)
    except TypeError as error:
        return str(error)
    if inspect.iscoroutine(made):
        # Nobody is to await it.
        made.close()
    return None


@pytest.fixture
def executor():
    with Executor(2) as executor:
        yield executor


@given(
    st.sampled_from(SHAPES),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["a", "b", "c", "size", "flag", "self"]), st.none()),
)
def test_refused_is_what_the_call_refuses(fn, args, kwargs):
    called = raised(functools.partial(fn), *args, **kwargs)
    assert (raised(_check_call, fn, *args, **kwargs) is None) is (called is None), called


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (two, (1,), {"sise": 2}),
        (async_two, (1,), {"sise": 2}),
        (two, (), {}),
        (two, (1, 2, 3), {}),
        (two, (1,), {"a": 2}),
        (lambda a, /: a, (), {"a": 2}),
        (lambda: None, (1,), {}),
        (lambda a: a, (1, 2), {}),
        (lambda a, b: (a, b), (), {}),
        (lambda a, b, c: (a, b, c), (), {}),
        (lambda *, a, b: (a, b), (), {}),
        (lambda *, a, b=1: (a, b), (), {"b": 1}),
        (Thing().method, (), {"flag": 1}),
        (Thing().method, (1, 2), {}),
        (Thing(), (1, 2), {}),
        (functools.partial(two, 1), (2, 3), {}),
    ],
)
def test_in_the_words_of_the_call(executor, fn, args, kwargs):
    said = raised(fn, *args, **kwargs)
    assert said is not None
    refused = raised(executor.submit, fn, *args, **kwargs)
    # Python 3.13 goes on: "Did you mean 'size'?"
    assert refused is not None
    assert said.startswith(refused)


def test_the_issues_own_line(executor):
    with pytest.raises(TypeError) as info:
        executor.submit(two, 1, sise=2)
    assert str(info.value) == "two() got an unexpected keyword argument 'sise'"


@pytest.mark.parametrize(
    ("fn", "args"), [(pow, (1,)), (int, ("1", 2, 3)), (Thing, (1,)), (mock.Mock, ())]
)
def test_what_is_not_written_in_python_is_taken_as_it_is(executor, fn, args, caplog):
    future = executor.submit(fn, *args)
    assert (future.exception(20) is None) is (raised(fn, *args) is None)


def test_defaults_are_those_of_now(executor):
    def fn(a, *, b):
        return a, b

    assert raised(executor.submit, fn) is not None
    fn.__defaults__ = (1,)
    assert raised(executor.submit, fn) is not None
    fn.__kwdefaults__ = {"b": 2}
    assert executor.submit(fn).result(20) == (1, 2)
    fn.__code__ = (lambda: 3).__code__
    assert executor.submit(fn).result(20) == 3
    assert raised(executor.submit, fn, 1) is not None


def test_many_functions_do_not_take_each_other_for_others():
    for count in range(3000):
        names = ", ".join(f"p{number}" for number in range(count % 5))
        fn = eval(f"lambda {names}: None")
        assert raised(_check_call, fn, *range(count % 5)) is None
        assert raised(_check_call, fn, *range(count % 5 + 1)) is not None


def test_nothing_is_submitted(executor):
    with Executor(1) as fresh:
        assert raised(fresh.submit, two) is not None
        assert fresh.stats()["threads"] == 0


def test_steps(executor):
    first = executor.submit(int)
    with pytest.raises(TypeError, match=r"takes 0 positional arguments but 1 was given"):
        first.then(lambda: None)
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'b'"):
        _check_step(None, lambda a, b: (a, b))
    _check_step(None, lambda a, b: (a, b), is_first=True)


def test_map(executor):
    with pytest.raises(TypeError, match=r"two\(\) takes from 1 to 2 positional arguments but 3"):
        executor.map(two, [1], [2], [3])


def test_from_many_threads(executor):
    functions = [eval(f"lambda {'abc'[number % 3]}: None") for number in range(64)]
    wrong = []

    def look():
        wrong.extend(
            fn
            for fn in functions * 50
            if raised(_check_call, fn, 1) is not None or raised(_check_call, fn) is None
        )

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert wrong == []


class TestNotCallable:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [(None, "None"), ([0] * 1000, r"\[0, 0, 0, .*\.\.\."), ("print", "'print'")],
    )
    def test_leave_out_the_parentheses(self, executor, given, shown):
        text = f"must be callable, got {shown}; .*leave out the parentheses"
        for take in (executor.submit, _check_call, executor.submit(int).then):
            with pytest.raises(TypeError, match=text):
                take(given)

    def test_a_coroutine(self, executor):
        coroutine = async_two(1)
        with pytest.raises(TypeError, match=r"<coroutine object async_two .*the parentheses"):
            executor.submit(coroutine)
        coroutine.close()


def test_a_plain_pool_of_the_standard_library_is_not_so():
    """What is different from there, and why the docs say so."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(two).exception(20), TypeError)
    assert inspect.signature(two).bind(1)
