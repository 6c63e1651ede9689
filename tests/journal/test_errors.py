"""Exceptions of durable tasks: as text in the journal, and as exceptions again."""

import json
import sys
import traceback
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_delay import RemoteError, TaskExpired, WorkerDied
from flask_delay.journal.errors import decoded, encoded

MAIN = "shop"


class OutOfStock(Exception):
    def __init__(self, sku, left=0):
        super().__init__(f"no {sku}")
        self.sku = sku
        self.left = left


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def raised(exception):
    try:
        raise exception
    except BaseException as error:
        return error


def there_and_back(exception):
    return decoded(encoded(exception, MAIN), MAIN)


@pytest.mark.parametrize(
    "exception",
    [
        LookupError("no such row"),
        KeyError("name"),
        ValueError(),
        ValueError("two", 2, None, 2.5, True, ["a", {"b": 1}]),
        OutOfStock("apple", left=3),
        TaskExpired("task 'f' was not started before it expired"),
        RuntimeError("a lone surrogate \ud800, a NUL \0, an ä and a 🍎"),
        FileNotFoundError(2, "No such file or directory", "a.txt"),
        RemoteError("shop.OutOfStock", "no apple"),
    ],
    ids=repr,
)
def test_the_same_exception_comes_back(exception):
    back = there_and_back(raised(exception))
    assert type(back) is type(exception)
    assert back.args == exception.args
    assert str(back) == str(exception)
    assert {name: it for name, it in vars(back).items() if name != "__notes__"} == vars(exception)


def test_more_than_the_arguments_comes_back():
    back = there_and_back(FileNotFoundError(2, "No such file or directory", "a.txt"))
    assert (back.errno, back.filename) == (2, "a.txt")


def test_what_stands_in_the_journal():
    error = raised(LookupError("no such row"))
    error.add_note("row 7")
    record = json.loads(encoded(error, MAIN))
    assert record.pop("traceback").startswith("Traceback (most recent call last):\n")
    assert record == {
        "type": "builtins.LookupError",
        "message": "no such row",
        "notes": ["row 7"],
        "arguments": ["no such row"],
    }


def test_notes_and_traceback_are_notes():
    error = raised(LookupError("no such row"))
    error.add_note("row 7")
    first, where = there_and_back(error).__notes__
    assert first == "row 7"
    # The notes are there once.
    assert where.startswith("In the process that ran the task:\nTraceback (most recent call last)")
    assert where.endswith("LookupError: no such row\n")
    shown = "".join(traceback.format_exception(there_and_back(error)))
    assert shown.count("row 7") == 1


def test_causes_are_in_the_traceback():
    def fail():
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise LookupError("outer") from error

    with pytest.raises(LookupError) as caught:
        fail()
    (where,) = there_and_back(caught.value).__notes__
    assert "KeyError: 'inner'" in where
    assert "The above exception was the direct cause" in where


def test_arguments_that_are_not_json_are_left_out():
    record = json.loads(encoded(ValueError((1, 2), object()), MAIN))
    assert "arguments" not in record
    back = there_and_back(LookupError({1, 2}))
    assert back.args == ("{1, 2}",)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), (1,), {1: 2}, 10**5000, b"b"], ids=lambda it: type(it)
)
def test_values_that_json_would_change_are_left_out(value):
    record = json.loads(encoded(OutOfStock("apple", left=value), MAIN))
    assert record["attributes"] == {"sku": "apple"}


def test_a_class_of_the_module_of_the_app_that_a_server_has_imported(monkeypatch):
    module = ModuleType("shop_app")
    module.Odd = type("Odd", (Exception,), {"__module__": "shop_app"})
    monkeypatch.setitem(sys.modules, "shop_app", module)
    back = decoded(encoded(module.Odd("one"), "shop_app"), "shop_app")
    assert type(back) is module.Odd
    assert str(back) == "one"


def test_a_class_of_the_main_module(monkeypatch):
    script = ModuleType("__main__")
    script.Odd = type("Odd", (Exception,), {"__module__": "__main__"})
    monkeypatch.setitem(sys.modules, "__main__", script)
    text = encoded(script.Odd("one"), "shop")
    assert json.loads(text)["type"] == "shop.Odd"
    assert type(decoded(text, "shop")) is script.Odd
    assert isinstance(decoded(text, "other"), RemoteError)


def test_a_class_in_a_class(monkeypatch):
    module = ModuleType("shop.errors")
    late = type("Late", (Exception,), {"__module__": "shop.errors", "__qualname__": "Order.Late"})
    module.Order = type("Order", (), {"Late": late})
    monkeypatch.setitem(sys.modules, "shop.errors", module)
    assert type(there_and_back(late("today"))) is late


