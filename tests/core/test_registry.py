"""The name of a function, and the function of a name."""

import sys
from functools import partial
from types import ModuleType

import pytest

from flask_delay import Executor, registry


class Kind:
    def method(self):
        pass

    def __call__(self):
        pass


def of_main():
    pass


of_main.__module__ = "__main__"


@pytest.fixture
def module(monkeypatch):
    made = ModuleType("shop")
    exec(
        "class Order:\n class Late(Exception): pass\ndef __getattr__(name): raise SystemExit",
        vars(made),
    )
    made.count = 1
    monkeypatch.setitem(sys.modules, "shop", made)
    return made


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Kind, f"{__name__}.Kind"),
        (Kind.method, f"{__name__}.Kind.method"),
        (Kind().method, f"{__name__}.Kind.method"),
        (Kind(), f"{__name__}.Kind"),
        (len, "builtins.len"),
        (partial(len), "functools.partial"),
        (of_main, "__main__.of_main"),
    ],
)
def test_the_name(thing, name):
    assert registry.name_of(thing) == name


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_what_others_call_the_main_module(monkeypatch, module):
    monkeypatch.setattr(of_main, "__module__", module)
    assert registry.name_of(of_main) == "__main__.of_main"
    assert registry.name_of(of_main, "shop") == "shop.of_main"
    assert registry.name_of(Kind, "shop") == f"{__name__}.Kind"


@pytest.mark.parametrize("fn", [of_main, partial(partial(of_main)), Kind(), Kind().method, len])
def test_the_name_of_a_task_is_that_of_its_future(fn):
    with Executor(max_workers=1) as executor:
        assert registry.task_name(fn) == executor.submit(fn).name


def test_a_name_is_resolved(module):
    assert registry.resolve("shop", "Order.Late") is module.Order.Late
    assert registry.resolve("shop", "Order.none") is None
    assert registry.resolve("shop.none", "Order") is None


def test_a_class_is_resolved_by_its_path(module):
    path = registry.path_of(module.Order.Late, "")
    assert path == "shop:Order.Late"
    assert registry.resolve_class(path, "") is module.Order.Late
    assert registry.resolve_class("shop:count", "") is None


def test_no_code_runs_for_a_path(module):
    with pytest.raises(SystemExit):
        registry.resolve("shop", "absent")
    assert registry.resolve_class("shop:absent", "") is None


def test_a_path_of_the_main_module(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(module.Order, "__module__", "__main__")
    path = registry.path_of(module.Order, "app")
    assert path == "app:Order"
    assert registry.resolve_class(path, "app") is module.Order
    assert registry.resolve_class(path, "") is None
