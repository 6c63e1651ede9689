"""Streams to many viewers under real servers: no item lost, none twice, and room for requests."""

import contextlib
import http.client
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.servers.harness import Server, poll, serving

STREAMED = """
import time

from app import app, executor
from flask_delay import delay

app.register_blueprint(executor.stream_blueprint(authorize=None), url_prefix="/streams")

def count(most, seconds):
    for number in range(most):
        time.sleep(seconds)
        yield number

@app.post("/count/<int:most>/<float:seconds>")
def start_to_count(most, seconds):
    return {"id": delay(count, most, seconds).id}
"""
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "{host}:{port}", "streamed:app"]
UWSGI = Path(sys.executable).with_name("uwsgi")


class Kind(NamedTuple):
    """A way to serve: with how many streams at once, None for any number."""

    command: list[str]
    streams: int | None
    is_there: bool = True


SERVERS = {
    "gunicorn gthread": Kind([*GUNICORN, "--threads", "8"], 4),
    "gunicorn sync": Kind(GUNICORN, 0),
    "gunicorn gevent": Kind(
        [*GUNICORN, "--worker-class", "gevent"],
        None,
        importlib.util.find_spec("gevent") is not None,
    ),
    "granian": Kind(
        [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--blocking-threads", "8"),
            *("--host", "{host}", "--port", "{port}", "streamed:app"),
        ],
        4,
        importlib.util.find_spec("granian") is not None,
    ),
    "uWSGI": Kind(
        [
            *(str(UWSGI), "--http-socket", "{host}:{port}", "--need-app", "--threads", "8"),
            *("--master", "--mount", "/=streamed:app"),
        ],
        4,
        UWSGI.exists(),
    ),
    "waitress": Kind(
        [
            *(sys.executable, "-m", "waitress", "--host={host}", "--port={port}"),
            *("--threads=8", "streamed:app"),
        ],
        4,
    ),
    "werkzeug": Kind(
        [
            *(sys.executable, "-m", "flask", "--app", "streamed", "run"),
            *("--host", "{host}", "--port", "{port}"),
        ],
        None,
    ),
}
QUICK = "gunicorn gthread"
# How the answer to a visitor begins for whom there is a thread.
WAITS = b"retry: 100\n"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            name,
            marks=[
                *([] if name == QUICK else [pytest.mark.servers]),
                pytest.mark.skipif(not kind.is_there, reason="it is not installed"),
            ],
        )
        for name, kind in SERVERS.items()
    ],
)
def site(request, tmp_path_factory) -> Iterator[tuple[Server, Kind]]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "streamed.py").write_text(STREAMED)
    # Otherwise a socket in the user's home; older versions do not know the setting.
    (folder / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    kind = SERVERS[request.param]
    with serving(folder, kind.command) as server:
        yield server, kind


@contextlib.contextmanager
def asked(
    server: Server, path: str, method: str = "GET", last: str = ""
) -> Iterator[http.client.HTTPResponse]:
    """An answer, of which the body is still to be read."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    headers = {"Connection": "close"} | ({"Last-Event-ID": last} if last else {})
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        with connection.getresponse() as answer:
            yield answer


def data(server: Server, path: str, method: str = "GET") -> Any:
    with asked(server, path, method) as answer:
        return json.load(answer)


def start(server: Server, most: int, seconds: float) -> str:
    id: str = data(server, f"/count/{most}/{seconds}", "POST")["id"]
    return id


class Viewer:
    """A browser's EventSource: it comes back until it has heard the end."""

    def __init__(self, server: Server, id: str, *, reloads: bool = False) -> None:
        self._server, self._path, self._reloads = server, f"/streams/{id}/events", reloads
        self.items: list[tuple[int, Any]] = []
        self.others: list[str] = []
        self.connections = 0
        self.end: Any = None

    def view(self) -> "Viewer":
        retry, last = 0.1, ""
        while self.end is None:
            self.connections += 1
            with asked(self._server, self._path, last=last) as answer:
                assert answer.status == 200, answer.read()
                event = ""
                for line in answer:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if name == "retry":
                        retry = int(value) / 1_000
                    elif name == "event":
                        event = value
                    elif name == "id":
                        last = value
                    elif name == "data":
                        self._hear(event, last, json.loads(value))
                        if self._reloads and self.connections < 3 and event == "item":
                            break
            if self.end is None:
                time.sleep(retry)
        return self

    def _hear(self, event: str, last: str, data: Any) -> None:
        if event == "item":
            self.items.append((int(last), data))
        elif event == "end":
            self.end = data
        else:
            self.others.append(event)


def all_of(most: int) -> list[tuple[int, int]]:
    return [(number + 1, number) for number in range(most)]


def test_each_viewer_gets_each_item_once(site: tuple[Server, Kind]):
    """Also those who reload in the middle, and those for whom there is no thread."""
    server, _ = site
    id = start(server, 40, 0.02)
    viewers = [Viewer(server, id, reloads=n % 2 == 1) for n in range(12)]
    with ThreadPoolExecutor(len(viewers)) as pool:
        for viewer in pool.map(Viewer.view, viewers):
            assert viewer.items == all_of(40)
            assert viewer.others == []
            assert viewer.end["state"] == "finished"
    late = Viewer(server, id).view()
    assert late.items == all_of(40)


def test_streams_leave_half_of_the_threads(site: tuple[Server, Kind]):
    server, kind = site
    id = start(server, 10_000, 0.05)
    with contextlib.ExitStack() as stack:
        waiting = 0
        for _ in range(10):
            answer = stack.enter_context(asked(server, f"/streams/{id}/events"))
            if answer.readline() == WAITS:
                waiting += 1
            else:
                # It has ended.
                answer.read()
                answer.close()
        assert waiting == (10 if kind.streams is None else kind.streams)
        assert data(server, f"/streams/{id}/items?after=0")["ended"] is False
    # A visitor who leaves gives the thread back, with the next item that cannot be sent.
    assert kind.streams == 0 or poll(lambda: waits(server, id))


def waits(server: Server, id: str) -> bool:
    with asked(server, f"/streams/{id}/events") as answer:
        return answer.readline() == WAITS


def test_polls_get_each_item_once(site: tuple[Server, Kind]):
    server, _ = site
    id = start(server, 20, 0.02)
    found: list[tuple[int, Any]] = []
    while True:
        told = data(server, f"/streams/{id}/items?after={len(found)}&wait=5")
        found += [(it["number"], it["data"]) for it in told["items"]]
        if told["ended"]:
            break
    assert found == all_of(20)


@pytest.mark.servers
def test_two_hundred_viewers(site: tuple[Server, Kind]):
    server, _ = site
    id = start(server, 30, 0.1)
    viewers = [Viewer(server, id) for _ in range(200)]
    threads = [threading.Thread(target=it.view) for it in viewers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wrong = [it for it in viewers if it.items != all_of(30)]
    assert not wrong, (len(wrong), wrong[0].items[:5], wrong[0].connections)
