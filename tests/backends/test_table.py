"""Which backends there are: entry points, found when a name or a setting asks for one."""

import ast
from pathlib import Path

import pytest
from flask import Flask
from tests.backends.installed import Site

import flask_delay
from flask_delay import Delay, using
from flask_delay.backends import base, table
from flask_delay.config import load

PACKAGE = Path(flask_delay.__file__).parent


def test_those_of_the_package():
    assert table.names() == ["threads", "celery", "processes"]
    assert table.listed() == '"threads", "celery" or "processes"'


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match='DELAY_BACKEND is \'gpu\', but must be "threads", "cel'):
        load({"DELAY_BACKEND": "gpu"}, "DELAY_")
    with pytest.raises(ValueError, match="option 'backend' is 'gpu', but must be \"threads\", "):
        using(backend="gpu")
    with pytest.raises(LookupError, match='no backend \'gpu\', but "threads", "celery" or '):
        table.module("gpu")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("PROCESSES", 0, "an integer of at least 1, or None for one per CPU"),
        ("APP", "", "where the app is, as FLASK_APP is written"),
        ("CELERY_APP", "shop", 'where a Celery app is, as "module:name"'),
        ("CELERY_WHEN_DOWN", "wait", '"raise" or "buffer"'),
    ],
)
def test_settings_of_a_backend_are_checked_with_the_others(key, value, allowed):
    app = Flask("shop")
    app.config[f"DELAY_{key}"] = value
    with pytest.raises(ValueError, match=f"DELAY_{key} is {value!r}, but must be {allowed}"):
        Delay(app)


def test_one_that_is_misspelled():
    with pytest.warns(UserWarning, match=r"did you mean DELAY_PROCESSES\?"):
        load({"DELAY_PROCESES": 2}, "DELAY_")


def test_settings_that_are_not_given_have_their_defaults():
    from flask_delay.backends.celery import Settings as Celery
    from flask_delay.backends.processes import Settings as Processes

    config = load({"DELAY_PROCESSES": "2"}, "DELAY_")
    assert (config.of(Processes).processes, config.of(Processes).app) == (2, None)
    assert config.of(Celery) == Celery()
    assert config.has_keys_of("processes")
    assert not config.has_keys_of("celery")


TOY = """
from flask_delay.backends import base
print("imported")
class Backend(base.Backend):
    pass
"""

USE = """
import sys
from flask import Flask
from flask_delay import Delay, using
from flask_delay.config import load

load({"DELAY_MAX_WORKERS": 1, "DELAY_MODE": "immediate"}, "DELAY_")
print(any("toy" in it for it in sys.modules))
load({"DELAY_BACKEND": "toy"}, "DELAY_")
print("named")
using(backend="toy")
using(backend="toy")
"""
ENTRY = '[project.entry-points."flask_delay.backends"]\ntoy = "%s"'


def test_one_is_imported_when_a_task_is_for_it(tmp_path):
    site = Site(tmp_path)
    site.install("toy", TOY, ENTRY % "toy")
    site.write("use.py", USE)
    assert site.run("use.py") == "False\nnamed\nimported\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (None, "No module named 'toy'"),
        ("", "module 'toy' has no attribute 'Backend'"),
        ("import nothing_of_the_kind", "No module named 'nothing_of_the_kind'"),
        ("1 / 0", "division by zero"),
    ],
)
def test_one_that_is_broken_names_itself(tmp_path, code, why):
    site = Site(tmp_path)
    site.install("toy", code, ENTRY % "toy")
    told = f"the backend 'toy' cannot be loaded (entry point 'toy', of toy): {why}"
    site.write(
        "use.py",
        "from flask_delay import using\n"
        "try:\n    using(backend='toy')\nexcept ImportError as error:\n    print(error)\n",
    )
    assert site.run("use.py") == f"{told}\n"
    # Whoever does not use it hears of it once, and is not kept from anything.
    site.write(
        "other.py",
        "import warnings\n"
        "from flask_delay.backends.processes import Settings\n"
        "from flask_delay.config import load\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('default')\n"
        "    print(load({'DELAY_PROCESSES': 2}, 'DELAY_').of(Settings).processes)\n"
        "print([str(it.message) for it in caught])\n",
    )
    shown, warned = site.run("other.py").splitlines()
    assert shown == "2"
    assert ast.literal_eval(warned) == ([] if code == "" else [told])


def test_what_a_backend_need_not_do():
    class Backend(base.Backend):
        def __init__(self):
            pass

    backend = Backend()
    backend.check({})
    assert backend.drain(0)
    backend.shutdown(wait=True, cancel_futures=True)
    assert list(backend.diagnose()) == []
    with pytest.raises(NotImplementedError):
        backend.work([])
    with pytest.raises(NotImplementedError):
        backend.submit(None, {}, int)


def modules_below_the_backends():
    above = {"backends", "compat", "contrib", "dashboard", "demo", "testing", "commands", "cli.py"}
    core = [
        path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in above
    ]
    return [*core, *(PACKAGE / "backends").glob("*.py"), *(PACKAGE / "commands").glob("*.py")]


@pytest.mark.parametrize("path", modules_below_the_backends(), ids=lambda path: path.stem)
def test_no_other_module_knows_a_backend_by_its_name(path):
    """In code; what a user reads, in docstrings and in texts, may name one."""
    text = path.read_text()
    # A figure of the journal has the name of one.
    for figure in ('.stats()["processes"]', '"bytes", "processes"', '"processes": ("journal_'):
        text = text.replace(figure, figure.replace("processes", "figure"))
    tree = ast.parse(text)
    # Once: it reads what is installed.
    others = table.names()[1:]
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in others
    ]
    names = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (getattr(node, "module", None) or "", *(it.name for it in node.names))
        if any(f"backends.{it}" in name for it in others)
    ]
    assert found + names == []
