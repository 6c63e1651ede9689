"""The settings of the journal, and apps without one."""

import re
from pathlib import Path

import pytest
from flask import Flask

from flask_delay import Delay
from flask_delay.config import load
from flask_delay.journal.settings import main_of, path_of, space_of


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("JOURNAL", True, True),
        ("JOURNAL", "true", True),
        ("JOURNAL", " On ", True),
        ("JOURNAL", None, None),
        ("JOURNAL", "none", None),
        ("JOURNAL", "tasks.db", "tasks.db"),
        ("JOURNAL", Path("/var/lib/shop/tasks.db"), "/var/lib/shop/tasks.db"),
        ("JOURNAL_SYNC", "commit", "commit"),
        ("JOURNAL_SYNC", " Second ", "second"),
        ("JOURNAL_SYNC", "NEVER", "never"),
        ("JOURNAL_KEEP", 0, 0.0),
        ("JOURNAL_KEEP", "3600", 3600.0),
        ("JOURNAL_LIMIT", "10", 10),
        ("JOURNAL_LIMIT", 0, 0),
        ("JOURNAL_DEATHS", "1", 1),
        ("JOURNAL_MAX_BYTES", 10, 10),
        ("JOURNAL_TIMEOUT", "0.5", 0.5),
        ("JOURNAL_WAITING", "5", 5),
        ("DURABLE", "yes", True),
        ("DURABLE", False, False),
    ],
)
def test_good_value(key, value, expected):
    found = getattr(load({f"DELAY_{key}": value}, "DELAY_"), key.lower())
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("JOURNAL", False, "True, the path of a file, absolute or in the app's instance folder"),
        ("JOURNAL", 1, "True, the path of a file"),
        ("JOURNAL", "", "True, the path of a file"),
        ("JOURNAL", "a\0b", "True, the path of a file"),
        ("JOURNAL", b"a", "True, the path of a file"),
        ("JOURNAL_SYNC", "always", '"commit", "second" or "never"'),
        ("JOURNAL_SYNC", True, '"commit", "second" or "never"'),
        ("JOURNAL_KEEP", -1, "a number of seconds, 0 or more"),
        ("JOURNAL_KEEP", None, "a number of seconds, 0 or more"),
        ("JOURNAL_LIMIT", -1, "an integer, 0 or more"),
        ("JOURNAL_DEATHS", 0, "an integer of at least 1"),
        ("JOURNAL_MAX_BYTES", 0, "an integer of at least 1"),
        ("JOURNAL_TIMEOUT", 0, "a number of seconds above 0"),
        ("JOURNAL_TIMEOUT", None, "a number of seconds above 0"),
        ("JOURNAL_WAITING", 1.5, "an integer, 0 or more, where 0 is no limit"),
        ("DURABLE", "disk", "true or false"),
    ],
)
def test_bad_value(key, value, allowed):
    shown = re.escape(f"DELAY_{key} is {value!r}, but must be {allowed}")
    with pytest.raises(ValueError, match=shown):
        load({f"DELAY_{key}": value}, "DELAY_")


def test_defaults():
    config = load({}, "DELAY_")
    assert (config.journal, config.durable, config.journal_sync) == (None, False, "commit")
    assert (config.journal_keep, config.journal_limit, config.journal_deaths) == (86400, 100000, 3)
    assert (config.journal_max_bytes, config.journal_timeout) == (1_000_000, 30)
    assert config.journal_waiting == 0


@pytest.fixture
def app(tmp_path):
    return Flask("shop", instance_path=str(tmp_path / "instance"))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (None, "instance/delay/journal.db"),
        (True, "instance/delay/journal.db"),
        ("tasks.db", "instance/tasks.db"),
        ("data/tasks.db", "instance/data/tasks.db"),
        ("/var/tasks.db", "/var/tasks.db"),
    ],
)
def test_where_it_is(app, tmp_path, value, path):
    assert path_of(app, "delay", load({"DELAY_JOURNAL": value}, "DELAY_")) == tmp_path / path


def test_where_it_is_for_another_delay(app, tmp_path):
    found = path_of(app, "reports", load({"REPORTS_JOURNAL": True}, "REPORTS_"))
    assert found == tmp_path / "instance/reports/journal.db"


def test_the_names_of_an_app(app):
    assert main_of(app, load({}, "DELAY_")) == "shop"
    assert space_of(app, "delay", "shop") == "shop|delay"
    assert space_of(app, "reports", "other") == "shop|reports"


PROGRAM = """
import sys
from flask import Flask
from flask_delay import Delay
from flask_delay.config import load
from flask_delay.journal.settings import main_of, space_of

app = Flask(__name__)
config = load({"DELAY_APP": sys.argv[1]} if sys.argv[1:] else {}, "DELAY_")
main = main_of(app, config)
print(main, space_of(app, "delay", main))
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # What Flask calls it.
        ([], "script script|delay"),
        (["script:app"], "script script|delay"),
        # Another app is none of its business.
        (["other:app"], "script script|delay"),
        (["script.py:app"], "script script|delay"),
    ],
)
def test_the_names_of_a_program(run_script, arguments, expected):
    done = run_script(PROGRAM, *arguments, flags=())
    assert (done.rc, done.out.strip()) == (0, expected), done.err


def test_the_names_of_a_program_in_a_package(run_script, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    (tmp_path / "shop/app.py").write_text(PROGRAM)
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    done = run_script(code, "-m", "shop.app", "shop.app:app", flags=())
    assert (done.rc, done.out.strip()) == (0, "shop.app shop.app|delay"), done.err


WITHOUT = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task"), os.listdir(".")
import flask_delay
from flask import Flask

app = Flask("app", instance_path=os.getcwd() + "/instance")
app.config.update(eval(sys.argv[1]))
executor = flask_delay.Delay(app)
app.register_blueprint(executor.status_blueprint(url_prefix="/tasks"))

@flask_delay.task
def work():
    return 1

@app.get("/")
def view():
    return {}

client = app.test_client()
assert client.get("/").status_code == 200
assert client.get("/tasks/1").status_code == 404
assert executor.get("1") is None
assert "journal" not in executor.stats()
with app.app_context():
    assert [work.using(countdown=60).delay().cancel()] == [True]
after = set(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task"), os.listdir(".")
opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in after[0] - before[0]}
print([it for it in opened if "journal" in it or it.endswith(".db")], after[2] == before[2])
names = [open(f"/proc/self/task/{it}/comm").read().strip() for it in after[1]]
print(sorted(set(names) - {"python", "delay-timer", "delay-governor", "delay-leftovers"}))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells")
@pytest.mark.parametrize(
    "config", [{}, {"DELAY_MODE": "immediate", "DELAY_JOURNAL": True, "DELAY_DURABLE": True}]
)
def test_an_app_without_one_opens_no_file_and_starts_no_thread(run_script, config):
    code = WITHOUT
    if config:
        # Tests of an app have no threads, and no file either.
        code = WITHOUT.replace("countdown=60", "timeout=60").replace(
            "cancel()] == [True]", "done()]"
        )
    done = run_script(code, repr(config))
    assert done.rc == 0, done.err
    files, threads = done.out.splitlines()
    assert files == "[] True"
    assert [it for it in eval(threads) if not it.startswith("python")] == []


def test_a_file_that_is_there_is_a_journal(app, tmp_path):
    Delay(app)
    assert not app.extensions["delay"].store.is_there
    app.extensions["delay"].store.path.parent.mkdir(parents=True)
    app.extensions["delay"].store.path.touch()
    assert app.extensions["delay"].store.is_there
