"""gevent: native threads beside greenlets, imported before and after the patching."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servers.harness import (
    LONG_ENOUGH,
    check_drain,
    check_tasks,
    check_threads,
    check_time_is_over,
    poll,
)

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
    ),
]

CONFIG = """
control_socket_disable = True
from flask_delay.contrib.gunicorn import post_worker_init, worker_abort, worker_exit, worker_int
"""
PRELOAD = ["--preload", "used:app"]
APPS = pytest.mark.parametrize("app", [PRELOAD, ["app:app"]], ids=["preloaded", "not preloaded"])


@pytest.fixture
def serve(serve, tmp_path):
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(CONFIG)
    command = [sys.executable, "-m", "gunicorn", "--config", str(file), "--bind", "{host}:{port}"]

    def serve_with(*options, env=None):
        return serve([*command, "--worker-class", "gevent", *options], env)

    return serve_with


@APPS
def test_tasks_run_and_end_first(serve, app):
    server = serve("--workers", "2", *app)
    check_tasks(server, 2)
    check_threads(server)
    check_drain(server, codes=(0,), told=r"Worker exiting(?s:.*)Worker exiting")
    # Each worker says once what to expect.
    assert server.log().count("RuntimeWarning: gevent has patched threads") == 2


@APPS
def test_time_is_over(serve, app):
    check_time_is_over(serve(*app, env={"FLASK_DELAY_SHUTDOWN_TIMEOUT": "0.3"}))


def test_worker_processes_are_refused(run_script):
    done = run_script(
        """
from gevent import monkey
monkey.patch_all()
from flask_delay import task
try:
    task(backend="processes")(print)
except RuntimeError as error:
    print(error)
"""
    )
    assert (done.rc, done.err) == (0, "")
    assert done.out.startswith("backend='processes' does not go with gevent")


def test_worker_processes_are_refused_when_it_comes_late(run_script):
    done = run_script(
        """
from gevent import monkey
from flask import Flask
from flask_delay import Delay, using

app = Flask("app", static_folder=None)
app.config["DELAY_APP"] = "app"
app.config["DELAY_LOG_FAILURES"] = False
Delay(app)
with app.app_context():
    known = using(backend="processes")
    monkey.patch_all()
    print(known.delay(print).exception(20))
"""
    )
    assert (done.rc, done.err) == (0, "")
    assert done.out.startswith("backend='processes' does not go with gevent")


@APPS
def test_result_lets_other_requests_be_answered(serve, app):
    server = serve(*app)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(server.get, f"result/task-{n}") for n in range(4)]
        assert poll(lambda: len(server.records("started")) >= 2)
        assert not poll(lambda: any(it.done() for it in waiting), LONG_ENOUGH)
        # The only thread that handles requests is in four of them.
        server.get("go")
        assert {it.result()["pid"] for it in waiting} == {server.get("")["pid"]}


PRELUDE = """
import sys
if sys.argv[1] == "before":
    import flask_delay
from gevent import monkey
monkey.patch_all()
import os, threading, time, warnings
import gevent
from flask import Flask
from flask_delay import Delay, Executor, delay

def app_with_delay(name="app"):
    app = Flask(name)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Delay(app)
    return app, [(warning.category, str(warning.message)) for warning in seen]
"""
ORDERS = pytest.mark.parametrize("order", ["before", "after"])


@ORDERS
def test_warns_once(run_script, order):
    done = run_script(
        PRELUDE
        + """
(category, text), = app_with_delay()[1]
assert category is RuntimeWarning, category
assert "native threads" in text
assert app_with_delay()[1] == []
""",
        order,
    )
    assert (done.rc, done.err) == (0, "")


def test_does_not_warn_without_patching(run_script):
    done = run_script("""
import gevent, gevent.monkey
from flask import Flask
from flask_delay import Delay
Delay(Flask("app"))
""")
    assert (done.rc, done.err) == (0, "")


@ORDERS
def test_tasks_use_what_is_patched(run_script, order):
    """Locks, sleeps, locals and waits of tasks, and waits of greenlets for tasks."""
    done = run_script(
        PRELUDE
        + """
app, _ = app_with_delay()
app.app_context().push()
main = threading.get_native_id()
local = threading.local()
lock = threading.Lock()

def work(n):
    local.n = n
    time.sleep(0.02)
    with lock:
        assert local.n == n
    # One that this one waits for.
    assert delay(lambda: n).result(20) == n
    return threading.get_native_id()

assert main not in {delay(work, n).result(20) for n in range(8)}
found = []
delay(found.append, 1).result(20)
assert found == [1]
gate = threading.Event()
with Executor(2) as executor:
    # Greenlets of this thread wait for tasks, tasks wait for one of this thread.
    opened = [executor.submit(gate.wait, 20) for _ in range(2)]
    waiting = [gevent.spawn(future.result, 20) for future in opened]
    gevent.spawn(gate.set)
    gevent.joinall(waiting, timeout=20)
    assert [it.value for it in waiting] == [True, True]
closed = threading.Event()
held = delay(closed.wait, 20)
try:
    held.result(0.05)
except TimeoutError:
    print("in time", flush=True)
try:
    with gevent.Timeout(0.05):
        held.result()
except gevent.Timeout:
    print("given up", flush=True)
closed.set()
assert held.result(20)
""",
        order,
        flags=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    )
    assert (done.rc, done.out, done.err) == (0, "in time\ngiven up\n", ""), done.err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@ORDERS
def test_threads_that_leave_take_their_hub_along(run_script, order):
    done = run_script(
        PRELUDE
        + """
def files():
    return len(os.listdir("/proc/self/fd"))

def use():
    with Executor(4) as executor:
        list(executor.map(time.sleep, [0.01] * 4))

use()
before = files()
for _ in range(5):
    use()
print(files() - before)
""",
        order,
    )
    assert (done.rc, done.out, done.err) == (0, "0\n", "")


@ORDERS
def test_a_reader_that_got_an_item_holds_up_no_generator(run_script, order):
    """A task whose thread has a hub reads from one that then waits for it: that is no circle."""
    done = run_script(
        PRELUDE
        + """
def read(readers):
    # Makes the hub of this thread.
    time.sleep(0.001)
    return next(executor.submit(ask, readers).stream())

def ask(readers):
    # Long enough, nearly always, for the reader to wait for the item.
    time.sleep(0.005)
    while not readers:
        time.sleep(0.001)
    yield 1
    assert readers[0].result(20) == 1

with Executor(4) as executor:
    for _ in range(20):
        readers = []
        readers.append(executor.submit(read, readers))
        assert readers[0].result(20) == 1
""",
        order,
    )
    assert (done.rc, done.out, done.err) == (0, "", "")
