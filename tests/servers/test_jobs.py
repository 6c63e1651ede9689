"""A job under servers of many processes: once at each tick, whoever dies, and not twice."""

import os
import signal
import sys
from pathlib import Path

import pytest
from tests.servers.harness import Server, poll, serving

EVERY = 0.2
# The app of the tests here, with a job.
PERIODIC = f"""
import time

from app import app, executor, record

def tick():
    record("tick", "tick", at=time.time())

executor.using(every={EVERY}).delay(tick)
"""
# Which is made a while before its server serves.
SLOW = PERIODIC + f"time.sleep({3 * EVERY})\n"

GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "{host}:{port}", "--workers", "4"]
RELOADED = [
    *(sys.executable, "-m", "flask", "--app", "periodic", "run", "--reload"),
    *("--host", "{host}", "--port", "{port}"),
]
UWSGI = Path(sys.executable).with_name("uwsgi")
UWSGI_COMMAND = [
    *(str(UWSGI), "--http-socket", "{host}:{port}", "--need-app", "--enable-threads"),
    *("--master", "--processes", "3", "--module", "periodic:app"),
]


@pytest.fixture
def serve(tmp_path):
    # Otherwise a socket in the user's home; older versions do not know the setting.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    servers = []

    def serve(command, code=PERIODIC):
        (tmp_path / "periodic.py").write_text(code)
        context = serving(tmp_path, command)
        servers.append(context)
        return context.__enter__()

    yield serve
    for context in servers:
        context.__exit__(None, None, None)


def ticks(server: Server) -> list[tuple[int, float]]:
    """The runs: in which process, and when."""
    return [(entry["pid"], entry["at"]) for entry in server.records("tick").get("tick", [])]


def check_once_per_tick(server: Server) -> None:
    times = [at for _, at in ticks(server)]
    # One that began late is followed by one in time.
    assert len(times) <= (times[-1] - times[0]) / EVERY + 2, times


def check_handover(server: Server, deaths: int) -> None:
    """Each tick is run in one process; when that is killed, another goes on."""
    dead: list[int] = []
    for _ in range(deaths + 1):
        assert poll(lambda: sum(pid not in dead for pid, _ in ticks(server)) >= 6), server.log()
        pid = ticks(server)[-1][0]
        assert pid not in dead
        assert pid != server.process.pid, "the one that only watches"
        dead.append(pid)
        if len(dead) <= deaths:
            os.kill(pid, signal.SIGKILL)
    check_once_per_tick(server)
    assert "could not be run" not in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["not preloaded", "preloaded"])
@pytest.mark.parametrize(
    "worker", ["gthread", pytest.param("sync", marks=pytest.mark.servers)], ids=str
)
def test_gunicorn(serve, worker, preload):
    server = serve([*GUNICORN, "--worker-class", worker, *preload, "periodic:app"])
    check_handover(server, 2)
    server.terminate()
    assert server.wait() == 0
    assert "Exception" not in server.log()


def test_reloader(serve):
    server = serve(RELOADED)
    assert poll(lambda: len(ticks(server)) >= 6), server.log()
    (pid,) = {pid for pid, _ in ticks(server)}
    # The inner process is the one that serves.
    assert pid == server.get("")["pid"] != server.process.pid
    check_once_per_tick(server)
    # The code has changed: a new process, and only that, has the job.
    os.utime(server.folder / "periodic.py")
    assert poll(lambda: ticks(server)[-1][0] != pid), server.log()
    assert poll(lambda: ticks(server)[-1][0] == server.get("")["pid"]), server.log()
    check_once_per_tick(server)


def test_reloader_of_an_app_that_loads_slowly(serve):
    # Both processes load the app: the one that will only watch has ticks meanwhile.
    server = serve(RELOADED, SLOW)
    assert poll(lambda: len(ticks(server)) >= 3), server.log()
    assert {pid for pid, _ in ticks(server)} == {server.get("")["pid"]}


@pytest.mark.servers
@pytest.mark.skipif(not UWSGI.exists(), reason="uWSGI is not installed")
@pytest.mark.parametrize(
    "options",
    [[], ["--lazy-apps"], ["--py-call-uwsgi-fork-hooks"]],
    ids=["preload", "lazy-apps", "fork-hooks"],
)
def test_uwsgi(serve, options):
    check_handover(serve([*UWSGI_COMMAND, *options]), 1)
