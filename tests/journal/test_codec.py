"""The form in which the journal stores values: what comes out is what went in, or an error."""

import datetime as dt
import enum
import json
import math
import sys
import threading
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.journal.values import VALUES, is_same

from flask_delay._native import (
    _journal_decode,
    _journal_decode_call,
    _journal_encode,
    _journal_encode_call,
)

BERLIN = ZoneInfo("Europe/Berlin")

# A value and its text, which a person can read in the file.
FORMS = [
    (None, "null"),
    (True, "true"),
    (-1, "-1"),
    (2**63 - 1, "9223372036854775807"),
    (2**63, '{"$int":"0x8000000000000000"}'),
    (-(2**64), '{"$int":"-0x10000000000000000"}'),
    (1.0, "1.0"),
    (-0.0, "-0.0"),
    ('"\\\n\0é', r'"\"\\\n\u0000é"'),
    (b"\0\xff", '{"$bytes":"AP8="}'),
    ([1, []], "[1,[]]"),
    ((1, ()), '{"$tuple":[1,{"$tuple":[]}]}'),
    ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
    ({"$a": 1}, '{"$dict":[["$a",1]]}'),
    ({1: 2, (3,): 4}, '{"$dict":[[1,2],[{"$tuple":[3]},4]]}'),
    ({"b", "a"}, '{"$set":["a","b"]}'),
    (frozenset({2, 1}), '{"$frozenset":[1,2]}'),
    (dt.date(26, 1, 2), '{"$date":"0026-01-02"}'),
    (dt.time(1, 2, 3), '{"$time":"01:02:03"}'),
    (dt.timedelta(-1, 2, 3), '{"$timedelta":[-1,2,3]}'),
    (dt.datetime.min, '{"$datetime":"0001-01-01T00:00:00"}'),  # noqa: DTZ901 (so it is)
    (dt.datetime.max, '{"$datetime":"9999-12-31T23:59:59.999999"}'),  # noqa: DTZ901 (so it is)
    (
        dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-1))),
        '{"$datetime":"2026-01-02T00:00:00-01:00"}',
    ),
    (
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        '{"$datetime":"2026-10-25T02:30:00[Europe/Berlin][fold=1]"}',
    ),
    (
        dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
        '{"$datetime":["2026-01-02T00:00:00+01:00","CET"]}',
    ),
    (Decimal("1.10"), '{"$decimal":"1.10"}'),
    (uuid.UUID(int=2**128 - 2), '{"$uuid":"ffffffff-ffff-ffff-ffff-fffffffffffe"}'),
]


@pytest.mark.parametrize(("value", "text"), FORMS, ids=[text for _, text in FORMS])
def test_a_value_has_this_text(value, text):
    assert _journal_encode(value) == text
    decoded = _journal_decode(text)
    assert (type(decoded), decoded) == (type(value), value)
    assert _journal_encode(decoded) == text


def test_a_call_is_stored_with_its_names():
    args, kwargs = (17, ("a", b"b")), {"size": 200, "$force": True}
    text = _journal_encode_call("resize", args, kwargs)
    assert text == (
        '{"args":[17,{"$tuple":["a",{"$bytes":"Yg=="}]}],"kwargs":{"size":200,"$force":true}}'
    )
    assert _journal_decode_call(text) == (args, kwargs)
    assert _journal_decode_call(_journal_encode_call("resize", args)) == (args, None)


# --- There and back -------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_a_value_comes_back_equal_and_of_the_same_type(value):
    text = _journal_encode(value)
    assert is_same(_journal_decode(text), value)
    # As other readers see it.
    json.loads(text)
    length = len(text.encode())
    assert _journal_encode(value, length) == text
    with pytest.raises(ValueError, match=f"more than {length - 1} bytes as JSON"):
        _journal_encode(value, length - 1)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(VALUES, max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=2),
)
def test_a_call_comes_back_too(args, kwargs):
    text = _journal_encode_call("f", args, kwargs)
    assert is_same(_journal_decode_call(text), (args, kwargs or None))
    length = len(text.encode())
    assert _journal_encode_call("f", args, kwargs, length) == text
    with pytest.raises(ValueError, match="the arguments of task"):
        _journal_encode_call("f", args, kwargs, length - 1)


def test_zones_come_back_as_the_same_objects():
    for zone in (dt.UTC, BERLIN):
        moment = dt.datetime(2026, 1, 2, tzinfo=zone)
        assert _journal_decode(_journal_encode(moment)).tzinfo is zone


