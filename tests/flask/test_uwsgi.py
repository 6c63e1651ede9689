"""What is said of uWSGI's settings; the server itself is started in tests/servers."""

import sys
from types import ModuleType

import pytest
from flask import Flask

from flask_delay import Delay
from flask_delay.periodic import job as jobs
from flask_delay.servers import uwsgi


@pytest.fixture
def server(monkeypatch):
    """A module as uWSGI has it, with the settings that a test gives it."""
    module = ModuleType("uwsgi")
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    monkeypatch.setattr(uwsgi, "_said", set())
    return module


@pytest.mark.parametrize("options", [{}, {b"master": True}, {"http-socket": b":80"}])
def test_without_threads(server, options):
    server.opt = options
    with pytest.warns(RuntimeWarning, match="enable-threads") as warned:
        Delay().init_app(Flask("app"))
    (warning,) = warned
    # At the line that set the app up.
    assert warning.filename == __file__
    Delay(Flask("once is enough"))


@pytest.mark.parametrize(
    "options", [{"enable-threads": True}, {b"enable-threads": True}, {b"threads": b"2"}]
)
def test_with_threads(server, options):
    server.opt = options
    Delay(Flask("app"))


@pytest.mark.parametrize("has", [0, 1])
def test_recent_ones_tell(server, has):
    server.opt = {}
    server.has_threads = has
    if has:
        Delay(Flask("app"))
    else:
        with pytest.warns(RuntimeWarning, match="enable-threads"):
            Delay(Flask("app"))


def test_without_the_end(server):
    server.opt = {"threads": b"2", "skip-atexit": True}
    with pytest.warns(RuntimeWarning, match="skip-atexit ends"):
        Delay(Flask("app"))
    assert not hasattr(server, "atexit")


@pytest.mark.parametrize("existing", [True, False])
def test_without_pythons_end(server, monkeypatch, existing):
    done = []
    monkeypatch.setattr(uwsgi, "_end", lambda: done.append("tasks"))
    # Which would be for good, in this process.
    monkeypatch.setattr(jobs, "end", lambda: None)
    server.opt = {"threads": b"2", "skip-atexit-teardown": True}
    if existing:
        server.atexit = lambda: done.append("theirs")
    Delay(Flask("app"))
    Delay(Flask("other"))
    server.atexit()
    assert done == (["theirs", "tasks"] if existing else ["tasks"])


def test_another_module_of_that_name(server):
    server.opt = "not the server"
    Delay(Flask("app"))
