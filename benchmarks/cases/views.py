"""The pool cases from a view: with app and request contexts and a context variable."""

import contextvars
from collections.abc import Callable
from typing import Any

from flask import Flask

from benchmarks.cases import WORKERS, blocked, now, time_submits, warm_up
from benchmarks.model import Peer, Pool, Values
from benchmarks.work import nop

_trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace")


def _in_a_view(peer: Peer, measure: Callable[[Pool], Values]) -> Values:
    app = Flask("benchmarks", static_folder=None)
    found: Values = {}
    with peer.open(WORKERS, app) as pool:

        @app.get("/")
        def view() -> str:
            _trace.set("a request's id")
            warm_up(pool, 500)
            found.update(measure(pool))
            return "measured"

        if app.test_client().get("/").text != "measured":
            raise RuntimeError("the view failed; its traceback is above")
    return found


def submit(peer: Peer, size: int) -> Values:
    """Start a no-op from a view while all workers are busy."""

    def measure(pool: Pool) -> Values:
        handles: list[Any] = []
        with blocked(pool):
            return time_submits(pool, size, handles.append)

    return _in_a_view(peer, measure)


def tasks(peer: Peer, size: int) -> Values:
    """Start no-ops from a view, and wait until all have run."""

    def measure(pool: Pool) -> Values:
        start = now()
        pool.drain(nop, size)
        return {"rate": size / (now() - start)}

    return _in_a_view(peer, measure)
