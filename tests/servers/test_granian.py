"""granian: workers started by multiprocessing, which end without `atexit`."""

import importlib.util
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

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        importlib.util.find_spec("granian") is None, reason="granian is not installed"
    ),
]

COMMAND = [
    *(sys.executable, "-m", "granian", "--interface", "wsgi", "--blocking-threads", "4"),
    *("--host", "{host}", "--port", "{port}", "app:app"),
]


def all_started(server, workers):
    # One that is told to end before it listens to signals never does.
    for number in range(workers):
        server.wait_for_log(rf"Started worker-{number + 1}\b")
    return server


def test_tasks_run_and_end_first(serve):
    server = all_started(serve([*COMMAND, "--workers", "2"]), 2)
    check_tasks(server, 2)
    check_threads(server)
    check_drain(server, codes=(0,), told="Stopping worker")


def test_time_is_over(serve):
    server = serve(COMMAND, {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"})
    check_time_is_over(all_started(server, 1))


def test_reload_ends_tasks_first(serve):
    server = all_started(serve(COMMAND), 1)
    before = server.get("wait/old")["pid"]
    os.kill(server.process.pid, signal.SIGHUP)
    # For a while both answer.
    assert poll(lambda: server.get("run/new")["pid"] != before)
    assert poll(lambda: any(it["pid"] != before for it in server.records("ran").get("new", ())))
    assert "old" not in server.records("ran")
    (server.folder / "go").touch()
    assert server.wait_for_records("called back", ["old"])
    (entry,) = server.records("ran")["old"]
    assert entry["pid"] == before
    server.wait_for_log(r"(?s)Started worker-1.*Started worker-1")
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)
