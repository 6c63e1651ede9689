"""SIGTERM without a server that handles it, and the end of the process."""

import re
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request

import pytest
from flask import Flask

from flask_delay import Delay

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# The tasks of a script cannot end before SIGTERM was handled, and take their time then.
PRELUDE = """
import logging, os, signal, sys, threading, time
from flask import Flask, current_app
from flask_delay import Delay, delay

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
release, started = threading.Event(), threading.Event()
app = Flask("app")

def work(n):
    started.set()
    assert release.wait(20)
    time.sleep(0.05)
    if n == 0:
        delay(work, "child")
    os.write(1, f"{current_app.name} {n}\\n".encode())

def submit(*, tasks):
    with app.app_context():
        for n in range(tasks):
            delay(work, n)
    assert started.wait(20)

def terminate():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(20)
    finally:
        release.set()
"""
ALL = ["app 0", "app 1", "app 2", "app child"]


@pytest.fixture
def run(run_script):
    return lambda script: run_script(PRELUDE + textwrap.dedent(script))


def test_running_and_queued_tasks_end_first(run):
    done = run("""
        app.config["DELAY_MAX_WORKERS"] = 1
        Delay(app)
        submit(tasks=3)
        terminate()
    """)
    assert (done.rc, done.err) == (143, "")
    assert done.out.split("\n") == [*ALL, ""]


def test_switched_off(run):
    done = run("""
        app.config["DELAY_DRAIN_ON_SIGTERM"] = "false"
        Delay(app)
        submit(tasks=3)
        terminate()
    """)
    assert (done.rc, done.out, done.err) == (-signal.SIGTERM, "", "")


def test_second_one_ends_at_once(run):
    done = run("""
        Delay(app)
        submit(tasks=1)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(20)
        except SystemExit:
            print("first", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            print("second", flush=True)
    """)
    assert (done.rc, done.out, done.err) == (-signal.SIGTERM, "first\n", "")


def test_second_one_ends_the_drain_at_once(run):
    done = run("""
        Delay(app)

        def second():
            started.set()
            # The main thread waits for this task by then, or is about to.
            release.wait(20)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)

        with app.app_context():
            delay(second)
        assert started.wait(20)
        terminate()
    """)
    assert (done.rc, done.out, done.err) == (-signal.SIGTERM, "", "")


def test_at_the_end_of_the_program(run):
    """However late the signal finds the main thread on its way out, no task is lost."""
    done = run("""
        app.config["DELAY_MAX_WORKERS"] = 1
        Delay(app)
        release.set()

        def last():
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            for n in range(3):
                delay(work, n)

        with app.app_context():
            delay(last)
    """)
    assert sorted(done.out.split()) == sorted(" ".join(ALL).split()), done
    assert done.rc in {0, 143}
    assert done.err == ""


def test_a_function_of_atexit_is_not_cut_off(run):
    done = run("""
        import atexit
        Delay(app)

        @atexit.register
        def clean_up():
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass
            os.write(1, b"cleaned up\\n")
    """)
    assert (done.rc, done.out, done.err) == (0, "cleaned up\n", "")


def test_what_does_not_end_in_time_is_named_in_one_warning(run):
    done = run("""
        app.config.update(DELAY_SHUTDOWN_TIMEOUT=0.2, DELAY_MAX_WORKERS=1)
        Delay(app)

        def endless():
            started.set()
            threading.Event().wait()

        def never_started():
            print("started after all")

        with app.app_context():
            delay(endless)
            delay(never_started)
        assert started.wait(20)
        terminate()
    """)
    assert (done.rc, done.out) == (143, "")
    (warning,) = done.err.splitlines()
    assert warning.startswith("WARNING flask_delay")
    assert "endless" in warning
    assert "never_started" in warning


def test_no_time_at_all(run):
    done = run("""
        app.config.update(DELAY_SHUTDOWN_TIMEOUT=0, DELAY_MAX_WORKERS=1)
        Delay(app)
        submit(tasks=1)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(20)
    """)
    assert (done.rc, done.out) == (143, "")
    assert len(done.err.splitlines()) == 1


def test_child_ends_its_own_tasks(run):
    done = run("""
        app.config["DELAY_MAX_WORKERS"] = 1
        Delay(app)
        # Used before the fork.
        with app.app_context():
            assert delay(int).result(20) == 0
        child = os.fork()
        if child == 0:
            submit(tasks=3)
            terminate()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 143, status
        with app.app_context():
            delay(os.write, 1, b"parent\\n")
    """)
    assert (done.rc, done.err) == (0, "")
    assert done.out.split("\n") == [*ALL, "parent", ""]


