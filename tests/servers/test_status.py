"""The status blueprint where a server has several processes: ids are known in one of them."""

import importlib.util
import json
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servers.harness import DEADLINE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed"
)

APP = """
import os
from app import app, delay, executor

app.register_blueprint(executor.status_blueprint(url_prefix="/tasks", results=True))


@app.after_request
def tell_process(response):
    response.headers["X-Process"] = str(os.getpid())
    return response


@app.get("/start")
def start_told():
    return {"id": delay(os.getpid).id}
"""


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.headers["X-Process"], json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["X-Process"], json.load(error)


def test_other_workers_say_that_they_do_not_know_the_id(serve, tmp_path):
    (tmp_path / "told.py").write_text(APP)
    gunicorn = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--pythonpath", tmp_path]
    server = serve([*map(str, gunicorn), "--bind", "{host}:{port}", "--workers", "2", "told:app"])
    address = f"http://{server.host}:{server.port}"
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
