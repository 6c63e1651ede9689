"""How far a task is, over HTTP: the blueprint behind `Delay.status_blueprint`."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response
from flask.blueprints import BlueprintSetupState

from flask_delay import context
from flask_delay.masking import masked
from flask_delay.observe.view import TaskView

# Seconds that a client should let pass before it asks again.
_POLL = 1
# Characters of an error's message, or of another text, that are told; and of those that are
# looked at for passwords, of which one may begin before the first limit and end behind it.
_LONGEST = 1_000
_LOOKED_AT = 8 * _LONGEST

_UNKNOWN = (
    "no task with this id is known in this process; if the server has several worker"
    " processes, each knows its own tasks alone, and another one may know this id"
)
_FAILED = "the task failed"
_GONE = "the task with this id ended, and has been forgotten since"


def blueprint(
    name: str,
    url_prefix: str | None,
    *,
    view: Callable[[str], TaskView | None],
    is_gone: Callable[[str], bool],
    results: bool,
    errors: bool,
) -> Blueprint:
    """Make a blueprint that answers `GET /<id>`; see `Delay.status_blueprint`.

    `view` tells what is known of the task with an id, and `is_gone` an id that was forgotten
    from one that never was; both are asked during the request.
    """

    def task(id: object) -> Response:
        # The converter's UUID, or a text that may be anything.
        key = str(id)
        found = view(key)
        if found is not None:
            return _tell(found, results=results, errors=errors)
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


def _tell(view: TaskView, *, results: bool, errors: bool) -> Response:
    progress, error = view.progress, view.error
    found: dict[str, Any] = {
        "id": view.id,
        "state": view.state,
        "progress": progress and {**progress._asdict(), "note": _plain(progress.note)},
        "error": None,
    }
    if error is not None:
        message = masked(_text(error)) if errors else _FAILED
        found["error"] = {"class": _plain(type(error).__name__), "message": _plain(message)}
    elif results and view.state == "finished":
        try:
            return _answer(200, {**found, "result": view.result})
        except Exception:
            # Whatever the app's encoder, or a method of the result, makes of it.
            name = _plain(type(view.result).__name__)
            found |= {"result": None, "result_error": f"the result is no JSON: {name}"}
    return _answer(200, found)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_LOOKED_AT]
    except Exception:
        return ""


def _plain(text: str) -> str:
    """The text, not too long, as what every client and every encoder can read."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    # A surrogate alone is no character.
    return text.encode(errors="backslashreplace").decode()


def _answer(status: int, body: dict[str, Any]) -> Response:
    """Answer with the body, which is encoded once, however big it is.

    Raises what the app's encoder does, and ValueError for what no client could read: infinity,
    "not a number", text that is no Unicode.
    """
    app = context.current()
    text = app.json.dumps(body, allow_nan=False).encode()
    mimetype = getattr(app.json, "mimetype", "application/json")
    response = app.response_class(text, status, mimetype=mimetype)
    response.cache_control.no_store = True
    if body["state"] in {"pending", "running"}:
        response.retry_after = _POLL
    return response
