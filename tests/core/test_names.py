"""A task's id and name, by which logs and users know it."""

import functools
import operator
import time
import uuid
import weakref

import pytest

from flask_delay import Executor

from .helpers import DEADLINE, Thing, fail, occupied


@pytest.fixture
def executor():
    with Executor(1) as executor:
        yield executor


def test_id_is_a_random_uuid_stable_and_unique(executor):
    futures = [executor.submit(int) for _ in range(100)]
    ids = [future.id for future in futures]
    assert ids == [future.id for future in futures]
    assert len(set(ids)) == 100
    parsed = [uuid.UUID(text) for text in ids]
    assert {(it.version, str(it) == text) for it, text in zip(parsed, ids, strict=True)} == {
        (4, True)
    }


class Callable:
    def __call__(self, *_):
        return None


def local():
    return None


@functools.wraps(local)
def wrapper():
    return local()


NAMES = [
    (wrapper, "local"),
    (local, "local"),
    (lambda: 1, "<lambda>"),
    (Thing().method, "Thing.method"),
    (functools.partial(local), "local"),
    (functools.partial(functools.partial(Thing().method, 1), 2), "Thing.method"),
    (functools.partial(Callable()), "Callable"),
    (Callable(), "Callable"),
    (Callable, "Callable"),
    (functools.lru_cache(local), "local"),
    (operator.attrgetter("__doc__"), "attrgetter"),
    (time.monotonic, "monotonic"),
    ([].clear, "list.clear"),
    (int, "int"),
]


@pytest.mark.parametrize(("function", "name"), NAMES, ids=[name for _, name in NAMES])
def test_name_before_and_after_the_task(executor, function, name):
    with occupied(executor):
        future, cancelled = executor.submit(function), executor.submit(function)
        assert future.name == name
        cancelled.cancel()
        assert cancelled.name == name
    future.exception(DEADLINE)
    assert future.name == name
    assert f'name="{name}"' in repr(future)


def made_lambda():
    return lambda: None


def made_method():
    return Callable().__call__


def made_partial():
    return functools.partial(lambda **_: None, key=1)


@pytest.mark.parametrize("make", [made_lambda, made_method, made_partial, Callable])
@pytest.mark.parametrize("succeeds", [True, False])
def test_name_outlives_the_function(executor, make, succeeds):
    function = make() if succeeds else functools.partial(fail, make())
    future = executor.submit(function)
    name, watched = future.name, weakref.ref(function)
    del function
    assert executor.drain(DEADLINE)
    # A traceback keeps what it shows.
    assert future.done()
    assert watched() is None
    assert future.name == name


@pytest.mark.parametrize("kind", ["Mock", "Endless"])
def test_callables_with_endless_attributes_are_tasks(run_script, kind):
    # In a process of its own: what this guards against is a stack overflow.
    result = run_script(
        "from unittest.mock import Mock\n"
        "from flask_delay import Executor\n"
        "class Endless:\n"
        "    def __getattr__(self, name): return Endless()\n"
        "    def __call__(self): return 'called'\n"
        "    return_value = None\n"
        f"made = {kind}()\n"
        "made.return_value = 'called'\n"
        "with Executor(1) as executor:\n"
        "    future = executor.submit(made)\n"
        "    print(future.name, future.result(10), future.name)\n",
    )
    assert (result.rc, result.out) == (0, f"{kind} called {kind}\n"), result.err
