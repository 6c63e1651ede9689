"""`examples/backends`, served three times with nothing changed but `DELAY_BACKEND`."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from tests.celery.harness import ROOT, Worker
from tests.servers.harness import address, poll

pytestmark = pytest.mark.servers

FOLDER = ROOT / "examples" / "backends"
ENDED = {"finished", "cancelled"}
# Long enough to be stopped in the middle of it, and to be seen at work.
LONG = 100_000_000


class Client:
    def __init__(self, host, port):
        self._root = f"http://{host}:{port}"

    def ask(self, method, path, body=None):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_up(self):
        try:
            return self.ask("GET", "/reports")[0] == 200
        except OSError:
            return False

    def page(self, id, until):
        def look():
            status, page = self.ask("GET", f"/tasks/{id}")
            assert status == 200, page
            return page if until(page) else None

        page = poll(look)
        assert page, self.ask("GET", f"/tasks/{id}")
        return page

    def report(self, id):
        def look():
            return [it for it in self.ask("GET", "/reports")[1] if it["task"] == id]

        found = poll(look)
        assert len(found) == 1, found
        return found[0]


@contextmanager
def served(backend, log):
    host, port = address()
    # The settings of its workers are there for all three.
    env = os.environ | {"FLASK_DELAY_BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    server = ["-m", "gunicorn", "--no-control-socket", "--threads", "4", "--bind", f"{host}:{port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *server, "app:create_app()"],
            cwd=FOLDER,
            env=env,
            stdout=output,
            stderr=output,
        )
    client = Client(host, port)
    try:
        assert poll(client.is_up), log.read_text()
        yield client
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def without(found, *names):
    return {name: value for name, value in found.items() if name not in names}


def followed(client, path, body=None):
    """The answer, the task's last page and what its callback has said, without the id."""
    status, answer = client.ask("POST", path, body)
    assert list(answer) == ["task"]
    id = answer["task"]
    page = client.page(id, lambda page: page["state"] in ENDED)
    return status, without(page, "id"), without(client.report(id), "task")


def stopped(client, path, until):
    _, answer = client.ask("POST", path)
    id = answer["task"]
    seen = client.page(id, until)
    assert client.ask("DELETE", f"/tasks/{id}") == (200, {"stopped": True})
    page = client.page(id, lambda page: page["state"] in ENDED)
    assert client.ask("DELETE", f"/tasks/{id}") == (200, {"stopped": False})
    return seen["state"], without(page, "id", "progress"), without(client.report(id), "task")


def unknown(client):
    status, page = client.ask("GET", "/tasks/5b0e2c2e-9b1f-4c64-9c63-2b2a6a1b4a3c")
    return status, page["state"]


def everything(client):
    """All that there is to ask."""
    return {
        "primes": followed(client, "/primes/1000"),
        "error": followed(client, "/primes/-1"),
        "later": followed(client, "/primes/10?wait=0.2"),
        "retried": followed(client, "/lookup/ann?failures=2"),
        "given up": followed(client, "/lookup/bob?failures=9"),
        "timeout": followed(client, "/forever"),
        "coroutine": followed(client, "/shout/quiet"),
        "composed": followed(client, "/most", [10, 1000, 100]),
        "composed error": followed(client, "/most", [10, -5, 100]),
        "map": client.ask("GET", "/primes?below=10&below=100"),
        "pending": stopped(client, "/primes/10?wait=60", lambda it: it["state"] == "pending"),
        "running": stopped(client, f"/primes/{LONG}", lambda it: it["progress"]),
        "after it": followed(client, "/primes/1000"),
        "unknown": unknown(client),
    }


def look(answers):
    """What is in the answers of any of them."""
    assert answers["primes"][1]["result"] == {"limit": 1000, "primes": 168, "last": 997}
    assert answers["primes"][1]["progress"]["note"] == "sieving"
    assert answers["error"][1]["error"]["message"] == "no numbers are below 0 and -1"
    assert answers["retried"][2]["result"] == "ann, attempt 3, in app"
    assert answers["given up"][2]["error"] == "ConnectionError: bob did not answer attempt 4"
    assert answers["timeout"][1]["error"]["class"] == "TaskTimeout"
    assert answers["coroutine"][1]["result"] == "QUIET"
    assert answers["composed"][1]["result"] == 997
    assert [it["primes"] for it in answers["map"][1]] == [4, 25]
    assert answers["pending"][0] == "pending"
    assert answers["pending"][2]["state"] == answers["running"][2]["state"] == "cancelled"
    assert answers["unknown"] == (404, "unknown")
    assert not any(it[2]["request"] for it in answers.values() if len(it) == 3)


@pytest.fixture(scope="module")
def workers(module_redis):
    """The settings of Celery workers, which run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASK_DELAY_CELERY_BROKER_URL", module_redis.url)
        patch.setenv("FLASK_DELAY_BACKEND", "celery")
        patch.setenv("FLASK_APP", "app")
        command = ("-m", "flask", "--app", "app", "delay", "worker")
        worker = Worker(module_redis.url, "-c", "2", command=command, path=FOLDER)
        yield
        worker.kill()


def test_the_same_requests_get_the_same_answers(workers, tmp_path):
    answers = []
    for backend in ("threads", "processes", "celery"):
        with served(backend, tmp_path / backend) as client:
            answers.append(everything(client))
    look(answers[0])
    assert answers == [answers[0]] * 3
