"""gunicorn: workers forked before and after the first use, and every way they end."""

import importlib.util
import os
import re
import signal
import sys

import pytest
from tests.servers.harness import (
    LONG_ENOUGH,
    MULTIPART,
    UPLOAD,
    check_drain,
    check_tasks,
    check_threads,
    check_time_is_over,
    check_upload,
    poll,
    uploads_of,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)

HOOKS = """
from flask_delay.contrib.gunicorn import post_worker_init, worker_abort, worker_exit, worker_int
"""
COMMAND = [sys.executable, "-m", "gunicorn", "--bind", "{host}:{port}"]
GTHREAD = [*COMMAND, "--worker-class", "gthread", "--threads", "4"]
SYNC = [*COMMAND, "--worker-class", "sync"]
PRELOAD = ["--preload", "used:app"]
TWO = ["--workers", "2"]
SHORT = {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"}
WORKERS = pytest.mark.parametrize(
    "worker",
    [
        pytest.param(GTHREAD, id="gthread"),
        pytest.param(SYNC, id="sync", marks=pytest.mark.servers),
    ],
)


@pytest.fixture
def serve(serve, tmp_path):
    """As `serve`, with gunicorn's settings in a file of their own: `config` is added there."""

    def serve_with(command, env=None, config=""):
        file = tmp_path / "gunicorn.conf.py"
        # Otherwise a socket in the user's home; older versions do not know the setting.
        file.write_text(f"control_socket_disable = True\n{config}")
        return serve([*command[:3], "--config", str(file), *command[3:]], env)

    return serve_with


@WORKERS
@pytest.mark.parametrize("app", [PRELOAD, ["app:app"]], ids=["preloaded", "not preloaded"])
def test_tasks_run_and_end_first(serve, worker, app):
    server = serve([*worker, *TWO, *app])
    check_tasks(server, 2)
    check_threads(server)
    # The pool of the process that loaded the app, and none of theirs, ran this one.
    used = server.records("ran").get("before", [])
    assert [entry["pid"] for entry in used] == ([server.process.pid] if app is PRELOAD else [])
    check_drain(server, codes=(0,), told=r"Worker exiting(?s:.*)Worker exiting")


IN_PROCESSES = {
    "FLASK_DELAY_BACKEND": "processes",
    "FLASK_DELAY_APP": "app:app",
    "FLASK_DELAY_PROCESSES": "1",
}


@pytest.mark.parametrize("app", [PRELOAD, ["app:app"]], ids=["preloaded", "not preloaded"])
def test_tasks_in_worker_processes(serve, app):
    server = serve([*GTHREAD, *TWO, *app], IN_PROCESSES)
    pids = server.ask_every_worker(2)
    assert server.wait_for_records("called back", pids), server.log()
    back, ran = server.records("called back"), server.records("ran")
    assert {name: [entry["pid"] for entry in back[name]] for name in pids} == {
        name: [pid] for name, pid in pids.items()
    }
    # One process for each of the server's, and none that was forked with the app.
    children = {pids[name]: entry["pid"] for name in pids for entry in ran[name]}
    assert len(children) == len(set(children.values())) == 2
    assert all(len(ran[name]) == 1 and ran[name][0]["app"] for name in pids)
    before = {entry["pid"] for entry in ran.get("before", [])}
    assert len(before) == (app is PRELOAD)
    assert not before & {server.process.pid, *children, *children.values()}
    check_drain(server, codes=(0,), told=r"Worker exiting(?s:.*)Worker exiting")


@pytest.mark.servers
def test_what_a_killed_worker_has_of_uploads_is_removed_by_the_next(serve):
    server = serve([*GTHREAD, *PRELOAD])
    pid = server.get("upload/lost?for=never", UPLOAD.encode(), MULTIPART)["pid"]
    assert server.wait_for_records("began", ["lost"])
    (left,) = uploads_of(server)
    os.kill(pid, signal.SIGKILL)
    server.wait_for_log("was sent SIGKILL")
    assert left.exists()
    check_upload(server)
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)
    assert list((server.folder / "instance/delay/uploads").iterdir()) == []


@WORKERS
def test_time_is_over(serve, worker):
    check_time_is_over(serve([*worker, "app:app"], SHORT))


def test_recycled_worker_ends_its_tasks_first(serve):
    server = serve([*GTHREAD, "--max-requests", "4", "app:app"])
    pids = {server.get(f"wait/task-{n}")["pid"] for n in range(3)}
    assert len(pids) == 1
    server.wait_for_log("Worker exiting")
    assert not server.records("ran")
    (server.folder / "go").touch()
    names = {f"task-{n}" for n in range(3)}
    assert poll(lambda: names <= server.records("called back").keys())
    # Then gunicorn starts the next one.
    assert server.get("run/next")["pid"] not in pids
    assert poll(lambda: "next" in server.records("called back"))
    assert {name: len(found) for name, found in server.records("ran").items()} == dict.fromkeys(
        [*names, "next"], 1
    )
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)