def test_under_a_server_that_does_not_handle_it(deadline):
    script = PRELUDE + textwrap.dedent("""
        from werkzeug.serving import make_server

        app.config["DELAY_MAX_WORKERS"] = 1
        Delay(app)

        @app.get("/")
        def view():
            for n in range(3):
                delay(work, n)
            return "accepted"

        server = make_server("127.0.0.1", 0, app, threaded=True)
        print(server.server_port, flush=True)
        try:
            server.serve_forever()
        finally:
            release.set()
    """)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            port = int(process.stdout.readline())
            url = f"http://127.0.0.1:{port}/"
            with urllib.request.urlopen(url, timeout=deadline) as response:
                assert response.read() == b"accepted"
            process.terminate()
            out, err = process.communicate(timeout=2 * deadline)
        finally:
            process.kill()
    assert process.returncode == 143, err
    assert out.split("\n") == [*ALL, ""]
    assert re.search("Traceback|WARNING|ERROR", err) is None, err


class TestHandler:
    def test_is_installed_over_the_default(self):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        Delay(Flask("app"))
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        Delay(Flask("other"))
        assert signal.getsignal(signal.SIGTERM) is handler

    def test_exits_and_restores_the_default(self):
        Delay(Flask("app"))
        with pytest.raises(SystemExit) as info:
            signal.raise_signal(signal.SIGTERM)
        assert info.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    @pytest.mark.parametrize("existing", [signal.SIG_IGN, lambda *_: None], ids=["ignore", "own"])
    def test_never_replaces_another(self, existing):
        signal.signal(signal.SIGTERM, existing)
        Delay(Flask("app"))
        assert signal.getsignal(signal.SIGTERM) is existing

    def test_is_not_installed_when_switched_off(self):
        app = Flask("app")
        app.config["DELAY_DRAIN_ON_SIGTERM"] = False
        Delay(app)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_is_not_installed_outside_the_main_thread(self, deadline):
        apps = []
        thread = threading.Thread(target=lambda: apps.append(Delay(Flask("app"))))
        thread.start()
        thread.join(deadline)
        assert apps
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# As uvicorn does: a handler before the app is loaded, then what was there, and the signal again.
UVICORN = """
import types
module = sys.modules["uvicorn.server"] = types.ModuleType("uvicorn.server")

class Server:
    def __init__(self):
        self._captured_signals = []

    def capture_signals(self):
        ...

    def handle_exit(self, signum, frame):
        self._captured_signals.append(signum)

    def run(self, load):
        before = signal.signal(signal.SIGTERM, self.handle_exit)
        load()
        signal.raise_signal(signal.SIGTERM)
        release.set()
        signal.signal(signal.SIGTERM, before)
        for captured in reversed(self._captured_signals):
            signal.raise_signal(captured)

module.Server = Server

def load():
    Delay(app)
    submit(tasks=3)
"""


def test_server_that_raises_the_signal_again_by_default(run):
    done = run(f"{UVICORN}\nServer().run(load)")
    assert (done.rc, done.err) == (143, "")
    assert sorted(done.out.split("\n")) == ["", *ALL]


def test_server_that_raises_the_signal_again_in_a_way_that_is_not_known(run):
    done = run(f"""{UVICORN}
class Newer(Server):
    _captured_signals = property(lambda self: None, lambda self, value: None)
signal.signal(signal.SIGTERM, Newer().handle_exit)
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    Delay(app)
assert [it.category for it in seen] == [RuntimeWarning], seen
assert "uvicorn" in str(seen[0].message)
""")
    assert (done.rc, done.err) == (0, "")


def test_supervised_process_may_be_told_twice(run):
    done = run("""
        import multiprocessing
        multiprocessing.parent_process = multiprocessing.process.parent_process = object
        app.config["DELAY_MAX_WORKERS"] = 1
        Delay(app)
        submit(tasks=3)
        ending = threading.Event()
        def again():
            ending.wait(20)
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            release.set()
        threading.Thread(target=again, daemon=True).start()
        threading._register_atexit(ending.set)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(20)
    """)
    assert (done.rc, done.err) == (143, "")
    assert done.out.split("\n") == [*ALL, ""]


def test_while_tasks_end_after_an_event_loop_has_gone(run):
    done = run("""
        import asyncio
        app.config["DELAY_MAX_WORKERS"] = 1
        Delay(app)
        submit(tasks=3)
        async def serve():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
        asyncio.run(serve())
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        ending = threading.Event()
        def tell():
            ending.wait(20)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            release.set()
        threading.Thread(target=tell, daemon=True).start()
        threading._register_atexit(ending.set)
    """)
    assert (done.rc, done.err) == (0, "")
    assert done.out.split("\n") == [*ALL, ""]
