"""The live page under real servers: whichever process answers, it shows and reaches all tasks."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from tests.servers.harness import DEADLINE, Server, poll, serving

# Where a proxy, or the server itself, has the app.
PREFIX = "/shop"
# The app of all tests here. A request that is slow leaves the next one to another process.
PAGED = """
import os
import time

from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from app import app, executor, record, wait_for
from flask_delay import current_task, delay, task, using

app.register_blueprint(
    executor.dashboard_blueprint(authorize=lambda: "act", poll=1), url_prefix="/admin"
)
plain, fixed = app.wsgi_app, ProxyFix(app.wsgi_app, x_host=1, x_proto=1)
app.wsgi_app = lambda environ, start: (
    (fixed if "HTTP_X_FIXED" in environ else plain)(environ, start)
)

@app.before_request
def be_slow():
    time.sleep(float(request.headers.get("X-Slow", 0)))

@app.after_request
def tell_process(response):
    response.headers["X-Process"] = str(os.getpid())
    return response

def print_label(name):
    record("started", name)
    current_task.progress(1, 2, "warming up")
    wait_for(f"go-{name}")
    record("ran", name)

@task(durable=True)
def send(name):
    record("started", name)
    while not os.path.exists(f"go-{name}"):
        current_task.check()
        time.sleep(0.01)
    record("ran", name)

@task(durable=True)
def fail(name):
    raise ConnectionError(f"no answer for {name}")

@app.post("/later/<name>")
def submit_later(name):
    # Nobody asks for its id, which the journal would know then.
    return {"id": using(countdown=600).delay(print_label, name)._quiet_id()}

@app.post("/<kind>/<name>")
def submit(kind, name):
    fn = {"plain": print_label, "durable": send, "failing": fail}[kind]
    return {"id": delay(fn, name).id}
"""
USED = """
from paged import app

with app.app_context():
    import paged
    paged.delay(int).result(20)
