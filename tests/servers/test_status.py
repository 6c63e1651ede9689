"""The status blueprint where a server has several processes: ids are known in one of them."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs POSIX"),
    pytest.mark.skipif(
        importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
    ),
]

DEADLINE = 20.0

APP = """
import os
from flask import Flask
from flask_delay import Delay, delay

app = Flask(__name__, static_folder=None)
executor = Delay(app)
app.register_blueprint(executor.status_blueprint(url_prefix="/tasks", results=True))


@app.after_request
def tell_process(response):
    response.headers["X-Process"] = str(os.getpid())
    return response


@app.get("/start")
def start():
    return {"id": delay(os.getpid).id}
"""


@pytest.fixture
def address(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    # Otherwise a socket in the user's home; older versions do not know the setting.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "app:app"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        for line in process.stderr:
            if found := re.search(r"Listening at: (http://127\.0\.0\.1:\d+) ", line):
                yield found[1]
                break
        else:
            pytest.fail("gunicorn did not start")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=DEADLINE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.headers["X-Process"], json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["X-Process"], json.load(error)


def test_other_workers_say_that_they_do_not_know_the_id(address):
    _, owner, body = get(f"{address}/start")
    answers = {}
    end = time.monotonic() + DEADLINE
    # Whichever worker is free answers, so ask until each has, and the task has ended.
    with ThreadPoolExecutor(4) as pool:
        while len(answers) < 2 or answers[owner][1]["state"] != "finished":
            assert time.monotonic() < end, answers
            for status, process, answer in pool.map(get, [f"{address}/tasks/{body['id']}"] * 4):
                answers[process] = status, answer
    assert answers.pop(owner)[1]["result"] == int(owner)
    ((status, answer),) = answers.values()
    assert status == 404
    assert "in this process" in answer["message"]
    assert "each knows its own tasks" in answer["message"]
