"""`Retry`: what it takes, how long it waits, and which exceptions it is for."""

import dataclasses
import doctest
import math
import pickle
import random
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_delay import Executor, Retry, current_task, retry
from flask_delay._native import _Policy


@pytest.fixture
def fixed(monkeypatch):
    """Draw the same numbers each time."""
    monkeypatch.setattr(retry, "_random", random.Random(7))


@pytest.fixture
def executor_of_one():
    with Executor(1) as executor:
        yield executor


def test_examples():
    assert doctest.testmod(retry).attempted > 0
    assert doctest.testmod(retry).failed == 0


def test_defaults():
    assert Retry() == Retry(
        times=3, backoff=1.0, max_delay=600.0, jitter=True, on=Exception, unless=()
    )
    assert Retry(5, 2.0, 60.0, False, OSError, TimeoutError) == Retry(
        times=5, backoff=2.0, max_delay=60.0, jitter=False, on=OSError, unless=TimeoutError
    )


def test_many_times_are_no_limit_to_a_task_that_asks():
    def again():
        if current_task.attempt < 3:
            current_task.retry()
        return current_task.attempt

    for_ever = Retry(sys.maxsize, backoff=0)
    with Executor(1) as executor:
        future = executor._submit_with(_Policy(retry=for_ever), None, again)
        assert future.result(20) == 3


def test_it_is_a_value():
    it = Retry(3, on=(OSError, KeyError))
    assert hash(it) == hash(Retry(3, on=(OSError, KeyError)))
    assert pickle.loads(pickle.dumps(it)) == it
    with pytest.raises(dataclasses.FrozenInstanceError):
        it.times = 4


COUNT = "an integer, 0 or more, or None for no end"
WAITS = "a list of numbers of seconds, 0 or more"
SECONDS = "a number of seconds, 0 or more"
SHARE = "True, False or a share between 0 and 1"
KINDS = "an exception class or a tuple of them"


@pytest.mark.parametrize(
    ("name", "value", "error", "allowed"),
    [
        ("times", -1, ValueError, COUNT),
        ("times", 10**30, ValueError, COUNT),
        ("times", True, TypeError, COUNT),
        ("times", 1.0, TypeError, COUNT),
        *(
            (name, value, error, SECONDS)
            for name in ("backoff", "max_delay")
            for value, error in [
                (-0.1, ValueError),
                (math.nan, ValueError),
                (math.inf, ValueError),
                (10**400, ValueError),
                (True, TypeError),
                ("1", TypeError),
                (None, TypeError),
            ]
        ),
        ("waits", 5, TypeError, WAITS),
        ("waits", "15", TypeError, WAITS),
        ("waits", [1, "5"], TypeError, WAITS),
        ("waits", {1, 5}, TypeError, WAITS),
        ("waits", [], ValueError, WAITS),
        ("waits", [-1], ValueError, WAITS),
        ("waits", [math.nan], ValueError, WAITS),
        ("jitter", 1.1, ValueError, SHARE),
        ("jitter", -0.1, ValueError, SHARE),
        ("jitter", 2, ValueError, SHARE),
        ("jitter", math.nan, ValueError, SHARE),
        ("jitter", None, TypeError, SHARE),
        ("jitter", "full", TypeError, SHARE),
        *(
            (name, value, TypeError, KINDS)
            for name in ("on", "unless")
            for value in (None, int, [OSError], (OSError, 1), OSError(), ((OSError,),), "OSError")
        ),
    ],
)
def test_bad_value_names_itself_and_what_is_allowed(name, value, error, allowed):
    with pytest.raises((TypeError, ValueError)) as info:
        Retry(**{name: value})
    assert type(info.value) is error
    assert str(info.value) == f"Retry's {name!r} is {value!r}, but must be {allowed}"


def test_it_waits_twice_as_long_each_time_but_not_for_ever():
    it = Retry(times=6, backoff=0.5, max_delay=5, jitter=False)
    assert [it._delay(number) for number in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]


