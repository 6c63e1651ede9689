"""Flask's own server, without and with the reloader."""

import os
import signal
import sys

import pytest
from tests.servers.harness import (
    check_drain,
    check_tasks,
    check_threads,
    check_time_is_over,
    poll,
)

RUN = [
    *(sys.executable, "-m", "flask", "--app", "app", "run"),
    *("--host", "{host}", "--port", "{port}"),
]
RELOAD = [*RUN, "--reload"]
# What calls the server itself, with a reloader that is asked for in code.
CODE = """
import app, sys, werkzeug
werkzeug.run_simple(
    sys.argv[1], int(sys.argv[2]), app.app, use_reloader=True, reloader_interval=0.1, threaded=True
)
"""
SIMPLE = [sys.executable, "-c", CODE, "{host}", "{port}"]


def terminate_all(server):
    os.killpg(server.process.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("command", "code"), [(RUN, 143), (RELOAD, 0), (SIMPLE, 0)], ids=["plain", "reload", "simple"]
)
def test_tasks_run_once_and_end_first(serve, command, code):
    server = serve(command)
    check_tasks(server)
    check_threads(server)
    check_drain(server, codes=(code,))


def test_signal_to_both_processes(serve):
    server = serve(RELOAD)
    # Werkzeug's own handler raises at each of the two that the serving process gets, and
    # Python may show the second.
    check_drain(server, codes=(0,), tell=terminate_all, trouble="did not finish|Fatal Python")


@pytest.mark.parametrize("command", [RUN, RELOAD], ids=["plain", "reload"])
def test_time_is_over(serve, command):
    check_time_is_over(serve(command, {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"}))


def test_change_of_the_source_ends_tasks_first(serve):
    server = serve(SIMPLE)
    before = server.get("wait/old")["pid"]
    source = server.folder / "app.py"
    source.write_text(source.read_text() + "\n# changed\n")
    later = source.stat().st_mtime + 10
    os.utime(source, (later, later))
    server.wait_for_log("Detected change")
    assert not server.records("ran")
    (server.folder / "go").touch()
    assert poll(lambda: "old" in server.records("called back"))
    server.wait_until_ready()
    assert poll(lambda: server.get("")["pid"] != before)
    check_tasks(server)
    assert server.records("ran")["old"][0]["pid"] == before
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)
