"""`examples/backends`, served three times with nothing changed but `DELAY_BACKEND`."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from tests.celery.conftest import ROOT, Worker
from tests.servers.harness import address, poll

pytestmark = pytest.mark.servers

FOLDER = ROOT / "examples" / "backends"
ENDED = {"finished", "cancelled"}
# Long enough to be stopped in the middle of it, and to be seen at work.
LONG = 30_000_000


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


def primes(limit, number, last, progress=None):
    return page({"limit": limit, "primes": number, "last": last}, progress), report(
        "primes", {"limit": limit, "primes": number, "last": last}
    )


def page(result, progress=None):
    return {"state": "finished", "progress": progress, "error": None, "result": result}


def failed(name, message, progress=None):
    return {
        "state": "finished",
        "progress": progress,
        "error": {"class": name, "message": message},
    }


def report(name, result=None, *, state="finished", attempts=1, error=None):
    return {
        "name": name,
        "state": state,
        "attempts": attempts,
        "result": result,
        "error": error,
        "app": "app",
        "request": False,
    }


def sieved(limit):
    root = int(limit**0.5)
    return {"done": root, "total": root, "note": "sieving"}


TOO_LONG = 'task "forever" took longer than its timeout of 0.5 s'
EXPECTED = {
    "primes": (202, *primes(1000, 168, 997, sieved(1000))),
    "error": (
        202,
        failed("ValueError", "no numbers are below 0 and -1"),
        report("primes", error="ValueError: no numbers are below 0 and -1"),
    ),
    "later": (202, *primes(10, 4, 7, sieved(10))),
    "retried": (
        202,
        page("ann, attempt 3, in app"),
        report("lookup", "ann, attempt 3, in app", attempts=3),
    ),
    "given up": (
        202,
        failed("ConnectionError", "bob did not answer attempt 4"),
        report("lookup", attempts=4, error="ConnectionError: bob did not answer attempt 4"),
    ),
    "timeout": (
        202,
        failed("TaskTimeout", TOO_LONG),
        report("forever", error=f"TaskTimeout: {TOO_LONG}"),
    ),
    "coroutine": (202, page("QUIET"), report("shout", "QUIET")),
    "composed": (202, page(997), report("most", 997)),
    "composed error": (
        202,
        failed("ValueError", "no numbers are below 0 and -5"),
        report("most", attempts=0, error="ValueError: no numbers are below 0 and -5"),
    ),
    "map": (
        200,
        [{"limit": 10, "primes": 4, "last": 7}, {"limit": 100, "primes": 25, "last": 97}],
    ),
    "pending": (
        "pending",
        {"state": "cancelled", "error": None},
        report("primes", state="cancelled", attempts=0),
    ),
    "running": (
        "running",
        {"state": "cancelled", "error": None},
        report("primes", state="cancelled"),
    ),
    "after it": (202, *primes(1000, 168, 997, sieved(1000))),
    "unknown": (404, "unknown"),
}


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


@pytest.mark.parametrize("backend", ["threads", "processes", "celery"])
def test_the_same_requests_get_the_same_answers(backend, workers, tmp_path):
    with served(backend, tmp_path / "log") as client:
        assert everything(client) == EXPECTED
