"""One app whose tasks run on threads, in worker processes or in Celery workers.

Which it is says the setting `DELAY_BACKEND`, and nothing else changes: README.md shows it.
"""

import math
from typing import Any

from flask import Blueprint, Flask, current_app, has_request_context, request

from flask_delay import Delay, Future, Retry, current_task, delay, gather, task, using

background = Delay()
bp = Blueprint("numbers", __name__)
# What the callbacks have said, in the process that answers requests.
reports: list[dict[str, Any]] = []


def create_app() -> Flask:
    """Make the app. `FLASK_DELAY_BACKEND` in the environment sets `DELAY_BACKEND`, and so on."""
    app = Flask(__name__)
    # What a worker process loads; a Celery worker is told itself.
    app.config["DELAY_APP"] = f"{__file__}:create_app"
    app.config.from_prefixed_env()
    background.init_app(app)
    app.register_blueprint(bp)
    app.register_blueprint(
        background.status_blueprint(results=True, errors=True), url_prefix="/tasks"
    )
    return app


# The tasks. What they take and return is JSON, so that any of the three can carry it.


@task
def primes(limit: int) -> dict[str, int]:
    """How many primes there are below `limit`, and the last of them."""
    if limit < 0:
        raise ValueError(f"no numbers are below 0 and {limit}")
    composite = bytearray(limit)
    root = math.isqrt(limit)
    for number in range(2, root + 1):
        if not composite[number]:
            composite[number * number :: number] = b"\1" * len(
                range(number * number, limit, number)
            )
        current_task.progress(number, root, "sieving")
    found = [number for number in range(2, limit) if not composite[number]]
    return {"limit": limit, "primes": len(found), "last": found[-1] if found else 0}


@task
def most(found: list[dict[str, int]]) -> int:
    """The largest prime of several."""
    return max(it["last"] for it in found)


@task(retry=Retry(3, backoff=0.05, jitter=False, on=ConnectionError))
def lookup(name: str, failures: int) -> str:
    """Ask somebody who does not answer the first times."""
    if current_task.attempt <= failures:
        raise ConnectionError(f"{name} did not answer attempt {current_task.attempt}")
    return f"{name}, attempt {current_task.attempt}, in {current_app.name}"


@task(timeout=0.5)
def forever() -> None:
    """Compute in vain."""
    while True:
        math.factorial(100)


@task
async def shout(text: str) -> str:
    """A coroutine."""
    return text.upper()


def report(future: Future[Any]) -> None:
    """The done callback of each task."""
    error = None if future.cancelled() else future.exception()
    reports.append(
        {
            "task": future.id,
            "name": future.name,
            "state": future.state,
            "attempts": future.attempts,
            "result": None if error or future.cancelled() else future.result(),
            "error": error and f"{type(error).__name__}: {error}",
            "app": current_app.name,
            "request": has_request_context(),
        }
    )


def accepted(future: Future[Any]) -> tuple[dict[str, str], int]:
    """The answer to whoever has started a task."""
    future.add_done_callback(report)
    return {"task": future.id}, 202


# The views.


@bp.post("/primes/<limit>")
def start_primes(limit: str) -> tuple[dict[str, str], int]:
    """Count primes; `?wait=` is a number of seconds to begin after."""
    later = using(countdown=float(request.args.get("wait", 0)))
    return accepted(later.delay(primes, int(limit)))


@bp.post("/most")
def start_most() -> tuple[dict[str, str], int]:
    """Count the primes below each of several numbers, and find the largest."""
    found = gather(*(primes.delay(limit) for limit in request.get_json()))
    return accepted(found.then(most))


@bp.get("/primes")
def all_primes() -> list[dict[str, int]]:
    """Wait for several."""
    return list(primes.map(request.args.getlist("below", type=int)))


@bp.post("/lookup/<name>")
def start_lookup(name: str) -> tuple[dict[str, str], int]:
    """Ask; `?failures=` says how often there is no answer."""
    return accepted(lookup.delay(name, failures=request.args.get("failures", 0, type=int)))


@bp.post("/forever")
def start_forever() -> tuple[dict[str, str], int]:
    """Start what never ends by itself."""
    return accepted(forever.delay())


@bp.post("/shout/<text>")
def start_shout(text: str) -> tuple[dict[str, str], int]:
    """Run a coroutine."""
    return accepted(delay(shout, text))


@bp.delete("/tasks/<id>")
def stop(id: str) -> tuple[dict[str, bool], int]:
    """Stop a task, whether it has begun or not."""
    future = background.get(id)
    return {"stopped": future is not None and future.stop()}, 200


@bp.get("/reports")
def show_reports() -> list[dict[str, Any]]:
    """What the callbacks have said."""
    return reports