"""
SLOWLY = {"X-Slow": "0.02"}
# Tabs that are open at once, and the requests that the app answers meanwhile.
TABS, VIEWS = 20, 20

GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "{host}:{port}"]
UWSGI = Path(sys.executable).with_name("uwsgi")
UWSGI_COMMAND = [
    *(str(UWSGI), "--http-socket", "{host}:{port}", "--need-app", "--enable-threads"),
    *("--master", "--processes", "2", "--mount", f"{PREFIX}=paged:app", "--manage-script-name"),
]
WAITRESS = [
    *(sys.executable, "-m", "waitress", "--host={host}", "--port={port}"),
    *("--url-prefix", PREFIX, "--threads", "8"),
    # Otherwise it drops what a proxy adds.
    *("--no-clear-untrusted-proxy-headers", "paged:app"),
]
GRANIAN = [
    *(sys.executable, "-m", "granian", "--interface", "wsgi", "--blocking-threads", "4"),
    *("--host", "{host}", "--port", "{port}", "--workers", "2", "--url-path-prefix", PREFIX),
    # Otherwise it ends with the first worker that does.
    *("--respawn-failed-workers", "paged:app"),
]


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def process(self) -> int:
        return int(self.headers["X-Process"])

    @property
    def data(self) -> Any:
        assert self.status == 200, self.body
        return json.loads(self.body)


class Site:
    """A server with the page, and visitors of it."""

    def __init__(self, server: Server, workers: int) -> None:
        self.server, self.workers = server, workers

    def ask(
        self,
        path: str,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        *,
        json: bool = True,
    ) -> Answer:
        """Get `path` below the prefix, or post a form there as a page of the site does."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=20)
        sent = {"Accept": "application/json" if json else "text/html", "Connection": "close"}
        if form is not None:
            sent |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "Sec-Fetch-Site": "same-origin",
            }
        sent |= headers or {}
        with contextlib.closing(connection):
            connection.request(
                "GET" if form is None else "POST",
                PREFIX + path,
                None if form is None else urlencode(form),
                {name: value for name, value in sent.items() if value},
            )
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def page(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask(f"/admin{path}", None, headers, json=False)

    def data(self, path: str) -> Any:
        return self.ask(f"/admin{path}").data

    def submit(self, kind: str, name: str) -> str:
        """Submit a task; its id."""
        id: str = self.ask(f"/{kind}/{name}", {}).data["id"]
        return id

    def from_every_process(self, ask: Callable[[], Answer]) -> dict[int, Answer]:
        """An answer of each process that serves."""
        found: dict[int, Answer] = {}
        end = time.monotonic() + DEADLINE
        with ThreadPoolExecutor(self.workers) as pool:
            while len(found) < self.workers:
                assert time.monotonic() < end, list(found)
                asked = [pool.submit(ask) for _ in range(self.workers)]
                found |= {it.result().process: it.result() for it in asked}
        return found

    def let_go(self, *names: str) -> None:
        for name in names:
            (self.server.folder / f"go-{name}").touch()


SERVERS = {
    # Each with the number of its processes that serve, and what it needs.
    "gunicorn sync": (4, [*GUNICORN, "--workers", "4", "paged:app"], True),
    "gunicorn preloaded": (4, [*GUNICORN, "--workers", "4", "--preload", "preloaded:app"], True),
    "gunicorn gthread": (2, [*GUNICORN, "--workers", "2", "--threads", "4", "paged:app"], True),
    "gunicorn gevent": (
        2,
        [*GUNICORN, "--workers", "2", "--worker-class", "gevent", "paged:app"],
        importlib.util.find_spec("gevent") is not None,
    ),
    "uWSGI": (2, UWSGI_COMMAND, UWSGI.exists()),
    "waitress": (1, WAITRESS, True),
    "granian": (2, GRANIAN, importlib.util.find_spec("granian") is not None),
}

# Its workers share what they have imported, so it starts the fastest.
QUICK = "gunicorn preloaded"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            name,
            marks=[
                *([] if name == QUICK else [pytest.mark.servers]),
                pytest.mark.skipif(not is_there, reason="it is not installed"),
            ],
        )
        for name, (_, _, is_there) in SERVERS.items()
    ],
)
def site(request, tmp_path_factory) -> Iterator[Site]:
    """One server for all tests of this file, which leave nothing behind that runs or waits."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "paged.py").write_text(PAGED)
    (folder / "preloaded.py").write_text(USED)
    # Otherwise a socket in the user's home; older versions do not know the setting.
    (folder / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    workers, command, _ = SERVERS[request.param]
    env = {
        "FLASK_DELAY_JOURNAL": "true",
        "FLASK_DELAY_MAX_WORKERS": "16",
        "FLASK_DELAY_LOG_FAILURES": "false",
        # gunicorn's way to say where it serves.
        "SCRIPT_NAME": PREFIX,
    }
    with serving(folder, command, env, prefix=PREFIX) as server:
        yield Site(server, workers)


@pytest.fixture
def name(request) -> str:
    """A name that the tasks of no other test have."""
    return re.sub(r"\W+", "-", request.node.originalname)


def ids(data: Any) -> set[str]:
    return {it["id"] for it in data["tasks"]}


# --- What is shown --------------------------------------------------------------------


def test_each_process_shows_the_durable_tasks_of_all(site: Site, name: str):
    """Those that run, and those that failed, with the same message and traceback."""
    sent = [f"{name}-{n}" for n in range(2 * site.workers)]
    with ThreadPoolExecutor(4) as pool:
        running = list(pool.map(lambda it: site.submit("durable", it), sent))
        failed = list(pool.map(lambda it: site.submit("failing", it), sent))
    assert poll(lambda: set(failed) <= ids(site.data("/failed")))
    assert poll(lambda: set(running) <= ids(site.data("/running")))
    try:
        for path, meant in (("/running", running), ("/failed", failed)):
            answers = site.from_every_process(
                lambda path=path: site.ask(f"/admin{path}", None, SLOWLY)  # type: ignore[misc]
            )
            for answer in answers.values():
                assert set(meant) <= ids(answer.data), path
        (first, *others) = [
            site.ask(f"/admin/tasks/{failed[0]}").data["task"]["error"] for _ in range(8)
        ]
        assert first["message"] == f"no answer for {sent[0]}"
        assert all(it == first for it in others)
    finally:
        site.let_go(*sent)
    assert poll(lambda: not set(running) & ids(site.data("/running")))


def test_each_process_shows_the_plain_tasks_that_wait_in_all(site: Site, name: str):
    """With their reason, and the number of all; their buttons work in each process."""
    sent = [f"{name}-{n}" for n in range(2 * site.workers)]
    with ThreadPoolExecutor(4) as pool:
        waiting = list(pool.map(lambda it: site.submit("later", it), sent))

    def held(answer: Answer) -> dict[str, Any]:
        return {it["id"]: it for it in answer.data["held"]}

    def all_show_all() -> bool:
        # A process that has no time to answer is named instead.
        answers = site.from_every_process(lambda: site.ask("/admin/queue", None, SLOWLY))
        return all(set(waiting) == held(it).keys() for it in answers.values())

    assert poll(all_show_all), site.server.log()
    answer = site.ask("/admin/queue")
    assert {it["waits"] for it in held(answer).values()} == {"scheduled"}
    assert answer.data["counts"]["held"] == len(held(answer))
    for id in waiting:
        assert site.ask(f"/admin/tasks/{id}/cancel", {}).status == 200
    assert poll(lambda: not site.data("/queue")["held"])


def test_a_task_has_one_page_in_all_processes(site: Site, name: str):
    id = site.submit("durable", name)
    assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "running")
    answers = site.from_every_process(lambda: site.page(f"/tasks/{id}", SLOWLY))
    assert {it.status for it in answers.values()} == {200}
    site.let_go(name)
    assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "finished")
    assert id in ids(site.data("/finished"))


# --- What is asked for again and again --------------------------------------------------


@pytest.mark.parametrize("path", ["/running", "/queue", "/failed", "/finished"])
def test_a_poll_without_news_has_no_body_whoever_answers(site: Site, path: str):
    site.submit("failing", "for-a-poll")
    assert poll(lambda: not site.data("/running")["tasks"] and not site.data("/queue")["queued"])
    answers: list[Answer] = []

    def has_no_news() -> bool:
        # A process that has no time to answer is named, which is news.
        tag = site.page(f"/live{path}").headers["HX-PTag"]
        sent = {"HX-PTag": tag} | SLOWLY
        answers[:] = site.from_every_process(lambda: site.page(f"/live{path}", sent)).values()
        return {(it.status, it.body) for it in answers} == {(304, b"")}

    assert poll(has_no_news), answers
    assert all("no-store" in it.headers["Cache-Control"] for it in answers)


def test_the_app_answers_while_many_tabs_are_open(site: Site, name: str):
    """Each tab asks once a second; a view is not slower for it than a poll or two take."""
    held = site.submit("durable", name)
    over = threading.Event()
    # Each process compiles the templates at its first page.
    site.from_every_process(lambda: site.page("/live/", SLOWLY))

    def tab(number: int) -> None:
        tag = ""
        over.wait(number / TABS)
        while not over.is_set():
            answer = site.page("/live/", {"HX-PTag": tag})
            assert answer.status in {200, 304}
            tag = answer.headers["HX-PTag"]
            over.wait(1)

    with ThreadPoolExecutor(TABS) as pool:
        tabs = [pool.submit(tab, number) for number in range(TABS)]
        took = []
        for _ in range(VIEWS):
            begin = time.monotonic()
            assert site.ask("/").status == 200
            took.append(time.monotonic() - begin)
            time.sleep(0.05)
        over.set()
        for it in tabs:
            it.result()
    site.let_go(name)
    assert poll(lambda: held not in ids(site.data("/running")))
    # A few milliseconds, if the machine does nothing else. A stream for each tab would leave
    # no process for a view at all.
    assert statistics.median(took) < 0.5, took


# --- Addresses ----------------------------------------------------------------------------


def test_all_addresses_have_the_prefix(site: Site):
    """The server says where the app is, by SCRIPT_NAME."""
    site.submit("failing", "for-its-address")
    assert poll(lambda: site.data("/failed")["tasks"])
    for path in ("/", "/running", "/failed", "/live/failed", "/names", "/processes"):
        answer = site.page(path)
        assert answer.status == 200, answer.body
        found = re.findall(r'(?:href|src|action|hx-get)="([^"#]+)', answer.body.decode())
        assert found
        assert [it for it in found if not it.startswith(f"{PREFIX}/admin/")] == []
        for it in {it for it in found if "/assets/" in it}:
            assert site.ask(it.removeprefix(PREFIX)).status == 200


def test_after_an_action_the_visitor_is_sent_back_below_the_prefix(site: Site, name: str):
    id = site.submit("durable", name)
    assert poll(lambda: id in ids(site.data("/running")))
    answer = site.ask(f"/admin/tasks/{id}/stop", {"back": "running"}, json=False)
    assert answer.status == 303
    assert answer.headers["Location"] == f"{PREFIX}/admin/running?said=stop&count=1"
    assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "cancelled")


def test_a_page_of_another_site_does_nothing(site: Site, name: str):
    id = site.submit("durable", name)
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": ""},
    ):
        assert site.ask(f"/admin/tasks/{id}/stop", {}, headers).status == 403
    assert site.data(f"/tasks/{id}")["task"]["finished_at"] is None
    site.let_go(name)
    assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "finished")


# --- Other processes ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["durable", "plain"])
def test_a_task_is_stopped_from_another_process(site: Site, name: str, kind: str):
    if site.workers == 1:
        pytest.skip("there is no other process")
    done: list[str] = []

    def stop() -> bool:
        """Stop a task; whether another process than its own was asked."""
        it = f"{name}-{kind}-{len(done)}"
        id = site.submit(kind, it)
        done.append(it)
        assert site.server.wait_for_records("started", [it])
        owner = site.server.records("started")[it][0]["pid"]
        answer = site.ask(f"/admin/tasks/{id}/stop", {}, SLOWLY)
        assert answer.status == 200, answer.body
        assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "cancelled")
        return answer.process != owner

    assert poll(stop)
    assert not site.server.records("ran").keys() & set(done)


def test_a_durable_task_of_a_killed_process_is_shown_as_taken_over(site: Site, name: str):
    """Within two polls. The task's own page says that a process has died of it."""
    if site.workers == 1:
        pytest.skip("there is no other process")
    id = site.submit("durable", name)
    assert site.server.wait_for_records("started", [name])
    victim = site.server.records("started")[name][0]["pid"]
    before = site.page("/live/running").headers["HX-PTag"]
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()

    def is_taken_over() -> bool:
        # The killed one may have been chosen to answer.
        with contextlib.suppress(OSError, http.client.HTTPException):
            view = site.data(f"/tasks/{id}")["task"]
            return (view["state"], view["attempts"], view["deaths"]) == ("running", 2, 1)
        return False

    assert poll(is_taken_over), site.server.log()
    assert time.monotonic() - killed < 2
    assert "1 process has died of it" in site.page(f"/tasks/{id}").body.decode()
    # An open page gets to know of it.
    assert site.page("/live/running", {"HX-PTag": before}).status == 200
    site.let_go(name)
    assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "finished")
    assert [it["pid"] == victim for it in site.server.records("ran")[name]] == [False]


# --- Proxies ------------------------------------------------------------------------------


def test_behind_a_proxy_that_changes_the_host(site: Site, name: str):
    """Without ProxyFix the 403 names it; with it, the visitor's own host counts."""
    id = site.submit("durable", name)
    assert poll(lambda: id in ids(site.data("/running")))
    # Plain HTTP on another host than this one: browsers send no Sec-Fetch-Site.
    proxied = {
        "Sec-Fetch-Site": "",
        "Origin": "http://shop.example",
        "X-Forwarded-Host": "shop.example",
        "X-Forwarded-Proto": "http",
    }
    answer = site.ask(f"/admin/tasks/{id}/stop", {}, proxied)
    assert answer.status == 403
    assert "ProxyFix" in json.loads(answer.body)["message"]
    answer = site.ask(f"/admin/tasks/{id}/stop", {}, proxied | {"X-Fixed": "yes"})
    assert answer.status == 200, answer.body
    assert poll(lambda: site.data(f"/tasks/{id}")["task"]["state"] == "cancelled")
