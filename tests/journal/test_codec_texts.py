"""Texts that the codec of the journal has not written: errors, and nothing else happens."""

import ast
import decimal
from pathlib import Path

import pytest

from flask_delay._native import _journal_decode, _journal_decode_call, _journal_encode

ROOT = Path(__file__).parents[2]

# Values of tags; none has a space.
UNFIT = {
    "$none": "1 [] null",
    "$": "1 []",
    "$Tuple": "[]",
    "$tuple": '1 {} "ab" null [1,] [',
    "$set": "[1,1.0] [[]] {}",
    "$frozenset": '[{}] ["a","a"]',
    "$dict": '{} [1] [[]] [[1]] [[1,2,3]] [[[],1]] [[1,2],[true,3]] [{"a":1}] ["ab"]',
    "$int": '1 "" "0x" "1" "0x1_0" "--0x1" "+0x1" "0x\u0661" "0xg" ["0x1","a"]',
    "$bytes": '1 "a" "YQ" "YQ=" "YR==" "Y-==" "YQ==\\n" ["YQ==",""]',
    "$decimal": '1 "" "NaN" "sNaN1" "inf" "1e" "1.2.3" "\u0661" "1_0" "1e9999999999999999999"',
    "$uuid": '1 "" "g" "00000000-0000-0000-0000-00000000000" [0]',
    "$timedelta": '[] [1,2] [1,2,3,4] "1" [1.5,0,0] [1000000000,0,0] [99999999999,0,0]',
    "$date": '20260101 [] "2026-02-30" "0000-01-01" "2026-1-1" "2026-01-01T" ["2026-01-01","a"]',
    "$time": (
        '"24:00:00" "1:00:00" "01:00" "01:00:00.1" "01:00:00.1234567" "01:00:00Z"'
        ' "\u0661\u0661:00:00"'
        ' "01:00:00[fold=2]" "01:00:00[fold=1][fold=1]" "01:00:00+24:00" "01:00:00+1:00"'
        ' ["01:00:00","a"] ["01:00:00+01:00"] ["01:00:00+01:00","a",1] ["01:00:00+01:00",1]'
        ' ["01:00:00[Europe/Berlin]","a"]'
    ),
    "$datetime": '"2026-01-01" "2026-01-01_00:00:00" "\u00e9026-01-01T00:00:00"',
}
# Keys of time zones, with what follows.
UNKNOWN = (
    "[ [] [UTC [Nowhere] [Europe] [Europe/] [/Berlin] [/etc/passwd] [../x] [os.path] [zone.tab]"
    " [Europe/../Europe/Berlin] [tzdata.zoneinfo/UTC] [leapseconds] [Europe\\\\Berlin]"
    " [Europe/Berlin\\u0000] [Europe/Berlin]x"
)
PLAIN = "nul NaN Infinity -Infinity 1e999 01 +1 [1,] [1 'a' [1]] {1:2} {\"a\"}"
MALFORMED = [
    *(
        "",
        " ",
        "1 2",
        '"\t"',
        "\ufeff1",
        '{"$int":" 0x1"}',
        '{"$decimal":" 1"}',
        '{"$bytes":"Y Q=="}',
    ),
    *PLAIN.split(),
    *('"\\ud800"', '{"a":1,"a":1}', '{"a":1', '{"a":1,"$tuple":[]}', '{"$tuple":[],"a":1}'),
    '{"$tuple":[],"$set":[]}',
    *(f'{{"{tag}":{value}}}' for tag, values in UNFIT.items() for value in values.split()),
    *(
        f'{{"$datetime":"2026-01-01T00:00:00{key}"}}'
        for key in (*UNKNOWN.split(), f"[{'a/' * 60}b]", f"[{'a' * 400}]")
    ),
]


def test_exceptions_are_read_where_there_is_a_reader_for_them():
    text = '[{"$exception":"a"},{"$tuple":[{"$exception":"b"}]}]'
    first, (second,) = _journal_decode(text, KeyError)
    assert (repr(first), repr(second)) == ("KeyError('a')", "KeyError('b')")
    with pytest.raises(ValueError, match=r"malformed value of \"\$exception\""):
        _journal_decode(text)
    with pytest.raises(ValueError, match="the text of"):
        _journal_decode('{"$exception":1}', KeyError)
    assert _journal_decode(_journal_encode({"$exception": "a"}), KeyError) == {"$exception": "a"}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_text_is_a_value_error(text):
    with pytest.raises(ValueError, match="^this text is not a value of the journal: ."):
        _journal_decode(text)


