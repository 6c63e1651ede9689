"""How far a task is, over HTTP: the blueprint behind `Delay.status_blueprint`."""

import json
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, NoReturn

from flask import Blueprint
from flask.blueprints import BlueprintSetupState
from werkzeug.sansio.response import Response

from flask_delay import context
from flask_delay._native import ForkedFutureError, Future

# Seconds that a client should let pass before it asks again.
_POLL = 1

_UNKNOWN = (
    "no task with this id is known in this process; if the server has several worker"
    " processes, each knows its own tasks alone, and another one may know this id"
)
_GONE = "the task with this id ended, and has been forgotten since"


def blueprint(
    name: str,
    url_prefix: str | None,
    *,
    get: Callable[[str], Future[Any] | None],
    is_gone: Callable[[str], bool],
    results: bool,
) -> Blueprint:
    """Make a blueprint that answers `GET /<id>`; see `Delay.status_blueprint`.

    `get` finds a future by its id, and `is_gone` tells an id that was forgotten from one
    that never was; both are asked during the request.
    """

    def task(id: object) -> Response:
        # The converter's UUID, or a text that may be anything.
        key = str(id)
        future = get(key)
        if future is not None and _is_ours(future):
            return _answer(200, _describe(future, results=results))
        if is_gone(key):
            return _answer(410, {"state": "forgotten", "message": _GONE})
        return _answer(404, {"state": "unknown", "message": _UNKNOWN})

    def add_rule(state: BlueprintSetupState) -> None:
        # At the root, an address that is no id may be another view's, or nobody's.
        rule = "/<id>" if state.url_prefix else "/<uuid:id>"
        state.add_url_rule(rule, "task", task)

    made = Blueprint(name, __name__, url_prefix=url_prefix)
    made.record(add_rule)
    return made


def _is_ours(future: Future[Any]) -> bool:
    """Whether this process can know the outcome: its own task's, or one that is done."""
    if future.done():
        return True
    try:
        future.exception(0)
    except ForkedFutureError:
        return False
    except (TimeoutError, CancelledError):
        pass
    return True


def _describe(future: Future[Any], *, results: bool) -> dict[str, Any]:
    # Asked first: a task that ends meanwhile is then told of as it was.
    state, progress = future.state, future.progress
    found: dict[str, Any] = {
        "id": future.id,
        "state": state,
        "progress": progress and progress._asdict(),
        "error": None,
    }
    if state != "finished":
        return found
    error = future.exception()
    if error is not None:
        found["error"] = {"class": type(error).__name__, "message": _text(error)}
    elif results:
        found["result"] = None
        try:
            found["result"] = _as_json(future.result())
        except Exception:
            # Whatever the app's encoder, or a method of the result, makes of it.
            found["result_error"] = f"the result is no JSON: {type(future.result()).__name__}"
    return found


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _as_json(value: object) -> object:
    # There and back: an encoder may let things pass that a client cannot read.
    return json.loads(context.current().json.dumps(value), parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _answer(status: int, body: dict[str, Any]) -> Response:
    response = context.current().json.response(body)
    response.status_code = status
    response.cache_control.no_store = True
    if body["state"] in {"pending", "running"}:
        response.retry_after = _POLL
    return response
