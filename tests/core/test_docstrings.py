"""`help()` shows what the stub says: one text, which the build carries into the module."""

import ast
import inspect
import pydoc
from pathlib import Path

import pytest

import flask_delay
from flask_delay import _native

STUB = Path(_native.__file__ or "").with_name("_native.pyi")


def of(node):
    """The docstring of a definition in the stub, or None."""
    return ast.get_docstring(node)


def documented():
    """Each name of the stub with its text; what `__init__` and `__new__` say is the class's."""
    for node in ast.parse(STUB.read_text()).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        methods = [it for it in ast.iter_child_nodes(node) if isinstance(it, ast.FunctionDef)]
        made = [of(it) for it in methods if it.name in {"__init__", "__new__"}]
        text = "\n\n".join(filter(None, [of(node), *made]))
        if text:
            yield node.name, text
        if isinstance(node, ast.ClassDef):
            for method in methods:
                if of(method) and method.name not in {"__init__", "__new__"}:
                    yield f"{node.name}.{method.name}", of(method)


def found(name):
    owner, _, member = name.partition(".")
    thing = getattr(_native, owner)
    return getattr(thing, member) if member else thing


@pytest.mark.parametrize(("name", "text"), list(documented()))
def test_the_text_at_run_time_is_that_of_the_stub(name, text):
    assert inspect.getdoc(found(name)) == text


def test_every_public_name_of_the_stub_is_documented():
    tree = ast.parse(STUB.read_text())
    public = {
        f"{node.name}.{it.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for it in node.body
        if isinstance(it, ast.FunctionDef) and not it.name.startswith("_")
    }
    # Those that `concurrent.futures` documents, for who makes futures by hand.
    inherited = {"set_running_or_notify_cancel", "set_result", "set_exception"}
    undocumented = public - {name for name, _ in documented()}
    assert undocumented == {f"Future.{name}" for name in inherited}


@pytest.mark.parametrize("name", sorted({*flask_delay.__all__} - {"__version__"}))
def test_help_names_no_private_thing(name):
    text = pydoc.plain(pydoc.render_doc(getattr(flask_delay, name)))
    assert "_native.pyi" not in text
    assert "Base" not in text.replace("BaseException", "")


def test_the_signature_of_executor_is_that_of_the_stub():
    given = inspect.signature(flask_delay.Executor)
    tree = ast.parse(STUB.read_text())
    stub = next(it for it in tree.body if getattr(it, "name", None) == "Executor")
    init = next(it for it in stub.body if getattr(it, "name", None) == "__init__")
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    assert list(given.parameters) == [it.arg for it in arguments]
    defaults = [ast.literal_eval(it) for it in [*init.args.defaults, *init.args.kw_defaults]]
    assert [it.default for it in given.parameters.values()] == defaults


@pytest.mark.parametrize("name", ["Future.cancel", "Executor.submit", "Executor.drain"])
def test_names_are_those_that_users_write(name):
    assert found(name).__qualname__ == name
