"""The form in which the journal stores values: what comes out is what went in, or an error."""

import datetime as dt
import uuid
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

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
