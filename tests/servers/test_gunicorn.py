"""Delay under gunicorn: workers forked before and after the first use, and their end."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs POSIX"),
    pytest.mark.skipif(
        importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
    ),
]

DEADLINE = 20.0
COMMAND = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"]

APP = '''
import os
import time
from pathlib import Path

from flask import Flask, current_app

from flask_delay import Delay, delay

app = Flask(__name__, static_folder=None)
app.config["DELAY_MAX_WORKERS"] = 2
app.config["DELAY_SHUTDOWN_TIMEOUT"] = os.environ.get("LIMIT", "20")
executor = Delay(app)
marks = Path("marks")


def mark(name):
    assert current_app.name == app.name
    # Whole or not there at all.
    part = Path(f"{name}.part")
    part.write_text(str(os.getpid()))
    part.rename(marks / str(name))


def wait_for(file, name):
    end = time.monotonic() + 20
    while not Path(file).exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    mark(name)


def submit(name, file=None):
    future = delay(wait_for, file, name) if file else delay(mark, name)
    future.add_done_callback(lambda future: mark(f"{name}-called-back"))


@app.get("/mark/<name>")
def start(name):
    submit(name)
    return {"pid": os.getpid()}


@app.get("/wait/<file>/<name>")
def start_waiting(file, name):
    submit(name, file)
    return {"pid": os.getpid()}


def use():
    """The pool, before the workers are forked."""
    with app.app_context():
        delay(mark, "before").result(20)
'''


class Server:
    """A gunicorn with its workers, in a process group of its own."""

    def __init__(self, folder: Path, *options: str, module: str = "app:app") -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.log: list[str] = []
        self._logged = threading.Condition()
        self.process = subprocess.Popen(
            [*COMMAND, *options, module],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._logged:
                    self.log.append(line)
                    self._logged.notify_all()

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        def found():
            return re.search(pattern, "".join(self.log))

        with self._logged:
            match = self._logged.wait_for(found, DEADLINE)
        assert match, f"no {pattern!r} in:\n{''.join(self.log)}"
        return match

    def get(self, path: str) -> int:
        """Ask for `path`; the worker's process id."""
        port = self.wait_for_log(r"Listening at: http://127\.0\.0\.1:(\d+) ")[1]
        url = f"http://127.0.0.1:{port}/{path}"
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return json.load(response)["pid"]

    def marked(self) -> dict[str, int]:
        return {path.name: int(path.read_text()) for path in self.marks.iterdir()}

    def is_gone(self) -> bool:
        """Whether no process is left, workers included."""
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)


@pytest.fixture
def serve(tmp_path):
    servers = []

    def serve(*options, module="app:app"):
        (tmp_path / "app.py").write_text(APP)
        # Otherwise a socket in the user's home; older versions do not know the setting.
        (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
        # Imported by the master under --preload: there the pool has threads when it forks.
        (tmp_path / "used.py").write_text("import app as module\nmodule.use()\napp = module.app\n")
        (tmp_path / "marks").mkdir()
        servers.append(Server(tmp_path, *options, module=module))
        return servers[-1]

    yield serve
    for server in servers:
        server.kill()


def both(name: str) -> list[str]:
    """The marks of a task and of its callback."""
    return [name, f"{name}-called-back"]


WORKERS = [["--worker-class", "gthread", "--threads", "4"], ["--worker-class", "sync"]]
PRELOAD = [(["--preload"], "used:app"), ([], "app:app")]


@pytest.mark.parametrize("worker", WORKERS, ids=["gthread", "sync"])
@pytest.mark.parametrize(("preload", "module"), PRELOAD, ids=["preloaded", "not preloaded"])
def test_every_accepted_task_runs(serve, wait_until, worker, preload, module):
    server = serve("--workers", "2", *worker, *preload, module=module)
    names, pids = [], {}

    def ask(name):
        names.append(name)
        pids[name] = server.get(f"mark/{name}")

    # At least this many, and until each of the two workers has had its share.
    with ThreadPoolExecutor(4) as pool:
        end = time.monotonic() + DEADLINE
        while len(names) < 40 or len(set(pids.values())) < 2:
            assert time.monotonic() < end, pids
            list(pool.map(ask, [f"task-{len(names) + n}" for n in range(4)]))
    expected = {mark for name in names for mark in both(name)}
    assert wait_until(lambda: expected <= set(server.marked()), DEADLINE)
    marked = server.marked()
    assert marked.pop("before", 0) not in set(pids.values())
    # In the very worker that accepted it.
    assert marked == {mark: pids[name] for name in names for mark in both(name)}

    # Running and queued ones: told to end, the server lets them, and takes no more.
    late = [f"late-{n}" for n in range(8)]
    for name in late:
        server.get(f"wait/go/{name}")
    server.process.terminate()
    server.wait_for_log(r"Handling signal: term")
    server.wait_for_log(r"Worker exiting(?s:.*)Worker exiting")
    assert server.process.poll() is None
    assert not set(late) & set(server.marked())
    (server.folder / "go").touch()
    assert server.process.wait(DEADLINE) == 0
    assert wait_until(server.is_gone)
    assert {mark for name in late for mark in both(name)} <= set(server.marked())
    assert not re.search("Traceback|WARNING|CRITICAL|did not finish", "".join(server.log))


def test_recycled_worker_ends_its_tasks_first(serve, wait_until):
    server = serve("--workers", "1", *WORKERS[0], "--max-requests", "3")
    pids = {server.get(f"wait/go/task-{n}") for n in range(3)}
    server.wait_for_log(r"Worker exiting")
    assert server.marked() == {}
    (server.folder / "go").touch()
    expected = {mark for n in range(3) for mark in both(f"task-{n}")}
    assert wait_until(lambda: expected <= set(server.marked()))
    # Then gunicorn starts the next one.
    assert server.get("mark/next") not in pids
    expected.update(both("next"))
    assert wait_until(lambda: set(server.marked()) == expected)
    server.process.terminate()
    assert server.process.wait(DEADLINE) == 0
    assert wait_until(server.is_gone)


def test_time_is_over(serve, wait_until):
    server = serve("--workers", "1", *WORKERS[0], "--env", "LIMIT=0.2")
    server.get("wait/never/stuck")
    server.process.terminate()
    assert server.process.wait(DEADLINE) == 0
    assert wait_until(server.is_gone)
    lines = [line for line in server.log if "did not finish" in line]
    assert len(lines) == 1
    assert re.search(r"1 task did not finish before exit.*: wait_for \(.{36}\)", lines[0])
    assert server.marked() == {}
