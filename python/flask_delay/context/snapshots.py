"""A copy of the current request, for tasks that run after its end."""

import functools
import inspect
import sys
from contextlib import AbstractContextManager
from types import NoneType
from typing import Any, cast

from flask import Flask, Request, has_request_context, request
from werkzeug.local import LocalProxy

from flask_delay.context.body import Body
from flask_delay.context.sessions import CopiedSession, contents

# Types of environ values that a server cannot invalidate after the request.
_PLAIN = (str, bytes, int, float, NoneType)
_DEPTH = 4


class _Dropped(Exception):  # noqa: N818 (never leaves this module)
    """The value does not outlive the request."""


class Snapshot:
    """Makes, on each call, a context with a copy of one request.

    Made of the current request, in memory. May be called from any thread, by several at once, and
    after the request.
    """

    __slots__ = ("_about", "_app", "_body", "_environ", "_rule", "_session", "_view_args")

    def __init__(self, app: Flask | None) -> None:
        """Copy the current request.

        Raises RuntimeError without one; RequestEntityTooLarge (413) for a body above
        `MAX_CONTENT_LENGTH`; TypeError for a session that cannot be copied.
        """
        if app is None or not has_request_context():
            raise RuntimeError(
                "using(request=True) copies the current request for the task, and there"
                " is none: submit the task in a view or in a function that a view calls,"
                " or leave request=True out and pass what the task needs as arguments"
            )
        current = cast("LocalProxy[Request]", request)._get_current_object()
        self._app = app
        self._body = Body(current)
        self._environ = _plain_items(current.environ, _DEPTH)
        self._rule = current.url_rule
        self._view_args = current.view_args and dict(current.view_args)
        self._session, self._about = contents()

    def __call__(self) -> AbstractContextManager[object]:
        """Make a context in which `flask.request` is a new copy and `g` is empty."""
        environ = _plain_items(self._environ, _DEPTH)
        # Flask logs to this stream during a request.
        environ["wsgi.errors"] = sys.stderr
        environ.update(self._body.environ())
        plain: Any = self._app.request_context(environ)
        copied = plain.request
        self._body.give(copied)
        copied.url_rule = self._rule
        copied.view_args = self._view_args and dict(self._view_args)
        # A second context: only a new one takes a session instead of loading it.
        kind: Any = type(plain)
        needed = {"environ": environ} if _takes_environ(kind) else {}
        copy: Any = kind(
            self._app,
            request=copied,
            session=CopiedSession(self._session, self._about),
            **needed,
        )
        # Keeps the view's own match, including changes of its arguments.
        copy.match_request = _keep_match
        managed: AbstractContextManager[object] = copy
        return managed


def _keep_match() -> None:
    return


@functools.cache
def _takes_environ(kind: Any) -> bool:
    # Before Flask 3.2, one class of context serves with and without a request.
    return "environ" in inspect.signature(kind).parameters


def _plain_items(mapping: dict[str, Any], depth: int) -> dict[str, Any]:
    items = {}
    for key, value in mapping.items():
        try:
            items[key] = _plain(value, depth)
        except _Dropped:
            continue
    return items


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if issubclass(kind, _PLAIN):
        return value
    if depth:
        if kind is dict:
            return _plain_items(value, depth - 1)
        if kind is list or kind is tuple:
            return kind(_plain(item, depth - 1) for item in value)
    raise _Dropped
