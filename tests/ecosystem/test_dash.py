"""`contrib.dash`: background callbacks of a Dash app, in a real browser."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, current_app
from tests.servers.harness import poll
from werkzeug.serving import make_server

pytest.importorskip("dash")
sync_api = pytest.importorskip("playwright.sync_api")

from dash import Dash, Input, Output, State, dcc, html, set_props  # noqa: E402
from dash.exceptions import PreventUpdate  # noqa: E402

from flask_delay import Delay  # noqa: E402
from flask_delay.contrib.dash import DelayManager  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
DEADLINE = 20.0


class Site:
    """A Dash app with one button for each kind of background callback."""

    def __init__(self, folder: Path) -> None:
        self.server = Flask("board", instance_path=str(folder), static_folder=None)
        self.server.config["DELAY_LOG_FAILURES"] = False
        self.executor = Delay(self.server)
        self.version = 1
        self.calls: list[object] = []
        self.go = threading.Event()
        self.manager = DelayManager(self.executor)
        self.cached = DelayManager(self.executor, cache_by=lambda: self.version)
        self.app = Dash("board", server=self.server, background_callback_manager=self.manager)
        kinds = ("run", "cancel", "fail", "nothing", "later", "cache")
        self.app.layout = html.Div(
            [
                dcc.Input(id="name", value="ann"),
                *(html.Button(kind, id=kind) for kind in kinds),
                *(html.P("-", id=f"{kind}-out") for kind in kinds),
                html.P("-", id="progress"),
                html.P("-", id="side"),
            ]
        )
        self._callbacks()

    def _callbacks(self) -> None:
        def on(kind, **options):
            return self.app.callback(
                Output(f"{kind}-out", "children"),
                Input(kind, "n_clicks"),
                State("name", "value"),
                background=True,
                interval=50,
                prevent_initial_call=True,
                **options,
            )

        @on("run", progress=[Output("progress", "children")], cancel=[Input("cancel", "n_clicks")])
        def run(set_progress, _clicks, name):
            set_progress((f"half of {name}",))
            set_props("side", {"children": "from the task"})
            assert self.go.wait(DEADLINE)
            return f"{name} in {current_app.name}"

        @on("fail", on_error=lambda error: f"told: {error}".splitlines()[0])
        def fail(_clicks, _name):
            raise LookupError("nothing there")

        @on("nothing")
        def nothing(_clicks, _name):
            self.calls.append("nothing")
            raise PreventUpdate

        @on("later")
        async def later(_clicks, name):
            return [html.B(f"later {name}")]

        @on("cache", manager=self.cached, cache_args_to_ignore=[0])
        def cache(_clicks, name):
            self.calls.append(name)
            return f"{name} {self.version}"


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.go.set()
    site.executor.shutdown()


@pytest.fixture
def page(site) -> Iterator[object]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT RUN: there is no {CHROMIUM}")
    server = make_server("127.0.0.1", 0, site.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with sync_api.sync_playwright() as playwright:
            # --no-sandbox: root has none.
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.locator("#run").wait_for()
            yield page
            browser.close()
    finally:
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()


def test_in_a_browser(site, page):
    def shows(id, text):
        sync_api.expect(page.locator(f"#{id}")).to_have_text(text, timeout=DEADLINE * 1000)

    page.click("#run")
    shows("progress", "half of ann")
    shows("side", "from the task")
    shows("run-out", "-")
    site.go.set()
    shows("run-out", "ann in board")

    page.click("#later")
    shows("later-out", "later ann")
    assert page.locator("#later-out b").count() == 1

    page.click("#fail")
    shows("fail-out", "told: An error occurred inside a background callback: nothing there")

    page.click("#nothing")
    page.click("#cache")
    shows("cache-out", "ann 1")
    page.fill("#name", "bob")
    page.click("#cache")
    shows("cache-out", "bob 1")
    page.fill("#name", "ann")
    page.click("#cache")
    shows("cache-out", "ann 1")
    site.version = 2
    page.click("#cache")
    shows("cache-out", "ann 2")
    assert site.executor.drain(DEADLINE)
    shows("nothing-out", "-")
    assert sorted(site.calls) == ["ann", "ann", "bob", "nothing"]

    # Cancelled: the task is stopped, and the page keeps what it shows.
    site.go.clear()
    page.fill("#name", "bob")
    page.click("#run")
    shows("progress", "half of bob")
    page.click("#cancel")
    assert site.executor.drain(DEADLINE)
    assert site.executor.stats()["cancelled"] == 1
    shows("run-out", "ann in board")


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        ({"executor": object()}, TypeError, r"Delay\(app.server\)"),
        ({"cache_by": 5}, TypeError, "5"),
        ({"cache_by": [len, 5]}, TypeError, "'cache_by' has 5"),
        ({"expire": 5}, ValueError, "nothing is cached"),
        ({"cache_by": len, "expire": 0}, ValueError, "'expire' is 0"),
        ({"cache_by": len, "expire": "5"}, TypeError, "'expire' is '5'"),
    ],
)
def test_bad_arguments(args, kind, message):
    with pytest.raises(kind, match=message):
        DelayManager(**{"executor": Delay(), **args})


def test_a_journal_needs_a_secret_key(tmp_path):
    server = Flask("board", instance_path=str(tmp_path), static_folder=None)
    server.config["DELAY_JOURNAL"] = True
    executor = Delay(server)
    manager = DelayManager(executor)
    job = manager.make_job_fn(lambda: 5, progress=False)
    try:
        with server.app_context():
            with pytest.raises(RuntimeError, match="'board' has no secret_key"):
                manager.call_job_fn("it", job, [], {})
            server.secret_key = "secret"
            assert manager.call_job_fn("it", job, [], {}) == "it"
            assert executor.drain(DEADLINE)
            assert manager.get_result("it", "it") == 5
            assert manager.result_ready("it")
            assert manager.get_updated_props("it") == {}
            # Of a task that is not known any more.
            assert manager.get_result("other", "other") is manager.UNDEFINED
            assert manager.get_progress("other") is None
            manager.terminate_job("other")
            assert not manager.job_running(None)
    finally:
        executor.shutdown()


def test_a_task_that_is_stopped_does_not_run():
    server = Flask("board", static_folder=None)
    executor = Delay(server)
    manager = DelayManager(executor)
    begun = threading.Event()

    def work():
        begun.set()
        for _ in range(round(DEADLINE / 0.01)):
            time.sleep(0.01)

    with server.app_context():
        manager.call_job_fn("it", manager.make_job_fn(work, progress=False), [], {})
        assert begun.wait(DEADLINE)
        manager.terminate_job("it")
        assert executor.drain(DEADLINE)
        assert not manager.job_running("it")
        assert manager.get_result("it", "it") is manager.UNDEFINED
    executor.shutdown()


def test_results_that_expire():
    server = Flask("board", static_folder=None)
    executor = Delay(server)
    manager = DelayManager(executor, cache_by=lambda: 1, expire=3600)
    short = DelayManager(executor, cache_by=[lambda: 1], expire=0.000001)
    fails = DelayManager(executor, cache_by=lambda: 1)

    def fail():
        raise LookupError

    with server.app_context():
        for it, fn, is_kept in ((manager, int, True), (short, int, False), (fails, fail, False)):
            job = it.make_job_fn(fn if fn is fail else lambda: 5, progress=False)
            keys = []
            for _ in range(2):
                key = it.build_cache_key(fail, [], [], None)
                it.call_job_fn(key, job, [], {})
                assert executor.drain(DEADLINE)
                keys.append(key)
            assert (keys[0] == keys[1]) is is_kept
        executor.shutdown()


def test_another_process_tells_what_a_journal_has(tmp_path):
    boards = []
    for _ in range(2):
        server = Flask("board", instance_path=str(tmp_path), static_folder=None)
        server.config["DELAY_JOURNAL"] = True
        server.secret_key = "secret"
        boards.append((server, executor := Delay(server), DelayManager(executor)))
    (asked, _, here), (other, _, there) = boards
    go = threading.Event()

    def work(set_progress, name):
        set_progress((name, 1))
        assert go.wait(DEADLINE)
        return {"name": name}

    try:
        with asked.app_context():
            key = here.build_cache_key(work, ["ann"], [], None)
            here.call_job_fn(key, here.make_job_fn(work, progress=True), ["ann"], {})
        with other.app_context():
            assert poll(lambda: (there.get_progress(key) or [])[:1] == ["ann"])
            assert there.get_progress(key) is None
            assert there.job_running(key)
            go.set()
            assert poll(lambda: there.get_result(key, key) == {"name": "ann"})
            # Dash would take it for cancelled if it had ended after a `get_result` without one.
            assert there.job_running(key)
            there.terminate_job(key)
            assert there.get_result(key, key) == {"name": "ann"}
    finally:
        go.set()
        for _, executor, _ in boards:
            executor.shutdown()