def test_a_malformed_decimal_is_an_error_without_its_trap_too():
    with decimal.localcontext() as context:
        context.traps[decimal.InvalidOperation] = False
        for text in ("1.2.3", "1e9999999999999999999", "-"):
            with pytest.raises(ValueError, match="malformed value of"):
                _journal_decode(f'{{"$decimal":"{text}"}}')


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"args":[]}', '{"kwargs":{}}', '{"args":[],"kwargs":{},"x":1}'),
        *('{"args":{},"kwargs":{}}', '{"args":[],"kwargs":[]}', '{"args":null,"kwargs":{}}'),
        *('{"args":[],"args":[],"kwargs":{}}', '{"args":[],"kwargs":{"a":1,"a":2}}'),
        *('{"$args":[],"kwargs":{}}', '{"$tuple":[]}', '{"args":[],"kwargs":{"$tuple":[]}}{}'),
    ],
)
def test_a_malformed_call_is_a_value_error(text):
    with pytest.raises(ValueError, match="^this text is not a call of the journal: ."):
        _journal_decode_call(text)


def test_the_cause_of_a_malformed_text_is_kept():
    with pytest.raises(ValueError, match=r"unhashable.* at line 1 column 12") as caught:
        _journal_decode('{"$set":[[]]}')
    assert type(caught.value.__cause__) is TypeError


@pytest.mark.parametrize("part", ["[", '{"a":', '{"$tuple":[', '{"$dict":[[', '{"$set":['])
def test_a_deep_text_is_a_value_error(part):
    with pytest.raises(ValueError, match="more than 100 levels deep"):
        _journal_decode(part * 100_000)
    with pytest.raises(ValueError, match="more than 100 levels deep"):
        _journal_decode_call(f'{{"args":[{part * 100_000}')


def test_a_text_with_a_surrogate_is_a_value_error():
    with pytest.raises(ValueError, match="surrogate"):
        _journal_decode('"\ud800"')


# Decodes texts while each audited event is an error: imports, code, files, sockets and more.
_FUZZ = """
import importlib.resources, sys, zoneinfo
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from flask_delay._native import (
    _journal_decode, _journal_decode_call, _journal_encode, _journal_encode_call
)
from tests.journal.test_codec_texts import MALFORMED
from tests.journal.values import VALUES, is_same

try:
    # It is imported when a key is not among the files of the system.
    zoneinfo.ZoneInfo("Europe/Nowhere")
except KeyError:
    pass

watching = False
seen = []

def is_for_a_zone(event, args):
    # The data of a time zone, where `zoneinfo` itself looks for it.
    if event == "import":
        return args[0].startswith("tzdata")
    path = str(args[0]) if event in ("open", "os.listdir") else ""
    if event == "os.listdir" and path in sys.path:
        # The import of `tzdata`, where the folder has changed.
        return True
    return path.startswith(zoneinfo.TZPATH) or "/tzdata/" in path

def hook(event, args):
    if watching and not is_for_a_zone(event, args):
        seen.append((event, args))

sys.addaudithook(hook)
count = {"value": 0, "error": 0}

def check(text):
    global watching
    for decode, encode in (
        (_journal_decode, _journal_encode),
        (_journal_decode_call, lambda call: _journal_encode_call("f", *call)),
    ):
        watching = True
        try:
            value = decode(text)
        except ValueError:
            watching = False
            count["error"] += 1
        else:
            watching = False
            # What can come out could have gone in.
            assert is_same(decode(encode(value)), value), text
            count["value"] += 1
        assert not seen, (text, seen)

TAGS = [
    f'"${it}":' for it in (
        "bytes date datetime decimal dict frozenset int set time timedelta tuple uuid os.system"
    ).split()
]
PIECES = st.sampled_from([*TAGS, *'[]{},:"0-.eE$+', "null", "[fold=1]", "[Europe/Berlin]", "0x"])

@st.composite
def mutated(draw):
    calls = VALUES.map(lambda it: _journal_encode_call("f", (it,), {"it": it}))
    text = draw(st.sampled_from(MALFORMED) | VALUES.map(_journal_encode) | calls)
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        if draw(st.booleans()):
            end = min(end, start + 1)
        piece = draw(PIECES | st.text(max_size=3) | st.just(text[start:end] * 2))
        text = text[:start] + piece + text[end:]
    return text

quick = dict(
    deadline=None, database=None, suppress_health_check=list(HealthCheck),
    # Its explanations come from a tracer, which the hook would see.
    phases=set(Phase) - {Phase.explain}, max_examples=int(sys.argv[1]),
)

@settings(**quick)
@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
def any_text(text):
    check(text)

@settings(**quick)
@given(mutated())
def mutations(text):
    check(text)

any_text()
mutations()
watching = True
compile('', '', 'exec')
watching = False
assert seen, "the hook sees nothing"
print(count)
"""


def fuzz(run_script, count, timeout):
    env = {"PYTHONPATH": str(ROOT)}
    done = run_script(_FUZZ, str(count), timeout=timeout, env=env)
    assert (done.rc, done.err) == (0, "")
    tally = ast.literal_eval(done.out)
    # Both happen often enough to mean something.
    assert min(tally.values()) > count / 10


def test_no_text_imports_executes_or_opens_anything(run_script):
    fuzz(run_script, 40, 50)


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_no_text_of_many_does(run_script):
    fuzz(run_script, 1_000, 100)