def test_reload_ends_tasks_first(serve):
    server = serve([*GTHREAD, "app:app"])
    old = server.get("wait/old")["pid"]
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log(rf"Worker exiting \(pid: {old}\)")
    # The new one answers while the old one still has work to do.
    assert poll(lambda: server.get("run/new")["pid"] != old)
    assert poll(lambda: "new" in server.records("called back"))
    assert "old" not in server.records("ran")
    (server.folder / "go").touch()
    assert poll(lambda: "old" in server.records("called back"))
    (entry,) = server.records("ran")["old"]
    assert entry["pid"] == old
    server.terminate()
    assert server.wait() == 0
    assert poll(server.is_gone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_ends_tasks_first(serve, number):
    server = serve([*GTHREAD, "app:app"], config=HOOKS)

    def stop(server):
        # The worker's handler of SIGQUIT takes the lock of gunicorn's thread pool. While the
        # main thread hands a request to that pool, the handler waits for its own thread.
        server.get_to_the_end("")
        server.process.send_signal(number)

    check_drain(server, codes=(0,), tell=stop)


@pytest.mark.servers
class TestHooks:
    """Each would fail without them: the tasks would be lost without a word."""

    def test_stop_that_takes_too_long(self, serve):
        server = serve(
            [*GTHREAD, "--graceful-timeout", "2", "app:app"],
            {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "1"},
            config=HOOKS,
        )
        assert "graceful_timeout" not in server.log()
        check_time_is_over(server)
        assert "SIGKILL" not in server.log()

    @WORKERS
    def test_limit_above_gunicorns(self, serve, worker):
        server = serve([*worker, "--graceful-timeout", "2", "app:app"], config=HOOKS)
        check_time_is_over(server)
        assert "SIGKILL" not in server.log()
        (line,) = [line for line in server.log().splitlines() if "DELAY_SHUTDOWN_TIMEOUT" in line]
        assert "DELAY_SHUTDOWN_TIMEOUT is 25.0" in line
        assert "graceful_timeout" in line

    def test_no_limit(self, serve):
        env = {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "none"}
        server = serve([*SYNC, "--graceful-timeout", "2", "app:app"], env, config=HOOKS)
        assert "DELAY_SHUTDOWN_TIMEOUT is None" in server.log()
        check_time_is_over(server)

    def test_without_them_nothing_is_said(self, serve):
        """What the others are about: gunicorn kills, and nobody knows what was lost."""
        server = serve([*GTHREAD, "--graceful-timeout", "1", "app:app"])
        server.get("wait/lost")
        server.terminate()
        assert server.wait() == 0
        assert poll(server.is_gone)
        assert not server.warnings()

    def test_second_signal(self, serve):
        server = serve([*GTHREAD, "app:app"], config=HOOKS)

        def twice(server):
            server.terminate()
            server.wait_for_log("Worker exiting")
            assert not poll(lambda: server.process.poll() is not None, LONG_ENOUGH)
            server.process.send_signal(signal.SIGINT)
            server.wait_for_log("Quick shutdown requested")

        check_time_is_over(server, tell=twice)

    def test_worker_that_hangs(self, serve):
        # Its own thread is the one that hangs, so it is aborted.
        server = serve([*SYNC, "--timeout", "2", "app:app"], config=HOOKS)
        old = server.get("wait/lost")["pid"]
        assert poll(lambda: server.records("started"))
        # As the abort finds it, it says 500 or hangs up.
        with pytest.raises((OSError, AssertionError)):
            server.get("hang")
        server.wait_for_log("did not finish before exit")
        (line,) = server.warnings()
        assert re.search(r"1 task did not finish before exit.*: wait \(", line)
        assert poll(lambda: server.get("")["pid"] != old)
        server.terminate()
        assert server.wait() == 0
        assert poll(server.is_gone)

    def test_recycled_worker_counts_as_alive(self, serve):
        """Its tasks take longer than gunicorn waits for a sign of life."""
        server = serve([*SYNC, "--timeout", "2", "--max-requests", "2", "app:app"], config=HOOKS)
        server.get("wait/long")
        server.wait_for_log("Worker exiting")
        # Twice the time after which it would be aborted, and then killed.
        assert not poll(lambda: "WORKER TIMEOUT" in server.log(), 4.0)
        (server.folder / "go").touch()
        assert poll(lambda: "long" in server.records("called back"))
        server.wait_until_ready()
        server.terminate()
        assert server.wait() == 0
        assert poll(server.is_gone)
        assert not re.search("TIMEOUT|SIGKILL|did not finish", server.log())
