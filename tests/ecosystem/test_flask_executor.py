"""One app, two imports: Flask-Executor and our layer for those who come from it."""

import inspect
import json
import os
import re
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flask_executor")

import flask_executor
import flask_executor.futures
from werkzeug.serving import make_server

from flask_delay.compat import flask_executor as compat

APP = Path(__file__).with_name("flask_executor_app.py")
THEIRS = "from flask_executor import Executor"
OURS = "from flask_delay.compat.flask_executor import Executor"
DEADLINE = 20.0

# Path, body of a POST, what both have to answer: status and JSON.
SEEN = {"app": "hello", "query": "1", "agent": "test"}
REQUESTS = [
    ("/submit/ab?q=1", None, 200, {**SEEN, "word": "abab", "path": "/submit/ab", "user": "ab"}),
    ("/form", b"a=1&b=2", 200, ["1", "POST", "application/x-www-form-urlencoded"]),
    ("/json", {"a": [1, None]}, 200, {"a": [1, None]}),
    ("/callback", None, 200, [[1024, "/callback", "hello"]]),
    ("/map?q=1", None, 200, [["ax", "1"], ["by", "1"], ["cz", "1"]]),
    ("/job/3", None, 200, [[9, 9, [0, 1, 4]], True, True]),
    ("/state/nothing", None, 200, [None, None, None]),
    ("/start/one", None, 200, 1),
    ("/start/one", None, 409, "future_key one already exists"),
    ("/state/one", None, 200, [False, "RUNNING", True]),
    ("/release/one", None, 200, ["held", True, None, 0]),
    ("/add", None, 200, [[2, 3], [2, 3], 0]),
    ("/error", None, 200, ["LookupError", "nothing there", False, False]),
    ("/wait", None, 200, [True, 0, [1, 2, 4, 8, 16]]),
    ("/mail?q=1", None, 200, "1"),
]


def load(line: str) -> types.ModuleType:
    """The app, with `line` for its import."""
    source = APP.read_text()
    assert source.count(THEIRS) == 1
    module = types.ModuleType("flask_executor_app")
    module.__file__ = str(APP)
    exec(compile(source.replace(THEIRS, line), str(APP), "exec"), vars(module))
    return module


@contextmanager
def served(app) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()


def fetch(url: str, body: object) -> tuple[int, object]:
    headers = {"X-Agent": "test"}
    if isinstance(body, dict):
        body = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    call = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(call, timeout=DEADLINE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("line", [THEIRS, OURS], ids=["theirs", "ours"])
def test_the_same_app_answers_the_same(line, caplog):
    module = load(line)
    assert type(module.executor).__module__.startswith(line.split()[1])
    app = module.create_app()
    try:
        with served(app) as address:
            answers = [(path, *fetch(address + path, body)) for path, body, *_ in REQUESTS]
    finally:
        with app.app_context():
            module.executor.shutdown()
            module.mail.shutdown()
    assert answers == [(path, status, answer) for path, _, status, answer in REQUESTS]
    # What went through `executor`. Theirs leaves out the tasks of `map`, six of them, and
    # runs the second `hold`, which it had no key for.
    assert module.called.count(False) == 1
    assert module.called.count(True) == (17 if line == THEIRS else 22)
    # By EXECUTOR_PROPAGATE_EXCEPTIONS.
    assert "LookupError: nothing there" in caplog.text


@pytest.mark.parametrize("name", ["Executor", "ExecutorJob", "FutureCollection", "FutureProxy"])
def test_everything_public_is_there(name):
    theirs = getattr(flask_executor.futures, name, None) or getattr(flask_executor.executor, name)
    ours = getattr(compat, name)
    for attribute, value in vars(theirs).items():
        if attribute.startswith("_") or not callable(value):
            continue
        assert callable(getattr(ours, attribute)), attribute
        parameters = inspect.signature(value).parameters.values()
        fixed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert list(inspect.signature(getattr(ours, attribute)).parameters)[: len(fixed)] == fixed


# Flask-Executor's own tests are in its repository alone, so you name the folder that has it.
SUITE = "FLASK_EXECUTOR_TESTS"
INSTEAD = """
import sys, types
from flask_delay.compat import flask_executor, futures

helpers = types.ModuleType("flask_executor.helpers")
helpers.InstanceProxy = futures.FutureProxy
sys.modules |= {
    "flask_executor": flask_executor,
    "flask_executor.executor": flask_executor,
    "flask_executor.futures": futures,
    "flask_executor.helpers": helpers,
}
"""


@pytest.mark.skipif(SUITE not in os.environ, reason=f"NOT RUN: {SUITE} names no folder")
def test_its_own_tests_pass_as_they_are(tmp_path):
    (tmp_path / "instead.py").write_text(INSTEAD)
    folder = Path(os.environ[SUITE]).resolve()
    # It gives a string to `execute`, which SQLAlchemy 2 refuses.
    options = ["-q", "-p", "instead", "-p", "no:cacheprovider", "-k", "not test_sqlalchemy"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, str(folder)],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert re.search(r"\b[1-9]\d* passed", run.stdout)