_SETS = """
from flask_delay._native import _journal_encode
print(_journal_encode([{"a", "b", "c", b"d", None, 1.5}, frozenset("xyz")]))
"""


def test_equal_sets_have_one_text_in_all_processes(run_script):
    texts = {run_script(_SETS, env={"PYTHONHASHSEED": str(seed)}).out for seed in range(3)}
    assert texts == {
        '[{"$set":["a","b","c",1.5,null,{"$bytes":"ZA=="}]},{"$frozenset":["x","y","z"]}]\n'
    }


# --- Refused values -------------------------------------------------------------------


class Number(enum.IntEnum):
    ONE = 1


class Color(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int


def fail(*_):
    raise AssertionError


# Claims to be a string, and must not be asked for anything.
LIAR = type(
    "Liar",
    (),
    {"__class__": property(lambda _: str), "__module__": "shop"}
    | dict.fromkeys(("__repr__", "__str__", "__hash__", "__eq__", "__getattr__"), fail),
)
# As those of other libraries.
ZONE: type[dt.tzinfo] = type("Zone", (dt.tzinfo,), {"__module__": "shop"})


HERE = __name__
CARRY = "pass an id, or what JSON can carry, and load the object in the task"
NO_SURROGATE = "which UTF-8 cannot carry: use bytes, as from os.fsencode()"
NO_ZONE = "which the journal cannot store: use datetime.timezone, or a zoneinfo.ZoneInfo with a key"
NO_WORD = "for which JSON has no word: use None or a string for it"


def stored(name, base=None):
    reason = "which the journal cannot store"
    if base:
        reason = f"a subclass of {base} that would come back as a plain {base}"
    return f"is of type {name}, {reason}: {CARRY}"


# What is passed as the first argument, where the fault is, and the fault.
REFUSED = [
    (object(), "argument 1", stored("object")),
    (bytearray(), "argument 1", stored("bytearray")),
    (1j, "argument 1", stored("complex")),
    (Number.ONE, "argument 1", stored(f"{HERE}.Number", "int")),
    (Color.RED, "argument 1", stored(f"{HERE}.Color")),
    (Text(), "argument 1", stored(f"{HERE}.Text", "str")),
    (Point(1), "argument 1", stored(f"{HERE}.Point", "tuple")),
    (LIAR(), "argument 1", stored("shop.Liar")),
    (LIAR, "argument 1", stored("type")),
    (OrderedDict(), "argument 1", stored("collections.OrderedDict", "dict")),
    (defaultdict(int), "argument 1", stored("collections.defaultdict", "dict")),
    *(
        (
            type("Sub", (base,), {"__module__": "shop"})(*args),
            "argument 1",
            stored("shop.Sub", name),
        )
        for base, args, name in [
            (float, (), "float"),
            (bytes, (), "bytes"),
            (list, (), "list"),
            (set, (), "set"),
            (frozenset, (), "frozenset"),
            (dt.datetime, (2026, 1, 2), "datetime"),
            (dt.date, (2026, 1, 2), "date"),
            (dt.time, (), "time"),
            (dt.timedelta, (), "timedelta"),
            (Decimal, (), "Decimal"),
            (uuid.UUID, ("0" * 32,), "UUID"),
        ]
    ),
    ([0, [Text()]], "argument 1[1][0]", stored(f"{HERE}.Text", "str")),
    ({"to": (1, Color.RED)}, "argument 1['to'][1]", stored(f"{HERE}.Color")),
    ({2: {"$": 1j}}, "argument 1[2]['$']", stored("complex")),
    ({"x" * 60: 1j}, f"argument 1['{'x' * 39}...]", stored("complex")),
    ({Text(): 1}, "a key of argument 1", stored(f"{HERE}.Text", "str")),
    ({(1, Color.RED): 1}, "(a key of argument 1)[1]", stored(f"{HERE}.Color")),
    ([{Color.RED}], "an item of argument 1[0]", stored(f"{HERE}.Color")),
    ({frozenset({1j})}, "an item of (an item of argument 1)", stored("complex")),
    (math.nan, "argument 1", f"is nan, {NO_WORD}"),
    ([-math.inf], "argument 1[0]", f"is infinite, {NO_WORD}"),
    (Decimal("NaN"), "argument 1", f"is the Decimal NaN, {NO_WORD}"),
    (Decimal("-Infinity"), "argument 1", f"is the Decimal -Infinity, {NO_WORD}"),
    *(
        (
            value,
            place,
            f"is a string with a lone surrogate, {NO_SURROGATE}",
        )
        for value, place in [("a\ud800", "argument 1"), ({"\udfff": 1}, "a key of argument 1")]
    ),
    *(
        (
            value,
            "argument 1",
            f"has a time zone of type {kind}, {NO_ZONE}",
        )
        for value, kind in [
            (dt.datetime(2026, 1, 2, tzinfo=ZONE()), "shop.Zone"),
            (dt.time(tzinfo=ZONE()), "shop.Zone"),
        ]
    ),
]


def refusal(encode, *args):
    with pytest.raises(TypeError) as caught:
        encode(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "place", "fault"),
    REFUSED,
    ids=[f"{place} {fault[:40]}" for _, place, fault in REFUSED],
)
def test_what_cannot_be_stored_is_named(value, place, fault):
    of = ' of task "shop.pay"'
    assert refusal(_journal_encode_call, "shop.pay", (value,)) == f"{place}{of} {fault}"
    named = place.replace("argument 1", "argument 'order'")
    text = refusal(_journal_encode_call, "shop.pay", (), {"order": value})
    assert text == f"{named}{of} {fault}"
    place = place.replace("argument 1", "the value")
    fault = fault.replace(CARRY, "use an id, or what JSON can carry")
    assert refusal(_journal_encode, value) == f"{place} {fault}"


