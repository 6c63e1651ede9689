"""The state of a task over HTTP: the blueprint behind `Delay.status_blueprint`."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response
from flask.blueprints import BlueprintSetupState

from flask_delay import context
from flask_delay._native import JournalUnavailable, Progress
from flask_delay.logs import log as _log
from flask_delay.masking import masked
from flask_delay.observe.view import TaskView

# Seconds that a client should wait before the next request.
_POLL = 1
# Characters of an error's message, or of another text, that are shown. The second limit is for the
# search for passwords: a password may begin before the first limit and end after it.
_LONGEST = 1_000
_LOOKED_AT = 8 * _LONGEST

_UNKNOWN = (
    "no task with this id is known in this process; if the server has several worker processes,"
    " and the app no journal (DELAY_JOURNAL), each knows its own tasks alone, and another one may"
    " know this id"
)
_UNREACHABLE = "whether there is a task with this id cannot be told at the moment"
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

    `view` returns the state of the task with an id, or raises ConnectionError or JournalUnavailable
    if that cannot be told now; `is_gone` distinguishes a forgotten id from an unknown one. Both are
    called during the request.
    """

    def task(id: object) -> Response:
        # A UUID from the converter, or any text.
        key = str(id)
        try:
            found = view(key)
            forgotten = found is None and is_gone(key)
        except (ConnectionError, JournalUnavailable) as error:
            return unavailable(key, error)
        if found is not None:
            text = told(found, results=results, errors=errors)
            return answer(200, text, waits=found.summary in {"pending", "running"})
        return missing(is_gone=forgotten)

    def add_rule(state: BlueprintSetupState) -> None:
        # At the root, other texts may be URLs of other views.
        rule = "/<id>" if state.url_prefix else "/<uuid:id>"
        state.add_url_rule(rule, "task", task)

    made = Blueprint(name, __name__, url_prefix=url_prefix)
    made.record(add_rule)
    return made


def unavailable(id: str, error: Exception) -> Response:
    """Answer that the task cannot be found now, because of that error."""
    _log.warning("the state of task %s cannot be told: %s", id, error)
    return _answer(503, {"state": "unavailable", "message": _UNREACHABLE})


def missing(*, is_gone: bool) -> Response:
    """Answer that there is no task with the id, or no more."""
    if is_gone:
        return _answer(410, {"state": "forgotten", "message": _GONE})
    return _answer(404, {"state": "unknown", "message": _UNKNOWN})


def told_progress(progress: Progress | None) -> dict[str, Any] | None:
    """What is told of a task's progress."""
    return progress and {**progress._asdict(), "note": _plain(progress.note)}


def told(view: TaskView, *, results: bool, errors: bool) -> str:
    """What is told of a task, as JSON.

    Raises the errors of the app's encoder for a progress or an error that it cannot encode.
    """
    app = context.current()
    error = view.error
    found: dict[str, Any] = {
        "id": view.id,
        "state": view.summary,
        "progress": told_progress(view.progress),
        "error": None,
    }
    if view.deaths is not None:
        # Of a durable task.
        found |= {"waits": None, "attempts": view.attempts, "deaths": view.deaths}
    if view.deaths is not None or view.held_by is not None:
        # The id of another task is not for this one's client.
        found["waits"] = view.waits if view.after is None else view.state
        if view.due is not None and view.waits in {"scheduled", "rate"}:
            found["until"] = view.due.isoformat()
        if errors and view.reason is not None:
            found["reason"] = _plain(masked(view.reason[:_LOOKED_AT]))
    if error is not None:
        message = masked(_text(error)) if errors else _FAILED
        found["error"] = {"class": _plain(type(error).__name__), "message": _plain(message)}
    elif results and view.unkept is not None:
        why = f"the result was not kept, since the journal has no {_plain(view.unkept)}"
        found |= {"result": None, "result_error": why}
    elif results and view.summary == "finished":
        try:
            return _encoded(app, {**found, "result": view.result})
        except Exception:
            # The app's encoder, or a method of the result, may raise anything.
            name = _plain(type(view.result).__name__)
            found |= {"result": None, "result_error": f"the result is no JSON: {name}"}
    return _encoded(app, found)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_LOOKED_AT]
    except Exception:
        return ""


def _plain(text: str) -> str:
    """The text, shortened, in a form that every client and encoder can read."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    # A lone surrogate is not a character.
    return text.encode(errors="backslashreplace").decode()


def _answer(status: int, body: dict[str, Any]) -> Response:
    return answer(status, _encoded(context.current(), body), waits=body["state"] == "unavailable")


def answer(status: int, text: str, *, waits: bool) -> Response:
    """Answer with JSON; `waits` says that another request may find more."""
    app = context.current()
    mimetype = getattr(app.json, "mimetype", "application/json")
    response = app.response_class(text.encode(), status, mimetype=mimetype)
    response.cache_control.no_store = True
    if waits:
        response.retry_after = _POLL
    return response


def _encoded(app: Flask, body: dict[str, Any]) -> str:
    """The body as JSON; it is encoded once, however big it is.

    Raises the errors of the app's encoder, and ValueError for values that clients could not read:
    infinity, "not a number", text that is not valid Unicode.
    """
    text = app.json.dumps(body, allow_nan=False)
    text.encode()
    return text
