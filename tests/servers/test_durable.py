"""Which processes of a server run durable tasks: those that serve, before anybody asks them."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.servers.harness import SERVED, Server, poll

# The app of all tests here, with a task and a command that leaves some.
DURABLE = """
import time
import flask.cli
from app import app, executor, record
from flask_delay import task

# The time before a process comes to watch only; without that, most are too fast to claim.
show = flask.cli.show_server_banner
flask.cli.show_server_banner = lambda *args: (time.sleep(0.5), show(*args))

@task(durable=True)
def work(name):
    record("ran", name)

@app.cli.command("leave")
def leave():
    for number in range(20):
        work.delay(f"left {number}")

@app.post("/work/<name>")
def submit(name):
    return {"id": work.delay(name).id}
"""

GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "{host}:{port}", "--workers", "2"]
FLASK = [sys.executable, "-m", "flask", "--app", "durable"]
RUN = [*FLASK, "run", "--host", "{host}", "--port", "{port}"]
UWSGI = Path(sys.executable).with_name("uwsgi")
GRANIAN = [
    *(
        sys.executable,
        "-m",
        "granian",
        "--interface",
        "wsgi",
        "--host",
        "{host}",
        "--port",
        "{port}",
    ),
    *("--workers", "2", "durable:app"),
]
UVICORN = [
    *(sys.executable, "-m", "uvicorn", "--host", "{host}", "--port", "{port}", "--workers", "2"),
    *("--interface", "wsgi", "durable:app"),
]
UWSGI_COMMAND = [
    *(str(UWSGI), "--http-socket", "{host}:{port}", "--need-app", "--enable-threads"),
    *("--master", "--processes", "2", "--module", "durable:app"),
]
PROGRAM = """
import sys
import werkzeug
from durable import app
werkzeug.run_simple(sys.argv[1], int(sys.argv[2]), app, use_reloader=True, threaded=True)
"""


@pytest.fixture
def start(tmp_path):
    """Leave some tasks for a server, and start that."""
    (tmp_path / "durable.py").write_text(DURABLE)
    (tmp_path / "program.py").write_text(PROGRAM)
    # Otherwise a socket in the user's home; older versions do not know the setting.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    servers = []

    def start(command, *, leaves=True):
        env = {"FLASK_DELAY_JOURNAL": "true"}
        if leaves:
            # Itself, this command runs none.
            leave(tmp_path, env)
        servers.append(Server(tmp_path, command, env))
        return servers[-1]

    yield start
    for server in servers:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def leave(folder, env):
    # As the server does.
    (folder / "app.py").write_text(SERVED.read_text())
    done = subprocess.run(
        [*FLASK, "leave"],
        cwd=folder,
        env={**os.environ, **env, "RECORD": str(folder / "record")},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "durable tasks of this process wait until another one runs them" in done.stderr
    assert not (folder / "record").exists()


def workers(server, count):
    """The processes that have run the tasks so far."""
    assert poll(lambda: len(server.records("ran")) == count), server.log()
    ran = [entry for entries in server.records("ran").values() for entry in entries]
    # Each of them once.
    assert len(ran) == count
    return {entry["pid"] for entry in ran}


COMMANDS = [
    pytest.param([*GUNICORN, "durable:app"], id="gunicorn"),
    pytest.param([*GUNICORN, "--preload", "durable:app"], id="gunicorn preloaded"),
    pytest.param([*GUNICORN, "--worker-class", "gthread", "durable:app"], id="gunicorn gthread"),
    pytest.param(RUN, id="flask run"),
    pytest.param([*RUN, "--reload"], id="flask run --reload"),
    pytest.param([sys.executable, "program.py", "{host}", "{port}"], id="program with a reloader"),
    *(
        pytest.param(
            command,
            id=name,
            marks=[
                pytest.mark.servers,
                pytest.mark.skipif(not is_there, reason="it is not installed"),
            ],
        )
        for name, is_there, command in (
            ("granian", find_spec("granian"), GRANIAN),
            ("uvicorn", find_spec("uvicorn"), UVICORN),
            ("uWSGI", UWSGI.exists(), UWSGI_COMMAND),
            ("uWSGI lazily", UWSGI.exists(), [*UWSGI_COMMAND, "--lazy-apps"]),
            ("uWSGI with hooks", UWSGI.exists(), [*UWSGI_COMMAND, "--py-call-uwsgi-fork-hooks"]),
        )
    ),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_left_is_run_by_those_that_serve(start, command):
    """Without a request, and not by a process that only watches."""
    server = start(command)
    ran = workers(server, 20)
    server.wait_until_ready()
    single = command[:3] == RUN[:3] and "--reload" not in command
    assert (server.process.pid in ran) == single
    # One of those that answer.
    assert poll(lambda: server.get("")["pid"] in ran)
    server.get("work/now", b"")
    workers(server, 21)
    assert "Traceback" not in server.log()