def text(path, message="gone", **more):
    return json.dumps({"type": path, "message": message, "traceback": "", "notes": [], **more})


def test_what_the_journal_writes_itself():
    back = decoded(text("flask_delay.WorkerDied", "3 processes died"), MAIN)
    assert type(back) is WorkerDied
    assert str(back) == "3 processes died"
    assert not hasattr(back, "__notes__")


@pytest.mark.parametrize(
    "path",
    [
        # Not imported, though it could be.
        "xmlrpc.client.Fault",
        # No class, no exception, one that ends more than a task.
        "json.dumps",
        "pathlib.Path",
        "builtins.SystemExit",
        "builtins.KeyboardInterrupt",
        "nonsense",
        "",
        "..",
    ],
)
def test_no_other_class_is_made(path):
    sys.modules.pop("xmlrpc.client", None)
    back = decoded(text(path), MAIN)
    assert type(back) is RemoteError
    assert (back.kind, str(back)) == (path, f"{path}: gone")
    assert "xmlrpc.client" not in sys.modules


def test_no_code_of_a_module_or_a_class_runs(monkeypatch):
    module = ModuleType("shop.errors")
    code = """
class Bad(Exception):
    def __new__(cls, *args): raise SystemExit
    def __init__(self, *args): raise SystemExit
    def __setattr__(self, *args): raise SystemExit
    def __getattribute__(self, name): raise SystemExit
    def __bool__(self): raise SystemExit
def __getattr__(name): raise SystemExit
"""
    exec(code, vars(module))
    # No longer than needed: pytest's plugins look into modules.
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "shop.errors", module)
        back = decoded(text("shop.errors.Bad", notes=["a note"], attributes={"left": 1}), MAIN)
        none = decoded(text("shop.errors.Nothing"), MAIN)
    assert type(back) is module.Bad
    kept = {"__notes__": ["a note"], "left": 1}
    assert BaseException.__getattribute__(back, "__dict__") == kept
    assert type(none) is RemoteError


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"type": 1, "message": ""}',
        '{"type": "builtins.ValueError"}',
        "[" * 100_000,
        '{"type": "builtins.ValueError", "message": ' + "1" * 5000 + "}",
    ],
    ids=lambda it: it[:40],
)
def test_what_cannot_be_read_is_an_error_too(wrong):
    back = decoded(wrong, MAIN)
    assert type(back) is RemoteError
    assert str(back).startswith("unknown: the journal has an error that cannot be read: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TYPES = st.sampled_from(
    ["builtins.ValueError", "builtins.OSError", "builtins.SyntaxError", "builtins.UnicodeError"]
)
FIELDS = ("traceback", "notes", "arguments", "made", "attributes")


@given(TYPES | st.text(), st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_anything_in_the_record_makes_an_exception(path, more):
    back = decoded(json.dumps({"type": path, "message": "text", **more}), MAIN)
    assert isinstance(back, Exception)
    traceback.format_exception(back)


@given(st.dictionaries(st.sampled_from(["__notes__", "__dict__", "__class__"]), JSON))
def test_attributes_of_python_are_left_alone(attributes):
    back = decoded(text("builtins.ValueError", notes=["a note"], attributes=attributes), MAIN)
    assert (type(back), back.__notes__) == (ValueError, ["a note"])


def test_the_text_is_bounded():
    def deep(n):
        if n == 0:
            raise LookupError("x" * 10**6, "y" * 10**6)
        return deep(n - 1) if n % 2 else deep2(n - 1)

    def deep2(n):
        return deep(n - 1) if n % 2 else deep2(n - 1)

    with pytest.raises(LookupError) as caught:
        deep(500)
    error = caught.value
    error.big = "z" * 10**6
    for _ in range(100):
        error.add_note("n" * 1_000)
    written = encoded(error, MAIN)
    assert len(written) < 60_000
    back = decoded(written, MAIN)
    assert len(str(back)) == 10_000
    # The beginning and the end of the traceback.
    assert len(back.__notes__) == 11
    assert "in test_the_text_is_bounded" in back.__notes__[-1]
    assert "LookupError: " in back.__notes__[-1] or "yyyy" in back.__notes__[-1]


def test_an_exception_without_a_message():
    record = json.loads(encoded(Unspeakable("secret"), MAIN))
    assert record["message"] == "<its message cannot be had: RuntimeError>"


def test_a_group_comes_back_as_text():
    group = ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    back = there_and_back(raised(group))
    assert type(back) is RemoteError
    assert str(back) == "builtins.ExceptionGroup: both (2 sub-exceptions)"
    assert "ValueError: one" in back.__notes__[0]
