"""Responses of the page: HTML, JSON, files; and the headers that all of them have."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from flask import request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from flask_delay import context
from flask_delay.dashboard import cells, lists, pages, plots, words
from flask_delay.dashboard.assets import Asset
from flask_delay.dashboard.cells import cut
from flask_delay.masking import masked
from flask_delay.observe.view import TaskView

_POLICY = "; ".join(  # noqa: FLY002 (a line each)
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not "no-referrer": browsers would send `Origin: null` then.
    "Referrer-Policy": "same-origin",
}
_KEPT = "public, max-age=31536000, immutable"


def _response(body: bytes | str, mimetype: str, status: int = 200) -> AnyResponse:
    response = AnyResponse(body, status, mimetype=mimetype, headers=_HEADERS)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept"
    return response


def wants_json() -> bool:
    """Whether the visitor would rather have JSON than HTML."""
    accept = request.accept_mimetypes
    return accept.quality("application/json") > accept.quality("text/html")


def as_json(data: dict[str, Any], status: int) -> AnyResponse:
    """Answer with data, among which may be views of tasks."""
    text = json.dumps(data, default=_plain, ensure_ascii=False, allow_nan=False)
    return _response(text.encode(errors="backslashreplace"), "application/json", status)


def as_html(template: str, values: dict[str, Any], status: int) -> AnyResponse:
    """Answer with a page."""
    forms = cells.Forms(values.get("back", ""), _host_token(), values.get("page") in _QUIET)
    found = _templates.get_template(template)
    hidden = _markup(forms.hidden)()
    text = found.render(values, forms=forms, form=_markup(forms.form), hidden=hidden)
    return _response(text.encode(errors="backslashreplace"), "text/html", status)


# The pages that stay as they are if a form is sent while they are open.
_QUIET = frozenset({"running", "queue", "failed", "finished", "jobs", "names", "name", "task"})


def as_asset(asset: Asset) -> AnyResponse:
    """Answer with a file, which a browser may keep."""
    is_small = request.accept_encodings.quality("gzip") > 0
    response = _response(asset.compressed if is_small else asset.content, asset.mimetype)
    if is_small:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = _KEPT
    return response


def unchanged() -> AnyResponse:
    """Answer that a page has not changed since it asked last."""
    return _response("", "text/html", 304)


def reload() -> AnyResponse:
    """Have an open page load itself again, since its visitor has to log in."""
    response = _response("", "text/html", 401)
    response.headers["HX-Refresh"] = "true"
    return response


def wants_no_page() -> bool:
    """Whether a page that is open has sent a form, and stays as it is."""
    return "HX-Request" in request.headers


def told(text: str, status: int = 204) -> AnyResponse:
    """Tell an open page what became of a form, for a note on it."""
    response = _response("", "text/html", status)
    # Headers have ASCII alone, as JSON has here.
    response.headers["HX-Trigger"] = json.dumps({"said": {"text": text, "done": status < 300}})  # noqa: PLR2004
    return response


def tag_of(data: dict[str, Any]) -> str:
    """A tag that changes with the data, but not with the time alone."""
    text = json.dumps(data, default=_tagged, skipkeys=True)
    return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=9).hexdigest()


def redirect(place: str) -> AnyResponse:
    """Send the visitor to another page, after something was done."""
    response = _response("", "text/html", 303)
    response.headers["Location"] = place
    return response


def forbidden(why: str) -> AnyResponse:
    """Answer 403. The page stands alone: the visitor may not have our files."""
    if wants_json():
        return as_json({"page": "forbidden", "message": why}, 403)
    if request.method == "POST" and wants_no_page():
        return told(why, 403)
    return as_html("forbidden.html", {"why": why}, 403)


def _host_token() -> str | None:
    """The token of an app-wide CSRFProtect of Flask-WTF, which wants it in each form."""
    make = context.current().jinja_env.globals.get("csrf_token")
    return str(make()) if callable(make) else None


# The error and the result of a task that has ended do not change.
_CHANGING = attrgetter(*(it.name for it in fields(TaskView) if it.name not in {"error", "result"}))


def _tagged(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, TaskView):
        return *_CHANGING(value), value.error is None
    if isinstance(value, plots.Points):
        # An open page knows that without news all stays as it was.
        return value.news
    return str(value)


# --- Values -------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """What JSON can have of a value."""
    if isinstance(value, TaskView):
        return _record(value)
    if isinstance(value, plots.Points):
        return value.record()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if is_dataclass(value):
        return vars(value)
    raise TypeError(f"no JSON for {value!r}")


def _record(view: TaskView) -> dict[str, Any]:
    error = pages.error_of(view)
    return {
        "id": view.id,
        "name": view.name,
        "state": view.state,
        "outcome": pages.outcome_of(view),
        "waits": view.waits,
        "attempts": view.attempts,
        "deaths": view.deaths,
        "durable": lists.is_durable(view),
        "progress": _progress(view),
        "enqueued_at": view.enqueued_at,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "due": view.due,
        "reason": view.reason and cut(view.reason),
        "arguments": view.arguments and masked(view.arguments),
        "pid": view.pid,
        "thread": view.thread,
        "deadline": view.deadline,
        "most_attempts": view.most_attempts,
        "priority": view.priority,
        "lane": view.lane and {**view.lane._asdict(), "name": cut(view.lane.name)},
        "error": None
        if error is None
        else {
            "class": error.kind,
            "message": error.message,
            "traceback": "\n".join(frame.text for frame in error.frames),
        },
    }


def _progress(view: TaskView) -> dict[str, Any] | None:
    told = view.progress
    return None if told is None else {**told._asdict(), "note": cut(told.note)}


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 has it: from 1 to 21."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in parts]  # noqa: PLR2004
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _markup(make: Callable[..., str]) -> Callable[..., Markup]:
    """As `make`, which has escaped what is in its HTML."""

    def made(*args: Any, **kwargs: Any) -> Markup:
        return Markup(make(*args, **kwargs))  # noqa: S704 (as the docstring says)

    return made


def _rows(of: str, tasks: Iterable[Any], *args: Any, **kwargs: Any) -> str:
    """The rows of a table: what `cells` makes of each task."""
    make = getattr(cells, of)
    return "\n".join([make(it, *args, **kwargs) for it in tasks])


_templates = Environment(
    loader=PackageLoader("flask_delay.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_templates.globals |= {
    "url_for": cells.address,
    "error_of": pages.error_of,
    "PLOTS": plots.PLOTS,
    "SPANS": plots.SPANS,
}
_templates.tests["can_retry"] = lists.can_retry
_templates.filters |= {
    "attempt": cells.attempt,
    "can_retry": lists.can_retry,
    "cut": cut,
    "duration": cells.duration,
    "frames": pages.frames_of,
    "is_durable": lists.is_durable,
    "kind": lists.kind_of,
    "number": cells.number,
    "outcome": pages.outcome_of,
    "schedule": words.schedule,
    "short": cells.short,
    "size": cells.size,
    "span": cells.span,
}
_templates.globals["rows"] = _markup(_rows)
_templates.filters |= {
    it.__name__: _markup(it)
    for it in (
        *(cells.code, cells.moment, cells.progress, cells.sparkline, cells.state, cells.task),
        *(cells.waits, cells.wrapped),
    )
}
