"""The app that gunicorn serves: one task per request, or a computing task beside them."""

import contextlib

from flask import Flask

from benchmarks.cases import WORKERS
from benchmarks.peers import PEERS
from benchmarks.work import burn, nap, stop_burning

_open = contextlib.ExitStack()


def create(peer: str) -> Flask:
    """Make the app, with the peer of this name behind its views."""
    app = Flask("benchmarks", static_folder=None)
    # Never closed: the peer itself handles the end of a server's process.
    pool = _open.enter_context(PEERS[peer].open(WORKERS, app))

    @app.get("/plain")
    def plain() -> str:
        return "ok"

    @app.get("/delay")
    def delay() -> str:
        pool.submit(nap, 0.005)
        return "ok"

    @app.get("/burn")
    def start_burning() -> str:
        pool.submit(burn)
        return "ok"

    @app.get("/stop")
    def stop() -> str:
        stop_burning()
        return "ok"

    return app
