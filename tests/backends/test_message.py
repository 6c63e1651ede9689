"""The record of a task that goes to other processes."""

import json
import re
import time
from datetime import UTC, datetime

import pytest

from flask_delay import Retry
from flask_delay.backends.message import VERSION, TaskMessage
from flask_delay.carried import CarriedRetry, carried

MAIN = "shop"


def submitted(**options):
    return TaskMessage.of(
        "an-id", "shop.f", (1, "two"), {"three": None}, options=options, main=MAIN
    )


def through_json(message):
    return TaskMessage.from_dict(json.loads(json.dumps(message.to_dict())))


def test_there_and_back():
    message = submitted(priority=-3, timeout=5, retry=2, expires=60)
    arrived = through_json(message)
    assert arrived.args == [1, "two"]
    assert (arrived.id, arrived.name, arrived.attempt) == ("an-id", "shop.f", 1)
    assert (arrived.kwargs, arrived.expires) == ({"three": None}, message.expires)
    assert arrived.options.keys() == {"priority", "timeout", "retry"}
    assert arrived.retry_for(ValueError(), MAIN).times == 2
    plain = TaskMessage(id="1", name="f", attempt=3)
    assert plain.to_dict() == {"version": VERSION, "id": "1", "name": "f", "attempt": 3}
    assert through_json(plain) == plain


def test_times_are_moments():
    now = time.time()
    message = submitted(countdown=10, expires=60)
    assert now + 10 <= message.eta < now + 20
    assert message.expires - message.eta == pytest.approx(50)
    assert submitted(eta=datetime(2030, 1, 1, tzinfo=UTC)).eta == 1893456000
    assert (submitted().eta, submitted(countdown=0).eta, submitted().expires) == (None,) * 3


def test_only_what_the_other_process_needs_goes_there():
    assert submitted(id="an-id", backend="celery", countdown=1, key="k").options == {}


def test_classes_go_by_their_names():
    message = through_json(submitted(retry=Retry(2, on=(OSError, KeyError), unless=TimeoutError)))
    assert message.options["retry"]["on"] == ["builtins:OSError", "builtins:KeyError"]
    found = message.retry_for(TimeoutError(), MAIN)
    assert (found.on, found.unless) == ((OSError,), (TimeoutError,))
    assert found._after(TimeoutError(), 1) is None
    assert message.retry_for(BrokenPipeError(), MAIN)._after(BrokenPipeError(), 1) is not None
    assert through_json(submitted()).retry_for(OSError(), MAIN) is None


GOOD = {"version": VERSION, "id": "1", "name": "f"}


def test_unknown_keys_are_left_out():
    assert TaskMessage.from_dict({**GOOD, "colour": "red"}) == TaskMessage(id="1", name="f")


@pytest.mark.parametrize("version", [None, 0, VERSION + 1, "1", True, 1.0])
def test_another_version_is_refused(version):
    with pytest.raises(ValueError, match=f"message of version {version!r} cannot be read"):
        TaskMessage.from_dict({**GOOD, "version": version})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 1),
        ("name", None),
        ("args", "ab"),
        ("kwargs", []),
        ("options", None),
        ("attempt", "1"),
        ("attempt", True),
        ("eta", "tomorrow"),
        ("expires", False),
    ],
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(TypeError, match=f"message has {re.escape(repr(value))} as its '{name}'"):
        TaskMessage.from_dict({**GOOD, name: value})


@pytest.mark.parametrize("name", ["id", "name"])
def test_what_is_missing_is_named(name):
    with pytest.raises(TypeError, match=f"'{name}'"):
        TaskMessage.from_dict({key: value for key, value in GOOD.items() if key != name})


def test_a_retry_that_was_carried():
    given = Retry(2, waits=[1, 3], jitter=False, on=(OSError, KeyError), unless=TimeoutError)
    packed = json.loads(json.dumps(carried({"retry": given, "timeout": 5, "key": "k"}, MAIN)))
    assert packed.keys() == {"retry", "timeout"}
    retry = CarriedRetry(packed["retry"], MAIN)
    assert (retry.times, retry._delay(1), retry._delay(2)) == (2, 1.0, 3.0)
    for exception in (BrokenPipeError(), KeyError(), TimeoutError(), ValueError()):
        for attempt in (1, 2, 3):
            assert retry._after(exception, attempt) == given._after(exception, attempt)


@pytest.mark.parametrize(
    "packed",
    [{"times": -1}, {"tmes": 1}, {"on": 1}, {"waits": "ab"}, {"times": 1, "jitter": 2}],
    ids=str,
)
def test_a_retry_that_was_never_made(packed):
    with pytest.raises((TypeError, ValueError)):
        CarriedRetry(packed, MAIN)
