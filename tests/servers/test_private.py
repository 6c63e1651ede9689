"""The private parts of other projects that the package needs: are they still there?

`flask_delay.servers` has the list. Each test looks at the real thing, without this package, so
that it can be run on any version: `pytest tests/servers/test_private.py -m ""`.
"""

import inspect
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python/flask_delay"
ROW = re.compile(r"^\| (.*`.*) \| ([\w.]+) \| (.*) \| ([\d., -]+) \|$", re.MULTILINE)


def python(script: str, *options: str) -> str:
    command = [sys.executable, *options, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def threads_wait_for_the_hook():
    said = python(
        "import threading\n"
        "go = threading.Event()\n"
        "threading.Thread(target=lambda: (go.wait(20), print('thread', go.is_set()))).start()\n"
        "threading._register_atexit(go.set)\n"
        "threading._register_atexit(lambda: print('newer'))\n"
    )
    assert said.split("\n")[:2] == ["newer", "thread True"], "not before threads are waited for"


def shutdown_is_on_the_stack():
    said = python(
        "import sys, threading, time\n"
        "def names():\n"
        "    frame = sys._current_frames()[threading.main_thread().ident]\n"
        "    while frame is not None:\n"
        "        yield frame.f_globals.get('__name__'), frame.f_code.co_name\n"
        "        frame = frame.f_back\n"
        "def look():\n"
        "    end = time.monotonic() + 20\n"
        "    while ('threading', '_shutdown') not in names() and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
        "    print(('threading', '_shutdown') in names())\n"
        "threading.Thread(target=look).start()\n"
    )
    assert said == "True\n", "the exit does not wait for threads in threading._shutdown"


def another_thread_sees_the_main_stack():
    found = []

    def look():
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame is not None:
            found.append(frame.f_code.co_name)
            frame = frame.f_back

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert "another_thread_sees_the_main_stack" in found


def flags_are_told():
    said = python(
        "import subprocess; print(*subprocess._args_from_interpreter_flags())", "-W", "error", "-O"
    )
    assert {"-O", "-Werror"} <= set(said.split())


def x_options_are_told():
    said = python(
        "import sys; print(sys._xoptions['shop'], sys._xoptions['dev'])", "-Xshop=1", "-Xdev"
    )
    assert said == "1 True\n"


def flask_loads_the_app_there():
    cli = pytest.importorskip("flask.cli")
    found = []

    def create_app():
        frame = inspect.currentframe()
        while frame is not None:
            found.append((frame.f_globals.get("__name__"), frame.f_code.co_name))
            frame = frame.f_back
        return pytest.importorskip("flask").Flask("app")

    cli.ScriptInfo(create_app=create_app).load_app()
    assert ("flask.cli", "load_app") in found
    run = inspect.unwrap(cli.run_command.callback).__code__
    assert (run.co_name, Path(run.co_filename).stem) == ("run_command", "cli")


def the_reloader_starts_the_child_there():
    reloader = pytest.importorskip("werkzeug._reloader")
    methods = vars(reloader.ReloaderLoop).values()
    found = [it for it in methods if getattr(it, "__name__", "") == "restart_with_reloader"]
    assert len(found) == 1, "ReloaderLoop.restart_with_reloader is gone"
    assert found[0].__globals__ is vars(reloader)


def the_reloader_calls_by_its_global():
    reloader = pytest.importorskip("werkzeug._reloader")
    # Elsewhere, since this process may have replaced it already.
    python("import subprocess, werkzeug._reloader as it; assert it.subprocess is subprocess")
    names = reloader.ReloaderLoop.restart_with_reloader.__code__.co_names
    assert {"subprocess", "call"} <= set(names), "it starts its child in another way"


def the_arbiter_runs_there():
    arbiter = pytest.importorskip("gunicorn.arbiter")
    assert arbiter.__name__ == "gunicorn.arbiter"
    # On the stack of a worker's main thread, as of the arbiter's; which of them it is, `pid` tells.
    assert arbiter.Arbiter.run.__code__.co_varnames[0] == "self"
    methods = (arbiter.Arbiter.start, arbiter.Arbiter.setup, arbiter.Arbiter.__init__)
    assert any(
        re.search(r"\bself\.pid = os\.getpid\(\)", inspect.getsource(it)) for it in methods
    ), "Arbiter notes its pid nowhere"
    # The user of the workers.
    config = pytest.importorskip("gunicorn.config")
    assert isinstance(config.Config.uid, property)
    assert "self.cfg = " in inspect.getsource(arbiter.Arbiter.setup)


def the_worker_shows_its_life_by_a_file():
    base = pytest.importorskip("gunicorn.workers.base")
    tmp = pytest.importorskip("gunicorn.workers.workertmp")
    assert re.search(r"\bself\.tmp = WorkerTmp\(", inspect.getsource(base.Worker.__init__))
    assert callable(tmp.WorkerTmp.fileno)
    # By the time of the file, which `os.utime` sets.
    assert re.search(
        r"\bos\.utime\(self\._tmp\.fileno\(\)", inspect.getsource(tmp.WorkerTmp.notify)
    )


def the_threaded_worker_runs_there():
    gthread = pytest.importorskip("gunicorn.workers.gthread")
    base = pytest.importorskip("gunicorn.workers.base")
    assert gthread.ThreadWorker.run.__code__.co_varnames[0] == "self"
    assert gthread.ThreadWorker.run.__globals__["__name__"] == "gunicorn.workers.gthread"
    assert "self.cfg = cfg" in inspect.getsource(base.Worker.__init__)
    assert type(pytest.importorskip("gunicorn.config").Config().threads) is int


def granian_makes_its_worker_there():
    pytest.importorskip("granian")
    server = pytest.importorskip("granian.server.mp").MPServer
    spawn = inspect.unwrap(server._spawn_wsgi_worker).__code__
    names = spawn.co_varnames[: spawn.co_argcount + spawn.co_kwonlyargcount]
    assert spawn.co_name == "_spawn_wsgi_worker"
    assert "blocking_threads" in names


def uvicorn_goes_through_its_signals_at_the_end():
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(lambda: None))
    assert type(server._captured_signals) is list
    before = signal.getsignal(signal.SIGTERM)
    found = []

    class Signals(list):
        def __iter__(self):
            found.append(signal.getsignal(signal.SIGTERM))
            return super().__iter__()

        def __reversed__(self):
            found.append(signal.getsignal(signal.SIGTERM))
            return super().__reversed__()

    server._captured_signals = Signals()
    with server.capture_signals():
        assert signal.getsignal(signal.SIGTERM).__self__ is server
        assert not found
    assert found == [before], "it does not go through them once the handlers are back"