def test_a_zone_without_a_usual_key_is_refused():
    with (Path(zoneinfo.TZPATH[0]) / "Europe/Berlin").open("rb") as file:
        nameless = ZoneInfo.from_file(file)
        file.seek(0)
        odd = ZoneInfo.from_file(file, key="../Berlin")
    for zone in (nameless, odd):
        with pytest.raises(TypeError, match="or a zoneinfo.ZoneInfo with a key"):
            _journal_encode(dt.time(tzinfo=zone))


def test_the_name_of_an_argument_may_be_no_surrogate():
    with pytest.raises(TypeError, match="the name of an argument of task .* lone surrogate"):
        _journal_encode_call("f", (), {"\ud800": 1})


WRAPS = {
    "list": lambda inner: [inner],
    "tuple": lambda inner: (inner,),
    "dict": lambda inner: {"a": inner},
    "pairs": lambda inner: {1: inner},
    "frozenset": lambda inner: frozenset({inner}),
}


def nested(wrap, levels):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_nesting_has_a_limit(wrap):
    deepest = nested(wrap, 100)
    text = _journal_encode(deepest)
    assert _journal_decode(text) == deepest
    assert _journal_decode_call(_journal_encode_call("f", (deepest,)))[0] == (deepest,)
    with pytest.raises(ValueError, match="^the value contains itself, or is nested more than 100"):
        _journal_encode(wrap(deepest))
    with pytest.raises(ValueError, match=r'^argument 2 of task "f" contains itself, or .* load'):
        _journal_encode_call("f", (1, wrap(deepest)))
    with pytest.raises(ValueError, match="not a value of the journal: more than 100 levels deep"):
        _journal_decode(f"[{text}]")


def test_a_thread_with_a_small_stack_is_enough():
    deepest = nested(WRAPS["pairs"], 100)
    found = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(
            target=lambda: found.append(_journal_decode(_journal_encode(deepest)))
        )
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert found == [deepest]


def test_a_circle_is_refused_at_once():
    items: list[object] = []
    items.extend([items] * 1000)
    table = {"a": (1, items)}
    for circle in (items, table):
        with pytest.raises(ValueError, match="contains itself"):
            _journal_encode(circle, sys.maxsize)


def test_shared_items_are_bounded_by_the_length():
    value: list[object] = []
    for _ in range(90):
        value = [value, value]
    with pytest.raises(ValueError, match="^the value would take more than 1000000 bytes as JSON"):
        _journal_encode(value)


@pytest.mark.parametrize("value", ["x" * 1000, b"x" * 800, [1] * 500, 1 << 4000, ["\n"] * 300])
def test_the_limit_names_its_setting(value):
    with pytest.raises(ValueError) as caught:
        _journal_encode_call("shop.pay", (value,), most=999)
    assert str(caught.value) == (
        'the arguments of task "shop.pay" would take more than 999 bytes as JSON: pass an id or a'
        " path instead, or set DELAY_JOURNAL_MAX_BYTES higher"
    )
