"""The code of docs/dashboard.md is run, and lets in whom the page says."""

import re
from pathlib import Path

import pytest

from flask_delay import rights
from flask_delay.dashboard import recorder

PAGE = (Path(__file__).parents[2] / "docs/dashboard.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
HERE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def page(tmp_path):
    """The names that the page's code defines, and those that it leaves to the reader."""
    names = {
        "__name__": __name__,
        "is_staff": {"ada", "bob"}.__contains__,
        "is_admin": "ada".__eq__,
    }
    first, *others = [it for it in BLOCKS if not it.startswith("# ")]
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


@pytest.fixture
def served(tmp_path):
    """Run one of the complete apps, which begin with a comment that names them."""
    made = []

    def run(title, **names):
        (code,) = [it for it in BLOCKS if it.startswith(f"# {title}.py\n")]
        names = {"__name__": title, **names}
        code = code.replace("Flask(__name__)", f"Flask(__name__, instance_path={str(tmp_path)!r})")
        exec(compile(code, "docs/dashboard.md", "exec"), names)
        made.append(names["executor"])
        return names["app"]

    yield run
    for executor in made:
        executor.shutdown()
    recorder._recorders.clear()


def test_the_app_behind_basic_auth(served):
    app = served("behind_basic_auth")
    client = app.test_client()
    assert client.get("/admin/tasks/", auth=("ada", "None")).status_code == 401
    app.config["DASHBOARD_PASSWORD"] = "secret"
    asked = client.get("/admin/tasks/", auth=("ada", "public"))
    assert (asked.status_code, asked.headers["WWW-Authenticate"]) == (401, 'Basic realm="tasks"')
    acting = client.get("/admin/tasks/jobs", auth=("ada", "secret"))
    assert (acting.status_code, "read-only" in acting.text) == (200, False)


def test_the_app_behind_flask_login(served, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "key")
    app = served("behind_flask_login", password_is_right=lambda name, given: given == "right")
    for name, is_read_only in (("bob", True), ("ada", False)):
        client = app.test_client()
        answer = client.get("/admin/tasks/")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
        # An open page is sent there, too.
        assert client.get("/admin/tasks/live/").headers["HX-Refresh"] == "true"
        assert client.post("/login", data={"name": name, "password": "wrong"}).status_code == 200
        answer = client.post("/login", data={"name": name, "password": "right"})
        assert answer.headers["Location"] == "/admin/tasks/"
        answer = client.get("/admin/tasks/jobs")
        assert (answer.status_code, "read-only" in answer.text) == (200, is_read_only)
        answer = client.post("/admin/tasks/tasks/x/stop", headers=HERE)
        assert answer.status_code == (403 if is_read_only else 404)


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
