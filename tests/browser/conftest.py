"""A browser, and a lively app for it to look at."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

from flask_delay import Delay, current_task, delay, task, using
from flask_delay.dashboard import recorder

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = Path("/usr/bin/chromium")
DEADLINE = 20.0


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT RUN: there is no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        # --no-sandbox: root has none.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@task(durable=True)
def charge(order):
    raise ConnectionError(f"order {order}: the bank did not answer")


@task(durable=True)
def ship(order):
    return order


class Site:
    """The app, served on loopback, and what a test may do behind its back."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.go = threading.Event()
        self.verdict: Any = "act"
        self.requests: list[str] = []
        self.broken: Any = None
        self.executor = Delay()
        self.app = Flask("shop", instance_path=str(folder), static_folder=None)
        self.app.config.update(DELAY_JOURNAL=True, DELAY_MAX_WORKERS=3, DELAY_LOG_FAILURES=False)
        self.executor.init_app(self.app)
        self.app.register_blueprint(
            self.executor.dashboard_blueprint(
                authorize=lambda: self.verdict, poll=1, environment=("production", "#b3261e")
            ),
            url_prefix="/tasks",
        )
        self.app.add_url_rule("/login", "login", lambda: "please log in")
        self.app.wsgi_app = self._counted(self.app.wsgi_app)  # type: ignore[method-assign]
        server = make_server("127.0.0.1", 0, self.app, threaded=True)
        self.url = f"http://127.0.0.1:{server.server_port}/tasks"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        stack.callback(self._close, server, thread)

    def _counted(self, inner: Any) -> Any:
        def answer(environ: Any, start: Any) -> Any:
            self.requests.append(environ["PATH_INFO"])
            if self.broken is not None and "/live" in environ["PATH_INFO"]:
                return self.broken(environ, start)
            return inner(environ, start)

        return answer

    def _close(self, server: Any, thread: threading.Thread) -> None:
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()
        self.go.set()
        self.executor.resume()
        state = self.app.extensions["delay"]
        state.shutdown(wait=False, cancel_futures=True)
        state.drain(DEADLINE)
        state.shutdown(wait=True, cancel_futures=False)
        recorder._recorders.clear()

    def fail(self, count: int = 1) -> None:
        with self.app.app_context():
            for order in range(count):
                charge.delay(order).exception(DEADLINE)

    def export(self) -> None:
        started = threading.Event()

        def export_orders():
            current_task.progress(3, 10, "reading")
            started.set()
            self.go.wait(600)

        with self.app.app_context():
            delay(export_orders)
        assert started.wait(DEADLINE)

    def fill(self) -> None:
        """Something for each page."""

        def tidy():
            pass

        self.fail(3)
        self.export()
        with self.app.app_context():
            using(every=3600, key="tidy").delay(tidy)
            self.executor.pause("ship")
            ship.delay(1)
            for _ in range(3):
                delay(int).result(DEADLINE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path / "instance", stack)


@pytest.fixture(scope="module")
def full_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that only look."""
    with ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("instance"), stack)
        site.fill()
        yield site


class Watched:
    """A page of the browser, with everything that it complains of."""

    def __init__(self, context: Any) -> None:
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(1000 * DEADLINE)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " (e) => console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _hear(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest.fixture
def look(browser: Any) -> Iterator[Any]:
    """`look(width=1280, dark=False)`: open a page of the browser that is watched."""
    with ExitStack() as stack:

        def new(width: int = 1280, scheme: str = "light", forced: str = "none") -> Watched:
            context = browser.new_context(
                viewport={"width": width, "height": 800},
                color_scheme=scheme,
                forced_colors=forced,
            )
            stack.callback(context.close)
            return Watched(context)

        yield new
