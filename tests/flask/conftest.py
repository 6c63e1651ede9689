"""What the tests of the Flask side share."""

import json
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

from flask_delay import Delay

# Far more than anything here takes: it turns a hang into a failure.
DEADLINE = 20.0


@pytest.fixture(name="deadline")
def fixture_deadline() -> float:
    return DEADLINE


@pytest.fixture(autouse=True)
def _keep_sigterm() -> Iterator[None]:
    """A Delay may install a handler, which is this whole process's."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Make an app with a `Delay`, which is shut down when the test is over."""
    with ExitStack() as stack:

        def make(name: str = "app", extension: Delay | None = None, **config: Any) -> Flask:
            app = Flask(name, static_folder=None, instance_path=str(tmp_path / "instance"))
            app.config.update(config)
            (extension or Delay()).init_app(app)
            stack.callback(close, app)
            return app

        yield make


def close(app: Flask) -> None:
    for state in app.extensions.values():
        state.shutdown(wait=False, cancel_futures=True)
        assert state.drain(DEADLINE), "a task goes on after its test"
        state.shutdown(wait=True, cancel_futures=False)


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def serve() -> Iterator[Callable[[Flask], str]]:
    """Serve an app over HTTP on loopback; return its address."""
    with ExitStack() as stack:

        def start(app: Flask) -> str:
            server = make_server("127.0.0.1", 0, app, threaded=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()

            def stop() -> None:
                server.shutdown()
                thread.join(DEADLINE)
                server.server_close()

            stack.callback(stop)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def fetch() -> Callable[..., Any]:
    """The JSON that a URL answers with; `data` makes it a POST."""

    def get(url: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(url, data, timeout=DEADLINE) as response:
            return json.load(response)

    return get
