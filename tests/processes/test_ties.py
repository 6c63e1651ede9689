"""What ties a worker process to its parent: the connection, its time, and both their ends."""

import ast
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.processes.conftest import DEADLINE, HERE, close, ended, is_gone, python, read, until

from flask_delay import ProcessDied, TaskTimeout, delay, using
from flask_delay.backends.processes import child
from flask_delay.backends.processes.frames import Frame, Kind

# The programs here look for the folder of its app, too.
pytestmark = [pytest.mark.keeps_threads, pytest.mark.usefixtures("crunch")]
LINUX = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")


@pytest.fixture(scope="module")
def single(crunch):
    app = crunch.create_app(DELAY_PROCESSES=1)
    yield app
    close(app)


@pytest.fixture
def one(single):
    """An app with one worker process, which is the current one."""
    with single.app_context():
        yield single


# --- Who has the connection -----------------------------------------------------------


@LINUX
def test_a_program_that_a_task_starts_does_not_get_the_connection(app, crunch, tmp_path):
    delay(crunch.list_files, tmp_path / "files").result(DEADLINE)
    lines = (tmp_path / "files").read_text().splitlines()[1:]
    numbers = {int(line.split(" -> ")[0].split()[-1]) for line in lines}
    # The last is its own, of the folder.
    assert numbers == {0, 1, 2, 3}
    assert delay(crunch.open_files_of_a_program).result(DEADLINE) == []


@pytest.mark.parametrize("in_c", [False, True])
def test_a_process_that_a_task_forks_does_not_keep_the_connection(app, crunch, in_c):
    assert delay(crunch.open_files_of_a_fork, in_c).result(DEADLINE) == 0


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("raise", 1), ("return", 0)])
def test_each_task_gets_its_own_answer_when_a_fork_comes_back(one, crunch, how, code):
    assert delay(crunch.fork_that_comes_back, how).result(DEADLINE) == code
    assert [delay(crunch.double, it).result(DEADLINE) for it in range(3)] == [0, 2, 4]


def test_what_a_fork_raises_is_shown(make_app, crunch, capfd):
    with make_app(DELAY_PROCESSES=1).app_context():
        assert delay(crunch.fork_that_comes_back, "raise").result(DEADLINE) == 1
    assert "LookupError: in the fork\n" in capfd.readouterr().err


def test_a_fork_of_a_coroutine_that_comes_back(one, crunch):
    assert delay(crunch.fork_in_coroutine).result(DEADLINE) == 1
    assert delay(crunch.double, 2).result(DEADLINE) == 4


def test_tasks_of_a_fork_that_comes_back_are_run(one, crunch, tmp_path):
    assert delay(crunch.fork_that_submits, tmp_path / "told").result(DEADLINE) == 0
    assert read(tmp_path / "told") not in {os.getpid(), delay(os.getpid).result(DEADLINE)}


def forged(crunch, path, call):
    """A frame whose pickle makes a folder where it is read."""
    return Frame(Kind.RETURNED, call, None, pickle.dumps(crunch.Touches(path))).encode()


@pytest.mark.parametrize("what", ["a pickle", "another call's", "no answer"])
def test_what_a_task_writes_to_the_connection_is_not_unpickled(one, crunch, tmp_path, what):
    touched = tmp_path / "touched"
    data = forged(crunch, touched, 1_000_000)
    if what == "a pickle":
        data = data[len(Frame(Kind.RETURNED, 0).encode()) :]
    elif what == "no answer":
        data = Frame(Kind.READY, 0).encode()
    pid = delay(os.getpid).result(DEADLINE)
    error = ended(delay(crunch.write_to_parent, data, 60)).exception()
    assert type(error) is ProcessDied
    assert f"the worker process {pid} was ended, since it sent a frame" in str(error)
    assert not touched.exists()
    until(lambda: is_gone(pid))
    assert delay(crunch.double, 2).result(DEADLINE) == 4


def test_what_comes_after_an_answer_is_not_the_next_ones(one, crunch, tmp_path):
    touched, go = tmp_path / "touched", tmp_path / "go"
    data = forged(crunch, touched, 2)
    pid = delay(crunch.write_later, data, tmp_path / "told", go).result(DEADLINE)
    go.touch()
    read(tmp_path / "told")
    assert delay(os.getpid).result(DEADLINE) != pid
    assert not touched.exists()


# --- Time -----------------------------------------------------------------------------


def test_loading_the_app_counts_neither_for_the_timeout_nor_as_the_run(make_app, tmp_path):
    path = tmp_path / "loads"
    app = make_app(DELAY_APP=f"crunch:create_slow_app({str(path)!r})", DELAY_PROCESSES=1)
    with app.app_context():
        future = using(timeout=1.0).delay(os.getpid)
        until(path.exists)
        began = time.monotonic()
        # Past its timeout, and the moment that it has to end then.
        until(lambda: time.monotonic() > began + 1.3)
        assert future.running()
        loaded = time.time()
        path.with_name("loads.go").touch()
        pid = future.result(DEADLINE)
        assert future.started_at.timestamp() > loaded
        stats = app.extensions["delay"].owner.stats()
    assert stats["tasks"]["getpid"]["run"]["max"] < 1.0
    assert path.read_text().split() == [str(pid)]


