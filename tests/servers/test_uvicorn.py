"""uvicorn and hypercorn: event loops that handle SIGTERM, and leave its default behind."""

import importlib.util
import os
import signal
import sys

import pytest
from tests.servers.harness import (
    LATE,
    check_drain,
    check_tasks,
    check_threads,
    check_time_is_over,
    poll,
)

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("hypercorn", "uvicorn"))),
        reason="uvicorn and hypercorn are not installed",
    ),
]

WHERE = ("--host", "{host}", "--port", "{port}")
UVICORN = [sys.executable, "-m", "uvicorn", "--interface", "wsgi", *WHERE, "app:app"]
# It loads the app when it handles signals already, in the process that was started.
EMBEDDED = """\
import sys, uvicorn
config = uvicorn.Config("app:app", interface="wsgi", host=sys.argv[1], port=int(sys.argv[2]))
uvicorn.Server(config).run()
"""
SERVER = [sys.executable, "-c", EMBEDDED, "{host}", "{port}"]
HYPERCORN = [sys.executable, "-m", "hypercorn", "--bind", "{host}:{port}", "wsgi:app:app"]
# Also of workers whose supervisor, about to end, has hung up on their thread for its pings.
TROUBLE = "did not finish|Fatal Python"


def group(server):
    """As systemd does: SIGTERM to all processes, those of the supervisor too."""
    os.killpg(server.process.pid, signal.SIGTERM)


def has_ended_requests(server, workers):
    assert poll(lambda: server.log().count("Finished server process") == workers), server.log()


@pytest.mark.parametrize("command", [UVICORN, SERVER])
def test_one_process(serve, command):
    server = serve(command)
    check_tasks(server)
    check_threads(server)
    check_drain(server, codes=(143,), told="Finished server process")


def test_time_is_over(serve):
    check_time_is_over(serve(SERVER, {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"}))


def test_a_second_sigterm_ends_it(serve):
    server = serve(SERVER)
    server.get("wait/cut")
    server.terminate()
    has_ended_requests(server, 1)
    # Its wait for tasks has begun, or is about to.
    assert poll(lambda: server.terminate() or server.process.poll() is not None)
    assert server.wait() == -signal.SIGTERM


@pytest.mark.parametrize("tell", [None, group])
@pytest.mark.parametrize("command", [[*UVICORN, "--workers", "2"], [*UVICORN, "--reload"]])
def test_workers(serve, command, tell):
    workers = 2 if "--workers" in command else 1
    server = serve(command)
    check_tasks(server, workers)

    def tell_and_wait(server):
        if tell is None:
            server.terminate()
        else:
            tell(server)
        has_ended_requests(server, workers)

    check_drain(server, codes=(0,), tell=tell_and_wait, trouble=TROUBLE)


def test_reload_ends_tasks_first(serve):
    server = serve([*UVICORN, "--reload"])
    before = server.get("wait/old")["pid"]
    assert server.wait_for_records("started", ["old"])
    app = server.folder / "app.py"
    app.write_text(app.read_text() + "\n")
    has_ended_requests(server, 1)
    assert "old" not in server.records("ran")
    (server.folder / "go").touch()
    assert server.wait_for_records("called back", ["old"]), server.log()
    assert poll(lambda: server.get("run/new")["pid"] != before)
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)


@pytest.mark.parametrize("tell", [None, group])
@pytest.mark.parametrize("workers", [0, 2])
def test_hypercorn(serve, workers, tell):
    server = serve([*HYPERCORN, "--workers", str(workers), "--graceful-timeout", "1"])
    check_tasks(server, workers or 1)
    # One worker has nothing left to do, and ends at once.
    pids = {server.get(f"wait/{name}")["pid"] for name in LATE[:1]}
    assert len(pids) == 1
    check_drain(
        server,
        codes=(0,),
        names=LATE[:1],
        submit=False,
        tell=tell or type(server).terminate,
        trouble=TROUBLE,
    )
