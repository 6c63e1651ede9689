"""Flask's contexts: only this module handles them, by public names alone.

Flask 3.2 merges the app context and the request context. So this code does not depend on the number
of context variables or on their values.
"""

import contextvars
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, cast

from flask import Flask, current_app, g, has_request_context, request, session
from werkzeug.datastructures import FileStorage
from werkzeug.local import LocalProxy
from werkzeug.wsgi import LimitedStream

from flask_delay.context.lent import Lent
from flask_delay.context.snapshots import Snapshot

# Public despite the underscore: Flask and Werkzeug document it as the way out of a proxy.
current: Callable[[], Flask] = cast("LocalProxy[Flask]", current_app)._get_current_object
"""The current app itself, not a proxy; RuntimeError without an app context."""


@functools.cache
def hidden_variables() -> tuple[ContextVar[Any], ...]:
    """The context variables with which Flask marks the current app and request.

    They are not carried to a task, which has an app context of its own.
    """

    def look() -> tuple[ContextVar[Any], ...]:
        # Without a current context, a proxy's `__wrapped__` is its context variable. Pushing a
        # context instead would send Flask's signals.
        found = [getattr(proxy, "__wrapped__", None) for proxy in _PROXIES.values()]
        return tuple(dict.fromkeys(it for it in found if isinstance(it, ContextVar)))

    return contextvars.Context().run(look)


def scope(app: Flask) -> Callable[[], AbstractContextManager[object]]:
    """Make the factory of contexts for tasks of `app`: a fresh app context each time."""
    return app.app_context


def in_request() -> bool:
    """Whether there is a current request, for `snapshot` to copy."""
    return has_request_context()


def snapshot(app: Flask | None) -> Callable[[], AbstractContextManager[object]]:
    """Make a factory of contexts of `app` with a copy of the current request, taken now.

    The copy has headers, body, form, JSON, uploads, the matched rule and its arguments, and the
    session. The task may change the session, but the change is not saved. Attributes that the view
    set on `flask.request` are not copied, and `g` is empty. The current request is unchanged, its
    body unread and its session not accessed. Each call makes a new context, in any thread, also
    after the request. The app's `before_request` functions do not run in it; its teardown functions
    do.

    Raises RuntimeError without a request, and if an upload has been closed; RequestEntityTooLarge
    for a body above `MAX_CONTENT_LENGTH`; TypeError if the session cannot be copied.
    """
    return Snapshot(app)


def lent(app: Flask, *, live: bool) -> Callable[[], AbstractContextManager[object]]:
    """Make a factory of contexts of `app` in which `g` has what the current one has, see `Lent`.

    In a request they have a copy of that, as by `snapshot`, unless `live`. Raises as `snapshot`,
    and RuntimeError without an app context.
    """
    make = snapshot(app) if has_request_context() and not live else scope(app)
    return Lent(make, live=live)


reject_types: tuple[type, ...] = (FileStorage, LimitedStream, LocalProxy)
"""Arguments of these types would be dead, or another object, once the task runs."""


def check(arg: object) -> None:
    """Call `reject` if `arg` is of one of the `reject_types`."""
    if issubclass(type(arg), reject_types):
        reject(arg)


_PROXIES = {"current_app": current_app, "g": g, "request": request, "session": session}


def reject(arg: object, may_be_upload: bool = False) -> None:
    """Raise the TypeError that says what to pass instead of `arg`.

    `arg` is of one of the `reject_types`. With `may_be_upload` nothing happens if it is an upload.
    """
    # Not isinstance, which a proxy answers for the object behind it.
    if issubclass(type(arg), FileStorage):
        if may_be_upload:
            return
        name = cast("FileStorage", arg).filename
        raise TypeError(
            f"the upload {name!r} is closed when its request ends, and cannot be kept for this:"
            " pass it to delay() itself, for a task on this machine; or read it first"
            " (file.read()) and pass the bytes, or save it where the task can read it and pass"
            " the path"
        )
    if issubclass(type(arg), LimitedStream):
        raise TypeError(
            "the stream of a request's body is the server's again when the request ends, so a"
            " task cannot take it: pass request.get_data(), or the values the task needs"
        )
    name = next((name for name, proxy in _PROXIES.items() if proxy is arg), None)
    if name in {"g", "request", "session"}:
        raise TypeError(
            f"`{name}` is bound to the caller's context, which a task does not have:"
            f" pass the values the task needs from it"
        )
    raise TypeError(
        f"`{name or 'LocalProxy'}` is a proxy that means another object, or none, in"
        f" a task: pass {name or 'proxy'}._get_current_object(), or the values the"
        f" task needs"
    )