@pytest.mark.parametrize(("jitter", "least"), [(True, 4), (False, 8), (0.25, 6), (1, 0), (0, 8)])
def test_jitter_takes_a_share_away_at_random(fixed, jitter, least):
    it = Retry(times=9, backoff=2, jitter=jitter)
    drawn = [it._delay(3) for _ in range(1000)]
    assert least <= min(drawn) <= max(drawn) <= 8
    assert min(drawn) == pytest.approx(least, abs=0.05)
    assert max(drawn) == pytest.approx(8, abs=0.05)


def test_drawn_numbers_are_the_systems():
    # A fork that Python is not told of would hand the state of any other on to all children.
    assert isinstance(retry._random, random.SystemRandom)


@given(
    st.floats(0, threading.TIMEOUT_MAX),
    st.floats(0, threading.TIMEOUT_MAX),
    st.booleans() | st.floats(0, 1),
    st.integers(1, 10**9),
)
def test_whatever_is_given_it_is_a_number_of_seconds_within_the_limit(
    backoff, max_delay, jitter, number
):
    it = Retry(times=10**9, backoff=backoff, max_delay=max_delay, jitter=jitter)
    seconds = it._after(ValueError(), number)
    assert 0 <= seconds <= max_delay
    assert seconds <= backoff * 2.0 ** min(number - 1, 1000)


def test_waits_one_after_the_other():
    it = Retry(waits=[1, 5, 30], jitter=False)
    assert [it._after(ValueError(), attempt) for attempt in (1, 2, 3, 4)] == [1, 5, 30, None]
    assert it.times == 3
    assert hash(it) == hash(Retry(waits=(1, 5, 30), jitter=False))
    assert pickle.loads(pickle.dumps(it)) == it
    more = Retry(5, waits=[1, 5], max_delay=4, jitter=False)
    assert [more._delay(number) for number in range(1, 6)] == [1, 4, 4, 4, 4]
    assert Retry(waits=[2])._delay(1) <= 2
    with pytest.raises(ValueError, match="'backoff' and 'waits' exclude each other"):
        Retry(backoff=2, waits=[1])


def test_without_end(executor_of_one):
    it = Retry(None, waits=[0, 0], jitter=False)
    assert (it.times, it._after(ValueError(), 10**12)) == (None, 0)
    assert Retry(None)._after(KeyboardInterrupt(), 1) is None

    def fails():
        if current_task.attempt < 200:
            raise ValueError
        return current_task.attempt

    def asks():
        if current_task.attempt < 200:
            current_task.retry()
        return current_task.attempt

    for fn in (fails, asks):
        policy = _Policy(retry=it)
        assert executor_of_one._submit_with(policy, None, fn).result(20) == 200


def test_so_many_times():
    it = Retry(times=2, backoff=1, jitter=False)
    assert [it._after(ValueError(), attempt) for attempt in (1, 2, 3, 4)] == [1, 2, None, None]
    assert Retry(times=0)._after(ValueError(), 1) is None


@pytest.mark.parametrize(
    ("on", "unless", "error", "expected"),
    [
        (Exception, (), ValueError(), True),
        (Exception, (), KeyboardInterrupt(), False),
        (BaseException, (), SystemExit(), True),
        (OSError, (), ConnectionError(), True),
        (OSError, (), ValueError(), False),
        ((OSError, ValueError), (), ValueError(), True),
        ((), (), ValueError(), False),
        (OSError, ConnectionError, ConnectionResetError(), False),
        (OSError, (ConnectionError, KeyError), TimeoutError(), True),
        (ConnectionError, OSError, ConnectionError(), False),
    ],
)
def test_exceptions_it_is_for(on, unless, error, expected):
    it = Retry(on=on, unless=unless)
    assert (it._after(error, 1) is not None) is expected