def test_a_child_that_loads_is_kept_when_its_task_is_stopped(make_app, crunch, tmp_path):
    path = tmp_path / "loads"
    app = make_app(DELAY_APP=f"crunch:create_slow_app({str(path)!r})", DELAY_PROCESSES=1)
    with app.app_context():
        future = delay(os.getpid)
        until(lambda: path.exists() and path.read_text().endswith("\n"))
        assert future.stop(after=0)
        assert ended(future).cancelled()
        # Told only, so that it does not begin.
        future = delay(crunch.begun_at, tmp_path / "told")
        until(future.running)
        assert future.stop(after=None)
        path.with_name("loads.go").touch()
        assert ended(future).cancelled()
        assert path.read_text().split() == [str(delay(os.getpid).result(DEADLINE))]
    assert not (tmp_path / "told").exists()


def test_a_child_that_loads_ends_with_shutdown(make_app, tmp_path):
    path = tmp_path / "loads"
    app = make_app(DELAY_APP=f"crunch:create_slow_app({str(path)!r})", DELAY_PROCESSES=1)
    with app.app_context():
        future = delay(os.getpid)
        until(lambda: path.exists() and path.read_text().endswith("\n"))
        future.stop(after=0)
        ended(future)
    app.extensions["delay"].owner.shutdown()
    assert is_gone(int(path.read_text()))


def test_an_app_that_takes_long_to_load_is_named(make_app, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(child, "_LONG", 0.01)
    path = tmp_path / "loads"
    with make_app(DELAY_APP=f"crunch:create_slow_app({str(path)!r})").app_context():
        future = delay(os.getpid)
        until(lambda: "has not loaded the app \"crunch:create_slow_app('/" in caplog.text)
        path.with_name("loads.go").touch()
        future.result(DEADLINE)
    assert len(caplog.records) == 1


def test_a_child_that_dies_while_it_loads(make_app):
    with make_app(DELAY_APP="crunch:create_dying_app()").app_context():
        error = ended(using(timeout=DEADLINE).delay(int)).exception()
    assert type(error) is ProcessDied
    assert "ended itself, with code 3" in str(error)


def test_a_stopped_child_does_not_outlive_the_timeout(one, crunch):
    pid = delay(os.getpid).result(DEADLINE)
    os.kill(pid, signal.SIGSTOP)
    # More than the connection takes while nobody reads.
    future = using(timeout=0.3).delay(len, b"x" * 5_000_000)
    assert type(ended(future).exception()) is TaskTimeout
    until(lambda: is_gone(pid))
    assert delay(len, b"x" * 5_000_000).result(DEADLINE) == 5_000_000


def test_half_a_message_does_not_outlive_the_timeout(one, crunch):
    pid = delay(os.getpid).result(DEADLINE)
    half = struct.pack("!BQIQ", Kind.RETURNED, 1, 0, 1_000_000) + b"x" * 1000
    future = using(timeout=0.5).delay(crunch.write_to_parent, half, 60)
    assert type(ended(future).exception()) is TaskTimeout
    until(lambda: is_gone(pid))
    assert delay(crunch.double, 2).result(DEADLINE) == 4


# --- The end of the parent ------------------------------------------------------------

KILLED = """
import ctypes, os, sys, time
from pathlib import Path
from crunch import compute_in_c, create_app
from flask_delay import delay

path = Path(sys.argv[1])
with create_app(DELAY_PROCESSES=1).app_context():
    delay(compute_in_c, path)
    while not path.exists():
        time.sleep(0.01)
if len(sys.argv) > 2:
    # One that has all files of this process, and does not know that it was forked.
    c = ctypes.PyDLL(None)
    pid = c.fork()
    if pid == 0:
        os.closerange(0, 3)
        c.sleep(30)
        os._exit(0)
    Path(sys.argv[2]).write_text(str(pid))
os.kill(os.getpid(), 9)
"""


def test_a_child_that_computes_in_c_ends_with_a_killed_parent(tmp_path):
    assert python(KILLED, tmp_path / "child", check=False).returncode == -9
    pid = read(tmp_path / "child")
    until(lambda: is_gone(pid))


@pytest.mark.servers
def test_so_it_does_when_another_process_keeps_its_files_open(tmp_path):
    run = python(KILLED, tmp_path / "child", tmp_path / "fork", check=False)
    assert run.returncode == -9
    pid, fork = read(tmp_path / "child"), read(tmp_path / "fork")
    try:
        until(lambda: is_gone(pid))
        assert not is_gone(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


# --- How it is started ----------------------------------------------------------------

STARTED = """
import os, sys
sys.path[:0] = [sys.argv[1], "it's {odd} \\\\ \\udcff"]
from crunch import create_app, interpreter
from flask_delay import delay
from pathlib import Path

with create_app(DELAY_PROCESSES=1).app_context():
    there = delay(interpreter).result()
    # Flask puts the working directory before it.
    path = delay(lambda: sys.path).result()[-len(sys.path) :]
    pid = delay(os.getpid).result()
    command = Path(f"/proc/{pid}/cmdline")
    told = command.exists() and b"create_app" in command.read_bytes()
here = interpreter()
print((here[:3] == there[:3], there[3], path == sys.path, told))
"""
OPTIONS = ["-O", "-B", "-W", "error::UserWarning", "-X", "int_max_str_digits=5000", "-X", "utf8"]


@pytest.mark.servers
@pytest.mark.parametrize(
    "options",
    [
        ["-I", *OPTIONS],
        ["-P", "-X", "dev", "-OO"],
    ],
)
def test_the_options_of_the_interpreter_are_passed_on(options):
    run = subprocess.run(
        [sys.executable, *options, "-c", STARTED, HERE],
        capture_output=True,
        text=True,
        timeout=DEADLINE * 2,
        check=False,
    )
    assert run.stderr == ""
    # Nor is the app's name in what everybody may read.
    assert ast.literal_eval(run.stdout) == (True, ["-c"], True, False)