def gevent_tells_whether_a_thread_has_a_hub():
    pytest.importorskip("gevent")
    said = python(
        "import gevent, threading, gevent._hub_local as hubs\n"
        "def look():\n"
        "    before = hubs.get_hub_if_exists()\n"
        "    hub = gevent.get_hub()\n"
        "    print(before is None, hubs.get_hub_if_exists() is hub)\n"
        "    hub.destroy(destroy_loop=True)\n"
        "    print(hubs.get_hub_if_exists() is hub)\n"
        "thread = threading.Thread(target=look)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    assert said == "True True\nFalse\n"


def uwsgi_calls_what_its_module_has(folder):
    program = Path(sys.executable).with_name("uwsgi")
    if not program.exists():
        pytest.skip("uWSGI is not installed")
    (folder / "app.py").write_text(
        "import uwsgi\n"
        "def say(*words):\n"
        "    with open('said', 'a') as file: print(*words, file=file)\n"
        "say('opt', type(uwsgi.opt).__name__, b'master' in uwsgi.opt or 'master' in uwsgi.opt)\n"
        "uwsgi.post_fork_hook = lambda: say('forked', uwsgi.worker_id())\n"
        "uwsgi.atexit = lambda: say('end', uwsgi.worker_id())\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'here']\n"
    )
    options = ["--master", "--master-fifo", "fifo", "--wsgi-file", "app.py"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen(
            [str(program), *options, "--http-socket", "socket"], cwd=folder, **quiet
        ) as process,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(20)
        try:
            wait_for(lambda: client.connect_ex(str(folder / "socket")) == 0)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            # A worker that answers hears what the master tells it, too.
            assert client.makefile("rb").read().endswith(b"here")
            (folder / "fifo").write_text("q")
            process.wait(20)
        finally:
            process.kill()
    said = (folder / "said").read_text().splitlines()
    assert said == ["opt dict True", "forked 1", "end 1"]


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def flask_keeps_the_session_there():
    flask = pytest.importorskip("flask")
    app = flask.Flask("app")
    app.secret_key = "secret"
    with app.test_request_context():
        opened = flask.session._get_current_object()
        import contextvars

        found = [
            getattr(value, "_session", None)
            for variable, value in contextvars.copy_context().items()
            if variable.name.startswith("flask.")
        ]
        # Before Flask 3.1.3, to ask for it by its name did not mark it.
        assert opened in found or not opened.accessed


def prometheus_adds_to_buckets():
    client = pytest.importorskip("prometheus_client")
    histogram = client.Histogram("seconds", "Text.", registry=None, buckets=(1, 2))
    histogram._sum.inc(5)
    for bucket, count in zip(histogram._buckets, (1, 2, 3), strict=True):
        bucket.inc(count)
    samples = {(it.name, it.labels.get("le")): it.value for it in histogram.collect()[0].samples}
    assert samples["seconds_sum", None] == 5
    assert [samples["seconds_bucket", le] for le in ("1.0", "2.0", "+Inf")] == [1, 3, 6]


# By the first column of the list.
LOOKS = {
    "`threading._register_atexit`": threads_wait_for_the_hook,
    "`threading._shutdown` on the stack": shutdown_is_on_the_stack,
    "`sys._current_frames`": another_thread_sees_the_main_stack,
    "`subprocess._args_from_interpreter_flags`": flags_are_told,
    "`sys._xoptions`": x_options_are_told,
    "`flask.cli` on the stack": flask_loads_the_app_there,
    "`werkzeug._reloader` on the stack": the_reloader_starts_the_child_there,
    "`werkzeug._reloader.subprocess`": the_reloader_calls_by_its_global,
    "`gunicorn.arbiter` on the stack": the_arbiter_runs_there,
    "`gunicorn.workers.gthread`, `Worker.cfg`": the_threaded_worker_runs_there,
    "`granian.server.mp` on the stack": granian_makes_its_worker_there,
    "gunicorn's `Worker.tmp`": the_worker_shows_its_life_by_a_file,
    "uvicorn's `Server._captured_signals`": uvicorn_goes_through_its_signals_at_the_end,
    "`gevent._hub_local`": gevent_tells_whether_a_thread_has_a_hub,
    "uWSGI's `opt`, `atexit`, `post_fork_hook`": uwsgi_calls_what_its_module_has,
    "`flask.ctx`: `_session`": flask_keeps_the_session_there,
    "prometheus_client's `Histogram`": prometheus_adds_to_buckets,
}


def rows() -> dict[str, tuple[str, str]]:
    """Of each part: the module that needs it, and what for."""
    text = (PACKAGE / "servers/__init__.py").read_text()
    return {part: (module, purpose) for part, module, purpose, _ in ROW.findall(text)}


# Of what comes with the servers alone.
OF_SERVERS = {
    "uvicorn's `Server._captured_signals`",
    "`gevent._hub_local`",
    "uWSGI's `opt`, `atexit`, `post_fork_hook`",
}


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=[pytest.mark.servers] if part in OF_SERVERS else [])
        for part in LOOKS
    ],
)
def test_it_is_there(part, tmp_path):
    look = LOOKS[part]
    try:
        look(tmp_path) if inspect.signature(look).parameters else look()
    except (AssertionError, AttributeError, ImportError, KeyError, TypeError) as error:
        module, purpose = rows()[part]
        pytest.fail(
            f"{part} has gone, which flask_delay.servers needs ({module}: {purpose}): {error!r}"
        )


def test_each_part_of_the_list_is_looked_for():
    assert rows().keys() == LOOKS.keys()


# How they look in the source.
NAMES = re.compile(
    r"_register_atexit|_current_frames|_getframe|_args_from_interpreter_flags|_xoptions|flask\.cli\""
    r"|_reloader\b|gunicorn\.arbiter|\.tmp\.fileno|_captured_signals|_hub_local|post_fork_hook"
    r"|gunicorn\.workers|granian\.server"
)


def test_they_are_in_this_folder_alone():
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        if NAMES.search(path.read_text()):
            modules[path.relative_to(PACKAGE).with_suffix("").as_posix()] = path
    listed = {f"servers/{module}" for module, _ in rows().values() if "." not in module}
    assert modules.keys() - {"servers/__init__"} <= listed
    assert listed <= modules.keys()
