"""The code of docs/dashboard.md is run, and lets in whom the page says."""

import re
import sys
import types
from pathlib import Path

import pytest

from flask_delay.dashboard import recorder, rights

PAGE = (Path(__file__).parents[2] / "docs/dashboard.md").read_text()


@pytest.fixture
def page(monkeypatch, tmp_path):
    """The names that the page's code defines, and those that it leaves to the reader."""
    login = types.ModuleType("flask_login")
    login.current_user = types.SimpleNamespace(is_authenticated=True, is_admin=True)
    monkeypatch.setitem(sys.modules, "flask_login", login)
    names = {
        "__name__": __name__,
        "is_staff": {"ada", "bob"}.__contains__,
        "is_admin": "ada".__eq__,
    }
    first, *others = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    first = first.replace("Flask(__name__)", f"Flask(__name__, instance_path={str(tmp_path)!r})")
    for block in (first, *others):
        exec(compile(block, "docs/dashboard.md", "exec"), names)
    yield names
    names["executor"].shutdown()
    recorder._recorders.clear()


def test_the_first_example_lets_in_whom_it_says(page):
    client = page["app"].test_client()
    assert client.get("/admin/tasks/").status_code == 403
    assert client.get("/admin/tasks/", auth=("eve", "x")).status_code == 403
    reading = client.get("/admin/tasks/jobs", auth=("bob", "x"))
    assert (reading.status_code, "read-only" in reading.text) == (200, True)
    acting = client.get("/admin/tasks/jobs", auth=("ada", "x"))
    assert (acting.status_code, "read-only" in acting.text) == (200, False)


def test_the_one_with_flask_login_gives_rights(page):
    assert rights.read(page["who"]()) == rights.VERBS


def test_redact_hides_a_message(page):
    view = page["executor"]._view(page["executor"].delay(int, "x").id)
    assert page["redact"](view) is view or str(page["redact"](view).error) == "hidden"


def test_the_pages_are_those_of_the_menu(page):
    menu = page["app"].test_client().get("/admin/tasks/", auth=("ada", "x")).text
    names = re.findall(r"<li><a href[^>]*>(\w+)</a>", menu)
    assert (
        names == re.findall(r"^\| (\w+) \|", PAGE.split("## What it shows")[1], re.MULTILINE)[1:9]
    )


def test_every_right_is_named():
    for verb in rights.VERBS:
        assert f'`"{verb}"`' in PAGE
