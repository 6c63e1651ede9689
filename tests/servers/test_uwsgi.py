"""uWSGI: forks in C, and ends without Python's own end if it likes."""

import os
import signal
import sys
from pathlib import Path

import pytest
from tests.servers.harness import (
    LATE,
    LONG_ENOUGH,
    STUCK,
    check_drain,
    check_tasks,
    check_threads,
    check_time_is_over,
    poll,
)

UWSGI = Path(sys.executable).with_name("uwsgi")

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not UWSGI.exists(), reason="uWSGI is not installed"),
]

COMMAND = [str(UWSGI), "--http-socket", "{host}:{port}", "--need-app", "--enable-threads"]
MASTER = [*COMMAND, "--master"]
# SIGTERM lets requests end, and workers end by themselves.
GRACEFUL = [*MASTER, "--hook-master-start", "unix_signal:15 gracefully_kill_them_all"]
TWO = ["--processes", "2"]
LAZY = ["--lazy-apps", "--module", "app:app"]
PRELOAD = ["--module", "used:app"]
SHORT = {"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"}


def sleeps(server):
    """Whether the worker's own thread has submitted all and sleeps, in the view."""
    found = server.records("hangs")
    if not found:
        return False
    pid = found["hang"][0]["pid"]
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize(
    "options",
    [LAZY, PRELOAD, [*LAZY, "--threads", "3"], [*PRELOAD, "--py-call-uwsgi-fork-hooks"]],
    ids=["lazy-apps", "preload", "threads", "fork-hooks"],
)
class TestWorkers:
    def test_tasks_run_and_end_first(self, serve, options):
        server = serve([*GRACEFUL, *TWO, *options])
        check_tasks(server, 2)
        check_threads(server)
        check_drain(server, codes=(0,), told="(?i)graceful")

    def test_time_is_over(self, serve, options):
        check_time_is_over(serve([*GRACEFUL, *options], SHORT))


@pytest.mark.parametrize("options", [[], ["--py-call-uwsgi-fork-hooks"]], ids=["", "fork-hooks"])
def test_fork_while_a_task_computes(serve, options):
    """uWSGI's master lets go of the GIL before, and its child waits for it."""
    server = serve([*GRACEFUL, *TWO, *options, "--module", "busy:app"])
    check_tasks(server, 2)


def test_without_a_master(serve):
    server = serve([*COMMAND, "--module", "app:app"])
    check_tasks(server)
    # uWSGI's own code for an end.
    check_drain(server, codes=(30,))


def test_reload_ends_tasks_first(serve):
    server = serve([*MASTER, *LAZY])
    old = server.get("wait/old")["pid"]
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("Gracefully killing worker 1")
    assert not poll(lambda: "old" in server.records("ran"), LONG_ENOUGH)
    (server.folder / "go").touch()
    assert poll(lambda: "old" in server.records("called back"))
    assert server.records("ran")["old"][0]["pid"] == old
    server.wait_for_log("(?s)spawned uWSGI worker 1.*spawned uWSGI worker 1")
    server.wait_until_ready()
    assert server.get("run/new")["pid"] != old
    assert poll(lambda: "new" in server.records("called back"))
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert poll(server.is_gone)


def test_recycled_worker_ends_its_tasks_first(serve):
    server = serve([*MASTER, *LAZY, "--max-requests", "3", "--min-worker-lifetime", "0"])
    old = server.get("wait/old")["pid"]
    server.get("")
    server.wait_for_log("The work of process")
    (server.folder / "go").touch()
    assert poll(lambda: "old" in server.records("called back"))
    assert server.records("ran")["old"][0]["pid"] == old
    assert poll(lambda: server.get("")["pid"] != old)
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert poll(server.is_gone)


def test_end_in_the_middle_of_a_request(serve):
    """uWSGI then leaves out Python's end; a request that waits lets tasks go on."""
    server = serve([*MASTER, "--die-on-term", *LAZY])
    with server.asking("/".join(["hang", *LATE])):
        assert poll(lambda: sleeps(server))
        check_drain(server, codes=(0,), submit=False)


def test_time_is_over_in_the_middle_of_a_request(serve):
    server = serve([*MASTER, "--die-on-term", *LAZY], SHORT)
    with server.asking("/".join(["hang", *STUCK])):
        assert poll(lambda: sleeps(server))
        check_time_is_over(server, submit=False)


def test_end_in_the_middle_of_a_computation(serve):
    """No other code can run then; what is lost is not lost without a word."""
    server = serve([*MASTER, "--die-on-term", *LAZY])
    server.get("wait/lost")
    with server.asking("compute"):
        assert poll(lambda: server.records("computes"))
        server.terminate()
        assert server.wait() == 0
    assert poll(server.is_gone)
    assert "tasks that were accepted did not finish before exit" in server.log()


def test_without_pythons_own_end(serve):
    server = serve([*GRACEFUL, *LAZY, "--skip-atexit-teardown"])
    check_tasks(server)
    check_drain(server, codes=(0,), told="(?i)graceful")


def test_skip_atexit_is_warned_of(serve):
    server = serve([*GRACEFUL, *LAZY, "--skip-atexit"])
    server.wait_for_log("RuntimeWarning: uWSGI's skip-atexit ends a worker")
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("options", [LAZY, PRELOAD], ids=["lazy-apps", "preload"])
def test_worker_processes(serve, options):
    """uWSGI is the program that Python is embedded in, and not what executes Python."""
    backend = {"FLASK_DELAY_BACKEND": "processes", "FLASK_DELAY_APP": "app:app"}
    server = serve([*GRACEFUL, *options], backend)
    pid = server.get("run/there")["pid"]
    assert server.wait_for_records("called back", ["there"])
    (ran,) = server.records("ran")["there"]
    (called,) = server.records("called back")["there"]
    assert ran["pid"] != pid
    assert called["pid"] == pid
    server.terminate()
    assert server.wait() == 0, server.log()
    assert poll(lambda: not Path(f"/proc/{ran['pid']}").exists())
