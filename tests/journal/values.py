"""Values that the journal can store, for tests of its codec."""

import datetime as dt

from hypothesis import strategies as st

OFFSETS = st.timedeltas(dt.timedelta(hours=-23, minutes=-59), dt.timedelta(hours=23, minutes=59))
ZONES = (
    st.none()
    | st.timezones()
    | st.builds(dt.timezone, OFFSETS)
    | st.builds(dt.timezone, OFFSETS, st.text(max_size=5))
    | st.just(dt.UTC)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.builds(lambda bits, low: (1 << bits) + low, st.integers(60, 20_000), st.integers(-2, 2))
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.dates()
    | st.times(timezones=ZONES)
    | st.datetimes(timezones=ZONES)
    | st.builds(lambda it: it.replace(fold=1), st.datetimes(timezones=ZONES) | st.times())
    | st.timedeltas()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
)
KEYS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    KEYS | st.sets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.text("$ab", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def is_same(one, other):
    """Whether two values are equal, of the same types and, in dicts, in the same order."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, list | tuple):
        return all(map(is_same, one, other))
    if isinstance(one, dict):
        return is_same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        twins = {item: item for item in other}
        return all(is_same(item, twins[item]) for item in one)
    # It shows the sign of a zero, the zeros of a Decimal, a fold and a time zone. Python refuses
    # it for long integers, which have nothing else.
    return isinstance(one, int) or repr(one) == repr(other)
